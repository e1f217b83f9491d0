"""A figure of a grid together with its numbers, and the words that captions share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bm.report.figures.drawing import HUES
from bm.report.figures.numbers import count
from bm.report.findings.grid import CONFIDENCE, Entry, Grid
from bm.report.findings.results import KINDS, MEAN, Kind
from bm.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 24
"""Rows of a map at most; of more models the best stay."""

SYMBOLS = {"lam": "λ"}
"""Settings that have a letter in the papers."""

Value = str | float | None


@dataclass(frozen=True)
class Chart:
    name: str
    """The name of its files, and of its place on the page."""
    title: str
    note: str
    """The caption: what is shown, of what, and what its marks mean, for a reader who sees nothing else."""
    figure: "Figure"
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    """What is drawn, as a table."""
    lead: bool = False
    """Whether it stands at the top of the page."""


def best(entries: Sequence[Entry], most: int) -> list[Entry]:
    """The `most` entries with the highest means, the best first."""
    return sorted(entries, key=lambda entry: -entry.mean.mean if entry.mean else 0.0)[:most]


def left_out(shown: int, total: int) -> str:
    """Told below a figure that does not show all models."""
    return f" The best {shown} of {total} models." if total > shown else ""


def scored(entry: Entry, task: str) -> Interval | None:
    """The score on a task, or the mean over tasks where the task is MEAN."""
    return entry.mean if task == MEAN else entry.score(task)


def symbol(name: str) -> str:
    """A setting as an axis names it: by its letter where it has one."""
    return SYMBOLS.get(name, name)


def measured(grid: Grid) -> str:
    """The last sentence of a caption, which says what the figure was measured on."""
    scores = [score for cell in grid.cells for row in cell.results.rows for score in row.scores.values()]
    questions, samples = ({getattr(score, of) for score in scores} for of in ("questions", "samples"))
    told = [f"recipe {grid.recipe}", count(len(grid.seeds), "seed")]
    told += [f"{_from_to(questions)} questions per task"] if questions else []
    told += [f"{_from_to(samples)} samples each"] if samples - {1} else []
    return f"Experiment {grid.experiment}: {', '.join(told)}." if grid.experiment else f"{', '.join(told)}."


def intervals(grid: Grid) -> str:
    """What a figure's intervals are over."""
    over = count(len(grid.seeds), "seed") if len(grid.seeds) > 1 else "questions"
    return f"{100 * CONFIDENCE:.0f} % intervals over {over}"


def hues(kinds: Iterable[Kind]) -> str:
    """Which colour is which kind of model, of those that are shown."""
    shown = set(kinds)
    return ", ".join(f"{HUES[kind]} {kind}" for kind in KINDS if kind in shown)


def of_task(grid: Grid, task: str) -> str:
    """What a score is of, in words."""
    compared = dict.fromkeys(task for cell in grid.cells for task in cell.results.compared)
    return f"the mean of {', '.join(compared)}" if task == MEAN else task


def _from_to(numbers: set[int]) -> str:
    return f"{min(numbers)}" if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"
