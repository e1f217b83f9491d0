"""A figure of a grid together with its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bm.report.findings.grid import Entry
from bm.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean"
"""The column of the mean over tasks, beside those of the tasks."""

MOST_ROWS = 24
"""Rows of a map at most; of more models the best stay."""

Value = str | float | None


@dataclass(frozen=True)
class Chart:
    name: str
    """The name of its files, and of its place on the page."""
    title: str
    note: str
    figure: "Figure"
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    """What is drawn, as a table."""
    lead: bool = False
    """Whether it stands at the top of the page."""


def best(entries: Sequence[Entry], most: int) -> list[Entry]:
    """The entries in their order; of more than `most`, those with the highest means."""
    ranked = sorted(entries, key=lambda entry: -entry.mean.mean if entry.mean else 0.0)
    kept = {id(entry) for entry in ranked[:most]}
    return [entry for entry in entries if id(entry) in kept]


def left_out(shown: int, total: int) -> str:
    """Told below a figure that does not show all models."""
    return f" The best {shown} of {total} models." if total > shown else ""


def scored(entry: Entry, task: str) -> Interval | None:
    """The score on a task, or the mean over tasks where the task is MEAN."""
    return entry.mean if task == MEAN else entry.score(task)
