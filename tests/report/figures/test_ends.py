"""Lines are named where they end: names do not overlap, and stay by their lines where there is room."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.report.figures.drawing import blank, style
from bm.report.figures.ends import End, apart, name_ends

THINGS = st.lists(st.tuples(st.floats(-50, 300), st.floats(5, 30)), min_size=1, max_size=9)


@given(THINGS)
def test_names_neither_overlap_nor_leave_the_axes(things: list[tuple[float, float]]) -> None:
    wanted, heights = zip(*things, strict=True)
    room = max(220.0, sum(heights))
    placed = sorted(zip(apart(wanted, heights, 0, room), heights, strict=True))
    for (below, high), (above, higher) in pairwise(placed):
        assert above - below >= (high + higher) / 2 - 1e-6
    assert placed[0][0] >= placed[0][1] / 2 - 1e-6 and placed[-1][0] <= room - placed[-1][1] / 2 + 1e-6


def test_names_that_have_room_stay_at_their_ends() -> None:
    assert apart([150, 20, 80], [14, 14, 14], 0, 220) == pytest.approx([150, 20, 80])
    assert apart([100, 100], [14, 14], 0, 220) == pytest.approx([93, 107]), "what meets is parted by half each"


def test_each_name_has_the_colour_of_its_line_and_a_line_to_it() -> None:
    with style():
        figure = blank(300)
        axes = figure.add_axes((0.1, 0.1, 0.5, 0.8))
        axes.plot([0, 1], [0, 1])
        name_ends(axes, [End(1, 1, "first", "#2a6cb0"), End(1, 0.99, "a name of two rows, told", "#c2491d")], 230)
    assert [(text.get_text(), text.get_color()) for text in axes.texts] == [
        ("first", "#2a6cb0"),
        ("a name of two rows,", "#c2491d"),
        ("told", "#c2491d"),
    ]
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights == sorted(heights, reverse=True)
    leaders = axes.get_lines()[1:]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in leaders] == [(1, 1), (1, 0.99)]
    assert axes.get_xlim()[1] < 1.1, "what names need does not move the axes"
