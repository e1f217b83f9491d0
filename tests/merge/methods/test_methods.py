"""What every method keeps to: YAML that matches its signature, no change where there is none, selections at ties."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.config import Component
from bm.errors import UserError
from bm.merge import methods
from bm.merge.dtypes import Dtype
from bm.merge.methods import updates
from bm.merge.tensors import Compute, Tensors, kind_of
from tests.merge.methods import oracles
from tests.merge.methods.test_parity import merged

CONF = Path(__file__).parents[3] / "conf" / "merge"
OTHERS = ("arcee_fusion", "fisher", "regmean")
"""Methods with tests of their own."""


def component(name):
    """A method as its YAML has it."""
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return Component(node.pop("_target_"), node)


def held(base, models, tile=7, **options):
    return Tensors.held(base, list(models), run=Compute(tile_elements=tile), **options)


def test_every_method_has_one_yaml_and_every_yaml_one_method():
    shipped = {path.stem for path in CONF.glob("*.yaml")}
    assert set(methods.__all__) <= shipped
    assert all(component(name).target.startswith("bm.merge.methods.") and component(name).function for name in shipped)


@pytest.mark.parametrize("name", methods.__all__)
def test_the_yaml_gives_every_parameter(name):
    assert component(name).target == f"bm.merge.methods.{name}"
    function = getattr(methods, name)
    assert set(component(name).parameters) == set(function.__kwdefaults__ or ()) | set(function.__annotations__) - {
        "tensors",
        "return",
    }


@pytest.mark.parametrize("shape", [(), (1,), (9,), (5, 3), (3, 1), (2, 3, 4)])
@pytest.mark.parametrize("name", [name for name in methods.__all__ if name not in OTHERS])
def test_models_equal_to_the_base_merge_into_it(name, shape):
    base = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    count = 1 if name == "passthrough" or kind_of(component(name)) == "pair" else 2
    result = merged(held(base, [base.clone()] * count), component(name))
    torch.testing.assert_close(result.float(), base, rtol=3e-7, atol=0)


@pytest.mark.parametrize("name", ["karcher", "linear", "multislerp", "nuslerp"])
def test_models_on_an_equal_footing_need_no_base(name):
    a, b = (torch.randn(5, 4, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    in_order, reordered = (merged(held(None, pair), component(name)) for pair in ((a, b), (b, a)))
    torch.testing.assert_close(in_order, reordered, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["model_stock", "ram", "sce", "task_arithmetic", "ties"])
def test_methods_of_updates_do_not_depend_on_the_order_of_models(name):
    base, *others = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(5))
    in_order, reordered = (merged(held(base, m), component(name)) for m in (others, others[::-1]))
    torch.testing.assert_close(in_order, reordered, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40), st.floats(0, 1))
def test_largest_keeps_at_least_the_density_and_ties_together(values, density):
    update = torch.tensor(values)
    tensors = held(torch.zeros(len(values)), [update], tile=6)
    sparse = merged(tensors, lambda t: updates.largest(t, 0, density))
    np.testing.assert_array_equal(sparse, oracles.keep_largest(update.numpy(), density) * update.numpy())


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 60), st.floats(0, 1), st.floats(0, 0.5), st.integers(0, 9))
def test_middle_keeps_the_density_below_the_outliers(n, density, gamma, seed):
    update = torch.from_numpy(np.random.default_rng(seed).permutation(np.arange(1, n + 1, dtype=np.float32)))
    sparse = merged(held(torch.zeros(n), [update]), lambda t: updates.middle(t, 0, density, gamma))
    np.testing.assert_array_equal(sparse, oracles.keep_middle(update.numpy(), density, gamma) * update.numpy())


@pytest.mark.parametrize("rescale", ["none", "probability", "l1"])
def test_random_masks_keep_the_density_and_the_expected_update(rescale):
    n = 1 << 16
    base, update = torch.zeros(64, n // 64), torch.randn(64, n // 64, generator=torch.Generator().manual_seed(1))
    dare = partial(methods.dare_linear, weights=1.0, density=0.3, lam=1.0, normalize=False, rescale=rescale)
    sparse = merged(held(base, [update], tile=1 << 12), dare)
    kept = sparse != 0
    assert kept.float().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / n) ** 0.5)
    factor = (sparse[kept] / update[kept]).mean().item()
    whole, part = update.abs().sum().item(), update[kept].abs().sum().item()
    assert factor == pytest.approx({"none": 1, "probability": 1 / 0.3, "l1": whole / part}[rescale], rel=1e-5)


def test_magprune_keeps_by_rank():
    """Over many rows an entry of rank r is kept with probability density − ε + 2ε·r/(columns − 1)."""
    rows, columns, density, epsilon = 20_000, 5, 0.5, 0.3
    update = torch.arange(1.0, columns + 1).repeat(rows, 1)
    della = partial(
        methods.della_linear, weights=1.0, density=density, epsilon=epsilon, lam=1.0, normalize=False, rescale="none"
    )
    kept = (merged(held(torch.zeros_like(update), [update], tile=1 << 12), della) != 0).float().mean(0)
    expected = density - epsilon + 2 * epsilon * torch.arange(columns) / (columns - 1)
    torch.testing.assert_close(kept, expected, rtol=0, atol=5 * (0.25 / rows) ** 0.5)


def test_masks_depend_on_seed_tensor_and_model_only():
    update = torch.ones(16, 16)

    def mask(seed=0, name="w", tile=64, model="a"):
        tensors = Tensors.held(
            torch.zeros(16, 16), [update], name=name, names=[model], run=Compute(seed=seed, tile_elements=tile)
        )
        return merged(tensors, component("dare_linear")) != 0

    assert torch.equal(mask(), mask(tile=16))
    for other in (mask(seed=1), mask(name="v"), mask(model="b")):
        assert not torch.equal(mask(), other)


def test_sce_weighs_small_updates_by_their_energy():
    """mergekit gives up and weighs equally when the squares sum to less than 1e-6, the usual case after fine-tuning."""
    base, *others = (t.double().numpy() for t in torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)))
    models = [base + 1e-5 * (k + 1) * other for k, other in enumerate(others)]
    exact = oracles.sce(base, models, 1.0)
    tensors = Tensors.held(
        torch.from_numpy(base), [torch.from_numpy(m) for m in models], run=Compute(Dtype.float64, tile_elements=20)
    )
    result = merged(tensors, partial(methods.sce, density=1.0))
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-12)


def test_model_stock_knows_the_angle_of_small_updates():
    """mergekit holds the product of norms to at least 1e-6 and so takes small updates for orthogonal ones."""
    base = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5 * torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    models = [base + step[0], base + step[0] + 0.1 * step[1]]
    result = merged(
        Tensors.held(base, models, run=Compute(Dtype.float64)), partial(methods.model_stock, filter_wise=False)
    )
    np.testing.assert_allclose(
        result, oracles.model_stock(base.numpy(), [m.numpy() for m in models], False), atol=1e-13
    )
    assert (result - base).norm() > 0.9 * step[0].norm()


@pytest.mark.parametrize(
    ("method", "count", "message"),
    [
        (partial(methods.ties, weights=[1.0], density=0.5, lam=1.0, normalize=True, rescale="none"), 2, "1 values"),
        (partial(methods.nuslerp, weights=1.0, over="tensor"), 3, "two models"),
        (partial(methods.model_stock, filter_wise=False), 1, "two models or more"),
        (partial(methods.passthrough, scale=1.0), 2, "one model"),
        (partial(methods.fisher, weights=1.0, floor=1e-6), 2, "Fisher statistics"),
        (
            partial(
                methods.della, weights=1.0, density=0.9, epsilon=0.2, lam=1.0, normalize=True, rescale="probability"
            ),
            2,
            "smaller epsilon",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_line(method, count, message):
    base, *others = torch.randn(count + 1, 3, 4)
    with pytest.raises(UserError, match=message) as error:
        merged(held(base, others), method)
    assert "\n" not in str(error.value)


def test_opposite_directions_have_no_mean_on_the_sphere():
    a = torch.randn(3, 4, dtype=torch.float64)
    multislerp = partial(methods.multislerp, weights=1.0, normalize=True)
    with pytest.raises(UserError, match="cancel"):
        merged(
            Tensors.held(None, [a, -0.5 * a, -0.5 * a], run=Compute(Dtype.float64)),
            partial(methods.multislerp, weights=[1.0, 0.5, 0.5], normalize=True),
        )
    torch.testing.assert_close(merged(Tensors.held(None, [a, -a]), multislerp), torch.zeros_like(a))
