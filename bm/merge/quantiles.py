"""Exact order statistics of scores too many to hold or to sort.

A deterministic sample brackets each wanted rank; one pass counts what lies at or below the bracket and collects what
lies inside; sorting the few collected gives the exact value. Where the bracket misses (ties, clusters) a radix descent
over the float's bits takes over, exact in two passes for float32. The sample decides the speed, never the answer.
"""

import math
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bm.merge.lazy import Tensor, torch

Array: TypeAlias = npt.NDArray[Any]
SAMPLE = 1 << 18
SIGMAS = 5  # a bracket misses about once in a million ranks when the sample is as good as random
_DIGIT = 16
_HALF = 1 << (_DIGIT - 1)


class Scores(Protocol):
    """One finite float32 or float64 score per element of a tensor, in tiles."""

    elements: int
    bits: int
    """The statistics of one score."""

    def sample(self) -> tuple[Tensor, int]:
        """Some of the scores (1-d, at least one), and how many independent draws they are worth."""

    def each(self, f: Callable[[Tensor], None]) -> None:
        """Calls f with every tile's scores, on many threads."""

    def total(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over the tiles of the integers f gives for one."""


@dataclass(frozen=True)
class _Bracket:
    """Two scores with the value of `rank` probably strictly between; or one, `low` = `high`, that probably is it."""

    rank: int
    low: float
    high: float


@dataclass
class _Counts:
    """What lies where around a bracket: scores below `low` (counted for a point only), up to `low`, and in between.

    `inside` is one buffer with room for as many as the sample lets expect, twice over. Many small arrays, alive between
    a pass's temporary ones, would leave the heap full of holes.
    """

    inside: Array
    below: int = 0
    up_to: int = 0
    between: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, below: int, up_to: int, inside: Array) -> None:
        with self.lock:
            self.below, self.up_to, self.between = self.below + below, self.up_to + up_to, self.between + len(inside)
            if self.between <= len(self.inside):
                self.inside[self.between - len(inside) : self.between] = inside


def order_statistics(scores: Scores, ranks: Sequence[int]) -> list[float]:
    """The ranks[i]-th smallest score, counted from 0, exact for any distribution."""
    if not all(0 <= rank < scores.elements for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} of {scores.elements} scores")
    sample, draws = scores.sample()
    ordered = np.sort(sample.reshape(-1).cpu().numpy())
    brackets = [_bracket(ordered, rank, scores.elements, draws) for rank in ranks]
    room = min(scores.elements, 1024 + round(2 * SIGMAS * scores.elements / math.sqrt(draws)))
    return [_value(scores, b, counts) for b, counts in zip(brackets, _look(scores, brackets, room), strict=True)]


def _bracket(sample: Array, rank: int, elements: int, draws: int) -> _Bracket:
    """Order statistics of the sample 5 standard deviations of a binomial rank to either side."""
    share = (rank + 0.5) / elements
    slack = SIGMAS * math.sqrt(share * (1 - share) / draws) + 1 / draws
    last = len(sample) - 1
    low, high = math.floor((share - slack) * last), math.ceil((share + slack) * last)
    return _Bracket(
        rank,
        sample[low].item() if low >= 0 else -math.inf,
        sample[high].item() if high <= last else math.inf,
    )


def _look(scores: Scores, brackets: Sequence[_Bracket], room: int) -> list[_Counts]:
    """One pass over the scores for all brackets."""
    dtype = np.float32 if scores.bits == 32 else np.float64
    counted = [_Counts(np.empty(0 if b.low == b.high else room, dtype)) for b in brackets]

    def look(tile: Tensor) -> None:
        for bracket, counts in zip(brackets, counted, strict=True):
            _count(tile, bracket, counts)

    scores.each(look)
    return counted


def _count(tile: Tensor, bracket: _Bracket, counts: _Counts) -> None:
    on_cpu = tile.device.type == "cpu"  # where numpy compares several times as fast as torch
    scores: Any = tile.reshape(-1).numpy() if on_cpu else tile.reshape(-1)
    count = np.count_nonzero if on_cpu else torch.count_nonzero
    above = scores > bracket.low
    up_to = tile.numel() - int(count(above))
    if bracket.low == bracket.high:
        counts.add(int(count(scores < bracket.low)), up_to, counts.inside)
    else:
        chosen = above & (scores < bracket.high)  # numpy's compress is faster than its indexing
        counts.add(0, up_to, np.compress(chosen, scores) if on_cpu else scores[chosen].cpu().numpy())


def _value(scores: Scores, bracket: _Bracket, counts: _Counts) -> float:
    """The score of the bracket's rank. Where it is not in between, an end of the bracket may be a tie that has it."""
    rank = bracket.rank
    if bracket.low == bracket.high:
        return bracket.low if counts.below <= rank < counts.up_to else _radix(scores, rank)
    if counts.between > len(counts.inside):
        return _radix(scores, rank)
    if 0 <= rank - counts.up_to < counts.between:
        inside = counts.inside[: counts.between]
        inside.sort()
        return float(inside[rank - counts.up_to])
    end = bracket.low if rank < counts.up_to else bracket.high
    point = _Bracket(rank, end, end)
    return _value(scores, point, _look(scores, [point], 0)[0])


def _radix(scores: Scores, rank: int) -> float:
    """Descends over the bits of the scores, 16 at a time from the top: one histogram pass each."""
    prefix, depth = 0, 0
    while True:
        histogram = scores.total(partial(_histogram, prefix=prefix, depth=depth))
        cumulative = histogram.cumsum(0)
        digit = int(torch.searchsorted(cumulative, rank, right=True))
        rank -= int(cumulative[digit] - histogram[digit])
        # the first digit carries the sign: counted from the most negative, it is half a digit too high
        prefix = (prefix << _DIGIT) + digit - (_HALF if depth == 0 else 0)
        depth += _DIGIT
        if depth == scores.bits:
            return _from_key(prefix, scores.bits)


def _histogram(tile: Tensor, prefix: int, depth: int) -> Tensor:
    """Counts of the next 16 bits among the keys whose first `depth` bits are `prefix`."""
    bits = 8 * tile.element_size()
    key = _key(tile.reshape(-1), bits)
    if depth:
        key = key[(key >> (bits - depth)) == prefix]
    digits = key >> (bits - depth - _DIGIT)
    digits = digits & 0xFFFF if depth else digits + _HALF
    return torch.bincount(digits, minlength=1 << _DIGIT).cpu()


def _key(values: Tensor, bits: int) -> Tensor:
    """The scores' bits as signed integers in the order of the scores: −0 is 0, and below it they count backwards."""
    raw = (values + 0.0).view(torch.int32 if bits == 32 else torch.int64).to(torch.int64)
    magnitude = raw & ((1 << (bits - 1)) - 1)
    return torch.where(raw < 0, -1 - magnitude, magnitude)


def _from_key(key: int, bits: int) -> float:
    raw = key if key >= 0 else (-1 - key) | (1 << (bits - 1))
    kind, number = ("<I", "<f") if bits == 32 else ("<Q", "<d")
    value: float = struct.unpack(number, struct.pack(kind, raw))[0]
    return value
