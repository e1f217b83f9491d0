"""Filters and gradients give each tensor mergekit's value, in mergekit configs and in `merge.schedule`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors.torch import load_file

from bm.config import Component
from bm.errors import UserError
from bm.merge import merge_in_memory
from bm.merge.order import Join
from bm.merge.schedule import Setting, scheduled, value_at
from bm.merge.tensors import Tensors, kind_of
from tests.merge.folders import Settings
from tests.merge.methods.test_parity import merged

PARSE = TypeAdapter(Setting).validate_python
NAME = "model.layers.2.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("setting", "depth", "kind", "value"),
    [
        (0.5, 0.3, float, 0.5),
        ("1e-3", 0, float, 1e-3),  # YAML 1.1 reads 1e-3 as a word
        ([0, 1], 0.25, float, 0.25),
        ([0, 0.5, 0.3], 0.75, float, 0.4),
        ([0, 0.5, 0.3], 1, float, 0.3),
        ([7], 0.6, float, 7),
        ([True, False], 0.9, bool, True),
        ([True, False], 1, bool, False),
        ([], 0.5, float, None),
        ({"filter": "mlp", "value": 2}, 0, float, None),
        ({"filter": "self_attn", "value": [2, 4]}, 0.5, float, 3),
        ([{"filter": "mlp", "value": 1}, {"filter": "*", "value": 2}, {"value": 3}], 0, float, 2),
        ([{"filter": "mlp", "value": 1}], 0, float, None),
        ([{"filter": "q_proj", "value": []}, {"value": 3}], 0, float, None),
    ],
)
def test_value_at(setting, depth, kind, value):
    assert (
        value_at(PARSE(setting), NAME, depth, kind) == pytest.approx(value)
        if value is not None
        else value_at(PARSE(setting), NAME, depth, kind) is None
    )


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.data())
def test_a_gradient_passes_through_its_values_and_stays_between_neighbours(values, data):
    last = len(values) - 1
    for place, value in enumerate(values):
        assert value_at(tuple(values), NAME, place / last, float) == pytest.approx(value, abs=1e-12)
    place = data.draw(st.integers(0, last - 1))
    part = data.draw(st.floats(0.01, 0.99))
    between = value_at(tuple(values), NAME, (place + part) / last, float)
    low, high = sorted(values[place : place + 2])
    assert low - 1e-9 <= between <= high + 1e-9


def test_a_value_of_the_wrong_type_is_named():
    with pytest.raises(UserError, match=r"'much' for .*q_proj\.weight is not of type float"):
        value_at("much", NAME, 0, float)


SLERP = Component("bm.merge.methods.slerp", {"t": 0.5})
LINEAR = Component("bm.merge.methods.linear", {"weights": None, "normalize": True})


def at(name, method, schedule, layers=5):
    """How far from ones (`math`, or the base) to twos (`coding`) they are merged, in a model of `layers` layers."""
    pair = kind_of(method) == "pair"
    ones, twos = torch.ones(3, 4), torch.full((3, 4), 2.0)
    base, models, names = (ones, [twos], ["coding"]) if pair else (None, [ones, twos], ["math", "coding"])
    tensors = Tensors.held(base, models, name=name, names=names, layers=layers)
    return merged(tensors, scheduled(method, schedule)).mean().item() - 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", 0.2),
        ("model.layers.1.self_attn.q_proj.weight", 0.35),
        ("model.layers.4.self_attn.q_proj.weight", 0.8),
        ("model.layers.4.mlp.up_proj.weight", 0.1),
        ("model.norm.weight", 0.5),  # no rule: the method's own value
        ("model.embed_tokens.weight", 0.9),
    ],
)
def test_a_schedule_changes_a_parameter_by_module_and_layer(name, expected):
    rules = [
        {"filter": "self_attn", "value": [0.2, 0.5, 0.8]},
        {"filter": "mlp", "value": 0.1},
        {"filter": "embed", "value": [0.9, 0.0]},
    ]
    assert at(name, SLERP, {"t": rules}) == pytest.approx(expected)


def test_a_schedule_has_a_setting_for_each_model():
    schedule = {"weights": {"math": [1.0, 3.0], "coding": 1.0}}
    for layer, expected in enumerate([1 / 2, 1 / 3, 1 / 4]):
        assert at(f"model.layers.{layer}.w", LINEAR, schedule, layers=3) == pytest.approx(expected)


def test_no_schedule_is_the_method_itself():
    assert scheduled(SLERP, None) is SLERP
    assert kind_of(scheduled(SLERP, {"t": 0.1})) == "pair"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"s": 0.5}, "`bm.merge.methods.slerp` has no parameter 's'"),
        ({"t": [0.0, 1.5]}, r"merge\.schedule\.t.*t: .*less than or equal to 1"),
        ({"t": [{"filter": "mlp", "value": "much"}]}, r"merge\.schedule\.t.*'much'"),
        ({"t": [{"filters": "mlp", "value": 0.5}]}, r"merge\.schedule"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_at_once(schedule, message):
    with pytest.raises(UserError, match=message):
        scheduled(SLERP, schedule)


def test_a_model_without_a_setting_is_named():
    with pytest.raises(UserError, match=r"no value for model\.layers\.1\.w of 'coding'; did you mean 'codeing'"):
        at("model.layers.1.w", LINEAR, {"weights": {"math": 1.0, "codeing": 1.0}})


def test_a_merge_of_folders_follows_its_schedule(experts):
    """The first layer is the base's, the last the other's, and what is outside layers half of each."""
    method = Component("bm.merge.methods.linear", {"weights": 1.0, "normalize": True})
    schedule = {"weights": {"math": [{"filter": "layers", "value": [1, 0]}, {"value": 1}],
                            "coding": [{"filter": "layers", "value": [0, 1]}, {"value": 1}]}}  # fmt: skip
    pair = {name: experts[name] for name in ("math", "coding")}
    merged = merge_in_memory(Join(("math", "coding"), 1), method, pair, None, Settings(schedule=schedule))
    math, coding = (load_file(folder / "model.safetensors") for folder in pair.values())
    first, last = (f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1))
    assert torch.equal(merged[first], math[first]) and torch.equal(merged[last], coding[last])
    norm = "model.norm.weight"
    assert torch.equal(merged[norm], ((math[norm].float() + coding[norm].float()) / 2).bfloat16())
