import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.errors import UserError
from bm.report import Cost, Results, Row, Run, Score, Verdict, read, results
from bm.report.findings.results import ordered, write
from tests.report.conftest import SETTINGS, SKILLS, TASKS, Fixture

shares = st.floats(0, 1)
names = st.text(min_size=1, max_size=20)
scores = st.builds(Score, shares, shares, shares, st.integers(1, 1000), st.integers(1, 64))
costs = st.builds(Cost, st.floats(0, 1e9), st.floats(0, 1e6), st.integers(0, 10**12))
rows = st.builds(
    Row,
    names,
    st.sampled_from(["student", "expert", "mixture", "merge"]),
    st.dictionaries(names, scores, max_size=4),
    costs,
    names,
)
verdicts = st.builds(
    Verdict,
    claim=st.sampled_from(["expert over student", "merge over mixture"]),
    name=names,
    against=names,
    task=names,
    difference=shares,
    low=shares,
    high=shares,
    p=shares,
    verdict=st.sampled_from(["better", "worse", "undecided"]),
    questions=st.integers(1, 1000),
    questions_needed=st.none() | st.integers(1, 10**6),
    samples_needed=st.none() | st.integers(1, 100),
    cost_ratio=st.none() | shares,
)


runs = st.builds(Run, st.none() | names, names, st.integers(), st.lists(names, max_size=3).map(tuple), names, names)


@given(st.lists(rows, max_size=4), st.lists(verdicts, max_size=4), st.none() | runs)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, some: list[Row], judged: list[Verdict], run: Run | None
) -> None:
    path = tmp_path_factory.mktemp("results") / "results.json"
    before = Results(ordered(some), tuple(judged), run=run)
    write(before, path)
    once = path.read_bytes()
    assert read(path) == before
    write(read(path), path)
    assert path.read_bytes() == once


def test_schema(experiment: Fixture, tmp_path: Path) -> None:
    write(results(experiment.subjects, experiment.artefacts, SETTINGS), tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content) == {"rows", "verdicts", "retention", "run", "cosines", "meetings", "spent", "domains"}
    assert set(content["run"]) == {
        "experiment",
        "recipe",
        "seed",
        "overrides",
        "command",
        "config_dirs",
        "hardware",
        "key",
    }
    assert {row["name"] for row in content["rows"]} == set(SKILLS)
    for row in content["rows"]:
        assert set(row) == {
            "name",
            "kind",
            "scores",
            "cost",
            "key",
            "out_after",
            "total",
            "round",
            "method",
            "order",
            "base",
            "domains",
            "domain",
            "losses",
            "distance",
        }
        assert row["kind"] in ("student", "expert", "mixture", "merge")
        assert set(row["cost"]) == {"seconds", "gpu_hours", "tokens", "flops", "money"}
        assert set(row["scores"]) == set(TASKS)
        for score in row["scores"].values():
            assert set(score) == {"mean", "low", "high", "questions", "samples", "response_tokens", "seen", "unclosed"}
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_rows_do_not_depend_on_the_order_of_subjects(experiment: Fixture) -> None:
    forward, backward = (
        results(list(s), experiment.artefacts, SETTINGS) for s in (experiment.subjects, reversed(experiment.subjects))
    )
    assert forward == backward
    assert [row.kind for row in forward.rows] == ["student"] + ["expert"] * 3 + ["mixture"] + ["merge"] * 3


def test_two_subjects_of_one_name_are_refused(experiment: Fixture) -> None:
    with pytest.raises(UserError, match="math"):
        results([*experiment.subjects, experiment.subjects[1]], [], SETTINGS)


def test_mean_and_best_need_every_task() -> None:
    whole = Row("a", "merge", {"x": _score(0.2), "y": _score(0.4)}, Cost(1, 0, 1), "k")
    partial = Row("b", "merge", {"x": _score(0.9)}, Cost(1, 0, 1), "l")
    both = Results((whole, partial), ())
    assert both.mean(whole) == pytest.approx(0.3)
    assert both.mean(partial) is None
    assert both.best("merge") == whole
    assert both.best("student") is None


ROW = '{"name": "a", "kind": "%s", "scores": {}, "cost": {"seconds": 1, "gpu_hours": 0, "tokens": 1}, "key": "k"}'


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"rows": [{"name": "a"}], "verdicts": []}', f'{{"rows": [{ROW % "teacher"}], "verdicts": []}}'],
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"results\.json"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "results.json")


def _score(mean: float) -> Score:
    return Score(mean, mean, mean, 100, 1)
