"""What a run found, for people and for programs: results.json, a table on the terminal, and one self-contained page.

subjects = [Subject("student", "student", model, evaluation), Subject("math", "expert", ..., task="math"), ...]
results = report(subjects, artefacts, Settings(...), folder)     one run
compare({"tiny, seed 1": Path("outputs/runs/…/results.json"), ...}, folder)     every run, beside the paper
report_grid(Path("outputs"), "table2", None, prices, folder, None)     every run of one experiment
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from bm.config import Prices
from bm.errors import UserError
from bm.ledger import Ledger
from bm.report.findings.evidence import Subject, behind, cosines, gather, hardware, losses, met
from bm.report.findings.grid import files, named
from bm.report.findings.results import (
    Claim,
    Cost,
    Kind,
    Results,
    Retained,
    Row,
    Run,
    Score,
    Verdict,
    ordered,
    read,
    write,
)
from bm.store import Artefact, write_text

__all__ = [
    "Claim",
    "Cost",
    "Kind",
    "Results",
    "Retained",
    "Row",
    "Run",
    "Score",
    "Settings",
    "Subject",
    "Verdict",
    "browse",
    "compare",
    "files",
    "named",
    "read",
    "report",
    "report_grid",
]


@dataclass(frozen=True)
class Settings:
    """What a report says about its run, and how its intervals are made."""

    title: str
    """Name of the recipe or run."""
    run: Run
    config: str
    """The resolved config as YAML."""
    resamples: int
    """Bootstrap resamples of the questions behind each share of a gain that was kept."""
    confidence: float
    prices: Prices
    """What an hour costs."""
    domains: Mapping[str, str]
    """The task that is each domain's own."""


def report(subjects: Sequence[Subject], artefacts: Sequence[Artefact], settings: Settings, folder: Path) -> Results:
    """Write `folder`/results.json and `folder`/report (the page, its tables as CSV and LaTeX, and the printed
    summary), print that summary, and return the results.

    `artefacts`: everything the run made or used; those of `subjects` may be among them or not. Reads of each subject
    scores.json and samples.parquet of its evaluation, metrics.csv or tensors.parquet of its model where they exist;
    of distillation artefacts traces.parquet and rejected.parquet.
    """
    from bm.report.pages.exports import export_table
    from bm.report.pages.html import publish
    from bm.report.pages.tables import of_run, of_verdicts
    from bm.report.pages.terminal import show

    reported, ledger = results(subjects, artefacts, settings), _ledger(subjects, artefacts, settings)
    write(reported, folder / "results.json")
    evidence = gather(settings.title, subjects, artefacts, settings.run.command, settings.config, ledger)
    publish(reported, evidence, folder / "report" / "index.html")
    export_table("models", of_run(reported), folder / "report")
    export_table("verdicts", of_verdicts(reported), folder / "report")
    shown = Console(record=True)
    show(reported, shown)
    write_text(folder / "report" / "summary.txt", shown.export_text())
    return reported


def _ledger(subjects: Sequence[Subject], artefacts: Sequence[Artefact], settings: Settings) -> Ledger:
    return Ledger(behind(subjects, artefacts).values(), settings.prices)


def results(subjects: Sequence[Subject], artefacts: Sequence[Artefact], settings: Settings) -> Results:
    """Rows in stable order with what each model cost, and the verdicts between them.

    UserError if two subjects share a name.
    """
    from bm.report.findings.verdicts import retained, scores, verdicts

    for name, times in Counter(s.name for s in subjects).items():
        if times > 1:
            raise UserError(f"{times} models are called '{name}'; give each its own name")
    known_losses, distances = losses(artefacts)
    known, ledger = behind(subjects, artefacts), _ledger(subjects, artefacts, settings)
    rows = ordered(
        [
            Row(
                s.name,
                s.kind,
                scores(s.evaluation.path, s.seen),
                ledger.of(s.model),
                s.model.key,
                s.out_after,
                ledger.behind(s.model),
                round=s.round,
                method=s.method,
                order=s.order,
                base=s.base,
                domains=s.domains,
                losses=known_losses.get(s.name, {}),
                distance=distances.get(s.name),
            )
            for s in subjects
        ]
    )
    kept = retained(subjects, settings.resamples, settings.confidence, settings.run.seed)
    run = replace(settings.run, hardware=hardware(list(known.values())))
    return Results(rows, verdicts(rows, subjects, settings.confidence), kept, run, cosines(subjects, artefacts),
                   met(artefacts), ledger.behind(*known.values()), settings.domains)  # fmt: skip


def compare(runs: Mapping[str, Path], folder: Path) -> None:
    """Every run (a name and its results.json) side by side and beside what the paper reports.

    Prints a table and writes `folder`/index.html, and `folder`/tables: the models of each experiment, or of the runs of
    a recipe without one, with a column per setting in which they differ, as CSV and LaTeX.
    """
    from bm.report.findings.grid import sweeps
    from bm.report.pages.exports import export_table, slug
    from bm.report.pages.html import publish_comparison
    from bm.report.pages.tables import tabled
    from bm.report.pages.terminal import show_comparison

    by_name = {name: read(path) for name, path in runs.items()}
    publish_comparison(by_name, folder / "index.html")
    for grid in sweeps({runs[name]: results for name, results in by_name.items()}):
        stem = slug(f"{grid.experiment} {grid.recipe}")
        export_table(stem, tabled(grid, None), folder / "tables")
    show_comparison(by_name, Console())


def report_grid(
    outputs: Path, experiment: str, recipe: str | None, prices: Prices, folder: Path, record: Path | None
) -> None:
    """The grid of an experiment (`bm.report.pages.experiment.report_grid`)."""
    from bm.report.pages.experiment import report_grid as report_whole

    report_whole(outputs, experiment, recipe, prices, folder, record)


def browse(folder: Path, limit: int, output: Path) -> None:
    """Write `output`/index.html: the traces of `folder`, at most `limit` of them, to search and to filter."""
    from bm.report.findings.traces import browse as read_traces
    from bm.report.pages.html import publish_traces

    publish_traces(read_traces(folder, limit), output / "index.html")
