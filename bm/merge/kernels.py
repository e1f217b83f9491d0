"""The hot loops of merging on a CPU: one pass over memory each, compiled by numba, run without the interpreter's lock.

Entries come as they are stored, bfloat16 as its bits (uint16) or float32, are float32 at work, and go out as either.
Every formula is that of the torch path, which GPUs take; the tests hold both to one float64 oracle. All are in one
file, as numba's cache looks at a function's own file only.
"""

from typing import Any

import numpy as np

from bm.merge.compiled import njit

CHUNK = 1024  # entries at work: a few float32 buffers of them stay in the nearest cache
SUMMED = 512  # entries whose sum is taken in float32
TOP = 1 << 16  # values of the upper or lower half of a score's bits
INFINITE, MAGNITUDE, SIGN = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF), np.uint32(0x80000000)
HIGH = np.uint32(0x7FFF0000)
_NEAR = np.float32(2**-10)  # (2⁻⁵)², of the greatest deviation in a row whose divergence is summed by cumulants

_kernel: Any = njit(nogil=True, cache=True, error_model="numpy")
"""What is called from Python; all else is inlined: a kernel from the cache is the same code as one just compiled."""
_inside: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}
_exact: Any = njit(**_inside)
_fused: Any = njit(fastmath={"contract"}, **_inside)
_sums: Any = njit(fastmath={"contract", "reassoc", "nnan", "nsz"}, **_inside)


@_exact
def _load(stored, bits, values):  # type: ignore[no-untyped-def]
    """Stored entries as float32 `values`, of which `bits` is the view; the greatest magnitude's bits."""
    most = np.uint32(0)
    if stored.itemsize == 2:
        for j in range(len(stored)):
            bits[j] = np.uint32(stored[j]) << np.uint32(16)
    else:
        for j in range(len(stored)):
            values[j] = stored[j]
    for j in range(len(stored)):
        size = np.uint32(bits[j] & MAGNITUDE)
        most = size if size > most else most
    return most


@_exact
def _store(values, bits, out):  # type: ignore[no-untyped-def]
    """float32 entries rounded to nearest even into `out`; the bits of the greatest magnitude as stored."""
    most = np.uint32(0)
    if out.itemsize == 2:
        for j in range(len(out)):
            odd = np.uint32(np.uint32(bits[j] >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint32(np.uint32(bits[j] + np.uint32(0x7FFF)) + odd)
            out[j] = np.uint16(rounded >> np.uint32(16))
            size = np.uint32(rounded & HIGH)
            most = size if size > most else most
    else:
        for j in range(len(out)):
            out[j] = values[j]
            size = np.uint32(bits[j] & MAGNITUDE)
            most = size if size > most else most
    return most


@_sums
def _square(merged, kept, count):  # type: ignore[no-untyped-def]
    """Σ (merged − kept)²."""
    total = np.float32(0)
    for j in range(count):
        total += (merged[j] - kept[j]) * (merged[j] - kept[j])
    return np.float64(total)


@_sums
def _powers(x, top, e, scale):  # type: ignore[no-untyped-def]
    """e·2^(scale's exponent) = exp(x − top), by the power series after ln 2 has been divided out."""
    for j in range(len(x)):
        r = x[j] - top
        r = r if r > np.float32(-87) else np.float32(-87)
        whole = np.floor(r * np.float32(1.44269504) + np.float32(0.5))
        r = (r - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        p = (p * r + np.float32(8.3334519073e-3)) * r + np.float32(4.1665795894e-2)
        p = (p * r + np.float32(1.6666665459e-1)) * r + np.float32(5.0000001201e-1)
        e[j] = p * r * r + r + np.float32(1)
        scale[j] = (np.int32(whole) + np.int32(127)) << np.int32(23)


@_sums
def _mean(d, e, power):  # type: ignore[no-untyped-def]
    """e·power into e; its sum, and that of e·d."""
    whole, mean = np.float32(0), np.float32(0)
    for j in range(len(d)):
        e[j] *= power[j]
        whole += e[j]
        mean += e[j] * d[j]
    return whole, mean


@_sums
def _moments(d, e, shift):  # type: ignore[no-untyped-def]
    """Σ e·u², Σ e·u³, Σ e·u⁴ and how many u² are beyond what a few cumulants describe, u = d − shift."""
    s2, s3, s4, far = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for j in range(len(d)):
        u = d[j] - shift
        square = u * u
        weighed = e[j] * square
        far += np.float32(1) if square > _NEAR else np.float32(0)
        s2 += weighed
        s3 += weighed * u
        s4 += weighed * square
    return s2, s3, s4, far


@_exact
def _divergence(x, y, top, d, e, scale):  # type: ignore[no-untyped-def]
    """KL(softmax(y) ‖ softmax(x)) of a row of float32; `d`, `e` and `scale` (int32) are buffers of its length.

    `top` is max |x|, which keeps e^x from overflowing as well as max x does where it is small.
    The cumulants of `bm.merge.scores.divergence`, with sums of float32 over some entries and of float64 over those.
    """
    n, power = len(x), scale.view(np.float32)
    for j in range(n):
        d[j] = y[j] - x[j]  # here, where sums may not be reordered, and close numbers lose nothing
    _powers(x, top if top < np.float32(20) else x.max(), e, scale)
    z, first = np.float64(0), np.float64(0)
    for begin in range(0, n, SUMMED):
        end = min(begin + SUMMED, n)
        whole, mean = _mean(d[begin:end], e[begin:end], power[begin:end])
        z, first = z + whole, first + mean
    shift = np.float32(first / z)
    s2, s3, s4, far = np.float64(0), np.float64(0), np.float64(0), np.float32(0)
    for begin in range(0, n, SUMMED):
        p2, p3, p4, beyond = _moments(d[begin : begin + SUMMED], e[begin : begin + SUMMED], shift)
        s2, s3, s4, far = s2 + p2, s3 + p3, s4 + p4, far + beyond
    s2, s3, s4 = s2 / z, s3 / z, s4 / z
    return _far(x, y) if far > 0 else np.float32(s2 / 2 + s3 / 3 + (s4 - 3 * s2 * s2) / 8)


@_exact
def _far(x, y):  # type: ignore[no-untyped-def]
    """The divergence as it stands, in float64: for rows that are far apart."""
    left, right, zl, zr = np.float64(x.max()), np.float64(y.max()), np.float64(0), np.float64(0)
    for j in range(len(x)):
        zl += np.exp(np.float64(x[j]) - left)
        zr += np.exp(np.float64(y[j]) - right)
    left, right = left + np.log(zl), right + np.log(zr)
    total = np.float64(0)
    for j in range(len(x)):
        log_p = np.float64(y[j]) - right
        total += np.exp(log_p) * (log_p - (np.float64(x[j]) - left))
    return np.float32(total)


@_exact
def _score(base, other, factor, signed, work):  # type: ignore[no-untyped-def]
    """Into work[0] the scores |other − base|·factor (or signed), as keys: unsigned numbers in the scores' order."""
    keys, x, y = work[0], work[0].view(np.float32), work[1].view(np.float32)
    _load(base, work[0], x)
    _load(other, work[1], y)
    if signed:
        for j in range(len(base)):
            x[j] = (y[j] - x[j]) * factor + np.float32(0)  # −0 becomes 0
    else:
        for j in range(len(base)):
            x[j] = abs(y[j] - x[j]) * factor
    for j in range(len(base)):
        keys[j] ^= MAGNITUDE | SIGN if keys[j] & SIGN else SIGN


@_kernel
def sample(base, other, factors, measure, signed, first, step, out):  # type: ignore[no-untyped-def]
    """Into `out` uint32 the keys of every `step`-th score from `first` on, over the rows' ends.

    Stored rows [rows, columns] in, float32 factors [rows]: with `measure` these become the rows' divergences before.
    """
    n, place, found = base.shape[1], first, 0
    work, scale = np.empty((2, n), np.uint32), np.empty(n, np.int32)
    d, e = np.empty(n, np.float32), np.empty(n, np.float32)
    most, x, y = np.empty(1, np.uint32), work[0].view(np.float32), work[1].view(np.float32)
    for r in range(base.shape[0]):
        if measure:
            most[0] = _load(base[r], work[0], x)
            _load(other[r], work[1], y)
            factors[r] = _divergence(x, y, most.view(np.float32)[0], d, e, scale)
        picked = max(0, (n - 1 - place) // step + 1)
        _score(base[r, place::step], other[r, place::step], factors[r], signed, work)
        out[found : found + picked] = work[0, :picked]
        found, place = found + picked, place + picked * step - n


@_kernel
def count(base, other, factors, signed, place, counts):  # type: ignore[no-untyped-def]
    """Adds to `counts` int64 [places, 65536] the scores' keys by their upper 16 bits where `place` is empty, else by
    the lower ones those whose upper ones have a place ≥ 0: int8 [65536]."""
    work = np.empty((2, base.shape[1]), np.uint32)
    for r in range(base.shape[0]):
        _score(base[r], other[r], factors[r], signed, work)
        for key in work[0]:
            high = key >> np.uint32(16)
            if len(place) == 0:
                counts[0, high] += 1
            elif place[high] >= 0:
                counts[place[high], key & np.uint32(0xFFFF)] += 1


@_exact
def _within(keys, low, high, mask, fresh):  # type: ignore[no-untyped-def]
    """How many keys are below `low`, up to it, and strictly between it and `high`; these are marked in `mask`."""
    below, up_to, between = np.uint32(0), np.uint32(0), np.uint32(0)
    for j in range(len(keys)):
        inside = np.uint8((keys[j] > low) & (keys[j] < high))
        mask[j] = inside if fresh else mask[j] | inside
        below += np.uint32(keys[j] < low)
        up_to += np.uint32(keys[j] <= low)
        between += np.uint32(inside)
    return below, up_to, between


@_kernel
def brackets(base, other, factors, signed, lows, highs, counts, inside):  # type: ignore[no-untyped-def]
    """Where the keys of stored rows [rows, columns] lie around brackets: `lows` and `highs`, uint32 [brackets].

    Adds to `counts` int64 [brackets, 3] how many are below each low, up to it, and
    strictly between it and the high; puts the last into `inside`, uint32 [entries], and returns their number.
    """
    n, found = base.shape[1], 0
    work, mask = np.empty((2, CHUNK), np.uint32), np.zeros(CHUNK, np.uint8)
    words = mask.view(np.uint64)
    for r in range(base.shape[0]):
        for begin in range(0, n, CHUNK):
            end = min(begin + CHUNK, n)
            keys = work[0, : end - begin]
            _score(base[r, begin:end], other[r, begin:end], factors[r], signed, work)
            for i in range(len(lows)):
                below, up_to, between = _within(keys, lows[i], highs[i], mask, i == 0)
                counts[i, 0], counts[i, 1] = counts[i, 0] + below, counts[i, 1] + up_to
                counts[i, 2] += between
            for word in range((len(keys) + 7) // 8):
                for j in range(8 * word, min(8 * word + 8, len(keys)) if words[word] else 0):  # eight marks at a time
                    if mask[j]:
                        inside[found], found = keys[j], found + 1
    return found


@_exact
def _take(x, y, m, factor, signed, threshold):  # type: ignore[no-untyped-def]
    """m = y where its score is above the threshold, else x; how often. One loop for each kind: both are vectors."""
    taken = np.uint32(0)
    if signed:
        for j in range(len(x)):
            above = (y[j] - x[j]) * factor > threshold
            taken += np.uint32(above)
            m[j] = y[j] if above else x[j]
    else:
        for j in range(len(x)):
            above = abs((y[j] - x[j]) * factor) > threshold
            taken += np.uint32(above)
            m[j] = y[j] if above else x[j]
    return taken


@_kernel
def select(base, other, factors, signed, threshold, out):  # type: ignore[no-untyped-def]
    """out = other where its score is above the threshold, else base; stored rows in and out.

    How many were taken, Σ (out − base)², the bits of the greatest magnitudes of base, other and out.
    """
    n = base.shape[1]
    ub, uo, um = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    x, y, m = ub.view(np.float32), uo.view(np.float32), um.view(np.float32)
    taken, square, most = 0, np.float64(0), np.zeros(3, np.uint32)
    for r in range(base.shape[0]):
        factor = factors[r]
        for begin in range(0, n, CHUNK):
            end = min(begin + CHUNK, n)
            most[0] = max(most[0], _load(base[r, begin:end], ub, x))
            most[1] = max(most[1], _load(other[r, begin:end], uo, y))
            taken += int(_take(x[: end - begin], y, m, factor, signed, threshold))
            square += _square(m, x, end - begin)
            most[2] = max(most[2], _store(m, um, out[r, begin:end]))
    return taken, square, most


@_fused
def _mix(m, y, weight, first, count):  # type: ignore[no-untyped-def]
    """m = weight·y for the first model, else m + weight·y, rounded once."""
    if first:
        for j in range(count):
            m[j] = y[j] * weight
    else:
        for j in range(count):
            m[j] = m[j] + y[j] * weight


@_kernel
def average(kept, models, weights, total, out):  # type: ignore[no-untyped-def]
    """out = Σ_k w_k·θ_k / total: stored [models, entries] in, [entries] out; float32 weights.

    Σ (out − kept)², kept the last model where it is empty, and the bits of the greatest magnitudes of models and out.
    """
    uy, um = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    y, m = uy.view(np.float32), um.view(np.float32)
    square, most = np.float64(0), np.zeros(len(models) + 1, np.uint32)
    for begin in range(0, len(out), CHUNK):
        end = min(begin + CHUNK, len(out))
        for k in range(len(models)):
            most[k] = max(most[k], _load(models[k, begin:end], uy, y))
            _mix(m, y, weights[k], k == 0, end - begin)
        for j in range(end - begin):
            m[j] = m[j] / total
        if len(kept):
            _load(kept[begin:end], uy, y)
        square += _square(m, y, end - begin)
        most[-1] = max(most[-1], _store(m, um, out[begin:end]))
    return square, most


@_exact
def _update(x, y, own, drawn, u):  # type: ignore[no-untyped-def]
    """u = weight·factor·(y − x), 0 where |y − x| is not in [low, high] or a drawn number is not below the chance.

    A number in [0, 1) is the upper 24 of its random bits (`Tensors.uniform`).
    """
    weight, low, high, chance, rescaled, factor = own[0], own[1], own[2], own[3], own[4], own[5]
    for j in range(len(u)):
        change = y[j] - x[j]
        size = abs(change)
        u[j] = change if (size >= low) & (size <= high) else np.float32(0)
    if len(drawn):
        for j in range(len(u)):
            number = np.float32(np.int32(drawn[j] >> np.uint32(8))) * np.float32(2**-24)
            kept = u[j] if number < chance else np.float32(0)
            u[j] = kept / chance if rescaled > 0 else kept
    for j in range(len(u)):
        u[j] = u[j] * factor * weight


@_kernel
def combine(base, models, own, drawn, elect, normalize, total, lam, out):  # type: ignore[no-untyped-def]
    """out = base + λ·(Σ_k u_k) / total, the u_k those of `_update`; with `elect` only what has the elected sign is
    added, over the weights that agree if `normalize`: the formulas of `Sum` in `bm.merge.methods.updates`.

    Stored [entries], [models, entries] in, [entries] out. `own` float32 [models, 6]: weight, low, high, chance, whether
    to divide by it, factor. `drawn`, random bits: uint32 [models, entries] or [models, 0].
    Σ (out − base)², and the bits of the greatest magnitudes of the base, each model and out.
    """
    ux, uy, um = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    x, y, m = ux.view(np.float32), uy.view(np.float32), um.view(np.float32)
    u = np.empty((len(models), CHUNK), np.float32)
    sign, agreed = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    square, most = np.float64(0), np.zeros(len(models) + 2, np.uint32)
    for begin in range(0, len(out), CHUNK):
        end = min(begin + CHUNK, len(out))
        n = end - begin
        most[0] = max(most[0], _load(base[begin:end], ux, x))
        for k in range(len(models)):
            most[k + 1] = max(most[k + 1], _load(models[k, begin:end], uy, y))
            numbers = drawn[k, begin:end] if drawn.shape[1] else drawn[k]
            _update(x, y, own[k], numbers, u[k, :n])
        for j in range(n):
            m[j] = u[0, j]
        for k in range(1, len(models)):
            for j in range(n):
                m[j] = m[j] + u[k, j]
        if elect:
            for j in range(n):
                sign[j] = np.float32(1) if m[j] >= 0 else np.float32(-1)
                m[j], agreed[j] = np.float32(0), np.float32(0)
            for k in range(len(models)):
                for j in range(n):
                    part = max(u[k, j] * sign[j], np.float32(0))
                    m[j] = m[j] + part
                    agreed[j] = agreed[j] + (own[k, 0] if part > 0 else np.float32(0))
            if normalize:
                for j in range(n):
                    m[j] = m[j] / (agreed[j] + (np.float32(1) if agreed[j] == 0 else np.float32(0)))
            for j in range(n):
                m[j] = x[j] + m[j] * sign[j] * lam
        else:
            for j in range(n):
                m[j] = x[j] + m[j] / total * lam
        square += _square(m, x, n)
        most[-1] = max(most[-1], _store(m, um, out[begin:end]))
    return square, most
