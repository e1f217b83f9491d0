"""Claims of a run and what its samples say about them, by paired comparison over the same questions."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bm.errors import UserError
from bm.report.evidence import Subject
from bm.report.results import MEAN, Claim, Results, Row, Score, Verdict
from bm.statistics import Array, Comparison, compare, holm

Graded = dict[str, tuple[list[str], Array]]
"""By task: the questions' ids in order, and their samples as 0 or 1, [questions, samples]."""


def scores(folder: Path) -> dict[str, Score]:
    """The scores of an evaluation artefact, by task."""
    values = json.loads((folder / "scores.json").read_text())
    return {task: Score(v["mean"], v["low"], v["high"], v["questions"], v["samples"]) for task, v in values.items()}


def graded(folder: Path) -> Graded:
    """Every sample's verdict, from the samples.parquet of an evaluation artefact."""
    import pyarrow.parquet as pq

    accepted: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in pq.read_table(folder / "samples.parquet", columns=["task", "question", "accepted"]).to_pylist():
        accepted[sample["task"]][sample["question"]].append(float(sample["accepted"]))
    return {task: (sorted(of), np.array([of[question] for question in sorted(of)])) for task, of in accepted.items()}


def verdicts(
    rows: Sequence[Row], subjects: Sequence[Subject], resamples: int, confidence: float, seed: int
) -> tuple[Verdict, ...]:
    """Each expert against the student on its own task; each merge against the student and the mixture on the mean."""
    own = {s.name: s.task for s in subjects}
    complete = [row for row in rows if set(row.scores) == set(Results(tuple(rows), ()).tasks)]
    students, mixtures, merges = (
        [row for row in complete if row.kind == kind] for kind in ("student", "mixture", "merge")
    )
    experts = [(row, task) for row in rows if row.kind == "expert" and (task := own[row.name]) in row.scores]
    pairs: list[tuple[Claim, Row, Row, str]] = []
    pairs += [("expert over student", row, other, str(task)) for row, task in experts for other in students]
    pairs += [("merge over student", row, other, MEAN) for row in merges for other in students]
    pairs += [("merge over mixture", row, other, MEAN) for row in merges for other in mixtures]
    samples = {s.name: graded(s.evaluation.path) for s in subjects}
    found = [
        _compared(samples[row.name], samples[other.name], task, resamples, confidence, seed)
        for _, row, other, task in pairs
    ]
    adjusted = holm([comparison.p for comparison in found])
    return tuple(_verdict(*of) for of in zip(pairs, found, adjusted, strict=True))


def _compared(first: Graded, second: Graded, task: str, resamples: int, confidence: float, seed: int) -> Comparison:
    tasks = sorted(first) if task == MEAN else [task]
    for name in tasks:
        if first[name][0] != second[name][0]:
            raise UserError(
                f"two models were asked different questions of {name}; evaluate them again with the same settings"
            )
    return compare(
        {name: first[name][1] for name in tasks}, {name: second[name][1] for name in tasks}, resamples, confidence, seed
    )


def _verdict(pair: tuple[Claim, Row, Row, str], found: Comparison, adjusted: float) -> Verdict:
    claim, row, other, task = pair
    return Verdict(
        claim=claim,
        name=row.name,
        against=other.name,
        task=task,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=adjusted,
        verdict=found.verdict,
        questions=found.questions,
        questions_needed=found.questions_needed,
        samples_needed=found.samples_needed,
        cost_ratio=row.cost.seconds / other.cost.seconds if other.cost.seconds else None,
    )
