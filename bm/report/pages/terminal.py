"""The same findings as tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bm.report.figures import numbers
from bm.report.findings.results import Kind, Results, Row, Score
from bm.report.pages import comparison, wording
from bm.report.pages.tables import Cell
from bm.report.pages.tables import Table as Tabled

SIGNS: Mapping[Kind, str] = {
    "student": "[bright_black]■[/]",
    "expert": "[blue]▲[/]",
    "mixture": "[green]◆[/]",
    "merge": "[dark_orange3]●[/]",
}
"""The figures' markers."""
LONGEST = 40
"""Models of a grid that the terminal shows at most."""


def show(results: Results, console: Console) -> None:
    """Rows by tasks with intervals, mean, and time; the best of each column is bold. Then a line per verdict."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model")
    for task in [*results.tasks, "mean", "time"]:
        table.add_column(escape(task), justify="right")
    for row in results.rows:
        scores = [_score(row.scores.get(task), results.highest(task)) for task in results.tasks]
        mean = results.mean(row)
        if row.out_after is not None:
            scores = [f"[dim]{score}[/]" for score in scores]
        cell = "–" if mean is None else _bold(f"{100 * mean:.1f}", mean == results.highest_mean)
        table.add_row(
            f"{SIGNS[row.kind]} {escape(row.name)}{_left(row)}", *scores, cell, numbers.duration(row.cost.seconds)
        )
    console.print(table)
    legend = "  ".join(f"{sign} {kind}" for kind, sign in SIGNS.items())
    console.print(
        f"{legend}  [dim]pass@1 in percent, its interval, mean tokens of a response; time of the model's own step[/]\n"
    )
    for verdict in results.verdicts:
        console.print(f"{numbers.MARKS[verdict.verdict]} {escape(wording.sentence(verdict))}", highlight=False)


def show_grid(title: str, models: Tabled, claims: Tabled, remarks: Sequence[str], console: Console) -> None:
    """Every model of a grid, measured and in the paper side by side; then the claims with their verdicts."""
    console.print(f"[bold]{escape(title)}[/]")
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    places = [place for place, column in enumerate(models.columns) if column.scored]
    table.add_column("model", overflow="fold")
    for column in (models.columns[place] for place in places):
        table.add_column("paper" if column.paper else escape(column.name), justify="right", overflow="fold")
    for row in models.rows[:LONGEST]:
        sign = SIGNS[row.kind] if row.kind else " "
        table.add_row(
            f"{sign}{numbers.SPACE}{escape(str(row.cells[0].value))}", *(_cell(row.cells[place]) for place in places)
        )
    console.print(table)
    more = f"; {len(models.rows) - LONGEST} more models are on the page" if len(models.rows) > LONGEST else ""
    papers = [models.columns[place].paper for place in places if models.columns[place].paper]
    told = f"; paper: {', '.join(map(escape, papers))}" if papers else ""
    console.print(f"[dim]pass@1 in percent and its 95 % interval{told}{more}[/]\n")
    for claim, verdict, paper, found, seeds in (row.cells for row in claims.rows):
        interval = f" ({found.small})" if found.small else ""
        said = f"paper {paper.text}, measured {found.text}{interval}, seeds: {seeds.text}"
        console.print(f"[bold]{verdict.text}[/]  {escape(claim.text)}\n    [dim]{said}[/]", highlight=False)
    for line in remarks:
        console.print(f"[dim]{escape(line)}[/]", highlight=False)


def _cell(cell: Cell) -> str:
    return f"{_bold(cell.text, cell.best)} [dim]{cell.brief}[/]" if cell.brief else cell.text


def show_comparison(runs: Mapping[str, Results], console: Console) -> None:
    """The claims, as the paper's figures and as each run decide them."""
    paper = comparison.published()
    for claim in comparison.claims(paper, runs):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
        for name, answer in {"the paper": claim.paper, **claim.runs}.items():
            table.add_row(f"  {escape(name)}", escape(answer))
        console.print(claim.title, table)
    console.print(f"[dim]{comparison.CAUTION}[/]")


def _score(score: Score | None, highest: float) -> str:
    if score is None:
        return "–"
    tokens = numbers.tokens(score.response_tokens)
    interval = f"[dim]{numbers.span(score.low, score.high, 0)}{f'·{tokens}' if tokens else ''}[/]"
    return f"{_bold(f'{100 * score.mean:.1f}', score.mean == highest)} {interval}"


def _left(row: Row) -> str:
    return "" if row.out_after is None else f"\n  [dim]{wording.out(row.out_after)}[/]"


def _bold(text: str, bold: bool) -> str:
    return f"[bold]{text}[/]" if bold else text
