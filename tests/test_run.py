"""The whole experiment, shrunk: made once, repeated for nothing, shared by a sweep, and unharmed by kill -9."""

import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import SHRUNK, Bm
from tests.forked import Forked

ROWS = {
    "student": "student", "math": "expert", "coding": "expert", "science": "expert",
    "mixture": "mixture", "arcee_fusion": "merge", "linear": "merge",
}  # fmt: skip


def results(folder: Path) -> dict[str, Any]:
    """results.json without its times and what was typed."""
    recorded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    recorded.pop("run")
    recorded["spent"].pop("seconds"), recorded["spent"].pop("money")
    for row in recorded["rows"]:
        for cost in (row["cost"], row["total"]):
            cost.pop("seconds"), cost.pop("money")
    for verdict in recorded["verdicts"]:
        verdict.pop("cost_ratio")
    return recorded


def published(folder: Path) -> dict[str, int]:
    """Each artefact below a store, and when it was published."""
    return {
        str(p.parent.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("outputs/store/*/*/manifest.json")
    }


def test_every_model_has_every_score(undisturbed: Path) -> None:
    recorded = results(undisturbed / "outputs/result")
    assert {row["name"]: row["kind"] for row in recorded["rows"]} == ROWS
    for row in recorded["rows"]:
        assert len(row["scores"]) == 3
        for score in row["scores"].values():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert (score["questions"], score["samples"]) == (12, 2)
    claims = {(v["name"], v["against"]) for v in recorded["verdicts"]}
    assert {("math", "student"), ("arcee_fusion", "student"), ("arcee_fusion", "mixture")} <= claims


def test_page_and_config_are_beside_the_results(undisturbed: Path) -> None:
    page = (undisturbed / "outputs/result/report/index.html").read_text()
    assert all(name in page for name in ROWS)
    assert "learning_rate" in (undisturbed / "outputs/result/config.yaml").read_text()


def test_the_models_are_hugging_face_folders(undisturbed: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [p.parent for p in undisturbed.glob("outputs/store/*/*/model.safetensors")]
    assert len(models) == 1 + 1 + 3 + 1 + 2, "initial, student, experts, mixture, merges"
    for folder in models:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1 + 1"}], add_generation_prompt=True, return_tensors="pt"
        )
        assert model(**prompt).logits.shape[-1] == len(tokenizer)


def test_a_second_run_makes_nothing(undisturbed: Path, bm: Bm) -> None:
    before = published(undisturbed)
    again = bm("run", *SHRUNK, "output=outputs/again", cwd=undisturbed)
    assert again.returncode == 0, again.stderr
    assert published(undisturbed) == before
    assert results(undisturbed / "outputs/again") == results(undisturbed / "outputs/result")


ORDERS = "['(math & coding) & science','(coding & math) & science']"


def test_a_sweep_makes_each_expert_once(undisturbed: Path, bm: Bm) -> None:
    before = published(undisturbed)
    swept = bm("run", "-m", *SHRUNK, "merge=arcee_fusion,ties", f"merge.order={ORDERS}", cwd=undisturbed)
    assert swept.returncode == 0, swept.stderr
    new = [name.split("/")[2] for name in published(undisturbed).keys() - before.keys()]
    assert set(new) == {"merge", "evaluate"}
    runs = [json.loads(p.read_text()) for p in undisturbed.glob("outputs/runs/*/results.json")]
    merges = [[row["name"] for row in run["rows"] if row["kind"] == "merge"] for run in runs]
    assert sorted(map(len, merges)) == [1, 2]


def test_what_a_method_weighs_by_is_measured_on_the_experts_traces(undisturbed: Path, bm: Bm) -> None:
    before = published(undisturbed)
    words = [
        "run",
        *SHRUNK,
        "merge=[fisher,regmean,regmean_plus_plus,aim]",
        "merge.examples=4",
        "output=outputs/weighed",
    ]
    said = bm(*words, cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    new = Counter(name.split("/")[2] for name in published(undisturbed).keys() - before.keys())
    assert new == {"statistics": 3 + 3 + 1 + 1, "merge": 4, "evaluate": 4}


def test_how_the_updates_meet_is_measured_and_shown(undisturbed: Path, bm: Bm) -> None:
    (met,) = undisturbed.glob("outputs/store/interference/*/interference.parquet")
    rows = pq.read_table(met).to_pylist()
    assert {(row["one"], row["other"]) for row in rows} == set(combinations(("math", "coding", "science"), 2))
    assert "How the experts' updates meet" in (undisturbed / "outputs/result/report/index.html").read_text()

    labelled = {
        json.loads(p.read_text())["label"]: p.parent for p in undisturbed.glob("outputs/store/branch/*/manifest.json")
    }
    words = [f"base={labelled['tiny']}", f"models=[{labelled['math']},{labelled['coding']}]", "merge.interference=1.5"]
    said = bm("merge", *words, "output=met", cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    cosines = [row["cosine"] for row in rows if (row["one"], row["other"]) == ("math", "coding")]
    assert [row["cosine"] for row in pq.read_table(undisturbed / "met/interference.parquet").to_pylist()] == cosines


def test_distill_and_branch_find_what_the_run_made(undisturbed: Path, bm: Bm) -> None:
    before = published(undisturbed)
    domains = [word for word in SHRUNK if not word.startswith(("domains.coding", "domains.science"))]
    for words in (["distill", "domain=math"], ["branch", "domain=math"], ["branch", "mixture=proportional"]):
        shrunk = domains if "domain=math" in words else SHRUNK
        said = bm(*words, *shrunk, cwd=undisturbed)
        assert said.returncode == 0, said.stderr
    assert published(undisturbed) == before


def test_merge_and_evaluate_take_any_folder(undisturbed: Path, bm: Bm) -> None:
    store = undisturbed / "outputs/store"
    labelled = {json.loads(p.read_text())["label"]: p.parent for p in store.glob("branch/*/manifest.json")}
    words = ["merge", "merge=linear", f"models=[{labelled['math']},{labelled['coding']}]", "output=merged"]
    made = bm(*words, cwd=undisturbed)
    assert made.returncode == 0, made.stderr
    again = bm(*words, cwd=undisturbed)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "merged exists" in again.stderr

    scored = bm("evaluate", *SHRUNK, f"model={labelled['math']}", "output=scored", cwd=undisturbed)
    assert scored.returncode == 0, scored.stderr
    (row,) = (r for r in results(undisturbed / "outputs/result")["rows"] if r["name"] == "math")
    scores = json.loads((undisturbed / "scored/scores.json").read_text())
    assert {task: score["mean"] for task, score in scores.items()} == {t: s["mean"] for t, s in row["scores"].items()}


def test_a_race_asks_nothing_twice_and_another_name_nothing_at_all(undisturbed: Path, bm: Bm) -> None:
    def drawn() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in undisturbed.glob("outputs/store/samples/*/*/*.jsonl")}

    before, models = drawn(), published(undisturbed)
    raced = bm("run", *SHRUNK, "evaluate.race=0.05", "output=outputs/raced", cwd=undisturbed)
    assert raced.returncode == 0, raced.stderr
    assert "race: " in raced.stdout + raced.stderr
    new = published(undisturbed).keys() - models.keys()
    assert {name.split("/")[2] for name in new} <= {"evaluate"}
    rows = results(undisturbed / "outputs/raced")["rows"]
    assert {row["name"] for row in rows} == set(ROWS)
    assert {score["seen"] for row in rows for score in row["scores"].values()} == {0}

    copy = undisturbed / "renamed"
    labelled = {
        json.loads(p.read_text())["label"]: p.parent for p in undisturbed.glob("outputs/store/branch/*/manifest.json")
    }
    shutil.copytree(labelled["math"], copy)
    known = published(undisturbed)
    said = bm("evaluate", *SHRUNK, f"model={copy}", "output=again", cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    assert "12 questions x 2" in said.stdout + said.stderr
    assert "0 of them among the training traces" in said.stdout + said.stderr
    assert published(undisturbed) == known
    assert drawn() == before


def test_report_over_all_runs(undisturbed: Path, bm: Bm) -> None:
    said = bm("report", cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    assert "arcee_fusion" in said.stdout
    assert "TinyR1-32B-Preview" in (undisturbed / "outputs/report/index.html").read_text()


def test_report_without_a_run_says_so(tmp_path: Path, bm: Bm) -> None:
    said = bm("report", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith("bm: outputs holds no finished run")


STAGES = ["questions", "distill", "student", "branch", "merge", "evaluate"]


@pytest.mark.slow
def test_killed_in_every_stage_the_same_command_goes_on_to_the_same_result(
    tmp_path: Path, undisturbed: Path, forked: Forked
) -> None:
    command = ["bm", "run", *SHRUNK, "branch.checkpoint_seconds=0.001", "output=outputs/result"]
    killed = []
    for stage in STAGES:
        forked.killed(command, f"[*Path('outputs/store/{stage}').glob('*.work/*')]", cwd=tmp_path)
        killed += list(tmp_path.glob(f"outputs/store/{stage}/*.work"))
        assert not (tmp_path / "outputs/result/results.json").exists()
    assert forked.run(command, cwd=tmp_path) == 0
    assert {path.parent.name for path in killed} == set(STAGES)
    assert not any(path.exists() for path in killed)
    assert published(tmp_path).keys() <= published(undisturbed).keys()  # where a sweep may have added its own
    assert results(tmp_path / "outputs/result") == results(undisturbed / "outputs/result")
    assert weights(tmp_path).items() <= weights(undisturbed).items()
    assert len(weights(tmp_path)) == 1 + 1 + 3 + 1 + 2


def weights(folder: Path) -> dict[str, str]:
    """Digest of each model's weights, by artefact."""
    manifests = [json.loads(p.read_text()) for p in folder.glob("outputs/store/*/*/manifest.json")]
    return {m["key"]: m["files"]["model.safetensors"]["sha256"] for m in manifests if "model.safetensors" in m["files"]}
