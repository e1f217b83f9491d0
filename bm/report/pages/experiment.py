"""The report of a grid: its page, its files, the terminal's table, and the record that a repository keeps."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from bm.config import Prices
from bm.errors import UserError
from bm.ledger import Ledger
from bm.report.figures.charts import Chart, charts, phase
from bm.report.figures.drawing import inline, style
from bm.report.figures.numbers import count
from bm.report.findings.claims import Claim, caution, claims
from bm.report.findings.evidence import environment
from bm.report.findings.forecast import FILE as LAW
from bm.report.findings.forecast import Fit, fits
from bm.report.findings.grid import Grid, gather
from bm.report.findings.law import Law, Observation, laws
from bm.report.findings.law import measured as measured_regimes
from bm.report.findings.published import SOURCE, Published, names, published
from bm.report.findings.regimes import Regime
from bm.report.pages import law
from bm.report.pages.exports import export, slug
from bm.report.pages.html import script, write_page
from bm.report.pages.record import FILE, command, measured, recorded
from bm.report.pages.tables import Table, claimed, contested, tabled
from bm.report.pages.terminal import show_grid
from bm.report.pages.wording import TRUTHS, allowed, made_on, spent
from bm.store import MANIFEST, Artefact, Store, model_digest, write_json


def report_grid(
    outputs: Path, experiment: str, recipe: str | None, prices: Prices, home: Path, record: Path | None
) -> None:
    """Print the grid of an experiment and write `home`/index.html and `home`/figures.

    A `record` keeps measured.json and the figures, without PNGs: a repository has them as SVG.

    UserError where there is no run of it, or the record's folder is not there.
    """
    if record is not None and not record.is_dir():
        raise UserError(f"record=true writes to {record}, which is not there: it needs a checkout with that experiment")
    grid = gather(outputs, experiment, recipe)
    paper = published(experiment) if experiment in names() else None
    judged = claims(grid, paper) if paper else []
    behind = _models(grid, outputs)
    made, models, verdicts, methods = environment(behind), tabled(grid, paper), claimed(judged), contested(grid)
    tables = {"models": models, "claims": verdicts, "contest": methods}
    told = _law(grid)
    remarks = [
        *law.sentences(*told),
        *_remarks(grid, judged),
        *_spent(behind, Store(outputs / "store"), prices),
        *made_on(made),
    ]
    with style():
        drawn = [*phase(grid, *told), *charts(grid, paper)]
        export(drawn, tables, home / "figures", rasters=True)
        if record:
            export(drawn, tables, record / "figures", rasters=False)
        _publish(grid, paper, tables, drawn, made, remarks, home / "index.html")
    if record:
        write_json(record / FILE, measured(grid, judged, made))
        if told[1]:
            write_json(record / LAW, law.as_json(*told))
    show_grid(_title(grid, paper), models, verdicts, methods, remarks, Console())


def redraw(folder: Path) -> None:
    """Draw the figures of a record again, and write its tables and law, from its measured.json; a figure of what older
    records lack stays as it is.
    """
    grid = recorded(json.loads((folder / FILE).read_text()))
    paper, told = published(grid.experiment), _law(grid)
    if told[1]:
        write_json(folder / LAW, law.as_json(*told))
    with style():
        drawn = [*phase(grid, *told), *charts(grid, paper)]
        export(drawn, {"models": tabled(grid, paper), "contest": contested(grid)}, folder / "figures", rasters=False)


def _law(grid: Grid) -> tuple[list[Observation], list[Law], list[Fit], Mapping[str, Regime]]:
    """The regimes that were measured, the laws and forecasts that fit them, and what is known elsewhere."""
    regimes = measured_regimes(grid)
    known = laws(regimes)
    return regimes, known, fits(regimes), law.beside(known[0].method) if known else {}


def _models(grid: Grid, outputs: Path) -> list[Artefact]:
    """The artefacts behind the grid's rows that are in the store below `outputs`."""
    keys = sorted({row.key for cell in grid.cells for row in cell.results.rows})
    paths = [path for key in keys for path in outputs.glob(f"store/*/{key}/{MANIFEST}")]
    store = Store(outputs / "store")
    return [artefact for path in paths if (artefact := store.find(path.parent.parent.name, path.parent.name))]


def _title(grid: Grid, paper: Published | None) -> str:
    if paper is None:
        return grid.experiment
    if paper.number is None:
        return re.sub("^[a-z]", lambda first: first[0].upper(), paper.title)
    return f"{paper.number}: {paper.title}"


def _remarks(grid: Grid, judged: Sequence[Claim]) -> list[str]:
    """How the claims fell, at which scale, and how much was run."""
    fell = Counter[str](claim.verdict for claim in judged)
    verdicts = ", ".join(f"{fell[truth]} {truth}" for truth in TRUTHS if fell[truth])
    lines = [f"Of {count(len(judged), 'claim')}: {verdicts}."] if judged else []
    lines += [said] if judged and (said := caution(grid.recipe)) else []
    lines += [line for claim in judged if (line := allowed(claim))]
    merges = sum(entry.kind == "merge" for entry in grid.entries)
    ran = [count(len(grid.cells), "run"), count(len(grid.seeds), "seed"), count(len(grid.entries), "model")]
    return [*lines, f"{', '.join(ran)}, {count(merges, 'merge')} among them; recipe {grid.recipe}."]


def _spent(models: Sequence[Artefact], store: Store, prices: Prices) -> list[str]:
    """What the whole grid took, from the first trace to the last score; nothing where its store is not there."""
    if not models:
        return []
    known, keys = store.all(), {model_digest(model) for model in models}
    tested = [a for a in known if a.manifest["stage"] == "evaluate"
              and keys.intersection(reference["key"] for reference in a.manifest["inputs"])]  # fmt: skip
    return [f"From the first trace to the last score: {spent(Ledger(known, prices).behind(*models, *tested))}."]


def _publish(
    grid: Grid,
    paper: Published | None,
    tables: Mapping[str, Table],
    drawn: Sequence[Chart],
    made: Mapping[str, str],
    remarks: Sequence[str],
    path: Path,
) -> None:
    figures = [
        {"id": slug(chart.name), "title": chart.title, "note": chart.note, "lead": chart.lead}
        | {"svg": inline(chart.figure, slug(chart.name), chart.title)}
        for chart in drawn
    ]
    write_page(
        path, "grid.html.j2", grid=grid, title=_title(grid, paper), remarks=remarks, **tables, figures=figures,
        source=paper and paper.number and SOURCE, command=command(grid), environment=made,
        commands=[cell.results.run.command for cell in grid.cells if cell.results.run],
        shown=list(dict.fromkeys(entry.kind for entry in grid.entries)), **script("table.js"),
    )  # fmt: skip
