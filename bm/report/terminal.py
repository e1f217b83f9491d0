"""The same findings as tables on the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bm.report import comparison, wording
from bm.report.grid import Grid
from bm.report.results import Kind, Results, Row, Score
from bm.statistics import Interval

SIGNS: Mapping[Kind, str] = {
    "student": "[bright_black]■[/]",
    "expert": "[blue]▲[/]",
    "mixture": "[green]◆[/]",
    "merge": "[dark_orange3]●[/]",
}
"""The figures' markers."""


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
            f"{SIGNS[row.kind]} {escape(row.name)}{_left(row)}", *scores, cell, wording.duration(row.cost.seconds)
        )
    console.print(table)
    legend = "  ".join(f"{sign} {kind}" for kind, sign in SIGNS.items())
    console.print(
        f"{legend}  [dim]pass@1 in percent, its interval, mean tokens of a response; time of the model's own step[/]\n"
    )
    for verdict in results.verdicts:
        console.print(f"{wording.MARKS[verdict.verdict]} {escape(wording.sentence(verdict))}", highlight=False)


def show_grid(grid: Grid, console: Console) -> None:
    """Every model of a grid with its mean over tasks and its scores, over seeds."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model")
    for task in [*grid.tasks, "mean"]:
        table.add_column(escape(task), justify="right")
    for entry in grid.entries:
        scores = [entry.score(task) for task in grid.tasks]
        table.add_row(f"{SIGNS[entry.kind]} {escape(entry.label)}", *map(_interval, [*scores, entry.mean]))
    console.print(table)
    over = "over seeds" if len(grid.seeds) > 1 else "over questions"
    console.print(f"[dim]pass@1 in percent and its 95 % interval {over}[/]")


def _interval(score: Interval | None) -> str:
    return "–" if score is None else f"{100 * score.mean:.1f} [dim]{100 * score.low:.0f}–{100 * score.high:.0f}[/]"


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
    tokens = wording.tokens(score.response_tokens)
    interval = f"[dim]{100 * score.low:.0f}–{100 * score.high:.0f}{f'·{tokens}' if tokens else ''}[/]"
    return f"{_bold(f'{100 * score.mean:.1f}', score.mean == highest)} {interval}"


def _left(row: Row) -> str:
    return "" if row.out_after is None else f"\n  [dim]{wording.out(row.out_after)}[/]"


def _bold(text: str, bold: bool) -> str:
    return f"[bold]{text}[/]" if bold else text
