"""Claims of a run and what its samples say about them, by paired comparison over the same questions."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from bm.report.evidence import Subject
from bm.report.results import MEAN, Claim, Results, Row, Score, Verdict


def scores(folder: Path) -> dict[str, Score]:
    """The scores of an evaluation artefact, by task."""
    values = json.loads((folder / "scores.json").read_text())
    return {task: Score(v["mean"], v["low"], v["high"], v["questions"], v["samples"]) for task, v in values.items()}


def question_means(folder: Path) -> dict[str, dict[str, float]]:
    """Share of accepted samples, by task and question, of an evaluation artefact."""
    import pyarrow.parquet as pq

    accepted: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for sample in pq.read_table(folder / "samples.parquet", columns=["task", "question", "accepted"]).to_pylist():
        accepted[sample["task"]][sample["question"]].append(sample["accepted"])
    return {task: {question: fmean(verdicts) for question, verdicts in questions.items()} for task, questions in accepted.items()}


def verdicts(rows: Sequence[Row], subjects: Sequence[Subject], resamples: int, confidence: float, seed: int) -> tuple[Verdict, ...]:
    """Each expert against the student on its own task; then each merge against the student, and against the mixture, on the mean."""
    own = {s.name: s.task for s in subjects}
    complete = [row for row in rows if Results(tuple(rows), ()).mean(row) is not None]
    students, mixtures, merges = ([row for row in complete if row.kind == kind] for kind in ("student", "mixture", "merge"))
    pairs: list[tuple[Claim, Row, Row, str]] = []
    pairs += [("expert over student", row, other, task) for row in rows if row.kind == "expert" and (task := own[row.name])
              for other in students if task in row.scores]  # fmt: skip
    pairs += [("merge over student", row, other, MEAN) for row in merges for other in students]
    pairs += [("merge over mixture", row, other, MEAN) for row in merges for other in mixtures]
    means = {s.name: question_means(s.evaluation.path) for s in subjects}
    return tuple(_verdict(*pair, means, resamples, confidence, seed) for pair in pairs)
