"""Every model of a grid as a table: for the page, for the terminal, as CSV and as LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

from bm.report.charts.chart import MEAN, scored
from bm.report.grid import Entry, Grid
from bm.report.results import Kind
from bm.report.wording import duration, span
from bm.statistics import Interval


@dataclass(frozen=True)
class Column:
    name: str
    words: bool = False
    """Whether it holds text, which stands on the left."""


@dataclass(frozen=True)
class Cell:
    text: str
    value: str | float
    """What it is sorted by; "" where there is nothing."""
    small: str = ""
    """Its interval."""
    best: bool = False


@dataclass(frozen=True)
class Line:
    kind: Kind
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Line]


def tabled(grid: Grid) -> Table:
    """Model, the settings that differ, tasks, their mean, and what the model's own step cost."""
    tasks = [*grid.tasks, MEAN] if len(grid.tasks) > 1 else list(grid.tasks)
    best = {t: max((s.mean for e in grid.entries if (s := scored(e, t))), default=None) for t in tasks}
    shown = [axis for axis in grid.axes if any(axis in entry.settings for entry in grid.entries)]
    columns = [Column("model", words=True), *(Column(grid.short(axis)) for axis in shown), *map(Column, tasks)]
    columns += [Column("time"), Column("GPU-hours"), Column("tokens"), Column("seeds")]
    rows = [
        Line(
            entry.kind,
            [
                Cell(entry.name, entry.label),
                *(_setting(entry, axis) for axis in shown),
                *(_score(scored(entry, task), best[task]) for task in tasks),
                *_costs(entry),
                Cell(str(len(entry.found)), len(entry.found)),
            ],
        )
        for entry in grid.entries
    ]
    return Table(columns, rows)


def _setting(entry: Entry, axis: str) -> Cell:
    if axis not in entry.settings:
        return Cell("–", "")
    value = entry.settings[axis]
    if isinstance(value, bool) or value is None:
        return Cell("none" if value is None else str(value).lower(), str(value))
    return Cell(f"{value:g}" if isinstance(value, int | float) else value, value)


def _score(score: Interval | None, best: float | None) -> Cell:
    if score is None:
        return Cell("–", "")
    return Cell(f"{100 * score.mean:.1f}", score.mean, span(score.low, score.high), score.mean == best)


def _costs(entry: Entry) -> list[Cell]:
    seconds = entry.cost(lambda row: row.cost.seconds)
    hours, tokens = entry.cost(lambda row: row.cost.gpu_hours), entry.cost(lambda row: row.cost.tokens)
    return [Cell(duration(seconds), seconds), Cell(f"{hours:.2g}", hours), Cell(f"{tokens:,.0f}", tokens)]
