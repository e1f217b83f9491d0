import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.errors import UserError
from bm.report import results
from bm.report.findings.verdicts import graded
from tests.report.conftest import QUESTIONS, RUN, SAMPLES, SETTINGS, SKILLS, TASKS, Fixture


def test_samples_are_paired_by_question(tmp_path: Path) -> None:
    lines = [("t", "b", 1.0), ("t", "a", 0.0), ("t", "b", 0.0), ("t", "a", 0.5), ("u", "c", 1.0)]
    columns = zip(("task", "question", "score"), zip(*lines, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns}), tmp_path / "samples.parquet")
    by_task = graded(tmp_path)
    assert by_task["t"][0] == ["a", "b"]
    assert by_task["t"][1].tolist() == [[0, 0.5], [1, 0]]
    assert by_task["u"][1].tolist() == [[1]]


def test_claims_and_their_opponents(experiment: Fixture) -> None:
    claims = [
        (v.claim, v.name, v.against, v.task)
        for v in results(experiment.subjects, experiment.artefacts, SETTINGS).verdicts
    ]
    merges = sorted(name for name in SKILLS if "&" in name)
    experts = [("expert over student", d, "student", f"tiny_{d}") for d in ("coding", "math", "science")]
    over_student = [("merge over student", m, "student", "mean") for m in merges]
    over_mixture = [("merge over mixture", m, "mixture proportional", "mean") for m in merges]
    assert claims == experts + over_student + over_mixture


def test_differences_are_those_of_the_rows(experiment: Fixture) -> None:
    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    rows = {row.name: row for row in outcome.rows}
    for v in outcome.verdicts:
        tasks = TASKS if v.task == "mean" else (v.task,)
        expected = sum(rows[v.name].scores[t].mean - rows[v.against].scores[t].mean for t in tasks) / len(tasks)
        assert v.difference == pytest.approx(expected)
        assert v.low <= v.difference <= v.high
        assert v.questions == QUESTIONS * len(tasks)
        assert v.cost_ratio == rows[v.name].cost.seconds / rows[v.against].cost.seconds
        assert (v.questions_needed is None) == (v.verdict != "undecided")
        assert v.samples_needed is None or v.samples_needed > SAMPLES
    assert all(v.verdict == "better" for v in outcome.verdicts if v.claim != "merge over mixture")


def test_verdicts_hold_whatever_the_seed(experiment: Fixture) -> None:
    again = replace(SETTINGS, run=replace(RUN, seed=2))
    first, second = (results(experiment.subjects, experiment.artefacts, s) for s in (SETTINGS, again))
    assert first.verdicts == second.verdicts and len(first.verdicts) > 1
    assert [kept.low for kept in first.retention] != [kept.low for kept in second.retention]


def test_models_asked_different_questions_are_refused(experiment: Fixture, tmp_path: Path) -> None:
    student, expert = experiment.subjects[:2]
    table = pq.read_table(expert.evaluation.path / "samples.parquet").to_pylist()
    shifted = [{**row, "question": row["question"] + "x"} for row in table]
    pq.write_table(pa.Table.from_pylist(shifted), tmp_path / "samples.parquet")
    (tmp_path / "scores.json").write_bytes((expert.evaluation.path / "scores.json").read_bytes())
    moved = type(expert.evaluation)(tmp_path, expert.evaluation.manifest)
    with pytest.raises(UserError, match="different questions"):
        results([student, type(expert)(expert.name, "expert", expert.model, moved, expert.task)], [], SETTINGS)


def test_only_the_experts_tasks_make_the_mean(experiment: Fixture, tmp_path: Path) -> None:
    """Other tasks stand in the table; a metric that is no share stays with its evaluation."""
    subjects = []
    for subject in experiment.subjects:
        folder = tmp_path / subject.model.key
        folder.mkdir()
        (folder / "samples.parquet").symlink_to(subject.evaluation.path / "samples.parquet")
        scores = json.loads((subject.evaluation.path / "scores.json").read_text())
        scores["ifeval"] = {"mean": 0.1, "low": 0.0, "high": 0.2, "questions": 50, "samples": 1}
        scores["wikitext"] = {"mean": 21.5, "low": 20.0, "high": 23.0, "questions": 50, "samples": 1}
        (folder / "scores.json").write_text(json.dumps(scores))
        subjects.append(replace(subject, evaluation=replace(subject.evaluation, path=folder)))
    outcome, plain = results(subjects, [], SETTINGS), results(experiment.subjects, experiment.artefacts, SETTINGS)
    assert outcome.verdicts == plain.verdicts
    assert outcome.tasks == (*sorted(TASKS), "ifeval")
    assert outcome.compared == tuple(sorted(TASKS))
    assert [outcome.mean(row) for row in outcome.rows] == [plain.mean(row) for row in plain.rows]
