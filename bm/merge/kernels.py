"""The hot loops of merging on a CPU: one pass over memory each, compiled by numba, called through `bm.merge.native`.

Entries come as they are stored, bfloat16 as its bits (uint16) or float32, are float32 at work, and go out as either.
Every formula is that of the torch path, which GPUs take; the tests hold both to one float64 oracle. Kernels have no
memory of their own, and raise nothing: `work` is float32 [buffers, entries at work], `words` the same memory in another
type, and what they found goes into an array as well.
"""

from typing import Any

import numpy as np

from bm.merge.arrays import CHUNK
from bm.merge.compiling import bits, entries, njit, number

SUMMED = 512  # entries whose sum is taken in float32
INFINITE, MAGNITUDE, SIGN = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF), np.uint32(0x80000000)
HIGH = np.uint32(0x7FFF0000)
_NEAR = np.float32(2**-10)  # (2⁻⁵)², of the greatest deviation in a row whose divergence is summed by cumulants

_inside: dict[str, Any] = {"forceinline": True, "error_model": "numpy"}
_exact: Any = njit(**_inside)
_fused: Any = njit(fastmath={"contract"}, **_inside)
_sums: Any = njit(fastmath={"contract", "reassoc", "nnan", "nsz"}, **_inside)


@_exact
def _most(stored):  # type: ignore[no-untyped-def]
    """The bits of the greatest magnitude."""
    most = np.uint32(0)
    for j in range(len(stored)):
        size = np.uint32(bits(number(stored[j])) & MAGNITUDE)
        most = size if size > most else most
    return most


@_exact
def _greatest(found, place, most):  # type: ignore[no-untyped-def]
    """The greater of what was found at a place and the magnitude of these bits, NaN as infinity."""
    found[place] = max(found[place], np.float64(number(min(most, INFINITE))))


@_exact
def _top(x):  # type: ignore[no-untyped-def]
    """The greatest of float32 numbers."""
    top = np.float32(-np.inf)
    for j in range(len(x)):
        top = x[j] if x[j] > top else top
    return top


@_exact
def _load(stored, values):  # type: ignore[no-untyped-def]
    """Stored entries as float32 `values`."""
    for j in range(len(stored)):
        values[j] = number(stored[j])


@_exact
def _store(values, out):  # type: ignore[no-untyped-def]
    """float32 entries rounded to nearest even into `out`; the bits of the greatest magnitude as stored."""
    most = np.uint32(0)
    if out.itemsize == 2:
        for j in range(len(out)):
            wide = bits(values[j])
            odd = np.uint32(np.uint32(wide >> np.uint32(16)) & np.uint32(1))
            rounded = np.uint32(np.uint32(wide + np.uint32(0x7FFF)) + odd)
            out[j] = np.uint16(rounded >> np.uint32(16))
            size = np.uint32(rounded & HIGH)
            most = size if size > most else most
    else:
        for j in range(len(out)):
            out[j] = values[j]
            size = np.uint32(bits(values[j]) & MAGNITUDE)
            most = size if size > most else most
    return most


@_sums
def _squares(d, count):  # type: ignore[no-untyped-def]
    """Σ d²."""
    total = np.float32(0)
    for j in range(count):
        total += d[j] * d[j]
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
def _divergence(base, other, x, d, e, power, scale):  # type: ignore[no-untyped-def]
    """KL(softmax(other) ‖ softmax(base)) of stored rows; `x`, `d`, `e` and `power`, whose bits `scale` is, are buffers.

    max |x| keeps e^x from overflowing as well as max x does where it is small.
    The cumulants of `bm.merge.scores.divergence`, with sums of float32 over some entries and of float64 over those.
    """
    n, top = len(x), number(_most(base))
    _load(base, x)
    for j in range(n):
        d[j] = number(other[j]) - x[j]  # here, where sums may not be reordered, and close numbers lose nothing
    _powers(x, top if top < np.float32(20) else _top(x), e, scale)
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
    return _far(x, other) if far > 0 else np.float32(s2 / 2 + s3 / 3 + (s4 - 3 * s2 * s2) / 8)


@_exact
def _far(x, other):  # type: ignore[no-untyped-def]
    """The divergence of a stored row from `x` as it stands, in float64: for rows that are far apart."""
    left, right, zl, zr = np.float64(_top(x)), np.float64(-np.inf), np.float64(0), np.float64(0)
    for j in range(len(x)):
        right = max(right, np.float64(number(other[j])))
    for j in range(len(x)):
        zl += np.exp(np.float64(x[j]) - left)
        zr += np.exp(np.float64(number(other[j])) - right)
    left, right = left + np.log(zl), right + np.log(zr)
    total = np.float64(0)
    for j in range(len(x)):
        log_p = np.float64(number(other[j])) - right
        total += np.exp(log_p) * (log_p - (np.float64(x[j]) - left))
    return np.float32(total)


@_exact
def _key(base, other, factor, signed):  # type: ignore[no-untyped-def]
    """The score |other − base|·factor (or signed) of stored entries as a key: unsigned numbers in the scores' order."""
    change = (number(other) - number(base)) * factor
    wide = bits(change + np.float32(0))  # −0 becomes 0
    return wide ^ (MAGNITUDE | SIGN if wide & SIGN else SIGN) if signed else bits(abs(change)) | SIGN


@_exact
def _score(base, other, factor, signed, keys):  # type: ignore[no-untyped-def]
    """The keys of stored entries."""
    if signed:  # asked once, not for each entry
        for j in range(len(base)):
            keys[j] = _key(base[j], other[j], factor, True)
    else:
        for j in range(len(base)):
            keys[j] = _key(base[j], other[j], factor, False)


@_exact
def sample(base, other, factors, measure, signed, first, step, out, work, words):  # type: ignore[no-untyped-def]
    """Into `out` uint32 the keys of every `step`-th score from `first` on, over the rows' ends.

    Stored rows [rows, columns] in, float32 factors [rows]: with `measure` these become the rows' divergences before.
    Work [4, columns], words int32.
    """
    n, place, found = base.shape[1], first, 0
    for r in range(base.shape[0]):
        if measure:
            factors[r] = _divergence(base[r], other[r], work[0], work[1], work[2], work[3], words[3])
        picked = max(0, (n - 1 - place) // step + 1)
        for i in range(picked):
            j = place + i * step
            out[found + i] = _key(base[r, j], other[r, j], factors[r], signed)
        found, place = found + picked, place + picked * step - n


@_exact
def count(base, other, factors, signed, place, counts, words):  # type: ignore[no-untyped-def]
    """Adds to `counts` int64 [places, 65536] the scores' keys by their upper 16 bits where `place` is empty, else by
    the lower ones those whose upper ones have a place ≥ 0: int8 [65536]. Words uint32 [1, columns]."""
    keys = words[0]
    for r in range(base.shape[0]):
        _score(base[r], other[r], factors[r], signed, keys)
        for j in range(len(keys)):
            high = keys[j] >> np.uint32(16)
            if len(place) == 0:
                counts[0, high] += 1
            elif place[high] >= 0:
                counts[place[high], keys[j] & np.uint32(0xFFFF)] += 1


@_exact
def _around(keys, low):  # type: ignore[no-untyped-def]
    """How many keys are below `low`, and how many up to it."""
    below, up_to = np.uint32(0), np.uint32(0)
    for j in range(len(keys)):
        below = np.uint32(below + np.uint32(keys[j] < low))  # else numba's sum of two uint32 has 64 bits
        up_to = np.uint32(up_to + np.uint32(keys[j] <= low))
    return below, up_to


@_exact
def _mark(keys, low, high, marks, first):  # type: ignore[no-untyped-def]
    """Marks the keys strictly between `low` and `high`, beside those that are marked already unless this is the first.

    One comparison each: what is not above `low` wraps to a large number.
    """
    after, width = np.uint32(low + np.uint32(1)), np.uint32(max(np.int64(high) - np.int64(low) - 1, np.int64(0)))
    if first:
        for j in range(len(keys)):
            marks[j] = np.uint8(np.uint32(keys[j] - after) < width)
    else:
        for j in range(len(keys)):
            marks[j] |= np.uint8(np.uint32(keys[j] - after) < width)


@_exact
def brackets(base, other, factors, signed, lows, highs, counts, inside, held, work, marks, words):  # type: ignore[no-untyped-def]
    """Where the keys of stored rows [rows, columns] lie around brackets: `lows` and `highs`, uint32 [brackets].

    Adds to `counts` int64 [brackets, 2] how many are below each low and up to it; puts those strictly between a low and
    its high into `inside`, uint32 [entries], and their number into `held`, int64 [1]. Work uint32 [CHUNK], marks uint8
    [CHUNK] and words, the same memory in uint64.
    """
    n, found = base.shape[1], 0
    for r in range(base.shape[0]):
        for begin in range(0, n, CHUNK):
            end = min(begin + CHUNK, n)
            keys = work[: end - begin]
            _score(base[r, begin:end], other[r, begin:end], factors[r], signed, keys)
            for i in range(len(lows)):
                below, up_to = _around(keys, lows[i])
                counts[i, 0], counts[i, 1] = counts[i, 0] + below, counts[i, 1] + up_to
                _mark(keys, lows[i], highs[i], marks, i == 0)
            for word in range((len(keys) + 7) // 8):
                if words[word]:  # of eight marks; each key is written, and kept by moving on if it is marked
                    for j in range(8 * word, min(8 * word + 8, len(keys))):
                        inside[found] = keys[j]
                        found += marks[j]
    held[0] = found


@_exact
def _take(base, other, factor, signed, threshold, out, d):  # type: ignore[no-untyped-def]
    """out = other where its score is above the threshold, else base; `d` float32 what that changes; how often it is."""
    taken = np.uint32(0)
    for j in range(len(base)):
        change = number(other[j]) - number(base[j])
        score = change * factor
        above = (score if signed else abs(score)) > threshold
        taken = np.uint32(taken + np.uint32(above))
        d[j] = change if above else np.float32(0)
        out[j] = other[j] if above else base[j]
    return taken


@_exact
def select(base, other, factors, signed, threshold, out, found, work, chosen):  # type: ignore[no-untyped-def]
    """out = other where its score is above the threshold, else base; stored rows in and out.

    Into `found` float64 [5] Σ (out − base)², how many were taken, and the greatest magnitudes of base, other and, if it
    is of another type, out, else 0. Work [2, CHUNK], chosen [CHUNK] as stored.
    """
    n, same = base.shape[1], out.itemsize == base.itemsize
    d, values = work[0], work[1]
    taken, square = 0, np.float64(0)
    left, right, made = np.uint32(0), np.uint32(0), np.uint32(0)
    for r in range(base.shape[0]):
        for begin in range(0, n, CHUNK):
            end = min(begin + CHUNK, n)
            x, y, to = base[r, begin:end], other[r, begin:end], out[r, begin:end]
            if same:
                taken += int(_take(x, y, factors[r], signed, threshold, to, d))
            else:
                taken += int(_take(x, y, factors[r], signed, threshold, chosen, d))
                _load(chosen[: end - begin], values)
                made = max(made, _store(values, to))
            left, right = max(left, _most(x)), max(right, _most(y))
            square += _squares(d, end - begin)
    found[0], found[1], found[2], found[3], found[4] = square, taken, number(left), number(right), number(made)


@_fused
def _mix(m, stored, weight, first):  # type: ignore[no-untyped-def]
    """m = weight·y for the first model's stored entries y, else m + weight·y, rounded once."""
    if first:
        for j in range(len(stored)):
            m[j] = number(stored[j]) * weight
    else:
        for j in range(len(stored)):
            m[j] = m[j] + number(stored[j]) * weight


@_exact
def average(base, models, weights, total, out, found, work):  # type: ignore[no-untyped-def]
    """out = Σ_k w_k·θ_k / total: the addresses of stored models, [entries] each, in; float32 weights. Work [2, CHUNK].

    Into `found` float64 [models + 2] Σ (out − base)², the last model in place of an empty base, and the greatest
    magnitudes of the models and out.
    """
    m, d = work[0], work[1]
    for i in range(len(found)):
        found[i] = 0
    before = base if len(base) else entries(models[-1], 0, len(out), base.dtype)
    for begin in range(0, len(out), CHUNK):
        end = min(begin + CHUNK, len(out))
        for k in range(len(models)):
            stored = entries(models[k], begin, end, base.dtype)
            _mix(m, stored, weights[k], k == 0)
            _greatest(found, k + 1, _most(stored))
        kept = before[begin:end]
        for j in range(end - begin):
            m[j] = m[j] / total
            d[j] = m[j] - number(kept[j])
        found[0] += _squares(d, end - begin)
        _greatest(found, len(found) - 1, _store(m, out[begin:end]))


@_exact
def _update(x, stored, own, drawn, u):  # type: ignore[no-untyped-def]
    """u = weight·factor·(y − x), 0 where |y − x| is not in [low, high] or a drawn number is not below the chance.

    `stored` are the entries y. A number in [0, 1) is the upper 24 of its random bits (`Tensors.uniform`).
    """
    weight, low, high, chance, rescaled, factor = own[0], own[1], own[2], own[3], own[4], own[5]
    for j in range(len(u)):
        change = number(stored[j]) - x[j]
        size = abs(change)
        u[j] = change if (size >= low) & (size <= high) else np.float32(0)
    if len(drawn):
        for j in range(len(u)):
            share = np.float32(np.int32(drawn[j] >> np.uint32(8))) * np.float32(2**-24)
            kept = u[j] if share < chance else np.float32(0)
            u[j] = kept / chance if rescaled > 0 else kept
    for j in range(len(u)):
        u[j] = u[j] * factor * weight


@_exact
def combine(base, models, own, drawn, elect, normalize, total, lam, out, found, work):  # type: ignore[no-untyped-def]
    """out = base + λ·(Σ_k u_k) / total, the u_k those of `_update`; with `elect` only what has the elected sign is
    added, over the weights that agree if `normalize`: the formulas of `Sum` in `bm.merge.methods.updates`.

    Stored [entries], the addresses of stored models, [entries] out. `own` float32 [models, 6]: weight, low, high,
    chance, whether to divide by it, factor. `drawn`: the addresses of random bits, uint32 [entries], 0 where all is
    kept. Work [models + 5, CHUNK].
    Into `found` float64 [models + 3] Σ (out − base)² and the greatest magnitudes of the base, each model and out.
    """
    x, m, d, sign, agreed, u = work[0], work[1], work[2], work[3], work[4], work[5:]
    for i in range(len(found)):
        found[i] = 0
    for begin in range(0, len(out), CHUNK):
        end = min(begin + CHUNK, len(out))
        n = end - begin
        _load(base[begin:end], x)
        _greatest(found, 1, _most(base[begin:end]))
        for k in range(len(models)):
            numbers = entries(drawn[k], begin if drawn[k] else end, end, np.uint32)
            stored = entries(models[k], begin, end, base.dtype)
            _update(x, stored, own[k], numbers, u[k, :n])
            _greatest(found, k + 2, _most(stored))
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
        for j in range(n):
            d[j] = m[j] - x[j]
        found[0] += _squares(d, n)
        _greatest(found, len(found) - 1, _store(m, out[begin:end]))
