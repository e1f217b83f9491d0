"""The models, verdicts and claims of runs as tables: each once, for the page, the terminal, CSV and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bm.report.figures import numbers
from bm.report.figures.charts.chart import scored
from bm.report.findings.beside import Pair, pairs, paper_columns
from bm.report.findings.claims import Claim
from bm.report.findings.contest import Standing, contest
from bm.report.findings.grid import CONFIDENCE, Entry, Grid, alone, said
from bm.report.findings.published import Published
from bm.report.findings.results import MEAN, Kind, Results, Row, Verdict
from bm.report.pages import wording


@dataclass(frozen=True)
class Column:
    name: str
    """A setting has its dotted name where the last part of it would be taken for another column's."""
    words: bool = False
    """Whether it holds text, which stands on the left."""
    scored: bool = False
    """Whether it is about scores, ours or the paper's."""
    paper: str = ""
    """The paper's name of what it reports here."""
    cost: bool = False


@dataclass(frozen=True)
class TableCell:
    text: str
    value: str | float
    """What it is sorted by; "" where there is nothing."""
    small: str = ""
    """Its interval."""
    brief: str = ""
    """The same where there is little room."""
    best: bool = False
    low: float | None = None
    high: float | None = None
    """The interval again, for programs."""


NOTHING = TableCell("–", "")
Costing = tuple[Callable[[Row], float | None], Callable[[float], str]]
"""What a row cost, None where nobody knows; and how it is written."""
COSTS: dict[str, Costing] = {
    "time": (lambda row: row.cost.seconds, numbers.duration),
    "GPU-hours": (lambda row: row.cost.gpu_hours, "{:.2g}".format),
    "tokens": (lambda row: row.cost.tokens, "{:,.0f}".format),
    "FLOPs": (lambda row: row.cost.flops, "{:.2g}".format),
    "time in all": (lambda row: row.total.seconds if row.total else None, numbers.duration),
    "USD in all": (lambda row: row.total.money if row.total else None, "{:.2g}".format),
}
"""The columns of costs: of the model's own step, and in all: of everything that it was made from, shared artefacts
counted once. A column of your own is one more entry."""


@dataclass(frozen=True)
class TableRow:
    kind: Kind | None
    cells: Sequence[TableCell]


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[TableRow]


def tabled(grid: Grid, published: Published | None) -> Table:
    """Model, the settings that differ, scores beside the paper's, their mean, and what the model cost."""
    tasks = [*grid.tasks, MEAN] if len(grid.tasks) > 1 else list(grid.tasks)
    best = {t: max((s.mean for e in grid.entries if (s := scored(e, t))), default=None) for t in tasks}
    told = paper_columns(grid, published)
    shown = [axis for axis in grid.axes if any(axis in entry.settings for entry in grid.entries)]
    taken = {"model", "seeds", *tasks, *COSTS}
    settings = [axis if grid.short(axis) in taken else grid.short(axis) for axis in shown]
    columns = [Column("model", words=True), *map(Column, settings)]
    for task in tasks:
        columns += [Column(task, scored=True)]
        columns += [Column(f"paper, {told[task][1]}", scored=True, paper=told[task][1])] if task in told else []
    columns += [*(Column(name, cost=True) for name in COSTS), Column("seeds")]
    return _costing(Table(columns, [_line(pair, shown, tasks, best, told) for pair in pairs(grid, published)]))


def of_run(results: Results) -> Table:
    """The models of one run."""
    return tabled(alone(results), None)


def _costing(table: Table) -> Table:
    """The table without costs that no model had, as GPU-hours where there are no GPUs."""
    kept = [
        place
        for place, column in enumerate(table.columns)
        if not column.cost or any(row.cells[place].value for row in table.rows)
    ]
    return Table(
        [table.columns[place] for place in kept],
        [TableRow(row.kind, [row.cells[place] for place in kept]) for row in table.rows],
    )


def _line(
    pair: Pair, shown: Sequence[str], tasks: Sequence[str], best: Mapping[str, float | None], told: Mapping[str, object]
) -> TableRow:
    entry = pair.entry
    left = wording.out(entry.row.out_after) if entry and entry.row.out_after is not None else ""
    cells = [TableCell(entry.name, entry.name, left, left) if entry else TableCell(f"{pair.name} (paper)", pair.name)]
    cells += [_setting(entry, axis) if entry else NOTHING for axis in shown]
    for task in tasks:
        cells.append(_score(entry, task, best[task]) if entry else NOTHING)
        if task in told:
            cells.append(
                TableCell(f"{100 * pair.paper[task]:.1f}", pair.paper[task]) if task in pair.paper else NOTHING
            )
    cells += [_cost(entry, costing) if entry else NOTHING for costing in COSTS.values()]
    cells.append(TableCell(str(len(entry.by_seed)), len(entry.by_seed)) if entry else NOTHING)
    return TableRow(pair.kind, cells)


def _setting(entry: Entry, axis: str) -> TableCell:
    if axis not in entry.settings:
        return NOTHING
    value, shown = entry.settings[axis], said(entry.settings[axis])
    return TableCell(shown, shown if isinstance(value, bool) or value is None else value)


def _score(entry: Entry, task: str, best: float | None) -> TableCell:
    """The score with its interval and, on a task, the mean tokens of a response."""
    score = scored(entry, task)
    shown = score or entry.score(task, early=True)
    if shown is None:
        return NOTHING
    lengths = [row.scores[task].response_tokens for row, _ in entry.by_seed.values() if task in row.scores]
    tokens = numbers.tokens(fmean(lengths)) if lengths else ""
    long, brief = (numbers.span(shown.low, shown.high, digits) for digits in (1, 0))
    small = f"{long} · {tokens}" if tokens else long
    brief += f"·{tokens}" if tokens and len(entry.by_seed) == 1 else ""  # over seeds a terminal has no room for it
    return TableCell(f"{100 * shown.mean:.1f}", shown.mean, small, brief, bool(score and score.mean == best),
                shown.low, shown.high)  # fmt: skip


def _cost(entry: Entry, costing: Costing) -> TableCell:
    """The mean over seeds; nothing where one of them does not know it, as where a GPU has no price."""
    cost, written = costing
    known = [value for row, _ in entry.by_seed.values() if (value := cost(row)) is not None]
    return TableCell(written(fmean(known)), fmean(known)) if len(known) == len(entry.by_seed) else NOTHING


def of_verdicts(results: Results) -> Table:
    """Each paired comparison of a run: its difference with its interval, and the verdict."""
    columns = [Column(name, words) for name, words in (
        ("model", True), ("against", True), ("on", True), ("difference", False), ("verdict", True), ("p", False),
        ("questions", False), ("to decide", False), ("time ratio", False))]  # fmt: skip
    return Table(columns, [TableRow(None, _verdict(verdict)) for verdict in results.verdicts])


def _verdict(v: Verdict) -> list[TableCell]:
    interval, ratio = f"{numbers.points(v.low)} to {numbers.points(v.high)}", v.cost_ratio
    return [
        *(TableCell(text, text) for text in (v.name, v.against, v.task)),
        TableCell(numbers.points(v.difference), v.difference, interval, low=v.low, high=v.high),
        TableCell(f"{numbers.MARKS[v.verdict]} {v.verdict}", v.verdict),
        TableCell(numbers.probability(v.p), v.p),
        TableCell(f"{v.questions:,}", v.questions),
        TableCell(wording.to_decide(v), v.questions_needed or ""),
        NOTHING if ratio is None else TableCell(numbers.share(ratio), ratio),
    ]


def claimed(claims: Sequence[Claim]) -> Table:
    """What was claimed, what the paper reports, what was measured, and the verdict."""
    columns = [Column("claim", True), Column("verdict", True), Column("paper"), Column("measured"), Column("seeds")]
    return Table(columns, [TableRow(None, _claim(claim)) for claim in claims])


def _claim(claim: Claim) -> list[TableCell]:
    def shown(value: float | None) -> str:
        return "–" if value is None else numbers.measure(claim.test, value)

    interval = "" if claim.low is None else f"{shown(claim.low)} to {shown(claim.high)}"
    return [
        TableCell(claim.claim, claim.claim),
        TableCell(f"{wording.TRUTHS[claim.verdict]} {claim.verdict}", claim.verdict),
        TableCell(shown(claim.published), "" if claim.published is None else claim.published),
        TableCell(shown(claim.measured), "" if claim.measured is None else claim.measured, interval,
             low=claim.low, high=claim.high),
        TableCell(str(claim.seeds), claim.seeds),
    ]  # fmt: skip


def contested(grid: Grid) -> Table:
    """Every merge method, with defaults and tuned, in every regime, and how far it is from the soup."""
    compared = contest(grid)
    if compared is None:
        return Table([], [])
    names = [f"{grid.short(compared.axis)}={said(regime)}" if compared.axis else "mean" for regime in compared.regimes]
    columns = [Column("method", True)]
    columns += [column for name in names for column in (Column(name, scored=True), Column(f"{name}, from the soup"))]
    best = {r: max(s.mean.mean for s in compared.standings if s.regime == r) for r in compared.regimes}
    by_method = {
        s.method: {t.regime: t for t in compared.standings if t.method == s.method} for s in compared.standings
    }

    def reached(of: Mapping[object, Standing]) -> float:
        return fmean(standing.mean.mean for standing in of.values())

    lines = []
    for method, of in sorted(by_method.items(), key=lambda item: -reached(item[1])):
        pairs = [_standing(of.get(regime), best[regime]) for regime in compared.regimes]
        lines.append(TableRow("merge", [TableCell(method, method), *(cell for pair in pairs for cell in pair)]))
    return Table(columns, lines)


def _standing(s: Standing | None, best: float) -> tuple[TableCell, TableCell]:
    if s is None:
        return NOTHING, NOTHING
    brief = numbers.span(s.mean.low, s.mean.high, 0)
    mean = TableCell(f"{100 * s.mean.mean:.1f}", s.mean.mean, numbers.span(s.mean.low, s.mean.high), brief,
                s.mean.mean == best, s.mean.low, s.mean.high)  # fmt: skip
    if s.difference is None:
        return mean, NOTHING
    d = s.difference
    verdict = "undecided" if s.p is None or s.p >= 1 - CONFIDENCE else "better" if d.mean > 0 else "worse"
    said = f"{numbers.points(d.low)} to {numbers.points(d.high)}"
    said += "" if s.p is None else f", p {numbers.probability(s.p)}"
    return mean, TableCell(f"{numbers.MARKS[verdict]} {numbers.points(d.mean)}", d.mean, said, low=d.low, high=d.high)
