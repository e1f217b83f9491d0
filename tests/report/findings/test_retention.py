"""What merges kept of the experts' gains, and rows that left a race: in results.json, on the terminal, on the page."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bm.report import Subject, read, report, results
from bm.report.findings.results import write
from bm.report.pages.tables import of_run
from bm.report.pages.terminal import show
from bm.store import Store
from tests.report.conftest import SETTINGS, SKILLS, Fixture, make

OUT = "linear (math & science) & coding"


def test_share_of_each_gain_that_survived(experiment: Fixture) -> None:
    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    rows = {row.name: row for row in outcome.rows}
    assert len(outcome.retention) == 3 * 3
    for kept in outcome.retention:
        student, expert, merge = (rows[name].scores[kept.task].mean for name in ("student", kept.expert, kept.name))
        assert kept.task == f"tiny_{kept.expert}"
        assert kept.share == pytest.approx((merge - student) / (expert - student))
        assert kept.low < kept.share < kept.high


def test_a_gain_that_is_not_certain_has_no_share(tmp_path: Path) -> None:
    skills = {**SKILLS, "math": SKILLS["student"]}
    retention = results(make(Store(tmp_path), skills).subjects, [], SETTINGS).retention
    assert {kept.share is None for kept in retention if kept.expert == "math"} == {True}
    assert {kept.share is None for kept in retention if kept.expert != "math"} == {False}


def left_early(subjects: list[Subject]) -> list[Subject]:
    return [replace(s, out_after=15) if s.name == OUT else replace(s, seen={"tiny_math": 3}) for s in subjects]


def test_a_row_that_left_a_race_is_never_ranked_with_the_others(experiment: Fixture, tmp_path: Path) -> None:
    outcome, every = (
        results(left_early(experiment.subjects), [], SETTINGS),
        results(experiment.subjects, experiment.artefacts, SETTINGS),
    )
    (row,) = (r for r in outcome.rows if r.out_after is not None)
    assert (row.name, row.out_after, outcome.mean(row)) == (OUT, 15, None)
    assert not [v for v in outcome.verdicts if v.name == OUT]
    assert not [kept for kept in outcome.retention if kept.name == OUT]
    assert outcome.best("merge") == next(r for r in outcome.rows if r.name == every.best("merge").name)
    lucky = replace(row, scores={task: replace(score, mean=1.0) for task, score in row.scores.items()})
    others = tuple(r for r in outcome.rows if r.name != OUT)
    best = [cell.best for line in of_run(replace(outcome, rows=(*others, lucky))).rows for cell in line.cells
            if line.cells[0].value == lucky.name]  # fmt: skip
    assert best and not any(best)
    write(outcome, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == outcome


def test_page_and_terminal_mark_it_and_say_what_was_seen(experiment: Fixture, tmp_path: Path) -> None:
    subjects = left_early(experiment.subjects)
    outcome = report(subjects, experiment.artefacts, SETTINGS, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("out of the race after 15 questions of each task") == 1
    assert "1 merge left the race early" in page
    assert "3 of the questions among the training traces" in page
    assert "none of the questions among the training traces" in page
    assert "· 12</small>" in page
    console = Console(file=io.StringIO(), width=200)
    show(outcome, console)
    assert "out of the race after 15 questions" in console.file.getvalue()
    assert "·12" in console.file.getvalue()


def test_unclosed_thoughts_are_counted_on_the_page(experiment: Fixture, tmp_path: Path) -> None:
    student, *others = experiment.subjects
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "samples.parquet").symlink_to(student.evaluation.path / "samples.parquet")
    scores = json.loads((student.evaluation.path / "scores.json").read_text())
    scores["tiny_math"]["unclosed"] = 7
    (folder / "scores.json").write_text(json.dumps(scores))
    changed = replace(student, evaluation=replace(student.evaluation, path=folder))
    report([changed, *others], experiment.artefacts, SETTINGS, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("7 responses of all models ended within a thought") == 1


def test_results_of_before_can_be_read(experiment: Fixture, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(results(experiment.subjects, experiment.artefacts, SETTINGS), path)
    content = json.loads(path.read_text())
    del content["retention"]
    for row in content["rows"]:
        del row["out_after"]
        for score in row["scores"].values():
            del score["response_tokens"], score["seen"], score["unclosed"]
    path.write_text(json.dumps(content))
    assert {score.seen for row in read(path).rows for score in row.scores.values()} == {None}


def test_a_verdict_allows_for_how_many_there_are(tmp_path: Path) -> None:
    """Many merges as good as the mixture: one in twenty would be called better or worse by its own interval."""
    names = [f"linear {k} (math & science) & coding" for k in range(40)]
    skills = {k: v for k, v in SKILLS.items() if "&" not in k} | dict.fromkeys(names, SKILLS["mixture proportional"])
    verdicts = results(make(Store(tmp_path), skills).subjects, [], SETTINGS).verdicts
    for verdict in verdicts:
        assert (verdict.verdict == "undecided") == (verdict.p >= 0.05)
        assert (verdict.questions_needed is None) == (verdict.verdict != "undecided" or verdict.difference == 0)
    alone = [v for v in verdicts if v.claim == "merge over mixture" and (v.low > 0 or v.high < 0)]
    assert alone
    assert all(v.verdict == "undecided" for v in alone)
