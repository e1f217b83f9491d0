"""A score over a setting that is a number, as over λ: one line for each model, with intervals over seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bm.report.figures.charts.chart import Chart, intervals, measured, scored, symbol
from bm.report.figures.drawing import LIGHT, WIDTH, blank, tip
from bm.report.figures.ends import ROOM, End, name_ends
from bm.report.figures.numbers import percent
from bm.report.findings.grid import Entry, Grid, said
from bm.report.findings.results import MEAN, Kind
from bm.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

POINTS = 3
"""Values of a setting from which on a line through them says something."""
LINES, LEVELS = 6, 4
"""Lines that one figure can hold apart, and level lines beside them."""
FIRST: tuple[Kind, ...] = ("merge", "mixture", "expert", "student")
"""Which of too many lines are drawn."""
COLOURS = ("merge", "expert", "mixture", "student")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
WIDE = 8
"""Ratio of the largest to the smallest positive value from which on the axis is logarithmic."""
LINEAR = 0.3
"""Room of what is from zero to the smallest positive value of such an axis, in decades."""
LEFT, TOP, BOTTOM, PLOT = 30, 8, 34, 220
"""Room beside, above and below the axes, and their height."""


@dataclass(frozen=True)
class Series:
    label: str
    points: tuple[tuple[float, Interval], ...]


@dataclass(frozen=True)
class Level:
    """A model that does not depend on the setting."""

    label: str
    colour: str
    mean: float


def numeric(grid: Grid, least: int) -> list[str]:
    """The settings of the grid that have at least this many values, all of them numbers."""
    return [axis for axis, values in grid.axes.items() if len(values) >= least and all(map(number, values))]


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def curves(grid: Grid) -> Iterator[Chart]:
    for axis in numeric(grid, POINTS):
        series, of = _series(grid, axis)
        if series:
            fixed = [e for e in grid.entries if e.kind in ("student", "mixture") and axis not in e.settings]
            flat = [Level(e.label, LIGHT[e.kind], e.mean.mean) for e in fixed if e.mean][:LEVELS]
            yield _chart(grid, axis, of, series, flat)


def _series(grid: Grid, axis: str) -> tuple[list[Series], str]:
    """Models that differ in this setting alone, and ""; of a single one its tasks too, and its name."""
    groups: dict[Any, list[Entry]] = {}
    for entry in grid.entries:
        if axis in entry.settings:
            others = tuple((n, v) for n, v in entry.settings.items() if n != axis)
            groups.setdefault((entry.kind, entry.name, others), []).append(entry)
    known = {key: entries for key, entries in groups.items() if len(entries) >= POINTS}
    alone = len(known) == 1 and len(grid.tasks) > 1
    drawn = []
    for (_, name, others), entries in sorted(known.items(), key=lambda group: FIRST.index(group[0][0])):
        own = [f"{grid.short(n)}={said(v)}" for n, v in others if any((n, v) not in other for _, _, other in known)]
        for task in [MEAN, *grid.tasks] if alone else [MEAN]:
            points = [(float(e.settings[axis]), score) for e in entries if (score := scored(e, task))]
            label = task if alone else " ".join([name, *own])
            drawn.append(Series(label, tuple(sorted(points, key=lambda point: point[0]))))
    of = next(name for _, name, _ in known) if alone else ""
    return [series for series in drawn if len(series.points) >= POINTS], of


def _chart(grid: Grid, axis: str, of: str, series: Sequence[Series], flat: Sequence[Level]) -> Chart:
    name = symbol(grid.short(axis))
    rows = [(s.label, x, score.mean, score.low, score.high) for s in series for x, score in s.points]
    note = " ".join([
        f"pass@1 in percent{f' of {of}, by task and on their mean' if of else ', mean over tasks'}, over {axis}.",
        f"Pale bars: {intervals(grid)}, side by side.",
        *(["Dotted: models that do not depend on it."] if flat else []),
        *_scaled([x for line in series for x, _ in line.points]),
        *([f"{LINES} of {len(series)} lines."] if len(series) > LINES else []),
        measured(grid),
    ])  # fmt: skip
    figure = _drawn(name, series[:LINES], flat)
    columns = ("line", grid.short(axis), "mean", "low", "high")
    return Chart(f"curve-{axis}", f"Score over {name}", note, figure, columns, rows)


def _drawn(axis: str, series: Sequence[Series], flat: Sequence[Level]) -> "Figure":
    colours = {line.label: LIGHT[COLOURS[index % 4]] for index, line in enumerate(series)}
    last = max(x for line in series for x, _ in line.points)
    ends = [End(line.points[-1][0], 100 * line.points[-1][1].mean, line.label, colours[line.label]) for line in series]
    ends += [End(last, 100 * level.mean, level.label, level.colour) for level in flat]
    plot = max(PLOT, sum(end.height for end in ends))
    high, right = TOP + plot + BOTTOM, WIDTH - ROOM
    figure = blank(high)
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / high, (right - LEFT - 10) / WIDTH, plot / high))
    for level in flat:
        note = tip([level.label, percent(level.mean)])
        axes.axhline(100 * level.mean, color=level.colour, linewidth=1, linestyle=":", gid=note)
    for index, line in enumerate(series):
        look: dict[str, Any] = {"color": colours[line.label], "transform": _beside(axes, index - (len(series) - 1) / 2)}
        xs, means = [x for x, _ in line.points], [100 * score.mean for _, score in line.points]
        axes.plot(xs, means, linewidth=1.8 if index == 0 else 1.2, linestyle=DASHES[index // 2 % 3], **look)
        for x, score in line.points:
            note = tip(
                [line.label, f"{axis} {x:g}", f"{percent(score.mean)} ({percent(score.low)} to {percent(score.high)})"]
            )
            axes.plot([x, x], [100 * score.low, 100 * score.high], linewidth=3, alpha=0.25, **look)
            axes.plot([x], [100 * score.mean], marker="o", markersize=5, gid=note, **look)
            axes.update_datalim([(x, 100 * score.low), (x, 100 * score.high)])  # shifted, it does not count by itself
    _axis(axes, axis, [x for line in series for x, _ in line.points])
    name_ends(axes, ends, right)
    return figure


def _beside(axes: "Axes", places: float) -> "Transform":
    """The axes' coordinates, shifted so that intervals of several lines at one value stand side by side."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(2 * places / 72, 0, axes.figure.dpi_scale_trans)


def _wide(values: Sequence[float]) -> float | None:
    """The smallest positive value where the largest is so many times it that only logarithms show both, else None."""
    least = min((x for x in values if x > 0), default=0.0)
    return least if least and min(values) >= 0 and max(values) / least >= WIDE else None


def _scaled(values: Sequence[float]) -> list[str]:
    """What is to be said of the axis."""
    if least := _wide(values):
        return [f"The axis is linear up to {least:g} and logarithmic beyond." if min(values) == 0
                else "The axis is logarithmic."]  # fmt: skip
    return []


def _axis(axes: "Axes", name: str, values: Sequence[float]) -> None:
    if least := _wide(values):
        shown = sorted(set(values))
        axes.set_xscale("symlog", linthresh=least, linscale=LINEAR) if shown[0] == 0 else axes.set_xscale("log")
        axes.xaxis.minorticks_off()
        axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.margins(x=0.04, y=0.08)
    axes.grid(axis="y")
    axes.set_xlabel(name, labelpad=1)
