"""Methods that weigh by what was measured or kept: OTA with FFG, AIM; and LiNeS, which goes by depth."""

from functools import partial

import numpy as np
import pytest
import torch

from bm.errors import UserError
from bm.merge import methods
from bm.merge.dtypes import dtype_of
from bm.merge.tensors import Compute, Held, Tensors
from tests.merge.methods import oracles
from tests.merge.methods.test_parity import merged


def tensors(statistics=(), shape=(7, 5), name="model.layers.2.mlp.up_proj.weight", layers=5, dtype=torch.float64):
    base, *updates = torch.randn(4, *shape, dtype=dtype, generator=torch.Generator().manual_seed(6))
    models = [Held(base + 0.1 * update) for update in updates]
    run = Compute(dtype_of(dtype), tile_elements=10)
    return Tensors(name, Held(base), models, statistics=[Held(s) for s in statistics], layers=layers, run=run)


def arrays(view):
    return view.base.tensor.numpy(), [model.tensor.numpy() for model in view.models]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_ota_is_its_formula(density, power):
    moments = torch.rand(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) ** 4 * 1e-8
    view = tensors(moments)
    how = {"lam": 0.8, "density": density, "power": power, "epsilon": 1e-12}
    exact = oracles.ota(*arrays(view), [1.0, 0.5, 2.0], **how, moments=list(moments.numpy()))
    result = merged(view, partial(methods.ota, weights=[1.0, 0.5, 2.0], **how))
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-12)


def test_ota_leans_to_the_expert_whose_loss_is_curved():
    """Where only one expert's gradients were not zero, its value is taken, up to ε."""
    moments = torch.zeros(3, 7, 5, dtype=torch.float64)
    moments[1] = 1e-8
    view = tensors(moments)
    ota = partial(methods.ota, weights=1.0, lam=1.0, density=1.0, power=0.5, epsilon=1e-12)
    torch.testing.assert_close(merged(view, ota), view.models[1].tensor, rtol=0, atol=1e-7)


def test_tiny_moments_do_not_underflow_in_float32():
    """v·u² of 1e-30 · 1e-18 is no float32 number; its root, which decides, is."""
    moments = torch.full((3, 7, 5), 1e-30)
    moments[:, 0] = 4e-30
    base = torch.zeros(7, 5)
    view = Tensors("w", Held(base), [Held(base + 1e-9)] * 3, statistics=[Held(m) for m in moments], run=Compute())
    ota = partial(methods.ota, weights=1.0, lam=1.0, density=5 / 35, power=0.5, epsilon=1e-26)
    assert torch.equal(merged(view, ota) != 0, moments[0] == 4e-30)


def test_ota_needs_all_moments_or_none():
    with pytest.raises(UserError, match="second moments of all 3 models or of none"):
        ota = partial(methods.ota, weights=1.0, lam=1.0, density=0.5, power=0.5, epsilon=1e-12)
        merged(tensors(torch.ones(2, 7, 5, dtype=torch.float64)), ota)


def test_aim_holds_back_what_large_activations_meet():
    sizes = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    view = tensors([sizes])
    base, models = arrays(view)
    plain = 0.4 * sum(m - base for m in models)
    result = merged(view, partial(methods.aim, weights=1.0, lam=0.4, omega=0.25))
    np.testing.assert_allclose(result, base + plain * (1 - 0.75 * sizes.numpy() / 4), rtol=0, atol=1e-14)
    without = merged(tensors(), partial(methods.aim, weights=1.0, lam=0.4, omega=0.25))
    np.testing.assert_allclose(without, base + plain, rtol=0, atol=1e-14)


def test_aim_refuses_activations_of_another_layer():
    with pytest.raises(UserError, match=r"shape \(4,\), the layer 5 inputs"):
        merged(tensors([torch.ones(4)]), partial(methods.aim, weights=1.0, lam=0.4, omega=0.25))


@pytest.mark.parametrize(
    ("name", "scale"),
    [("model.embed_tokens.weight", 1 / 3), ("model.layers.0.w", 1 / 3), ("model.layers.2.w", 1 / 3 + 0.3),
     ("model.layers.4.w", 1 / 3 + 0.6), ("lm_head.weight", 1 / 3)],
)  # fmt: skip
def test_lines_grows_from_one_in_k_to_beta_more(name, scale):
    view = tensors(name=name)
    base, models = arrays(view)
    result = merged(view, partial(methods.lines, weights=1.0, alpha=None, beta=0.6))
    np.testing.assert_allclose(result, base + scale * sum(m - base for m in models), rtol=0, atol=1e-14)
