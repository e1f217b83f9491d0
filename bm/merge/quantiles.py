"""Exact order statistics of scores too many to hold or to sort.

A deterministic sample brackets each wanted rank; one pass counts what lies at or below the bracket and collects what
lies inside; sorting the few collected gives the exact value. Where the bracket misses (ties, clusters) a radix descent
over the float's bits takes over, exact in two passes for float32. The sample decides the speed, never the answer.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

T = TypeVar("T")
Array: TypeAlias = npt.NDArray[Any]
SAMPLE = 1 << 18
_SIGMAS = 5  # a bracket misses about once in a million ranks when the sample is as good as random
_DIGIT = 16
_HALF = 1 << (_DIGIT - 1)


class Scores(Protocol):
    """One finite float32 or float64 score per element of a tensor, in tiles."""

    elements: int
    bits: int
    """Of one score."""

    def sample(self) -> tuple[Tensor, int]:
        """Some of the scores (1-d, at least one), and how many independent draws they are worth."""

    def map(self, f: Callable[[Tensor], T]) -> list[T]:
        """f of every tile's scores."""

    def total(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over the tiles of the integers f gives for one."""


@dataclass(frozen=True)
class _Bracket:
    """Two scores with the value of `rank` probably strictly between them, or equal to both."""

    rank: int
    low: float
    high: float


def order_statistics(scores: Scores, ranks: Sequence[int]) -> list[float]:
    """The ranks[i]-th smallest score, counted from 0, exact for any distribution."""
    if not all(0 <= rank < scores.elements for rank in ranks):
        raise ValueError(f"ranks {list(ranks)} of {scores.elements} scores")
    sample, draws = scores.sample()
    ordered = np.sort(sample.reshape(-1).cpu().numpy())
    brackets = [_bracket(ordered, rank, scores.elements, draws) for rank in ranks]
    tiles = scores.map(lambda tile: [_count(tile, bracket) for bracket in brackets])
    values = [_value(bracket, [tile[i] for tile in tiles]) for i, bracket in enumerate(brackets)]
    return [_radix(scores, rank) if value is None else float(value) for rank, value in zip(ranks, values, strict=True)]


def _bracket(sample: Array, rank: int, elements: int, draws: int) -> _Bracket:
    """Order statistics of the sample 5 standard deviations of a binomial rank to either side."""
    share = (rank + 0.5) / elements
    slack = _SIGMAS * math.sqrt(share * (1 - share) / draws) + 1 / draws
    last = len(sample) - 1
    low, high = math.floor((share - slack) * last), math.ceil((share + slack) * last)
    return _Bracket(
        rank,
        sample[low].item() if low >= 0 else -math.inf,
        sample[high].item() if high <= last else math.inf,
    )


def _count(tile: Tensor, bracket: _Bracket) -> tuple[int, int, Array]:
    """How many scores are below `low`, how many equal it, and those strictly inside the bracket."""
    on_cpu = tile.device.type == "cpu"  # where numpy compares several times as fast as torch
    scores: Any = tile.reshape(-1).numpy() if on_cpu else tile.reshape(-1)
    count = np.count_nonzero if on_cpu else torch.count_nonzero
    reached = scores >= bracket.low
    above = scores > bracket.low
    inside = scores[above & (scores < bracket.high)] if bracket.low < bracket.high else scores[:0]
    not_below, past = int(count(reached)), int(count(above))
    return tile.numel() - not_below, not_below - past, inside if on_cpu else inside.cpu().numpy()


def _value(bracket: _Bracket, tiles: list[tuple[int, int, Array]]) -> float | None:
    """The score of the bracket's rank; None when the bracket missed it."""
    rank = bracket.rank - sum(below for below, _, _ in tiles)
    if rank < 0:
        return None
    equal = sum(equal for _, equal, _ in tiles)
    if rank < equal:
        return bracket.low
    inside = np.concatenate([values for _, _, values in tiles])
    if rank - equal >= len(inside):
        return None
    return float(np.sort(inside)[rank - equal])


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
