"""Every model of a grid as a table, and its claims as another: for the page, the terminal, CSV and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bm.ledger import Cost
from bm.report.figures import numbers
from bm.report.figures.charts.chart import MEAN, scored
from bm.report.findings.beside import Pair, pairs, paper_columns
from bm.report.findings.claims import Claim
from bm.report.findings.grid import Entry, Grid, said
from bm.report.findings.published import Published
from bm.report.findings.results import Kind
from bm.report.pages import wording
from bm.statistics import Interval


@dataclass(frozen=True)
class Column:
    name: str
    words: bool = False
    """Whether it holds text, which stands on the left."""
    scored: bool = False
    """Whether it is about scores, ours or the paper's."""
    paper: str = ""
    """The paper's name of what it reports here."""


@dataclass(frozen=True)
class Cell:
    text: str
    value: str | float
    """What it is sorted by; "" where there is nothing."""
    small: str = ""
    """Its interval."""
    brief: str = ""
    """The same where there is little room."""
    best: bool = False


NOTHING = Cell("–", "")
COSTS = ("time", "GPU-hours", "tokens", "FLOPs", "time in all", "USD in all")
"""Of the model's own step; in all: of everything that the model was made from too, each artefact once."""


@dataclass(frozen=True)
class Line:
    kind: Kind | None
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Line]


def tabled(grid: Grid, published: Published | None) -> Table:
    """Model, the settings that differ, scores beside the paper's, their mean, and what the model cost."""
    tasks = [*grid.tasks, MEAN] if len(grid.tasks) > 1 else list(grid.tasks)
    best = {t: max((s.mean for e in grid.entries if (s := scored(e, t))), default=None) for t in tasks}
    told = paper_columns(grid, published)
    shown = [axis for axis in grid.axes if any(axis in entry.settings for entry in grid.entries)]
    columns = [Column("model", words=True), *(Column(grid.short(axis)) for axis in shown)]
    for task in tasks:
        columns += [Column(task, scored=True)]
        columns += [Column(f"paper, {told[task][1]}", scored=True, paper=told[task][1])] if task in told else []
    columns += [Column(name) for name in (*COSTS, "seeds")]
    return _costing(Table(columns, [_line(pair, shown, tasks, best, told) for pair in pairs(grid, published)]))


def _costing(table: Table) -> Table:
    """The table without costs that no model had, as GPU-hours where there are no GPUs."""
    kept = [
        place
        for place, column in enumerate(table.columns)
        if column.name not in COSTS or any(row.cells[place].value for row in table.rows)
    ]
    return Table(
        [table.columns[place] for place in kept],
        [Line(row.kind, [row.cells[place] for place in kept]) for row in table.rows],
    )


def _line(
    pair: Pair, shown: Sequence[str], tasks: Sequence[str], best: Mapping[str, float | None], told: Mapping[str, object]
) -> Line:
    entry = pair.entry
    cells = [Cell(entry.name if entry else f"{pair.name} (paper)", pair.name)]
    cells += [_setting(entry, axis) if entry else NOTHING for axis in shown]
    for task in tasks:
        cells.append(_score(scored(entry, task) if entry else None, best[task]))
        if task in told:
            cells.append(Cell(f"{100 * pair.paper[task]:.1f}", pair.paper[task]) if task in pair.paper else NOTHING)
    cells += [*_costs(entry), Cell(str(len(entry.found)), len(entry.found))] if entry else [NOTHING] * (len(COSTS) + 1)
    return Line(pair.kind, cells)


def _setting(entry: Entry, axis: str) -> Cell:
    if axis not in entry.settings:
        return NOTHING
    value, shown = entry.settings[axis], said(entry.settings[axis])
    return Cell(shown, shown if isinstance(value, bool) or value is None else value)


def _score(score: Interval | None, best: float | None) -> Cell:
    if score is None:
        return NOTHING
    return Cell(f"{100 * score.mean:.1f}", score.mean, *_spans(score), score.mean == best)


def _spans(score: Interval) -> tuple[str, str]:
    return numbers.span(score.low, score.high), numbers.span(score.low, score.high, 0)


def _costs(entry: Entry) -> list[Cell]:
    seconds, hours = entry.cost(lambda row: row.cost.seconds), entry.cost(lambda row: row.cost.gpu_hours)
    tokens, flops = entry.cost(lambda row: row.cost.tokens), entry.cost(lambda row: row.cost.flops)
    own = [Cell(numbers.duration(seconds), seconds), Cell(f"{hours:.2g}", hours), Cell(f"{tokens:,.0f}", tokens)]
    return [*own, Cell(f"{flops:.2g}", flops), *_in_all([row.total for row, _ in entry.found.values()])]


def _in_all(totals: Sequence[Cost | None]) -> list[Cell]:
    """Means over seeds; nothing where a run was not asked, or a GPU has no price."""
    known = [total for total in totals if total is not None]
    if len(known) < len(totals):
        return [NOTHING, NOTHING]
    seconds, money = fmean(total.seconds for total in known), [t.money for t in known if t.money is not None]
    priced = len(money) == len(known)
    return [Cell(numbers.duration(seconds), seconds), Cell(f"{fmean(money):.2g}", fmean(money)) if priced else NOTHING]


def claimed(claims: Sequence[Claim]) -> Table:
    """What was claimed, what the paper reports, what was measured, and the verdict."""
    columns = [Column("claim", True), Column("verdict", True), Column("paper"), Column("measured"), Column("seeds")]
    return Table(columns, [Line(None, _claim(claim)) for claim in claims])


def _claim(claim: Claim) -> list[Cell]:
    def shown(value: float | None) -> str:
        return "–" if value is None else numbers.measure(claim.test, value)

    interval = "" if claim.low is None else f"{shown(claim.low)} to {shown(claim.high)}"
    return [
        Cell(claim.claim, claim.claim),
        Cell(f"{wording.TRUTHS[claim.verdict]} {claim.verdict}", claim.verdict),
        Cell(shown(claim.published), "" if claim.published is None else claim.published),
        Cell(shown(claim.measured), "" if claim.measured is None else claim.measured, interval),
        Cell(str(claim.seeds), claim.seeds),
    ]
