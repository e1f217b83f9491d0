"""A run's findings as a tracker shows them: scores and costs as metrics and a table, samples, figures, lineage."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bm.report.findings.evidence import Subject
from bm.report.findings.results import MEAN, Results
from bm.store import Artefact
from bm.track import LoggedTable, Reference, Tracked

SAMPLES = 32
"""Rows of each model in the table of samples."""
COLUMNS = ("task", "question", "prompt", "response", "accepted", "reason")


def track(
    tracking: Tracked, results: Results, subjects: Sequence[Subject], used: Sequence[Artefact], number: int
) -> None:
    """Tell `tracking` of round `number`."""
    evaluations = {s.evaluation.key: s.evaluation for s in subjects}
    made = {a.key: a for a in used if a.manifest["stage"] != "distill"} | evaluations
    tracking.uses([_reference(a) for a in {a.key: a for a in used}.values() if a.manifest["stage"] == "distill"])
    tracking.log(metrics(results), number)
    tracking.makes([_reference(a) for a in made.values()])
    tracking.table("scores", scores(results))
    tracking.table("samples", LoggedTable(("model", *COLUMNS), [row for s in subjects for row in samples(s)]))
    with TemporaryDirectory() as folder:
        for file in figures(results, Path(folder)):
            tracking.figure(f"figures/{file.stem}", file)
    tracking.summarise(summary(results))


def metrics(results: Results) -> dict[str, float]:
    """Scores by model and task, and what each model's own step cost."""
    values = {f"score/{r.name}/{task}": score.mean for r in results.rows for task, score in r.scores.items()}
    values |= {f"score/{r.name}/{MEAN}": mean for r in results.rows if (mean := results.mean(r)) is not None}
    for row in results.rows:
        values |= {f"cost/{row.name}/{name}": value for name, value in vars(row.cost).items() if value is not None}
    return values


def summary(results: Results) -> Mapping[str, float]:
    """The best merge against the mixture and the student, and what the run took: what a grid is sorted by."""
    values: dict[str, float] = {}
    for kind in ("student", "mixture", "merge", "consolidated", "ensemble"):
        if best := results.best(kind):
            values |= {f"{kind}/{MEAN}": results.mean(best) or 0.0, f"{kind}/seconds": best.cost.seconds}
            if kind == "merge":
                against = [v for v in results.verdicts if v.name == best.name]
                values |= {f"{v.claim}/difference": v.difference for v in against}
                values |= {f"{v.claim}/cost": v.cost_ratio for v in against if v.cost_ratio is not None}
    spent = vars(results.spent) if results.spent else {}
    return values | {f"spent/{name}": value for name, value in spent.items() if value is not None}


def scores(results: Results) -> LoggedTable:
    """A row for each model and task."""
    columns = ("model", "kind", "task", "score", "low", "high", "questions", "samples", "seconds")
    rows = [
        (r.name, r.kind, task, s.mean, s.low, s.high, s.questions, s.samples, r.cost.seconds)
        for r in results.rows
        for task, s in r.scores.items()
    ]
    return LoggedTable(columns, rows)


def samples(subject: Subject) -> Iterator[tuple[object, ...]]:
    """The first of a model's samples."""
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(subject.evaluation.path / "samples.parquet")
    known = [name for name in COLUMNS if name in rows.schema_arrow.names]
    batch = next(rows.iter_batches(SAMPLES, columns=known), None)
    for row in batch.to_pylist() if batch is not None else []:
        yield subject.name, *(row.get(name) for name in COLUMNS)


def figures(results: Results, folder: Path) -> Iterator[Path]:
    """The page's figures of means and costs, as image files; nothing where no model has a mean."""
    from bm.report.figures import panels, plots
    from bm.report.figures.drawing import style

    if results.highest_mean is None:
        return
    with style():
        drawings = {"mean": panels.means(results), "time": panels.costs(results.rows),
                    "mean against time": plots.cost_against_score(results)}  # fmt: skip
        for name, figure in drawings.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
            yield folder / f"{name}.png"


def _reference(artefact: Artefact) -> Reference:
    return Reference(str(artefact.manifest["stage"]), artefact.key, artefact.label)
