"""The report of a grid: its page, its files, the terminal's table, and the record that a repository keeps."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bm.errors import UserError
from bm.report.charts import Chart, charts
from bm.report.drawing import inline, style
from bm.report.evidence import environment
from bm.report.exports import export, slug
from bm.report.grid import Grid, gather
from bm.report.page import script, write_page
from bm.report.tabular import tabled
from bm.report.terminal import show_grid
from bm.report.wording import count
from bm.store import MANIFEST, Artefact, Store, write_json


def report_grid(outputs: Path, experiment: str, recipe: str | None, home: Path, record: Path | None) -> None:
    """Print the grid of an experiment and write `home`/index.html and `home`/figures; the latter and measured.json also
    below `record`, where one is given.

    UserError where there is no run of it, or the record's folder is not there.
    """
    if record is not None and not record.is_dir():
        raise UserError(f"record=true writes to {record}, which is not there: it needs a checkout with that experiment")
    grid = gather(outputs, experiment, recipe)
    made = environment(_models(grid, outputs))
    with style():
        drawn, table = charts(grid), tabled(grid)
        export(drawn, table, home / "figures")
        if record is not None:
            export(drawn, table, record / "figures")
            write_json(record / "measured.json", measured(grid, made))
        _publish(grid, drawn, made, home / "index.html")
    show_grid(grid, Console())


def measured(grid: Grid, made: dict[str, str]) -> dict[str, Any]:
    """What was found, as a repository keeps it. `made`: versions, machine and commit behind the grid's models."""
    about = {name: made[name] for name in ("processor", "GPUs") if name in made}
    rows = [
        {"settings": dict(cell.settings), "seed": cell.seed}
        | {name: value for name, value in asdict(row).items() if name != "out_after"}
        for cell in grid.cells
        for row in cell.rows
    ]
    return {
        "experiment": grid.experiment,
        "recipe": grid.recipe,
        "command": command(grid),
        "commit": made.get("commit", ""),
        "hardware": about,
        "versions": {name: value for name, value in made.items() if name not in {*about, "commit"}},
        "rows": rows,
    }


def command(grid: Grid) -> str:
    return f"bm run -m experiment={grid.experiment} recipe={grid.recipe}"


def _models(grid: Grid, outputs: Path) -> list[Artefact]:
    """The artefacts behind the grid's rows that are in the store below `outputs`."""
    keys = sorted({row.key for cell in grid.cells for row in cell.rows})
    paths = [path for key in keys for path in outputs.glob(f"store/*/{key}/{MANIFEST}")]
    store = Store(outputs / "store")
    return [found for path in paths if (found := store.find(path.parent.parent.name, path.parent.name))]


def _publish(grid: Grid, drawn: list[Chart], made: dict[str, str], path: Path) -> None:
    figures = [
        {"id": slug(chart.name), "title": chart.title, "note": chart.note}
        | {"svg": inline(chart.figure, slug(chart.name), chart.title)}
        for chart in drawn
    ]
    merges = sum(entry.kind == "merge" for entry in grid.entries)
    said = f"{count(len(grid.cells), 'run')}, {count(len(grid.seeds), 'seed')}, {count(merges, 'merge')}"
    write_page(
        path, "grid.html.j2", grid=grid, table=tabled(grid), figures=figures, headline=grid.experiment, remarks=[said],
        command=command(grid), commands=[cell.command for cell in grid.cells], environment=made,
        kinds_shown=list(dict.fromkeys(entry.kind for entry in grid.entries)), **script("table.js"),
    )  # fmt: skip
