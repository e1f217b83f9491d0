"""Cost against score, and the models that no other beats at both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bm.report.figures.charts.chart import Chart, hues, measured
from bm.report.figures.drawing import LIGHT, MARKERS, SMALL, blank, tip
from bm.report.figures.numbers import duration, percent
from bm.report.figures.plots import time_axis
from bm.report.findings.grid import Entry, Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    entry: Entry
    seconds: float
    mean: float


def frontier(grid: Grid) -> Iterator[Chart]:
    """The models with a mean and a cost, where there are three or more."""
    points = [
        Point(entry, seconds, entry.mean.mean)
        for entry in grid.entries
        if entry.mean and (seconds := entry.cost(lambda row: row.cost.seconds)) > 0
    ]
    if len(points) < 3:
        return
    front = unbeaten(points)
    named = "; ".join(f"{number} {point.entry.label}" for number, point in enumerate(front, start=1))
    note = (
        f"pass@1 in percent, mean over tasks, against the time of the step that made each model, mean over seeds; "
        f"strong markers and line: the models that no other beats at both: {named}. "
        f"Colour: {hues(p.entry.kind for p in points)}. "
        f"{measured(grid)}"
    )
    rows = [(p.entry.label, p.entry.kind, p.seconds, p.mean, int(p in front)) for p in points]
    columns = ("model", "kind", "seconds", "mean", "unbeaten")
    yield Chart("frontier", "Cost against score", note, _drawn(points, front), columns, rows)


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """Those that no point of at most their time reaches in score, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, -p.mean)):
        if not front or point.mean > front[-1].mean:
            front.append(point)
    return front


def _drawn(points: Sequence[Point], front: Sequence[Point]) -> "Figure":
    figure = blank(300)
    axes = figure.add_axes((0.08, 0.12, 0.91, 0.86))
    steps: dict[str, Any] = {"drawstyle": "steps-post", "color": LIGHT["muted"], "linewidth": 1}
    axes.plot([p.seconds for p in front], [100 * p.mean for p in front], **steps)
    for point in points:
        kind, note = point.entry.kind, tip([point.entry.label, percent(point.mean), duration(point.seconds)])
        look: dict[str, Any] = {
            "marker": MARKERS[kind],
            "markersize": 8,
            "markeredgewidth": 0,
            "alpha": 1 if point in front else 0.5,
        }
        axes.plot([point.seconds], [100 * point.mean], color=LIGHT[kind], gid=note, **look)
    time_axis(axes)
    above = (-1e9, -1e9)
    for number, point in enumerate(front, start=1):
        x, y = axes.transData.transform((point.seconds, 100 * point.mean))
        above = (x, max(y + 7, above[1] + 11 if x - above[0] < 14 else y))
        place = axes.transAxes.inverted().transform((x - 7, above[1]))
        axes.text(
            place[0], place[1], str(number), transform=axes.transAxes, fontsize=SMALL, ha="center", color=LIGHT["ink"]
        )
    return figure
