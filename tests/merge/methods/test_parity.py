"""Every method against a float64 oracle of its formula and against mergekit 0.1.5's own result."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bm.merge.dtypes import dtype_of
from bm.merge.mergekit.methods import METHODS as ENTRIES
from bm.merge.mergekit.methods import REQUIRED
from bm.merge.tensors import Compute, Tensors, Tile
from tests.merge.golden.cases import METHODS, TIED
from tests.merge.golden.inputs import coarse, uniform, weights
from tests.merge.methods import oracles

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "methods.safetensors")
GOLDEN_TIED = load_file(Path(__file__).parents[1] / "golden" / "tied.safetensors")
SEEDS = {name: seed for seed, name in enumerate(METHODS)}


def merged(tensors: Tensors, method) -> torch.Tensor:
    """The whole merged tensor, tile by tile."""
    apply = method(tensors)
    tiles = tensors.map(apply)
    return torch.cat(tiles).view(tensors.shape)


def bound(case):
    """The product's method with a case's parameters, mergekit's defaults where the case is silent."""
    entry = ENTRIES[case.method]
    count = max(1, case.models)
    values = {}
    for parameter in entry.parameters:
        default = None if parameter.default is REQUIRED else parameter.default
        value = case.per_model.get(parameter.name, case.shared.get(parameter.name, default))
        values[parameter.name] = value if parameter.per == "merge" or isinstance(value, list) else [value] * count
    return entry.bound(values), values


def inputs(name, case):
    """(base or None, models) as numpy float32."""
    base, *others = weights(SEEDS[name], case.models, case.shape, case.update)
    return (base, others) if case.base and others else (None, others or [base])


@pytest.fixture
def known_masks(monkeypatch):
    """Model k draws the numbers that the golden results were made with."""

    def use(seed, shape):
        def numbers(self, k):
            columns = self.tensors.tiling.columns
            return torch.from_numpy(uniform(seed, k, shape).reshape(-1, columns))[
                self.start // columns : self.stop // columns
            ]

        monkeypatch.setattr(Tile, "uniform", numbers)

    return use


def ours(name, case, dtype=torch.float32, **changed):
    """The case by the product on a tiling of several tiles, in the arithmetic of `dtype`."""
    base, models = inputs(name, case)
    tensors = Tensors.held(
        None if base is None else torch.from_numpy(base),
        [torch.from_numpy(m) for m in models],
        run=Compute(dtype_of(dtype), tile_elements=3 * 13),
    )
    return merged(tensors, partial(bound(case)[0], **changed))


def oracle(name, case):
    """The case by the formulas in `oracles`, float64."""
    base, models = inputs(name, case)
    base = None if base is None else base.astype(np.float64)
    models = [m.astype(np.float64) for m in models]
    v = bound(case)[1]
    match case.method:
        case "slerp" | "nearswap":
            return getattr(oracles, case.method)(base, models, v["t"])
        case "multislerp":
            return oracles.multislerp(base, models, v["weight"], v["normalize_weights"])
        case "nuslerp":
            axis = None if v["nuslerp_flatten"] else 0 if v["nuslerp_row_wise"] else -1
            return oracles.nuslerp(base, models, v["weight"], axis)
        case "karcher":
            return oracles.karcher(base, models)
        case "model_stock":
            return oracles.model_stock(base, models, v["filter_wise"])
        case "sce":
            return oracles.sce(base, models, v["select_topk"])
        case "ram":
            return oracles.ram(base, models, v["epsilon"])
        case "ramplus_tl":
            return oracles.ram(base, models, v["epsilon"], v["r"], v["alpha"])
        case "passthrough":
            return models[0] * v["scale"][0]
    return oracles.combined(
        base,
        [sparse(case.method, SEEDS[name], k, model - base, v) for k, model in enumerate(models)],
        v["weight"],
        v["lambda"],
        v["normalize"],
        consensus="ties" in case.method or case.method == "della",
    )


def sparse(method, seed, k, update, v):
    if method == "task_arithmetic":
        return update
    density = v["density"][k]
    if method == "ties":
        mask = oracles.keep_largest(update, density)
    elif "breadcrumbs" in method:
        mask = oracles.keep_middle(update, density, v["gamma"][k])
    elif "della" in method:
        mask = oracles.keep_drawn(
            uniform(seed, k, update.shape), oracles.magprune_probability(update, density, v["epsilon"][k])
        )
    else:
        mask = oracles.keep_drawn(uniform(seed, k, update.shape), density)
    return oracles.rescaled(update, mask, "l1" if v["rescale"] else "none")


def ulps(result, reference, scale, dtype=torch.float32):
    """The largest difference in units in the last place of `dtype`, an entry's unit being that of its largest term."""
    largest = np.maximum(np.abs(scale), np.finfo(np.float32).tiny)
    unit = 2.0 ** np.floor(np.log2(largest)) * torch.finfo(dtype).eps
    return float((np.abs(np.asarray(result, np.float64) - np.asarray(reference, np.float64)) / unit).max())


def terms(name, case, exact):
    """The largest magnitude that takes part in each entry."""
    base, models = inputs(name, case)
    return np.abs(np.stack([exact, *models, *([] if base is None else [base])])).max(0)


def to_convergence(case):
    """mergekit stops the Karcher mean after ten steps or at a tolerance; the oracle does not."""
    return {"iterations": 300, "tolerance": 1e-15} if case.method == "karcher" else {}


@pytest.mark.parametrize("name", METHODS)
def test_float64_arithmetic_is_the_oracle(name, known_masks):
    case = METHODS[name]
    known_masks(SEEDS[name], case.shape)
    exact = oracle(name, case)
    result = ours(name, case, torch.float64, **to_convergence(case))
    np.testing.assert_allclose(result.numpy(), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_within_one_ulp_of_mergekit_or_the_oracle_is_on_our_side(name, known_masks):
    case = METHODS[name]
    known_masks(SEEDS[name], case.shape)
    result, golden = ours(name, case, torch.float64).float(), GOLDEN[name]
    exact = oracle(name, case)
    scale = terms(name, case, exact)
    if ulps(result, golden, scale) > 1:
        assert ulps(result, exact, scale) <= ulps(golden, exact, scale)
    assert ulps(result.bfloat16().float(), golden.bfloat16().float(), scale, torch.bfloat16) <= 1


@pytest.mark.parametrize("name", METHODS)
def test_float32_arithmetic_is_as_good_as_mergekits(name, known_masks):
    case = METHODS[name]
    known_masks(SEEDS[name], case.shape)
    result, golden = ours(name, case), GOLDEN[name]
    exact = oracle(name, case)
    scale = terms(name, case, exact)
    assert ulps(result, exact, scale) <= ulps(golden, exact, scale) + 1
    assert ulps(result.bfloat16().float(), golden.bfloat16().float(), scale, torch.bfloat16) <= 1


def test_mergekit_itself_still_gives_the_golden_results():
    pytest.importorskip("mergekit", reason="mergekit is not installed here")
    from tests.merge.golden.make import merge_tensor

    for name, case in METHODS.items():
        torch.testing.assert_close(merge_tensor(SEEDS[name], case), GOLDEN[name], rtol=0, atol=0)


def boundaries(case, scores, k):
    """The places in ascending order between which a selection from these scores is cut."""
    n = scores.numel()
    if case.method == "sce":
        return [n - int(int(scores.count_nonzero()) * case.shared["select_topk"])]
    kept = int(case.per_model["density"][k] * n)
    outliers = int(case.per_model["gamma"][k] * n) if "gamma" in case.per_model else 0
    first = max(0, n - kept - outliers)
    return [first, first + kept - 1, first + kept]


@pytest.mark.parametrize("name", TIED)
def test_where_a_selection_is_not_mergekits_magnitudes_tie(name):
    """Updates of bfloat16 weights have few digits: where magnitudes tie at the cut, mergekit keeps some of them, in the
    order of its sort, and here all of them are kept. Entries that do not tie are the same."""
    case = METHODS[name]
    base, *others = coarse([torch.from_numpy(w) for w in weights(SEEDS[name], case.models, case.shape)])
    ours = merged(Tensors.held(base, others), bound(case)[0])
    updates = torch.stack([other - base for other in others])
    scores = updates.var(0, correction=0)[None] if case.method == "sce" else updates.abs()
    tied = torch.zeros(case.shape, dtype=torch.bool)
    for k, score in enumerate(scores):
        for place in boundaries(case, score, k):
            tied |= torch.isclose(
                score, score.flatten().sort().values[min(place, score.numel() - 1)], rtol=1e-4, atol=0
            )
    changed, theirs = ours != base, GOLDEN_TIED[name] != base
    apart = (changed != theirs) if case.method == "sce" else (ours - GOLDEN_TIED[name]).abs() > 1e-6
    assert apart.any()  # otherwise nothing is shown
    assert (tied | ~apart).all()
