"""Which documents share a pack, and what became of every token."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def best_fit_decreasing(lengths: Sequence[int] | Ints, capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: longest first, each into the fullest bin that still holds it.

    Never more than 11/9 of the optimal number of bins, plus one (Johnson 1973). Equal lengths keep their order, so a
    shuffled input gives other neighbours. O(n log n) for the search. ValueError if one length exceeds the capacity.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free capacity, bin), sorted
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = int(lengths[index])
        if length > capacity:
            raise ValueError(f"length {length} exceeds the capacity {capacity}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            bins.append([])
            free, chosen = capacity, len(bins) - 1
        else:
            free, chosen = room.pop(place)
        bins[chosen].append(index)
        if free > length:
            insort(room, (free - length, chosen))
    return bins


@dataclass(frozen=True)
class Certificate:
    """What the packing did: every document and token is accounted for."""

    mode: str
    documents: int
    """Documents that are trained on, once an epoch at weight 1."""
    tokens: int
    supervised_tokens: int
    dropped: int
    """Documents left out because they do not fit the sequence length."""
    dropped_tokens: int
    cut: int
    """Documents that lost their end."""
    cut_tokens: int
    packs: int
    """Packs of the first epoch."""
    utilisation: float
    """Tokens of the first epoch over packs times sequence length."""

    def facts(self) -> dict[str, Any]:
        return asdict(self)
