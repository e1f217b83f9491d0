"""Arcee Fusion against float64 on whole tensors, and its mergekit variant against that arithmetic written out."""

import hashlib
import math

import numpy as np
import pytest
import torch

from bm.errors import UserError
from bm.merge import native
from bm.merge.methods import arcee_fusion
from bm.merge.scores import divergence
from bm.merge.tensors import Compute, Tensors

SHAPES = [(600, 128), (3, 40, 64), (37,), (1,), ()]


def close_models(shape, sigma, dtype=torch.bfloat16, seed=0):
    """Weights and weights after a small Gaussian update, both rounded to dtype."""
    generator = torch.Generator().manual_seed(seed)
    left = (torch.randn(shape, generator=generator) * 0.02).to(dtype)
    return left, (left.double() + torch.randn(shape, generator=generator) * sigma).to(dtype)


def fused(left, right, name="tensor", run=None, **parameters):
    """The fused tensor in float32 and the mask of what was taken, from tiles."""
    tensors = Tensors.held(left, [right], name, run=run or Compute())
    apply = arcee_fusion(tensors, **{"lam": 1.5, "variant": "exact", "difference": "absolute"} | parameters)
    parts = tensors.map(apply)
    taken = torch.cat([part.taken.reshape(-1) for part in parts]).bool()
    merged = torch.cat([torch.where(p.taken.bool(), p.other, p.base).reshape(-1) for p in parts])
    return merged.reshape(left.shape), taken.reshape(left.shape)


def reference_kl(left, right):
    """KL(softmax(right) ‖ softmax(left)) over the last dimension, in float64."""
    p, q = torch.log_softmax(right.double(), -1), torch.log_softmax(left.double(), -1)
    return (p.exp() * (p - q)).sum(-1, keepdim=True)


def reference_mask(scores, lam=1.5):
    values = scores.double().reshape(-1).numpy()
    ranks = [int(q * (len(values) - 1)) for q in (0.25, 0.5, 0.75)]
    q1, median, q3 = np.partition(values, ranks)[ranks]
    return scores > median + lam * (q3 - q1)


def jaccard(mask, other):
    return ((mask & other).sum() / (mask | other).sum().clamp(min=1)).item()


@pytest.mark.parametrize("sigma", [1e-4, 3e-4, 1e-3])
def test_masks_agree_with_float64_where_naive_arithmetic_does_not(sigma):
    """The Jaccard table: `exact` ≥ 0.99 at every update size; KL in the models' own bf16 is far from it."""
    left, right = close_models((1200, 896), sigma)
    change = (right.double() - left.double()).abs()
    oracle = reference_mask(reference_kl(left, right) * change)
    assert jaccard(fused(left, right)[1], oracle) >= 0.99
    p, q = torch.softmax(right, -1) + 1e-8, torch.softmax(left, -1) + 1e-8
    naive = reference_mask((p * torch.log(p / q)).sum(-1, keepdim=True) * (right - left).abs())
    assert jaccard(naive, oracle) < 0.6


def by_kernel(left, right):
    rows, work = np.empty(len(left), np.float32), np.empty((4, left.shape[1]), np.float32)
    native.sample(left.numpy(), right.numpy(), rows, True, False, 0, left.numel(), np.empty(1, np.uint32), work,
                  work.view(np.int32))  # fmt: skip
    return torch.from_numpy(rows)


@pytest.mark.parametrize("divergence", [divergence, by_kernel])
@pytest.mark.parametrize("sigma", [1e-6, 1e-4, 1e-2, 0.3, 30.0])
def test_divergence_keeps_its_digits(sigma, divergence):
    """Relative to float64 on float32 rows, from barely different to disjoint; every row separately."""
    left, right = close_models((64, 300), sigma, torch.float32)
    exact = reference_kl(left, right).squeeze(-1)
    if (
        sigma == 1e-6
    ):  # float64 itself cancels here: compare with its leading term, half the variance under softmax(left)
        q, d = torch.softmax(left.double(), -1), right.double() - left.double()
        exact = ((q * d * d).sum(-1) - (q * d).sum(-1) ** 2) / 2
    assert ((divergence(left, right) - exact).abs() <= 2e-5 * exact).all()


@pytest.mark.parametrize("sigma", [1e-5, 1e-4, 1e-3, 0.3])
def test_divergence_in_float64_has_more_digits(sigma):
    left, right = close_models((32, 300), sigma, torch.float64)
    exact = reference_kl(left, right).squeeze(-1)
    assert ((divergence(left, right) - exact).abs() <= 1e-9 * exact + 1e-15).all()


@pytest.mark.parametrize("divergence", [divergence, by_kernel])
@pytest.mark.parametrize("shift", [-300.0, 30.0])
def test_divergence_of_rows_far_from_zero(shift, divergence):
    """Neither overflows nor loses what a constant does not change."""
    left, right = close_models((16, 300), 1e-2, torch.float32)
    left, right = left + shift, right + shift
    exact = reference_kl(left, right).squeeze(-1)
    assert ((divergence(left, right) - exact).abs() <= 2e-5 * exact).all()


@pytest.mark.parametrize("divergence", [divergence, by_kernel])
def test_divergence_of_equal_rows_is_zero(divergence):
    left, _ = close_models((8, 100), 1.0)
    assert torch.equal(divergence(left.float(), left.float()), torch.zeros(8))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lam", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("variant", ["exact", "paper"])
def test_entries_are_the_left_models_or_the_right_ones(shape, lam, variant):
    left, right = close_models(shape, 3e-3, torch.float32)
    merged, taken = fused(left, right, lam=lam, variant=variant, run=Compute(tile_elements=1000))
    assert torch.equal(merged, torch.where(taken, right, left))
    change = (right.double() - left.double()).abs()
    flat = left.reshape(1, -1), right.reshape(1, -1)
    kl = reference_kl(left, right) if variant == "exact" else reference_kl(*flat).squeeze()
    oracle = reference_mask(kl * change, lam)
    assert (taken ^ oracle).sum() <= 1e-3 * taken.numel()


def test_signed_difference_takes_increases_only():
    left, right = close_models((200, 64), 3e-3, torch.float32)
    for variant in ("exact", "paper"):
        _, taken = fused(left, right, variant=variant, difference="signed")
        assert taken.any()
        assert (right > left)[taken].all()
    kl = reference_kl(left, right)
    oracle = reference_mask(kl * (right.double() - left.double()))
    assert jaccard(fused(left, right, difference="signed")[1], oracle) > 0.99


def test_what_hardly_changed_is_kept_by_exact_and_taken_whole_by_mergekit():
    """Fewer than a quarter of the scores are non-zero: the threshold is 0, which `>` excludes and `≥` lets pass."""
    left, right = close_models((300, 64), 1e-3)
    right = torch.where(torch.rand(left.shape, generator=torch.Generator().manual_seed(0)) < 0.1, right, left)
    assert not (fused(left, right)[1] & (left == right)).any()
    assert (
        fused(left, right, variant="mergekit")[1].float().mean() > 0.9
    )  # not all: its KL comes out negative here and there


@pytest.mark.parametrize("shape", [*SHAPES, (1200, 896)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_mergekit_variant_bit_for_bit(shape, dtype):
    """Its arithmetic on whole tensors in their dtype, with the same million draws where it samples."""
    left, right = close_models(shape, 1e-3, dtype)
    p, q = torch.softmax(right, -1) + 1e-8, torch.softmax(left, -1) + 1e-8
    importance = (right - left).abs() * (p * torch.log(p / q)).sum(-1, keepdim=True)
    values = importance.reshape(-1)
    if values.numel() > 1_000_000:
        key = hashlib.sha256(b"7\0w").digest()[:8]
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little", signed=True))
        values = values[torch.randint(values.numel(), (1_000_000,), generator=generator)]
    ordered = values.sort().values
    q1, median, q3 = (ordered[math.floor(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    expected = left + (right - left) * (importance >= median + 1.5 * (q3 - q1)).float()
    merged, _ = fused(left, right, "w", Compute(seed=7, tile_elements=30_000), variant="mergekit")
    assert torch.equal(merged.to(dtype), expected.to(dtype))


def test_contradicting_settings_are_refused():
    left, right = close_models((4, 4), 1e-3)
    with pytest.raises(UserError, match="signed does not go with variant=mergekit"):
        fused(left, right, variant="mergekit", difference="signed")


def test_non_finite_weights_are_refused_by_name():
    left, right = close_models((40, 8), 1e-3)
    right[3, 3] = math.nan
    with pytest.raises(UserError, match=r"model\.norm: NaN or infinity"):
        fused(left, right, "model.norm")
