"""Methods of whole matrices against SVDs in float64; the same bits for any tiling and threads; other shapes."""

from functools import partial

import numpy as np
import pytest
import torch

from bm.merge import methods
from bm.merge.dtypes import Dtype, dtype_of
from bm.merge.methods import spectra
from bm.merge.tensors import Compute, Tensors
from bm.merge.workers import Workers
from tests.merge.methods import oracles
from tests.merge.methods.test_parity import merged

WEIGHTS = [1.0, 0.5, 1.5]
CASES = {
    "ace": {"lam": 0.8, "epsilon": 0.01, "heterogeneity": 0.3, "refined": 0.5},
    "iso_c": {"lam": 0.7},
    "iso_cts": {"lam": 0.7, "common": 0.5},
    "svc": {"lam": 0.6, "alpha": 0.3},
    "tsv_m": {"lam": 0.7},
    "wudi": {"lam": 0.9, "ridge": 1e-3},
}
SHAPES = {"tall": (31, 12), "square": (12, 12), "wide": (12, 31)}


def case(shape, models=3, sizes=(1.0, 1.0, 1.0), seed=0):
    base, *updates = torch.randn(models + 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return base, [base + size * update for size, update in zip(sizes, updates, strict=False)]


def made(method, base, models, weights=WEIGHTS, tile=40, **options):
    tensors = Tensors.held(base, models, run=Compute(dtype_of(base.dtype), tile_elements=tile), **options)
    return merged(tensors, partial(getattr(methods, method), weights=weights, **CASES[method]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_a_matrix_is_merged_as_by_its_svd(name, shape, monkeypatch):
    monkeypatch.setattr(spectra, "STRIP", 1)  # strips as short as they may be, so that there are several
    base, models = case(shape)
    exact = getattr(oracles, name)(base.numpy(), [m.numpy() for m in models], WEIGHTS, **CASES[name])
    np.testing.assert_allclose(made(name, base, models), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_updates_of_unlike_sizes_are_refined_by_ace(shape):
    """‖W‖² from 1e-6 to 1 spread log t_k over more than the heterogeneity from which the second half applies."""
    base, models = case(shape, sizes=(1e-3, 1e-2, 0.1))
    exact = oracles.ace(base.numpy(), [m.numpy() for m in models], [1, 1, 1], **CASES["ace"])
    plain = oracles.ace(base.numpy(), [m.numpy() for m in models], [1, 1, 1], **{**CASES["ace"], "heterogeneity": 1e9})
    assert np.abs(exact - plain).max() > 1e-3
    np.testing.assert_allclose(made("ace", base, models, weights=1.0), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_float32_is_near_the_exact_merge(name, shape):
    base, models = (x for x in case(shape))
    exact = made(name, base, models)
    near = made(name, base.float(), [m.float() for m in models])
    torch.testing.assert_close(near.double(), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_neither_grid_nor_threads_change_a_bit(name):
    base, models = case((64, 24))
    base, models = base.float(), [m.float() for m in models]
    alone = made(name, base, models, tile=1 << 20)
    assert torch.equal(alone, made(name, base, models, tile=24))
    with Workers(3, lambda: None) as workers:
        run = Compute(tile_elements=48, workers=workers)
        tensors = Tensors.held(base, models, run=run)
        assert torch.equal(alone, merged(tensors, partial(getattr(methods, name), weights=WEIGHTS, **CASES[name])))


@pytest.mark.parametrize("name", [name for name in CASES if name != "svc"])
@pytest.mark.parametrize("shape", [(), (9,), (7, 1), (2, 3, 4)])
def test_what_is_no_matrix_is_averaged(name, shape):
    base, models = case(shape)
    expected = oracles.mean_update(base.numpy(), [m.numpy() for m in models], WEIGHTS, CASES[name]["lam"])
    np.testing.assert_allclose(made(name, base, models), expected, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_directions_in_which_nothing_changed_stay(name):
    """Updates of rank 2: nothing is merged outside of the space that they span, where an SVD has any basis."""
    base, _ = case((20, 8))
    g = torch.Generator().manual_seed(4)
    factors = [torch.randn(20, 2, dtype=torch.float64, generator=g) for _ in WEIGHTS]
    right = torch.randn(2, 8, dtype=torch.float64, generator=g)
    change = made(name, base, [base + f @ right for f in factors]) - base
    outside = torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(right) @ right
    if name != "ace":  # whose collective prior mixes all columns
        torch.testing.assert_close(change @ outside, torch.zeros_like(change), rtol=0, atol=1e-9)
    assert torch.linalg.matrix_rank(change, atol=1e-8) <= 6 and change.norm() > 0.1


def test_tsv_m_keeps_updates_that_do_not_meet():
    """Tasks whose singular vectors are orthogonal do not interfere: their low-rank updates are simply added."""
    q, _ = torch.linalg.qr(torch.randn(24, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    base = torch.zeros(24, 12, dtype=torch.float64)
    updates = [
        q[:, 4 * k : 4 * k + 4]
        @ torch.diag(torch.arange(4.0, 0, -1).double())
        @ torch.eye(12).double()[4 * k : 4 * k + 4]
        for k in range(3)
    ]
    result = merged(
        Tensors.held(base, updates, run=Compute(Dtype.float64)), partial(methods.tsv_m, weights=1.0, lam=1.0)
    )
    torch.testing.assert_close(result, sum(updates), rtol=0, atol=1e-10)


def test_wudi_disturbs_its_tasks_less_than_the_sum():
    base, models = case((16, 10))
    updates = [m - base for m in models]

    def disturbance(tau):
        return sum(((tau - u) @ u.T).square().sum() / u.square().sum() for u in updates)

    tau = made("wudi", base, models, weights=1.0) - base
    assert disturbance(tau / 0.9) < 0.5 * disturbance(sum(updates))


def test_svc_undoes_what_equal_updates_count_twice():
    """Two experts that learned the same: their sum counts each direction twice, calibration gives it back once."""
    base, (model,) = case((9, 6), models=1, sizes=(1.0,))
    svc = partial(methods.svc, weights=1.0, lam=1.0, alpha=0.1)
    result = merged(Tensors.held(base, [model, model], run=Compute(Dtype.float64)), svc)
    torch.testing.assert_close(result, model, rtol=0, atol=1e-9)


def test_a_tall_matrix_is_never_held():
    """The reads of a source are strips, and no more than one strip of each model is asked for at a time."""
    base, models = case((4096, 4))
    longest = 0

    class Counted:
        def __init__(self, tensor):
            self.tensor, self.shape, self.dtype = tensor, tuple(tensor.shape), tensor.dtype

        def read(self, start, stop):
            nonlocal longest
            longest = max(longest, stop - start)
            return self.tensor.reshape(-1)[start:stop]

    tensors = Tensors("w", Counted(base), [Counted(m) for m in models], run=Compute(Dtype.float64, tile_elements=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "STRIP", 256)
        methods.tsv_m(tensors, weights=1.0, lam=1.0)
    assert 0 < longest <= 256


def test_not_a_number_is_refused_with_the_tensor_and_the_model():
    base, models = case((8, 6))
    models[1][2, 2] = torch.nan
    with pytest.raises(Exception, match=r"w: NaN or infinity in b; it cannot be merged"):
        made("iso_c", base, models, name="w", names=["a", "b", "c"])
