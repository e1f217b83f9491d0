"""Best-fit-decreasing: nothing lost, nothing too full, and near the best possible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.branch.packing import best_fit_decreasing

lengths = st.lists(st.integers(1, 100), max_size=60).map(lambda x: np.array(x, dtype=np.int64))


@given(lengths)
def test_every_index_once_and_no_bin_too_full(of: np.ndarray) -> None:
    bins = best_fit_decreasing(of, 100)
    assert sorted(i for b in bins for i in b) == list(range(len(of)))
    assert all(of[b].sum() <= 100 for b in bins)


@given(lengths)
def test_no_two_bins_could_be_one(of: np.ndarray) -> None:
    totals = sorted(int(of[b].sum()) for b in best_fit_decreasing(of, 100))
    assert len(totals) < 2 or totals[0] + totals[1] > 100


def test_a_known_packing() -> None:
    assert best_fit_decreasing(np.array([4, 8, 1, 4, 2, 1]), 10) == [[1, 4], [0, 3, 2, 5]]


def test_a_length_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="length 11 exceeds the capacity 10"):
        best_fit_decreasing(np.array([3, 11]), 10)


def test_real_lengths_fill_the_packs() -> None:
    draw = np.random.default_rng(0)
    of = np.minimum(16384, draw.lognormal(8.3, 0.7, 2000)).astype(np.int64)
    assert of.sum() / (len(best_fit_decreasing(of, 16384)) * 16384) > 0.99
