"""Tuned merges: on questions that are no test's, as many trials for each, and what is found is what is merged."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bm.config import Range
from bm.tuning import distributions, settings_of
from tests.conftest import SHRUNK, Bm

TUNE = ["tune=default", "tune.trials=4", "tune.questions=8", "tune.batch=2", "merge=[linear,task_arithmetic]"]


@pytest.mark.slow
def test_tuned_merges_stand_beside_their_defaults(undisturbed: Path, bm: Bm) -> None:
    said = bm("run", *SHRUNK, *TUNE, "output=outputs/tuned", cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    rows = json.loads((undisturbed / "outputs/tuned/results.json").read_text())["rows"]
    merges = {row["name"]: row["method"] for row in rows if row["kind"] == "merge"}
    names = {"linear", "task_arithmetic", "linear tuned", "task_arithmetic tuned"}
    assert merges == {name: name for name in names}

    store = undisturbed / "outputs/store"
    by_label = {json.loads(p.read_text())["label"]: p.parent for p in store.glob("questions/*/manifest.json")}
    for domain in ("math", "coding", "science"):
        asked, test = (
            set(pq.read_table(by_label[name] / "questions.parquet")["prompt"].to_pylist())
            for name in (f"{domain} tune", domain)
        )
        traces = [pq.read_table(p)["prompt"].to_pylist() for p in store.glob("distill/*/traces.parquet")]
        assert len(asked) == 8 and not asked & test and not asked & {prompt for prompts in traces for prompt in prompts}
    tuned = [p.parent for p in store.glob("tune/*/manifest.json")]
    assert len(tuned) == 2
    for folder in tuned:
        manifest, trials = (json.loads((folder / name).read_text()) for name in ("manifest.json", "trials.json"))
        assert len(trials) == 4 and trials[0]["settings"] == {}
        best = max(trial["value"] for trial in trials if trial["value"] is not None)
        assert manifest["facts"]["value"] == best >= manifest["facts"]["default"]
        assert all(len(trial["settings"]["weights"]) == 3 for trial in trials[1:])

    before = {p.parent.name for p in store.glob("*/*/manifest.json")}
    assert bm("run", *SHRUNK, *TUNE, "output=outputs/tuned", cwd=undisturbed).returncode == 0
    assert {p.parent.name for p in store.glob("*/*/manifest.json")} == before


def test_one_number_per_expert_is_drawn_and_given_as_a_list() -> None:
    space = {"lam": Range(0.1, 2.0), "weights": Range(0.5, 1.5, each=True), "normalize": [True, False]}
    assert set(distributions(space, 2)) == {"lam", "weights.0", "weights.1", "normalize"}
    drawn = {"lam": 1.0, "weights.0": 0.6, "weights.1": 1.4, "normalize": False}
    assert settings_of(drawn, space, 2) == {"lam": 1.0, "weights": [0.6, 1.4], "normalize": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["tune=default", "+tune.spaces.ties.densty=[0.1,0.2]"],
            "tune.spaces.ties: no parameter 'densty'; did you mean 'density'?",
        ),
        (["tune=default", "tune.spaces.ties.lam.low=3"], "low 3 and high 2 are not a range"),
        (["tune=default", "domains.math.questions=null", "domains.math.task=gsm8k"], "domains.math has no questions"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words: list[str], message: str, bm: Bm, tmp_path: Path) -> None:
    said = bm("run", *SHRUNK, "merge=ties", *words, cwd=tmp_path)
    assert said.returncode == 2 and message in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_every_method_of_the_project_has_a_space() -> None:
    import yaml

    from bm.merge import methods

    spaces = yaml.safe_load((Path(__file__).parents[1] / "conf/tune/default.yaml").read_text())["spaces"]
    assert set(spaces) == set(methods.__all__)
    for name, space in spaces.items():
        own = yaml.safe_load((Path(__file__).parents[1] / f"conf/merge/{name}.yaml").read_text())
        assert set(space) <= set(own) - {"_target_"}
