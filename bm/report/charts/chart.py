"""A figure of a grid together with its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bm.report.grid import Entry
from bm.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean"
"""The column of the mean over tasks, beside those of the tasks."""

Value = str | float | None


@dataclass(frozen=True)
class Chart:
    name: str
    """Of its files, and of its place on the page."""
    title: str
    note: str
    figure: "Figure"
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    """What is drawn, as a table."""


def scored(entry: Entry, task: str) -> Interval | None:
    """The score on a task, or the mean over tasks where the task is MEAN."""
    return entry.mean if task == MEAN else entry.score(task)
