"""Each merge method again, from its formula: whole tensors, float64, sorting where the product selects.

`base` is a tensor or None and `models` a list of tensors, all float64 and of one shape; the result is float64.
"""

import math

import numpy as np


def flat_angle(a, b):
    cosine = (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))
    return math.acos(max(-1.0, min(1.0, cosine))), cosine


def slerp(base, models, t):
    angle, cosine = flat_angle(base, models[0])
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * models[0]
    return (math.sin((1 - t) * angle) * base + math.sin(t * angle) * models[0]) / math.sin(angle)


def nuslerp(base, models, weight, axis):
    origin = np.zeros_like(models[0]) if base is None else base
    a, b = (m - origin for m in models)
    t = 0.5 if abs(sum(weight)) < 1e-6 else weight[1] / sum(weight)
    if axis is None or a.ndim == 1:
        a, b, axis, shape = a.reshape(1, -1), b.reshape(1, -1), 1, a.shape
    else:
        shape = a.shape
    cosine = (a * b).sum(axis, keepdims=True)
    cosine = cosine / (np.linalg.norm(a, axis=axis, keepdims=True) * np.linalg.norm(b, axis=axis, keepdims=True))
    angle = np.arccos(np.clip(cosine, -1, 1))
    return origin + ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).reshape(shape)


def multislerp(base, models, weight, normalize=True):
    origin = np.zeros_like(models[0]) if base is None else base
    w = np.array(weight) / (sum(weight) if normalize else 1)
    updates = [m - origin for m in models]
    norms = np.array([np.linalg.norm(u) for u in updates])
    units = [u / n for u, n in zip(updates, norms, strict=True)]
    mean = sum(wi * u for wi, u in zip(w, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(wi * (u - (u * mean).sum() * mean) for wi, u in zip(w, units, strict=True))
    length = np.linalg.norm(tangent)
    return origin + (w @ norms) * (math.cos(length) * mean + math.sin(length) * tangent / length)


def karcher(base, models, iterations=200):
    """The Karcher mean to convergence, not to a tolerance."""
    norms = [np.linalg.norm(m) for m in models]
    units = [m / n for m, n in zip(models, norms, strict=True)]
    mean = sum(units) / np.linalg.norm(sum(units))
    for _ in range(iterations):
        tangent = np.zeros_like(mean)
        for u in units:
            off = u - (u * mean).sum() * mean
            sine = np.linalg.norm(off)
            if sine > 0:
                tangent += math.atan2(sine, (u * mean).sum()) * off / sine / len(units)
        length = np.linalg.norm(tangent)
        if length < 1e-15:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
        mean = mean / np.linalg.norm(mean)
    return sum(norms) / len(norms) * mean


def model_stock(base, models, rows):
    updates = [m - base for m in models]
    axis = -1 if rows else None
    pairs = [(a, b) for i, a in enumerate(updates) for b in updates[i + 1 :]]
    norm = [np.sqrt((a**2).sum(axis, keepdims=True)) * np.sqrt((b**2).sum(axis, keepdims=True)) for a, b in pairs]
    cosine = sum((a * b).sum(axis, keepdims=True) / n for (a, b), n in zip(pairs, norm, strict=True)) / len(pairs)
    n = len(models)
    t = n * cosine / (1 + (n - 1) * cosine)
    return t * sum(models) / n + (1 - t) * base


def nearswap(base, models, t):
    difference = models[0] - base
    with np.errstate(divide="ignore"):
        share = np.where(difference == 0, 1, np.minimum(t / np.abs(difference), 1))
    return base + share * difference


def keep_largest(update, density):
    if density >= 1:
        return np.ones_like(update, dtype=bool)
    if density <= 0:
        return np.zeros_like(update, dtype=bool)
    kept = max(1, int(density * update.size))
    return np.abs(update) >= np.sort(np.abs(update), axis=None)[-kept]


def keep_middle(update, density, gamma):
    if density >= 1:
        return np.ones_like(update, dtype=bool)
    kept, top = int(density * update.size), int(gamma * update.size)
    order = np.argsort(np.abs(update), axis=None)
    start = max(0, update.size - kept - top)
    mask = np.zeros(update.size, dtype=bool)
    mask[order[start : start + kept]] = True
    return mask.reshape(update.shape)


def keep_drawn(uniform, density):
    return uniform < np.float32(density)


def magprune_probability(update, density, epsilon):
    """DELLA's keep probability: from density - ε for a row's smallest entry to density + ε for its largest."""
    if density >= 1:
        return np.ones_like(update)
    rank = np.argsort(np.argsort(np.abs(update), axis=-1), axis=-1)
    return density - epsilon + 2 * epsilon * rank / (update.shape[-1] - 1)


def rescaled(update, mask, rescale, probability=None):
    kept = update * mask
    if rescale == "none" or not kept.any():
        return kept
    return kept / probability if rescale == "probability" else kept * np.abs(update).sum() / np.abs(kept).sum()


def combined(base, updates, weight, lam, normalize, consensus):
    weighted = [w * u for w, u in zip(weight, updates, strict=True)]
    if not consensus:
        total = sum(weight)
        return base + lam * sum(weighted) / (total if normalize and abs(total) >= 1e-8 else 1)
    elected = np.where(sum(weighted) >= 0, 1, -1)
    agree = [np.sign(u) == elected for u in weighted]
    total = sum(w * a for w, a in zip(weight, agree, strict=True))
    divisor = np.where(total == 0, 1, total) if normalize else 1
    return base + lam * sum(u * a for u, a in zip(weighted, agree, strict=True)) / divisor


def sce(base, models, density):
    updates = np.stack([m - base for m in models])
    if density < 1:
        variance = updates.var(axis=0)
        kept = int(density * np.count_nonzero(variance))
        updates = updates * (variance >= np.sort(variance, axis=None)[-kept])
    elected = np.where(updates.sum(0) >= 0, 1, -1)
    energy = (updates**2).mean(axis=tuple(range(1, updates.ndim)))
    share = (energy / energy.sum()).reshape(-1, *[1] * base.ndim) * (np.sign(updates) == elected)
    total = share.sum(0)
    return base + np.where(total > 0, (share * updates).sum(0) / np.where(total > 0, total, 1), 0)


def ram(base, models, epsilon, r=0.0, alpha=0.0):
    updates = [m - base for m in models]
    changed = [np.abs(u) > epsilon for u in updates]
    count = sum(c.astype(int) for c in changed)
    merged = np.zeros_like(base)
    for update, own in zip(updates, changed, strict=True):
        shared, unique = (own & (count > 1)).sum(), (own & (count == 1)).sum()
        boost = 1 + r * min(shared / max(unique, epsilon), alpha)
        merged += update * own * np.where(count == 1, boost, 1 / np.maximum(count, 1))
    return base + merged


def fisher(models, weight, fishers, floor):
    total = sum(w * (f + floor) for w, f in zip(weight, fishers, strict=True))
    return sum(w * (f + floor) * m for w, f, m in zip(weight, fishers, models, strict=True)) / total


def regmean(models, grams, alpha):
    damped = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    return sum(m @ g for m, g in zip(models, damped, strict=True)) @ np.linalg.inv(sum(damped))


def mean_update(base, models, weights, lam):
    return base + lam * sum(w * (m - base) for w, m in zip(weights, models, strict=True)) / len(models)


def nearest_orthogonal(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def iso_c(base, models, weights, lam):
    u, s, vt = np.linalg.svd(sum(w * (m - base) for w, m in zip(weights, models, strict=True)), full_matrices=False)
    return base + lam * s.mean() * u @ vt


def iso_cts(base, models, weights, lam, common):
    updates = [w * (m - base) for w, m in zip(weights, models, strict=True)]
    width, n = min(base.shape), len(models)
    own = round((width - int(width * common)) / n)
    shared = width - n * own
    u, s, vt = np.linalg.svd(sum(updates), full_matrices=False)
    u, s, vt = u[:, :shared], s[:shared], vt[:shared]
    parts = [np.linalg.svd(x - u @ u.T @ x, full_matrices=False) for x in updates]
    left = np.concatenate([*(p[0][:, :own] for p in parts), u], 1)
    right = np.concatenate([*(p[2][:own] for p in parts), vt], 0)
    mean = np.concatenate([*(p[1][:own] for p in parts), s]).mean()
    return base + lam * mean * nearest_orthogonal(left) @ nearest_orthogonal(right)


def tsv_m(base, models, weights, lam):
    parts = [np.linalg.svd(w * (m - base), full_matrices=False) for w, m in zip(weights, models, strict=True)]
    rank = min(base.shape) // len(models)
    left = np.concatenate([u[:, :rank] for u, _, _ in parts], 1)
    right = np.concatenate([vt[:rank] for _, _, vt in parts], 0)
    values = np.concatenate([s[:rank] for _, s, _ in parts])
    return base + lam * nearest_orthogonal(left) @ np.diag(values) @ nearest_orthogonal(right)


def svc(base, models, weights, lam, alpha):
    updates = [m - base for m in models]
    u, s, vt = np.linalg.svd(lam * sum(w * x for w, x in zip(weights, updates, strict=True)), full_matrices=False)
    gamma = []
    for r in range(len(s)):
        whole = s[r] * vt[r]
        own = [u[:, r] @ x for x in updates]
        gamma.append(len(models) / sum(max(alpha, whole @ a / (a @ a)) for a in own))
    return base + u @ np.diag(np.array(gamma) * s) @ vt


def wudi(base, models, weights, lam, ridge):
    """Row by row, as the least squares problem that it is."""
    updates = [m - base for m in models]
    scaled = [w * x for w, x in zip(weights, updates, strict=True)]
    start = sum(scaled)
    units = [x / np.linalg.norm(x) for x in updates]
    pull = math.sqrt(ridge * len(models) / base.shape[1]) * np.eye(base.shape[1])
    left = np.concatenate([*units, pull])
    rows = []
    for i in range(len(base)):
        right = np.concatenate([*(x @ y[i] for x, y in zip(units, scaled, strict=True)), pull @ start[i]])
        rows.append(np.linalg.lstsq(left, right, rcond=None)[0])
    return base + lam * np.stack(rows)


def ace(base, models, weights, lam, epsilon, heterogeneity, refined):
    updates = [w * (m - base) for w, m in zip(weights, models, strict=True)]
    sizes = np.array([(x**2).sum() for x in updates])
    logs = np.log(sizes)
    unlike = logs.var(ddof=1) / logs.mean() ** 2 > heterogeneity
    centred = [x - x.mean(0) for x in updates]
    raw = [x.T @ x for x in centred]
    scale = [np.trace(g) if unlike else 1.0 for g in raw]
    raw = [g / t for g, t in zip(raw, scale, strict=True)]
    estimates = [g + epsilon / t * np.eye(len(g)) for g, t in zip(raw, scale, strict=True)]
    prior = sum(raw).mean(0) / (sizes.mean() if unlike else 1.0)
    merged = sum(x @ g for x, g in zip(centred, estimates, strict=True)) @ np.linalg.inv(sum(estimates) + prior)
    if unlike:
        mean = sum(estimates) / len(models)
        u, s, vt = np.linalg.svd(
            merged + sum(x @ (g - mean) for x, g in zip(updates, raw, strict=True)), full_matrices=False
        )
        first = int(len(s) * refined)
        merged = merged + s[:first].mean() * u[:, :first] @ vt[:first]
    return base + lam * merged


def ota(base, models, weights, lam, density, power, epsilon, moments):
    trust = [w * (v**power + epsilon) for w, v in zip(weights, moments, strict=True)]
    merged = 0
    for model, moment, own in zip(models, moments, trust, strict=True):
        saliency = moment * (model - base) ** 2
        kept = max(1, int(density * base.size))
        merged = merged + own * (model - base) * (saliency >= np.sort(saliency, axis=None)[-kept])
    return base + lam * merged / sum(trust)
