"""Merge methods against the soup, in each regime of a grid: means over seeds, differences with Holm's allowance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bm.report.findings.grid import CONFIDENCE, Grid
from bm.report.findings.measures import by_seed
from bm.report.findings.published import Difference, Models
from bm.statistics import Interval, holm, over_seeds

REFERENCE = "linear"
FEWEST = 5
"""Methods from which on a grid is a contest of methods."""


@dataclass(frozen=True)
class Standing:
    """A method in one regime."""

    method: str
    regime: Any
    """The value of the setting that the grid varies; None where it varies none."""
    mean: Interval
    """Mean pass@1 over the domains' tasks, with its interval over seeds."""
    difference: Interval | None
    """From the soup, paired by seed; None of the soup itself, and where one seed tells no interval."""
    p: float | None
    """p of that difference, adjusted for all methods and regimes (Holm)."""


@dataclass(frozen=True)
class Contest:
    axis: str | None
    regimes: tuple[Any, ...]
    standings: tuple[Standing, ...]


def contest(grid: Grid) -> Contest | None:
    """Every merge method in every regime; None where several settings vary, or there are few methods or no soup."""
    varied = [axis for axis, values in grid.axes.items() if len(values) > 1]
    methods = {str(e.row.method) for e in grid.entries if e.kind == "merge"}
    if len(varied) > 1 or len(methods) < FEWEST or REFERENCE not in methods:
        return None
    axis = varied[0] if varied else None
    compared = list(_standings(grid, axis))
    raw = [p for _, _, p in compared if p is not None]
    adjusted = iter(holm(raw))
    standings = tuple(
        Standing(*known, difference, None if p is None else next(adjusted)) for known, difference, p in compared
    )
    return Contest(axis, tuple(grid.axes[axis]) if axis else (None,), standings)


def _standings(
    grid: Grid, axis: str | None
) -> Iterator[tuple[tuple[str, Any, Interval], Interval | None, float | None]]:
    """Method, regime and mean; the difference from the soup; and its p by itself."""
    for entry in grid.entries:
        regime = entry.settings.get(axis) if axis else None
        if entry.kind != "merge" or entry.mean is None or (axis is not None and axis not in entry.settings):
            continue
        method = str(entry.row.method)
        known = (method, regime, entry.mean)
        if method == REFERENCE:
            yield known, None, None
            continue
        where = {axis: regime} if axis else None
        against = Models(kind="merge", method=REFERENCE, where=where)
        values = by_seed(
            Difference(
                id="contest", claim=method, test="difference", above=0.0, measure="mean", against=against,
                of=Models(kind="merge", method=method, order=entry.row.order, where=where),
            ),
            grid.cells,
        )  # fmt: skip
        if len(values) < 2:
            yield known, None, None
            continue
        over = over_seeds([v.value for v in values], sum(v.noise for v in values) / len(values))
        yield known, over.interval(CONFIDENCE), over.p(0.0) if over.error else None
