"""Orders: written, read, enumerated."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from bm.errors import UserError
from bm.merge import orders
from bm.merge.order import Join, base_leaf, leaves, pairwise_orders, parse
from bm.overrides import opened
from tests.merge.folders import FUSION, LINEAR

NAMES = ["math", "science", "coding", "code-2"]


@st.composite
def trees(draw, names=tuple(NAMES)):
    if len(names) == 1:
        return names[0]
    cut = sorted(draw(st.sets(st.integers(1, len(names) - 1), min_size=1)))
    parts = [names[i:j] for i, j in zip([0, *cut], [*cut, len(names)], strict=True)]
    return Join(tuple(draw(trees(part)) for part in parts), draw(st.integers(0, len(parts) - 1)))


@given(trees())
def test_what_is_written_is_read(order):
    assert parse(str(order), NAMES) == order
    assert leaves(order) == NAMES


def test_released_script():
    order = parse("(math & science) & coding", NAMES)
    assert order == Join((Join(("math", "science"), 1), "coding"), 1)
    assert base_leaf(order) == "coding"


def test_a_star_names_the_base():
    assert parse("math* & science", NAMES) == Join(("math", "science"), 0)
    assert base_leaf(parse("(math* & science)* & coding", NAMES)) == "math"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("math & sciense", "no expert 'sciense'; did you mean 'science'"),
        ("(math & law) & coding", "no expert 'law'.* take merge.order=all, every order of the experts there are"),
        ("math & ", "the end where an expert's name should be"),
        ("(math & science", "a parenthesis is not closed"),
        ("math science", "unexpected token 'science'"),
        ("math & math", "'math' occurs twice"),
        ("math* & science*", "two bases"),
        ("math + science", "'\\+' is not part of an order"),
        ("", "the end"),
        ("(math & science))", "unexpected token '\\)'"),
    ],
)
def test_mistakes_are_named(text, says):
    with pytest.raises(UserError, match=says):
        parse(text, NAMES)


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (3, 12), (4, 120)])
def test_all_pairwise_orders_are_distinct_and_complete(count, expected):
    def up_to_reading(order):
        """The base and the set of the others: what a pairwise merge depends on."""
        if isinstance(order, str):
            return order
        return up_to_reading(order.operands[order.base]), up_to_reading(order.operands[1 - order.base])

    readings = [up_to_reading(order) for order in pairwise_orders(NAMES[:count])]
    assert len(readings) == len(set(readings)) == expected


@pytest.mark.parametrize(
    ("word", "taken"),
    [
        ("merge.order=(math & science) & coding", "(math & science) & coding"),
        ("merge.order=math & coding", "math & coding"),
        ("merge.order='math & coding'", "math & coding"),
        ("merge.order=[a & b,b & a]", None),
        ("merge.order=all", "all"),
    ],
)
def test_an_order_on_the_command_line_needs_no_quotes_of_its_own(word, taken):
    """Hydra's grammar has parentheses and & of its own, so orders are quoted for it."""
    (word,) = opened("run", [word])
    if taken is None:
        assert word == "merge.order=[a & b,b & a]"
        return
    assert OverridesParser.create().parse_override(word).value() == taken


def test_orders_to_sweep_over_need_none_either():
    (word,) = opened("run", ["merge.order=(a & b) & c,(a & c) & b"])
    sweep = OverridesParser.create().parse_override(word)
    assert sweep.is_choice_sweep()
    assert [choice.text for choice in sweep.value().list] == ["(a & b) & c", "(a & c) & b"]


def test_orders_of_a_method():
    assert len(orders("all", NAMES[:3], FUSION)) == 12
    assert [str(o) for o in orders(["a & b", "b & a"], ["a", "b"], FUSION)] == ["a & b", "b & a"]
    assert [str(o) for o in orders("all", ["a", "b", "c"], LINEAR)] == ["a & b & c"]
