"""Filters and gradients give each tensor mergekit's value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bm.errors import UserError
from bm.merge.schedule import Setting, value_at

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
