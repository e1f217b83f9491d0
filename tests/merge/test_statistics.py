"""Fisher and RegMean statistics of a tiny Qwen2 against float64 oracles, and the merges that use them."""

from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bm.errors import UserError
from bm.merge import methods, statistics
from bm.merge.checkpoint import checkpoint
from bm.merge.dtypes import Dtype, dtype_of
from bm.merge.engine import execute
from bm.merge.order import Join
from bm.merge.sinks import Memory
from bm.merge.tensors import Compute, Held, Tensors
from bm.merge.trees import plan
from tests.merge.golden.inputs import HIDDEN, INTERMEDIATE, write_model
from tests.merge.methods import oracles
from tests.merge.methods.test_parity import merged

EXAMPLES = [
    SimpleNamespace(prompt_ids=prompt, response_ids=response)
    for prompt, response in [([1, 5, 3], [2, 7]), ([4], [9, 9, 1, 15]), ([2, 2], [0]), ([11, 3], [8, 6, 5])]
]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), 1, layers=2, tied=request.param)


def reference(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def squared_gradient(model, example):
    """(∂ log p(response | prompt) / ∂θ)² by name, from the whole sequence's logits."""
    ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
    logits = model(ids).logits[0]
    start = len(example.prompt_ids)
    log_p = sum(
        logits[start + i - 1, token] - torch.logsumexp(logits[start + i - 1], 0)
        for i, token in enumerate(example.response_ids)
    )
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, (g.square() for g in torch.autograd.grad(log_p, parameters)), strict=True))


def test_fisher_is_the_mean_squared_gradient(folder, tmp_path):
    facts = statistics.fisher(folder, EXAMPLES, tmp_path, dtype="float64")
    assert facts == {"examples": 4, "tokens": 10}
    squares = [squared_gradient(reference(folder), example) for example in EXAMPLES]
    measured = load_file(tmp_path / statistics.FILE)
    assert set(measured) == set(load_file(folder / "model.safetensors"))
    for name, value in measured.items():
        torch.testing.assert_close(value, sum(s[name] for s in squares) / 4, rtol=1e-10, atol=1e-18)


def test_float32_fisher_is_close(folder, tmp_path):
    for dtype, place in (("float32", "one"), ("float64", "two")):
        (tmp_path / place).mkdir()
        statistics.fisher(folder, EXAMPLES, tmp_path / place, dtype=dtype)
    in_float32, in_float64 = (load_file(tmp_path / place / statistics.FILE) for place in ("one", "two"))
    for name in in_float64:
        torch.testing.assert_close(in_float32[name].double(), in_float64[name], rtol=1e-3, atol=1e-9)


def test_regmean_is_the_mean_outer_product_of_inputs(folder, tmp_path):
    """Two layers whose inputs the model's own hidden states give: the first attention's, and the head's."""
    facts = statistics.regmean(folder, EXAMPLES, tmp_path, dtype="float64")
    tokens = sum(len(e.prompt_ids) + len(e.response_ids) for e in EXAMPLES)
    assert facts == {"examples": 4, "tokens": tokens}
    measured = load_file(tmp_path / statistics.FILE)
    model = reference(folder)
    embedded, final = [], []
    for example in EXAMPLES:
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        states = model(ids, output_hidden_states=True).hidden_states
        x = states[0][0]
        norm = model.model.layers[0].input_layernorm
        embedded.append(norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt())
        final.append(states[-1][0])
    # transformers normalises in float32 whatever the model's type
    checks = (("model.layers.0.self_attn.q_proj.weight", embedded, 1e-5), ("lm_head.weight", final, 1e-10))
    for name, rows, tolerance in checks:
        if name in measured:
            x = torch.cat(rows)
            torch.testing.assert_close(measured[name], (x.T @ x / tokens).detach(), rtol=tolerance, atol=1e-18)
    assert ("lm_head.weight" in measured) == (not model.config.tie_word_embeddings)
    assert measured["model.layers.1.mlp.down_proj.weight"].shape == (INTERMEDIATE, INTERMEDIATE)
    assert measured["model.layers.1.mlp.up_proj.weight"].shape == (HIDDEN, HIDDEN)
    linear = [n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    assert set(measured) == set(linear)


@pytest.mark.parametrize("kind", ["fisher", "regmean"])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(kind, folder, tmp_path, monkeypatch):
    measure = getattr(statistics, kind)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    measure(folder, EXAMPLES, tmp_path / "whole")
    monkeypatch.setattr(statistics, "SAVE_SECONDS", -1)

    class KilledError(Exception):
        pass

    class Fragile(list):
        def __iter__(self):
            yield from self[:2]
            raise KilledError

    with pytest.raises(KilledError):
        monkeypatch.setattr(statistics, "islice", lambda examples, *_: iter(Fragile(examples)))
        measure(folder, EXAMPLES, tmp_path / "killed")
    monkeypatch.undo()
    assert (tmp_path / "killed" / statistics.PARTIAL).exists()
    measure(folder, EXAMPLES, tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [statistics.FILE]
    whole, killed = ((tmp_path / place / statistics.FILE).read_bytes() for place in ("whole", "killed"))
    assert whole == killed


def test_no_traces_are_refused(folder, tmp_path):
    for examples in ([], [SimpleNamespace(prompt_ids=[], response_ids=[1])]):
        with pytest.raises(UserError, match="at least one trace"):
            statistics.fisher(folder, examples, tmp_path)


def stored(shape, models, matrices, dtype=torch.float64):
    """`models` with statistics, on a tiling of several tiles."""
    return Tensors(
        "layer.weight",
        None,
        [Held(model) for model in models],
        statistics=[Held(matrix) for matrix in matrices],
        run=Compute(dtype_of(dtype), tile_elements=3 * shape[-1]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fisher_weighted_average(dtype):
    random = torch.Generator().manual_seed(1)
    models = torch.randn(3, 8, 5, generator=random, dtype=dtype)
    fishers = torch.randn(3, 8, 5, generator=random, dtype=dtype).square()
    weights, floor = [0.5, 0.3, 0.2], 1e-3
    exact = oracles.fisher([m.double().numpy() for m in models], weights, [f.double().numpy() for f in fishers], floor)
    result = merged(stored((8, 5), models, fishers, dtype), partial(methods.fisher, weights=weights, floor=floor))
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_regmean_solves_the_regression(alpha, dtype):
    random = torch.Generator().manual_seed(2)
    models = torch.randn(2, 8, 5, generator=random, dtype=dtype)
    inputs = torch.randn(2, 40, 5, generator=random, dtype=dtype)
    grams = [x.T @ x / 40 for x in inputs]
    exact = oracles.regmean([m.double().numpy() for m in models], [g.double().numpy() for g in grams], alpha)
    result = merged(stored((8, 5), models, grams, dtype), partial(methods.regmean, alpha=alpha))
    np.testing.assert_allclose(result, exact, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)
    if alpha == 1:  # no other weight is nearer to the experts' outputs on their inputs
        error = sum(((x @ (result - m).T).double() ** 2).sum() for x, m in zip(inputs, models, strict=True))
        for step in torch.randn(5, 8, 5, generator=random, dtype=dtype) * 1e-2:
            moved = sum(((x @ (result + step - m).T).double() ** 2).sum() for x, m in zip(inputs, models, strict=True))
            assert moved > error


def test_regmean_averages_what_has_no_gram_matrix():
    models = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    result = merged(Tensors.held(None, list(models)), partial(methods.regmean, alpha=0.9))
    torch.testing.assert_close(result, models.mean(0))


@pytest.mark.parametrize(
    ("grams", "message"),
    [
        ([torch.zeros(5, 5)] * 2, "singular"),
        ([torch.eye(4)] * 2, "has shape"),
        ([torch.eye(5)], "of all 2 models or of none"),
    ],
)
def test_what_regmean_cannot_use_is_named(grams, message):
    with pytest.raises(UserError, match=message):
        merged(stored((8, 5), torch.randn(2, 8, 5), grams), partial(methods.regmean, alpha=1.0))


@pytest.mark.parametrize("kind", ["fisher", "regmean"])
def test_models_are_merged_by_their_statistics(kind, tmp_path):
    """From two model folders and their artefacts to merged tensors; parameters without statistics are averaged."""
    folders = {name: write_model(tmp_path / name, which, layers=2) for which, name in enumerate("ab", 1)}
    for name, folder in folders.items():
        (tmp_path / f"{kind}-{name}").mkdir()
        getattr(statistics, kind)(folder, EXAMPLES, tmp_path / f"{kind}-{name}")
    method = {
        "fisher": partial(methods.fisher, weights=1.0, floor=1e-12),
        "regmean": partial(methods.regmean, alpha=0.9),
    }
    memory = Memory()
    with ExitStack() as stack:
        opened = {name: stack.enter_context(checkpoint(folder)) for name, folder in folders.items()}
        measured = {name: stack.enter_context(checkpoint(tmp_path / f"{kind}-{name}")) for name in folders}
        items = plan(Join(("a", "b"), 1), [method[kind]], opened, None, measured, Dtype.float32)
        execute(items, [memory], Compute(Dtype.float64), 10**9, threads=2)
    a, b = (load_file(folder / "model.safetensors") for folder in folders.values())
    of_a, of_b = (load_file(tmp_path / f"{kind}-{name}" / statistics.FILE) for name in "ab")
    for name, tensor in memory.tensors.items():
        pair = [t[name].double().numpy() for t in (a, b)]
        known = [s[name].double().numpy() for s in (of_a, of_b) if name in s]
        if not known:
            exact = sum(pair) / 2
        elif kind == "fisher":
            exact = oracles.fisher(pair, [1, 1], known, 1e-12)
        else:
            exact = oracles.regmean(pair, known, 0.9)
        np.testing.assert_allclose(tensor, exact, rtol=0, atol=1e-7, err_msg=name)
    assert any(name not in of_a for name in memory.tensors) == (kind == "regmean")
