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
from bm.report.findings.evidence import Subject, cosines, cost, gather
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
from bm.store import Artefact

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
    """Bootstrap resamples of the questions behind each verdict."""
    confidence: float
    prices: Prices | None = None
    """What an hour costs; None: money and totals are left out."""


def report(subjects: Sequence[Subject], artefacts: Sequence[Artefact], settings: Settings, folder: Path) -> Results:
    """Write `folder`/results.json and `folder`/report/index.html, print the table, and return the results.

    `artefacts`: everything the run made or used; those of `subjects` may be among them or not. Reads of each subject
    scores.json and samples.parquet of its evaluation, metrics.csv or tensors.parquet of its model where they exist;
    of distillation artefacts traces.parquet and rejected.parquet.
    """
    from bm.report.pages.html import publish
    from bm.report.pages.terminal import show

    found = replace(results(subjects, settings), cosines=cosines(subjects, artefacts))
    if settings.prices is not None:
        found = priced(found, subjects, artefacts, settings.prices)
    write(found, folder / "results.json")
    publish(
        found,
        gather(settings.title, subjects, artefacts, settings.run.command, settings.config),
        folder / "report" / "index.html",
    )
    show(found, Console())
    return found


def results(subjects: Sequence[Subject], settings: Settings) -> Results:
    """Rows in stable order and the verdicts between them.

    UserError if two subjects share a name.
    """
    from bm.report.findings.verdicts import retained, scores, verdicts

    for name, times in Counter(s.name for s in subjects).items():
        if times > 1:
            raise UserError(f"{times} models are called '{name}'; give each its own name")
    rows = ordered(
        [
            Row(
                s.name,
                s.kind,
                scores(s.evaluation.path, s.seen),
                cost(s.model),
                s.model.key,
                s.out_after,
                round=s.round,
                method=s.method,
                order=s.order,
                base=s.base,
                domains=s.domains,
            )
            for s in subjects
        ]
    )
    how = (settings.resamples, settings.confidence, settings.run.seed)
    return Results(rows, verdicts(rows, subjects, *how), retained(subjects, *how), settings.run)


def priced(found: Results, subjects: Sequence[Subject], artefacts: Sequence[Artefact], prices: Prices) -> Results:
    """The same results with FLOPs, money, and sums over what each model was made from."""
    models, evaluations = {s.model.key: s.model for s in subjects}, {s.evaluation.key: s.evaluation for s in subjects}
    known = {**{a.key: a for a in artefacts}, **models, **evaluations}
    ledger = Ledger(known.values(), prices)
    rows = [replace(r, cost=ledger.of(models[r.key]), total=ledger.behind(models[r.key])) for r in found.rows]
    return replace(found, rows=tuple(rows), spent=ledger.behind(*known.values()))


def compare(runs: Mapping[str, Path], folder: Path) -> None:
    """Every run (a name and its results.json) side by side and beside what the paper reports.

    Prints a table and writes `folder`/index.html.
    """
    from bm.report.pages.html import publish_comparison
    from bm.report.pages.terminal import show_comparison

    found = {name: read(path) for name, path in runs.items()}
    publish_comparison(found, folder / "index.html")
    show_comparison(found, Console())


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
