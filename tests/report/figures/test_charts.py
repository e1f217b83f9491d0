"""Figures of a grid as a paper has them: lines named at their ends, the map sorted, λ to be seen, captions whole."""

from pathlib import Path

import pytest

from bm.report.figures.charts import Chart, charts
from bm.report.figures.charts.curves import LINES
from bm.report.figures.drawing import LIGHT, standalone, style
from bm.report.findings.grid import Grid, gather
from tests.report import grids


@pytest.fixture(scope="module")
def lams(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    folder = tmp_path_factory.mktemp("lams")
    grids.curve(folder)
    return gather(folder, "lambda", None)


@pytest.fixture(scope="module")
def drawn(lams: Grid) -> dict[str, Chart]:
    with style():
        return {chart.name: chart for chart in charts(lams, None)}


CURVE = "curve-merge.methods.arcee_fusion.lam"


def test_a_curve_names_its_lines_where_they_end(drawn: dict[str, Chart], lams: Grid) -> None:
    (axes,) = drawn[CURVE].figure.axes
    assert axes.get_legend() is None
    names = {text.get_text(): text for text in axes.texts}
    assert names.keys() == {"mean", *lams.tasks, "student", "mixture"}
    right = axes.bbox.x1
    assert all(axes.transData.transform(text.get_position())[0] > right for text in names.values())
    assert (names["student"].get_color(), names["mixture"].get_color()) == (LIGHT["student"], LIGHT["mixture"])


def test_the_axis_of_lambda_shows_what_is_between_a_half_and_two(drawn: dict[str, Chart]) -> None:
    """Values go to 6 here: on a linear axis this would be a quarter of it."""
    (axes,) = drawn[CURVE].figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1.5", "3", "6"]
    at = {x: axes.transAxes.inverted().transform(axes.transData.transform((x, 30)))[0] for x in (0, 0.5, 2, 6)}
    assert at[2] - at[0.5] > 0.35
    assert 0 <= at[0] < at[0.5] < at[2] < at[6] <= 1
    assert axes.get_xlabel() == "λ"
    assert "linear up to 0.5 and logarithmic beyond" in drawn[CURVE].note


def test_every_interval_of_a_curve_is_within_its_axes(drawn: dict[str, Chart]) -> None:
    (axes,) = drawn[CURVE].figure.axes
    low, high = axes.get_ylim()
    assert all(low < 100 * float(row[3] or 0) and 100 * float(row[4] or 0) < high for row in drawn[CURVE].rows)


def test_more_lines_than_can_be_told_apart_are_left_out_and_counted(tmp_path: Path) -> None:
    grids.distance(tmp_path)
    with style():
        curves = [c for c in charts(gather(tmp_path, "distance", None), None) if c.name.startswith("curve-")]
    for chart in curves:
        lines = len({row[0] for row in chart.rows})
        assert lines > LINES
        assert f"{LINES} of {lines} lines." in chart.note
        assert len({text.get_color() for text in chart.figure.axes[0].texts}) == 4


def test_the_map_of_models_is_sorted_by_mean_and_has_every_interval(drawn: dict[str, Chart], lams: Grid) -> None:
    chart = drawn["methods"]
    means = [float(row[2] or 0) for row in chart.rows if row[1] == "mean"]
    assert means == sorted(means, reverse=True)
    assert len(means) == len(lams.entries)
    shown = [text.get_text() for text in chart.figure.axes[0].texts]
    for _, _, mean, low, high in chart.rows:
        assert f"{100 * float(mean or 0):.1f}" in shown
        assert f"{100 * float(low or 0):.0f}–{100 * float(high or 0):.0f}" in shown
    colours = {text.get_text(): text.get_color() for text in chart.figure.axes[0].texts}
    assert (colours["student"], colours["mixture"]) == (LIGHT["student"], LIGHT["mixture"])


def test_captions_stand_alone_and_go_with_the_figure(drawn: dict[str, Chart]) -> None:
    for chart in drawn.values():
        assert "Experiment lambda: recipe tiny, 3 seeds" in chart.note, chart.name
        assert "questions per task" in chart.note
        assert chart.note.endswith(".") and len(chart.note) > 120
        with style():
            assert "<desc>" in (svg := standalone(chart.figure, chart.title, chart.note))
        assert "recipe tiny, 3 seeds" in svg[svg.index("<desc>") : svg.index("</desc>")]
    assert "Colour: grey student" in drawn["bars-mean"].note
    assert "95 % intervals over 3 seeds" in drawn["methods"].note
