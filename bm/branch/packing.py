"""Which documents share a pack."""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: longest first, each into the fullest bin that still holds it.

    Never more than 11/9 of the optimal number of bins, plus one (Johnson 1973). Equal lengths keep their order, so a
    shuffled input gives other neighbours. ValueError if one length exceeds the capacity.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free capacity, bin), sorted: the fullest bin that fits is one bisection away
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        if length > capacity:
            raise ValueError(f"length {length} exceeds the capacity {capacity}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            free, chosen = capacity, len(bins)
            bins.append([])
        else:
            free, chosen = room.pop(place)
        bins[chosen].append(index)
        if free > length:
            insort(room, (free - length, chosen))
    return bins
