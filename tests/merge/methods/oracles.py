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
