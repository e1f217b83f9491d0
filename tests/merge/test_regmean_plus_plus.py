"""RegMean++'s Gram matrices against a merge done by hand in float64; AIM's activations; a resumed climb."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bm.errors import UserError
from bm.merge import regmean_plus_plus as climb
from bm.merge import statistics
from tests.merge.golden.inputs import write_model
from tests.merge.methods import oracles

EXAMPLES = {
    "a": [
        SimpleNamespace(prompt_ids=[1, 5, 3], response_ids=[2, 7]),
        SimpleNamespace(prompt_ids=[4], response_ids=[9, 9, 1]),
    ],
    "b": [SimpleNamespace(prompt_ids=[2, 2], response_ids=[0, 8, 3, 3])],
}
ALPHA = 0.8


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folders(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: write_model(place / name, seed, layers=2, tied=request.param) for seed, name in enumerate("ab")}


def network(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def inputs_of(model, example, names):
    """The inputs of the linear layers called `names` when a whole model reads an example: [tokens, in] by name."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        if f"{name}.weight" in names:
            hook = partial(lambda n, _, x: seen.__setitem__(n, x[0].flatten(0, -2)), f"{name}.weight")
            handles.append(module.register_forward_pre_hook(hook))
    with torch.no_grad():
        model(torch.tensor([[*example.prompt_ids, *example.response_ids]]))
    for handle in handles:
        handle.remove()
    return seen


def by_hand(folders):
    """Whole forward passes of a network whose lower layers are merged and whose layer in question is the expert's."""
    experts = {name: network(folder) for name, folder in folders.items()}
    weights = {name: dict(model.named_parameters()) for name, model in experts.items()}
    merged, grams = network(next(iter(folders.values()))), {name: {} for name in folders}
    own = dict(merged.named_parameters())
    linear = {f"{n}.weight" for n, m in merged.named_modules() if isinstance(m, torch.nn.Linear)} & set(own)
    groups = ["embed_tokens", "layers.0.", "layers.1.", "model.norm", "lm_head"]
    for group in groups:
        names = [name for name in own if group in name]
        for expert in folders:
            with torch.no_grad():
                for name in names:
                    own[name].copy_(weights[expert][name])
            for name in linear & set(names):
                rows = torch.cat([inputs_of(merged, e, [name])[name] for e in EXAMPLES[expert]])
                grams[expert][name] = rows.T @ rows / len(rows)
        with torch.no_grad():
            for name in names:
                both = [weights[expert][name] for expert in folders]
                known = [grams[expert][name].numpy() for expert in folders if name in grams[expert]]
                exact = oracles.regmean([w.detach().numpy() for w in both], known, ALPHA) if known else None
                own[name].copy_(torch.from_numpy(exact) if known else sum(both) / len(both))
    return grams


def test_layers_are_measured_above_merged_layers(folders, tmp_path):
    facts = climb.measure_together(folders, EXAMPLES, ALPHA, tmp_path, dtype="float64")
    assert facts == {"examples": 3, "tokens": 5 + 4 + 6}
    expected = by_hand(folders)
    for name in folders:
        grams = load_file(tmp_path / name / statistics.FILE)
        assert set(grams) == set(expected[name])
        for weight, gram in expected[name].items():
            torch.testing.assert_close(grams[weight], gram, rtol=1e-9, atol=1e-12)
    plain = tmp_path / "plain"
    plain.mkdir()
    statistics.regmean(folders["a"], EXAMPLES["a"], plain, dtype="float64")
    alone, last = load_file(plain / statistics.FILE), "model.layers.1.mlp.down_proj.weight"
    assert (alone[last] - expected["a"][last]).norm() > 1e-3 * alone[last].norm()


def test_a_killed_climb_goes_on_with_the_same_bits(folders, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    monkeypatch.setattr(climb, "SAVE_SECONDS", -1)
    put, loaded, allowed = climb.Climb.put, [], 99

    def counted(self, module, expert):
        if len(loaded) == allowed:
            raise KeyboardInterrupt
        loaded.append(expert)
        put(self, module, expert)

    monkeypatch.setattr(climb.Climb, "put", counted)
    climb.measure_together(folders, EXAMPLES, ALPHA, whole)
    steps, allowed = len(loaded), 2
    loaded.clear()
    with pytest.raises(KeyboardInterrupt):
        climb.measure_together(folders, EXAMPLES, ALPHA, broken)
    assert (broken / statistics.PARTIAL).exists()
    loaded.clear()
    allowed = 99
    climb.measure_together(folders, EXAMPLES, ALPHA, broken)
    assert len(loaded) == steps - 2 and not (broken / statistics.PARTIAL).exists()
    for name in folders:
        assert (whole / name / statistics.FILE).read_bytes() == (broken / name / statistics.FILE).read_bytes()


def test_no_traces_are_told(folders, tmp_path):
    with pytest.raises(UserError, match="at least one trace of each expert's domain"):
        climb.measure_together(folders, {"a": EXAMPLES["a"], "b": []}, ALPHA, tmp_path)


def test_activations_are_the_mean_magnitudes_of_inputs(folders, tmp_path):
    statistics.activations(folders["a"], EXAMPLES["a"], tmp_path, dtype="float64")
    magnitudes = load_file(tmp_path / statistics.FILE)
    assert "model.embed_tokens.weight" not in magnitudes and "model.layers.0.input_layernorm.weight" in magnitudes
    model = network(folders["a"])
    seen = [inputs_of(model, example, set(magnitudes)) for example in EXAMPLES["a"]]
    for name, sizes in magnitudes.items():
        rows = torch.cat([inputs[name] for inputs in seen])
        torch.testing.assert_close(sizes, rows.abs().mean(0), rtol=1e-10, atol=1e-14)
