"""Streamed order statistics against numpy.partition on the whole tensor."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bm.errors import UserError
from bm.merge.dtypes import Dtype
from bm.merge.passes import TensorScores
from bm.merge.quantiles import _radix
from bm.merge.tensors import Compute, Tensors, Tile
from bm.merge.tiling import Allowance

TINY = float(np.finfo(np.float32).tiny)
SPECIAL = [0.0, -0.0, 1.0, -1.0, TINY, TINY / 2, -TINY / 8, 1e-45, 3.4e38, -3.4e38]
floats = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False, allow_infinity=False))
vectors = st.integers(1, 400).flatmap(lambda n: arrays(np.float32, n, elements=floats))


def itself(tile: Tile) -> torch.Tensor:
    return tile.models[0]


def held(values: np.ndarray, **run: object) -> Tensors:
    return Tensors.held(None, [torch.from_numpy(values)], run=Compute(**run))


@settings(deadline=None, max_examples=80)
@given(vectors, st.integers(25, 100), st.sampled_from([0, 1 << 20]), st.data())
def test_any_rank_of_anything(values, tile, cache, data):
    ranks = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=2))
    table = values.reshape(-1, 1)  # rows of one element: the tiling may cut anywhere
    ranked = held(table, tile_elements=tile, allowance=Allowance(cache)).order_statistics(itself, ranks)
    assert ranked == [float(np.partition(values, rank)[rank]) for rank in ranks]


@settings(deadline=None, max_examples=50)
@given(vectors, st.sampled_from([np.float32, np.float64]), st.data())
def test_radix_descent(values, dtype, data):
    rank = data.draw(st.integers(0, len(values) - 1))
    values = values.astype(dtype)
    tensors = held(values.reshape(-1, 1), tile_elements=70, precision=Dtype[values.dtype.name])
    assert _radix(TensorScores(tensors, itself), rank) == np.partition(values, rank)[rank]


@pytest.mark.parametrize("cache", [0, 1 << 30])
@pytest.mark.parametrize(
    "values",
    [
        np.zeros(300_000),
        np.arange(300_000)[::-1],
        np.where(np.arange(300_000) % 4 == 0, np.arange(300_000), 0),  # as after bf16 training: most of it unchanged
        np.repeat([1.0, 5.0, 2.0], 100_000),
        np.sin(np.arange(300_000)) ** 21,
        np.concatenate([np.full(150_000, 3.0), np.geomspace(1e-30, 1e30, 150_000)]),
    ],
    ids=["zeros", "descending", "mostly zero", "three values", "peaked", "half tied"],
)
def test_whole_tensors(values, cache):
    """Clusters in order of the file make the sample of an unheld tensor a poor one; the answer stays exact."""
    values = values.astype(np.float32)
    tensors = held(values.reshape(-1, 10), tile_elements=1000, allowance=Allowance(cache))
    qs = (0.0, 0.25, 0.5, 0.75, 0.999, 1.0)
    ranks = [int(q * (len(values) - 1)) for q in qs]
    assert tensors.quantiles(itself, qs) == [float(v) for v in np.partition(values, ranks)[ranks]]


def test_draws_of_a_seeded_sample_are_gathered_in_order():
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    offsets = torch.randint(1500, (700,))
    gathered = held(values, tile_elements=9).gather(itself, offsets)
    assert torch.equal(gathered, torch.from_numpy(values).reshape(-1)[offsets.sort().values])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_scores_that_are_no_numbers_are_refused(bad, cache):
    values = np.zeros((50, 4), np.float32)
    values[31, 2] = bad
    tensors = Tensors.held(
        None, [torch.from_numpy(values)], "mlp.weight", run=Compute(tile_elements=8, allowance=Allowance(cache))
    )
    with pytest.raises(UserError, match=r"mlp\.weight: NaN or infinity"):
        tensors.order_statistics(itself, [5])
