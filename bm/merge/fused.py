"""Merges by the compiled kernels: what a tensor of bfloat16, float16 or float32 on a CPU takes in place of its tiles.

A method's `Apply` and scores are data that say what is computed; here the same data choose the kernel.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bm.errors import UserError
from bm.merge import native
from bm.merge.arrays import CHUNK, Array, as_float, held, stored, to_torch, widened
from bm.merge.dtypes import Dtype
from bm.merge.lazy import Tensor
from bm.merge.native import addresses
from bm.merge.scores import Change
from bm.merge.sources import Source

if TYPE_CHECKING:
    from bm.merge.methods.updates import Sum
    from bm.merge.tensors import Tensors

AT_ONCE = 1 << 18  # entries of all models together that are at work at once
TOP = 1 << 16  # values of the upper or lower half of a score's bits
SAMPLE = 1 << 17  # scores of which all are held
SIGMAS = 4  # of the sample's error, on either side of a rank: a bracket misses once in 16,000 ranks, which are counted
COLLECTED = 1 << 24  # scores inside brackets that are held at once


class Fused:
    """One named parameter of a base and models, read as it is stored."""

    def __init__(self, tensors: "Tensors") -> None:
        self.tensors, self.tiling, self.run = tensors, tensors.tiling, tensors.run
        self._pairs = self.run.blocks(self.tiling, 2, mapped=True)
        self._factors: dict[int | None, Array] = {}

    def rows(self, source: Source | None, block: range) -> Array:
        """A block's rows as the kernels take them: uint16 (the bits of bfloat16) or float32 [rows, columns]."""
        if source is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        return widened(stored(source, *self.tiling.span(block))).reshape(-1, self.tiling.columns)

    def pair(self, k: int, block: range) -> tuple[Array, Array]:
        """The rows of the base and of model k, of one type."""
        base, other = self.rows(self.tensors.base, block), self.rows(self.tensors.models[k], block)
        if base.dtype != other.dtype:
            base, other = as_float(base), as_float(other)
        return base, other

    def factors(self, score: Change) -> Array:
        """What weighs each row's changes: its divergence or 1, float32 [rows]."""
        if self._key(score) not in self._factors:
            self._sampled(score)
        return self._factors[self._key(score)]

    def _key(self, score: Change) -> int | None:
        return score.k if score.weighed else None

    def _of(self, factors: Array, block: range) -> Array:
        start, stop = self.tiling.span(block)
        return factors[start // self.tiling.columns : stop // self.tiling.columns]

    def weighed(self, score: Change, start: int, stop: int) -> Tensor:
        """The factors of the rows of flat elements [start, stop)."""
        return to_torch(self.factors(score)[start // self.tiling.columns : stop // self.tiling.columns], Dtype.float32)

    def order_statistics(self, score: Change, ranks: Sequence[int]) -> list[float]:
        """The ranks[i]-th smallest score, exact: of all, by brackets from a sample, or by counting where they miss."""
        sample = self._sampled(score)
        if len(sample) == self.tiling.elements:
            return [_value(int(key)) for key in _smallest(sample, np.array(ranks))]
        keys = self._bracketed(score, _brackets(sample, [(rank + 0.5) / self.tiling.elements for rank in ranks]), ranks)
        missed = [rank for rank in ranks if rank not in keys]
        if missed:
            keys |= dict(zip(missed, self._counted(score, missed), strict=True))
        return [_value(keys[rank]) for rank in ranks]

    def _sampled(self, score: Change) -> Array:
        """Keys of scores evenly over the tensor: all if they are few, uint32. The factors are measured on the way."""
        step = -(-self.tiling.elements // _sample_size(self.tiling.elements)) | 1
        measure = score.weighed and score.k not in self._factors
        factors = self._factors.get(self._key(score))
        if factors is None:
            factors = np.ones(self.tiling.elements // self.tiling.columns, np.float32)
        keys = np.empty(-(-self.tiling.elements // step), np.uint32)

        def look(block: range) -> None:
            start, stop = self.tiling.span(block)
            out = keys[-(-start // step) : -(-stop // step)]
            work = _work(4, self.tiling.columns)
            native.sample(*self.pair(score.k, block), self._of(factors, block), measure, score.signed,
                          -start % step, step, out, work, work.view(np.int32))  # fmt: skip
            self.tensors.forget_pair(score.k, start, stop)

        self.run.map(look, self._pairs)
        self._factors[self._key(score)] = factors
        return keys

    def _bracketed(self, score: Change, brackets: Array, ranks: Sequence[int]) -> dict[int, int]:
        """The keys of the ranks that lie in their brackets, uint32 [2, ranks]: one pass finds them.

        Brackets decide the speed, never the answer: a rank that is outside of its own is not among what is returned.
        """
        lows, highs = brackets
        factors, room = self.factors(score), [COLLECTED]

        def look(block: range) -> tuple[Array, Array, int]:
            (base, other), counts = self.pair(score.k, block), np.zeros((len(ranks), 2), np.int64)
            inside, number, work = held("inside", base.size, np.uint32), np.zeros(1, np.int64), _work(2, CHUNK)
            keys, marks, eights = work[0].view(np.uint32), work[1].view(np.uint8), work[1].view(np.uint64)
            native.brackets(base, other, self._of(factors, block), score.signed, lows, highs, counts, inside, number,
                            keys, marks, eights)  # fmt: skip
            self.tensors.forget_pair(score.k, *self.tiling.span(block))
            found = int(number[0])
            room[0] -= found
            return counts, inside[: found if room[0] > 0 else 0].copy(), found

        parts = self.run.map(look, self._pairs)
        keys = np.concatenate([inside for _, inside, _ in parts])
        whole = len(keys) == sum(found for _, _, found in parts)
        below, up_to = sum((counts for counts, _, _ in parts), start=np.zeros((len(ranks), 2), np.int64)).T
        by_rank = {rank: int(lows[i]) for i, rank in enumerate(ranks) if below[i] <= rank < up_to[i]}
        if whole:
            places = np.array(ranks) - up_to + [np.count_nonzero(keys <= low) for low in lows]
            within = np.flatnonzero((np.array(ranks) >= up_to) & (places < len(keys)))
            for i, key in zip(within.tolist(), _smallest(keys, places[within]).tolist(), strict=True):
                if key < highs[i]:  # all keys between the low and the high were held
                    by_rank[ranks[i]] = key
        return by_rank

    def _counted(self, score: Change, ranks: Sequence[int]) -> list[int]:
        """The ranks' keys by counting all: by their upper halves, then by the lower ones of those that matter."""
        counted = self._counts(score, 1, np.zeros(0, np.int8))[0].cumsum()
        highs = np.searchsorted(counted, ranks, side="right")
        wanted, own = np.unique(highs, return_inverse=True)
        place = np.full(TOP, -1, np.int8)
        place[wanted] = np.arange(len(wanted))
        within = self._counts(score, len(wanted), place).cumsum(1)
        before = [int(counted[high - 1]) if high else 0 for high in highs]
        lows = [
            np.searchsorted(within[i], rank - b, side="right") for i, rank, b in zip(own, ranks, before, strict=True)
        ]
        return [(int(high) << 16) | int(low) for high, low in zip(highs, lows, strict=True)]

    def _counts(self, score: Change, places: int, place: Array) -> Array:
        """The counts of all blocks, each thread's in an array of its own."""
        factors, idle, used = self.factors(score), [], []  # type: ignore[var-annotated]

        def count(block: range) -> None:
            try:
                counts = idle.pop()
            except IndexError:
                counts = np.zeros((places, TOP), np.int64)
                used.append(counts)
            native.count(*self.pair(score.k, block), self._of(factors, block), score.signed,
                         place, counts, _work(1, self.tiling.columns).view(np.uint32))  # fmt: skip
            idle.append(counts)
            self.tensors.forget_pair(score.k, *self.tiling.span(block))

        self.run.map(count, self._pairs)
        total: Array = sum(used[1:], start=used[0])
        return total

    def select(self, score: Change, threshold: float, block: range, out: Array) -> tuple[int, float]:
        """Merges a block's rows into `out` (uint16 or float32): how many entries were taken, Σ (merged − base)²."""
        base, other = self.pair(score.k, block)
        factors = self._of(self.factors(score), block)
        found, work = np.empty(5), _work(3, CHUNK)
        native.select(base, other, factors, score.signed, threshold, out.reshape(base.shape), found, work[:2],
                      work[2].view(base.dtype))  # fmt: skip
        self.check(found[2:], ["the base", self.tensors.names[score.k]])
        return int(found[1]), float(found[0])

    def average(self, weights: Sequence[float], total: float, block: range, out: Array) -> float:
        """Σ_k w_k·θ_k / total into `out`; Σ (merged − base)², the last model in place of a base."""
        square, models = 0.0, self.tensors.models
        base = () if self.tensors.base is None else (self.tensors.base,)
        for start, stop, part in self._parts(block, out, len(models)):
            entries = self._entries((*models, *base), start, stop)
            kept = entries[-1] if base else entries[0][:0]
            found = np.empty(len(models) + 2)
            native.average(kept, addresses(entries[: len(models)]), np.array(weights, np.float32), float(total), part,
                           found, _work(2, CHUNK))  # fmt: skip
            self.check(found[1:], self.tensors.names)
            square += float(found[0])
        return square

    def combine(self, added: "Sum", block: range, out: Array) -> float:
        """Base and updates, added as `Sum` says, into `out`; Σ (merged − base)²."""
        square, updates, base = 0.0, added.updates, self.tensors.base
        if base is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        own = np.array([(w, u.low, u.high, u.chance, u.rescaled, u.factor)
                        for u, w in zip(updates, added.weights, strict=True)], np.float32)  # fmt: skip
        sources = (base, *(self.tensors.models[u.k] for u in updates))
        for start, stop, part in self._parts(block, out, len(updates)):
            entries = self._entries(sources, start, stop)
            drawn = [self.tensors.streams[u.k].bits(start, stop) if u.chance < 1 else None for u in updates]
            found, work = np.empty(len(updates) + 3), _work(len(updates) + 5, CHUNK)
            native.combine(entries[0], addresses(entries[1:]), own, addresses(drawn), added.elect, added.normalize,
                           float(added.total), float(added.lam), part, found, work)  # fmt: skip
            self.check(found[1:], ["the base", *(self.tensors.names[u.k] for u in updates)])
            square += float(found[0])
        return square

    def _parts(self, block: range, out: Array, models: int) -> Iterator[tuple[int, int, Array]]:
        """A block's entries in runs whose random numbers stay in a cache: start, stop, and that part of `out`."""
        first, last = self.tiling.span(block)
        length = max(1 << 12, AT_ONCE // models)
        for start in range(first, last, length):
            stop = min(start + length, last)
            yield start, stop, out[start - first : stop - first]

    def _entries(self, sources: Sequence[Source], start: int, stop: int) -> list[Array]:
        """Stored elements of each source, [elements], all of one type."""
        parts = [widened(stored(source, start, stop)) for source in sources]
        return [as_float(part) for part in parts] if len({part.dtype for part in parts}) > 1 else parts

    def check(self, most: Array, names: Sequence[str]) -> None:
        """UserError when the greatest magnitude in a model's entries, or last in the merged ones, is not finite."""
        for name, size in zip([*names, None], most.tolist(), strict=True):
            if not math.isfinite(size):
                raise (
                    UserError(f"{self.tensors.name}: NaN or infinity in {name}; it cannot be merged")
                    if name
                    else beyond(self.tensors.name)
                )


def _work(buffers: int, entries: int) -> Array:
    """Room for what a kernel has at work, float32 [buffers, entries]."""
    return held("work", buffers * entries, np.float32).reshape(buffers, -1)


def beyond(name: str) -> UserError:
    """The mistake of an output type that is too narrow for what is merged."""
    return UserError(f"{name}: merged entries are beyond the output's type; take another out_dtype")


def halves(values: Array, name: str) -> Array:
    """Merged float32 entries as float16."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise beyond(name)
    return narrow


def _sample_size(elements: int) -> int:
    """Where a larger sample costs as much as it saves: what lies in brackets is in proportion to elements / √sample."""
    return max(SAMPLE, int(8 * float(elements) ** (2 / 3)))


def _smallest(keys: Array, ranks: Array) -> Array:
    """The keys of these ranks; reorders `keys`. One rank at a time is selected by vectors, many at once are not."""
    start = 0
    for rank in sorted(set(ranks.ravel().tolist())):
        keys[start:].partition(rank - start)
        start = rank + 1
    smallest: Array = keys[ranks]
    return smallest


def _brackets(sample: Array, shares: Sequence[float]) -> Array:
    """Keys of the sample between which the ones of these shares should lie: lows and highs, uint32 [2, shares]."""
    share = np.array(shares)
    slack = SIGMAS * np.sqrt(share * (1 - share) / len(sample)) + 1 / len(sample)
    last = len(sample) - 1
    at = np.array([np.floor((share - slack) * last), np.ceil((share + slack) * last)]).astype(int)
    inside = _smallest(sample, at.clip(0, last))
    keys: Array = np.where(at < 0, np.uint32(0), np.where(at > last, np.uint32(0xFFFFFFFF), inside))
    return keys


def _value(key: int) -> float:
    """The score that a key stands for."""
    bits = key ^ (0x80000000 if key & 0x80000000 else 0xFFFFFFFF)
    value = float(np.array([bits], np.uint32).view(np.float32)[0])
    return math.nan if bits & 0x7FFFFFFF > 0x7F800000 else value
