"""Bars with intervals, as in the paper's Figure 2: a panel for the mean and for each task."""

from collections.abc import Iterator

from bm.report import panels
from bm.report.charts.chart import MEAN, Chart, scored
from bm.report.grid import Entry, Grid
from bm.statistics import Interval

MOST = 14
"""Bars of a panel; of more models the best stay."""


def bars(grid: Grid) -> Iterator[Chart]:
    """From two models on, the best first; the mean where there are several tasks."""
    for task in [MEAN, *grid.tasks] if len(grid.tasks) > 1 else grid.tasks:
        found = [(entry, score) for entry in grid.entries if (score := scored(entry, task))]
        if len(found) > 1:
            yield _bars(grid, task, sorted(found, key=lambda pair: -pair[1].mean))


def _bars(grid: Grid, task: str, found: list[tuple[Entry, Interval]]) -> Chart:
    lines = [panels.Line(e.label, f"{100 * s.mean:.1f}", e.kind, s.mean, s.low, s.high) for e, s in found[:MOST]]
    title = "Mean over tasks" if task == MEAN else task
    over = f"over {len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "over questions"
    left_out = f" The best {MOST} of {len(found)} models." if len(found) > MOST else ""
    rows = [(e.label, e.kind, s.mean, s.low, s.high, len(e.found)) for e, s in found]
    columns = ("model", "kind", "mean", "low", "high", "seeds")
    note = f"pass@1 in percent; whiskers: 95 % intervals {over}.{left_out}"
    return Chart(f"bars-{task}", title, note, panels.intervals(lines), columns, rows)
