"""The same findings as tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bm.report.figures import numbers
from bm.report.findings.claims import CAUTION
from bm.report.findings.results import Kind, Results
from bm.report.pages import comparison, wording
from bm.report.pages.tables import Table as Tabled
from bm.report.pages.tables import TableCell, of_run

SIGNS: Mapping[Kind, str] = {
    "student": "[bright_black]■[/]",
    "expert": "[blue]▲[/]",
    "mixture": "[green]◆[/]",
    "merge": "[dark_orange3]●[/]",
    "consolidated": "[purple]✚[/]",
    "ensemble": "[gold3]▼[/]",
}
"""The figures' markers."""
LONGEST = 40
"""Models of a grid, and runs beside each other, that the terminal shows at most."""


def show(results: Results, console: Console) -> None:
    """Rows by tasks with intervals, mean, and time; the best of each column is bold. Then a line per verdict."""
    models = of_run(results)
    console.print(_models(models, [p for p, c in enumerate(models.columns) if c.scored or c.name == "time"]))
    kinds = {row.kind for row in results.rows}
    legend = "  ".join(f"{sign} {kind}" for kind, sign in SIGNS.items() if kind in kinds)
    console.print(
        f"{legend}  [dim]pass@1 in percent, its interval, mean tokens of a response; time of the model's own step[/]\n"
    )
    for verdict in results.verdicts:
        console.print(f"{numbers.MARKS[verdict.verdict]} {escape(wording.sentence(verdict))}", highlight=False)
    for line in wording.forecasts(results):
        console.print(escape(line), highlight=False)
    for line in wording.made_on(results.run.hardware) if results.run else ():
        console.print(f"[dim]{escape(line)}[/]", highlight=False)


def show_grid(
    title: str, models: Tabled, claims: Tabled, methods: Tabled, remarks: Sequence[str], console: Console
) -> None:
    """Every model of a grid, its settings, measured and in the paper side by side; then the claims' verdicts."""
    console.print(f"[bold]{escape(title)}[/]")
    console.print(_models(models, [p for p, c in enumerate(models.columns) if p and not c.cost and c.name != "seeds"]))
    more = f"; {len(models.rows) - LONGEST} more models are on the page" if len(models.rows) > LONGEST else ""
    papers = [column.paper for column in models.columns if column.paper]
    told = f"; paper: {', '.join(map(escape, papers))}" if papers else ""
    console.print(f"[dim]pass@1 in percent and its 95 % interval{told}{more}[/]\n")
    if methods.rows:
        console.print(_models(methods, range(1, len(methods.columns))))
        console.print("[dim]every method's mean and its difference from the soup; ↑ ↓: distinguishable after Holm[/]\n")
    for claim, verdict, paper, measured, seeds in (row.cells for row in claims.rows):
        interval = f" ({measured.small})" if measured.small else ""
        said = f"paper {paper.text}, measured {measured.text}{interval}, seeds: {seeds.text}"
        console.print(f"[bold]{verdict.text}[/]  {escape(claim.text)}\n    [dim]{said}[/]", highlight=False)
    for line in remarks:
        console.print(f"[dim]{escape(line)}[/]", highlight=False)


def _models(models: Tabled, places: Sequence[int]) -> Table:
    """The first models, with these columns."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for column in (models.columns[place] for place in places):
        table.add_column("paper" if column.paper else escape(column.name), justify="right", overflow="fold")
    for row in models.rows[:LONGEST]:
        name, sign = row.cells[0], SIGNS[row.kind] if row.kind else " "
        left = f"\n  [dim]{name.brief}[/]" if name.brief else ""
        table.add_row(
            f"{sign}{numbers.SPACE}{escape(str(name.value))}{left}", *(_cell(row.cells[place]) for place in places)
        )
    return table


def _cell(cell: TableCell) -> str:
    text = f"[bold]{cell.text}[/]" if cell.best else cell.text
    return f"{text} [dim]{cell.brief}[/]" if cell.brief else text


def show_comparison(runs: Mapping[str, Results], console: Console) -> None:
    """The claims, as the paper's figures and as each run decide them; of many runs the latest."""
    for claim in comparison.claims(dict(list(runs.items())[-LONGEST:])):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
        for name, answer in {"the paper": claim.paper, **claim.runs}.items():
            table.add_row(f"  {escape(name)}", escape(answer))
        console.print(claim.title, table)
    more = f" {len(runs) - LONGEST} earlier runs are on the page." if len(runs) > LONGEST else ""
    console.print(f"[dim]{CAUTION}{more}[/]")
