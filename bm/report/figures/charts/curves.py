"""A score over a setting that is a number, as over λ: one line for each model, with intervals over seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bm.report.figures.charts.chart import MEAN, Chart, scored
from bm.report.figures.drawing import LIGHT, WIDTH, blank, tip
from bm.report.figures.numbers import percent
from bm.report.findings.grid import Entry, Grid, said
from bm.report.findings.results import Kind
from bm.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 3
"""Values of a setting from which on a line through them says something."""
LINES = 6
"""Lines that one figure can hold apart."""
FIRST: tuple[Kind, ...] = ("merge", "mixture", "expert", "student")
"""Which of too many lines are drawn."""
COLOURS = ("merge", "expert", "mixture", "student")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
WIDE = 8
"""Ratio of the largest to the smallest value from which on the axis is logarithmic."""


@dataclass(frozen=True)
class Series:
    label: str
    points: tuple[tuple[float, Interval], ...]


def numeric(grid: Grid, least: int) -> list[str]:
    """The settings of the grid that have at least this many values, all of them numbers."""
    return [axis for axis, values in grid.axes.items() if len(values) >= least and all(map(number, values))]


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def curves(grid: Grid) -> Iterator[Chart]:
    for axis in numeric(grid, POINTS):
        series = _series(grid, axis)
        if series:
            level = [
                (e.label, e.mean) for e in grid.entries if e.kind in ("student", "mixture") and axis not in e.settings
            ]
            flat = [(label, mean.mean) for label, mean in level if mean][: len(COLOURS)]
            yield _chart(grid, axis, series, flat)


def _series(grid: Grid, axis: str) -> list[Series]:
    """Models that differ in this setting alone; of a single one its tasks too."""
    groups: dict[Any, list[Entry]] = {}
    for entry in grid.entries:
        if axis in entry.settings:
            others = tuple((n, v) for n, v in entry.settings.items() if n != axis)
            groups.setdefault((entry.kind, entry.name, others), []).append(entry)
    known = {key: entries for key, entries in groups.items() if len(entries) >= POINTS}
    tasks = [MEAN, *grid.tasks] if len(known) == 1 and len(grid.tasks) > 1 else [MEAN]
    drawn = []
    for (_, name, others), entries in sorted(known.items(), key=lambda group: FIRST.index(group[0][0])):
        own = [f"{grid.short(n)}={said(v)}" for n, v in others if any((n, v) not in other for _, _, other in known)]
        for task in tasks:
            points = [(float(e.settings[axis]), score) for e in entries if (score := scored(e, task))]
            label = task if len(tasks) > 1 else " ".join([name, *own])
            drawn.append(Series(label, tuple(sorted(points, key=lambda point: point[0]))))
    return [series for series in drawn if len(series.points) >= POINTS]


def _chart(grid: Grid, axis: str, series: Sequence[Series], flat: Sequence[tuple[str, float]]) -> Chart:
    short = grid.short(axis)
    over = f"95 % intervals over {len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "95 % intervals over questions"
    cut = f" {LINES} of {len(series)} lines." if len(series) > LINES else ""
    rows = [(s.label, x, score.mean, score.low, score.high) for s in series for x, score in s.points]
    note = f"pass@1 in percent; {over}." + (" Level lines: models that do not depend on it." if flat else "") + cut
    figure = _drawn(short, series[:LINES], flat)
    return Chart(f"curve-{axis}", f"Score over {short}", note, figure, ("line", short, "mean", "low", "high"), rows)


def _drawn(axis: str, series: Sequence[Series], flat: Sequence[tuple[str, float]]) -> "Figure":
    names = len(series) + len(flat)
    plot, below = 220, 34 + 15 * names
    figure = blank(plot + below)
    axes = figure.add_axes((0.08, below / (plot + below), 0.91, (plot - 8) / (plot + below)))
    for index, (label, mean) in enumerate(flat):
        colour = LIGHT["student" if index == 0 else "mixture"]
        axes.axhline(100 * mean, color=colour, linewidth=1, linestyle=":", gid=tip([label, percent(mean)]))
        _named(figure, axes, len(series) + index, label, {"color": colour, "linestyle": ":"}, below)
    for index, line in enumerate(series):
        look: dict[str, Any] = {"color": LIGHT[COLOURS[index % 4]], "linestyle": DASHES[index // 2 % 3]}
        xs, means = [x for x, _ in line.points], [100 * score.mean for _, score in line.points]
        axes.plot(xs, means, linewidth=1.8 if index == 0 else 1.2, **look)
        for x, score in line.points:
            note = tip(
                [line.label, f"{axis} {x:g}", f"{percent(score.mean)} ({percent(score.low)} to {percent(score.high)})"]
            )
            axes.plot([x, x], [100 * score.low, 100 * score.high], color=look["color"], linewidth=3, alpha=0.25)
            axes.plot([x], [100 * score.mean], color=look["color"], marker="o", markersize=5, gid=note)
        _named(figure, axes, index, line.label, look, below)
    _axis(axes, axis, [x for line in series for x, _ in line.points])
    return figure


def _axis(axes: "Axes", name: str, values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) >= WIDE:
        axes.set_xscale("log")
        axes.xaxis.minorticks_off()
        axes.set_xticks(sorted(set(values)), [f"{x:g}" for x in sorted(set(values))])
    axes.margins(x=0.04, y=0.08)
    axes.grid(axis="y")
    axes.set_xlabel(name, labelpad=1)


def _named(figure: "Figure", axes: "Axes", row: int, label: str, look: dict[str, Any], below: float) -> None:
    """A line of the legend under the axes."""
    from matplotlib.lines import Line2D

    height = figure.get_size_inches()[1] * 72
    y = (below - 44 - 15 * row) / height
    figure.add_artist(Line2D([0.08, 0.14], [y, y], linewidth=1.6, **look))
    figure.text(0.16, y, label[: int(WIDTH * 0.8 / 5.4)], va="center", fontsize=9.5, color=LIGHT["ink"])
