"""Claims of a run and what its samples say about them, by paired comparison over the same questions."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from bm.errors import UserError
from bm.report.findings.evidence import Subject
from bm.report.findings.results import KINDS, MEAN, Claim, Retained, Row, Score, Verdict
from bm.statistics import Array, Comparison, compare, holm, retention

SCORED = ("mean", "low", "high", "questions", "samples", "response_tokens", "unclosed")
"""What a scores.json tells of a task that a report shows."""

Graded = dict[str, tuple[list[str], Array]]
"""For each task the questions' ids in order, and what their samples scored, [questions, samples] in [0, 1]."""


def scores(folder: Path, seen: Mapping[str, int] | None) -> dict[str, Score]:
    """The scores of an evaluation artefact, by task, without metrics that are no share in [0, 1], as perplexity is."""
    values = json.loads((folder / "scores.json").read_text())
    scored = {}
    for task, v in values.items():
        known = {name: v[name] for name in SCORED if name in v}
        scored[task] = Score(**known, seen=None if seen is None else seen.get(task, 0))
    return {task: score for task, score in scored.items() if score.low >= 0 and score.high <= 1}


def graded(folder: Path) -> Graded:
    """What every sample scored, from the samples.parquet of an evaluation artefact."""
    from bm import parquet

    by_task: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in parquet.read(folder / "samples.parquet", columns=["task", "question", "score"]).to_pylist():
        by_task[sample["task"]][sample["question"]].append(sample["score"])
    return {task: (sorted(of), np.array([of[q] for q in sorted(of)], float)) for task, of in by_task.items()}


def verdicts(rows: Sequence[Row], subjects: Sequence[Subject], confidence: float) -> tuple[Verdict, ...]:
    """Each expert against the student on its own task; each merge against the student and the mixture on their mean.

    A verdict allows for how many there are (Holm): the chance that any of them is false stays at 1 − confidence.
    UserError if two models were asked different questions.
    """
    own = {s.name: s.task for s in subjects if s.kind == "expert" and s.task}
    tasks = sorted(set(own.values())) or sorted({task for row in rows for task in row.scores})
    complete = [row for row in rows if row.scores.keys() >= set(tasks) and row.out_after is None]
    students, experts, mixtures, merges, finished, together = (
        [r for r in complete if r.kind == kind] for kind in KINDS
    )
    pairs: list[tuple[Claim, Row, Row, str]] = []
    pairs += [("expert over student", e, s, own[e.name]) for e in experts if e.name in own for s in students]
    pairs += [("merge over student", m, s, MEAN) for m in merges for s in students]
    pairs += [("merge over mixture", m, x, MEAN) for m in merges for x in mixtures]
    pairs += [("consolidated over student", c, s, MEAN) for c in finished for s in students]
    pairs += [("consolidated over mixture", c, x, MEAN) for c in finished for x in mixtures]
    pairs += [("consolidated over merge", c, m, MEAN) for c in finished for m in merges]
    pairs += [("ensemble over mixture", e, x, MEAN) for e in together for x in mixtures]
    pairs += [("ensemble over merge", e, m, MEAN) for e in together for m in merges]
    samples = {s.name: graded(s.evaluation.path) for s in subjects}
    paired = [
        _paired(samples[row.name], samples[other.name], tasks if task == MEAN else [task])
        for _, row, other, task in pairs
    ]
    comparisons = [compare(*both, confidence) for both in paired]
    adjusted = holm([comparison.p for comparison in comparisons])
    for i, both in enumerate(paired):
        if comparisons[i].verdict != "undecided" and adjusted[i] >= 1 - confidence:  # by itself; not among so many
            strict = compare(*both, 1 - (1 - confidence) / len(comparisons))
            comparisons[i] = replace(strict, low=comparisons[i].low, high=comparisons[i].high)
    return tuple(_verdict(*of) for of in zip(pairs, comparisons, adjusted, strict=True))


def retained(subjects: Sequence[Subject], resamples: int, confidence: float, seed: int) -> tuple[Retained, ...]:
    """What each merge kept of each expert's gain over the student on the expert's own task."""
    samples = {s.name: graded(s.evaluation.path) for s in subjects if s.out_after is None}
    students, experts, _, *others = ([s for s in subjects if s.kind == kind and s.name in samples] for kind in KINDS)
    shares = []
    for merge in chain(*others):
        for expert in (e for e in experts if e.task):
            task = str(expert.task)
            for student in students:
                before, after = _paired(samples[student.name], samples[expert.name], [task])
                _, merged = _paired(samples[student.name], samples[merge.name], [task])
                kept = retention(before[task], after[task], merged[task], resamples, confidence, seed)
                values = (kept.mean, kept.low, kept.high) if kept else (None, None, None)
                shares.append(Retained(merge.name, expert.name, task, *values))
    return tuple(sorted(shares, key=lambda kept: (kept.name, kept.expert)))


def _paired(first: Graded, second: Graded, tasks: Sequence[str]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The samples of both on these tasks, the same questions in the same order."""
    for task in tasks:
        if first[task][0] != second[task][0]:
            raise UserError(
                f"two models were asked different questions of {task}; evaluate them again with the same settings"
            )
    return {task: first[task][1] for task in tasks}, {task: second[task][1] for task in tasks}


def _verdict(pair: tuple[Claim, Row, Row, str], comparison: Comparison, adjusted: float) -> Verdict:
    claim, row, other, task = pair
    ratio = row.cost.seconds / other.cost.seconds if other.cost.seconds else None
    return Verdict(claim, row.name, other.name, task, **vars(replace(comparison, p=adjusted)), cost_ratio=ratio)
