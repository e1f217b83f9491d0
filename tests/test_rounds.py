"""Rounds: each with questions and a student of its own, and a lineage that says so."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import pytest

from bm.config import Content
from bm.distill.teachers import Teacher
from bm.distill.teachers.worked import teacher as worked
from tests.conftest import SHRUNK, Bm, Said, command

ROUNDS = [*(word for word in SHRUNK if not word.startswith("domains.science")), "domain=[math,coding]", "merge=linear",
          "rounds.count=2", "output=outputs/result"]  # fmt: skip


def scripted(questions: Any, seed: int, model: Annotated[Path, Content] | None) -> Teacher:
    """Stands where the model handed on would teach: a shrunk one is too weak to answer anything right."""
    assert model and (model / "model.safetensors").exists()
    return worked(questions, seed=seed, slip=0.0)


def run(folder: Path, *words: str) -> Said:
    teacher = "{_target_: tests.test_rounds.scripted, model: null}"
    return command("run", *ROUNDS, "~rounds.teacher", f"+rounds.teacher={teacher}", *words, cwd=folder)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    said = run(folder)
    assert said.returncode == 0, said.stderr
    return folder


def manifests(folder: Path, stage: str) -> list[dict[str, Any]]:
    stored = [json.loads(p.read_text()) for p in folder.glob(f"outputs/store/{stage}/*/manifest.json")]
    return sorted(stored, key=lambda m: m["created"])


def rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((path / "results.json").read_text())["rows"]}


def test_each_round_has_rows_of_its_own_and_hands_its_merge_on(two_rounds: Path) -> None:
    first, second = rows(two_rounds / "outputs/result/round-1"), rows(two_rounds / "outputs/result")
    made = {"math", "coding", "mixture", "linear"}
    assert first.keys() == {"round 1 student", *(f"round 1 {name}" for name in made)}
    assert second.keys() == {"round 1 linear", *(f"round 2 {name}" for name in made)}
    assert second["round 1 linear"]["kind"] == "student"
    assert second["round 1 linear"]["key"] == first["round 1 linear"]["key"]
    assert (two_rounds / "outputs/result/round-1/report/index.html").exists()
    assert "round 2 of 2" in (two_rounds / "outputs/result/report/index.html").read_text()


def test_lineage_leads_from_the_second_rounds_models_to_the_first_ones_merge(two_rounds: Path) -> None:
    handed_on = rows(two_rounds / "outputs/result")["round 1 linear"]["key"]
    later = [m for m in manifests(two_rounds, "distill") if "round 2" in m["label"]]
    assert len(later) == 2
    assert all([i["key"] for i in m["inputs"]] == [handed_on] for m in later)
    keys = {m["key"] for m in later}
    branches = [m for m in manifests(two_rounds, "branch") if keys & {i["key"] for i in m["inputs"]}]
    assert len(branches) == 3, "two experts and the mixture"
    assert all(handed_on in {i["key"] for i in m["inputs"]} for m in branches)


def test_no_question_is_asked_in_two_rounds(two_rounds: Path) -> None:
    asked: dict[str, list[set[str]]] = {}
    for manifest in manifests(two_rounds, "distill"):
        if "train" in manifest["label"]:
            folder = two_rounds / "outputs/store/distill" / manifest["key"]
            ids = {i for f in ("traces", "rejected") for i in pq.read_table(folder / f"{f}.parquet")["id"].to_pylist()}
            assert len(ids) == 48
            asked.setdefault(manifest["label"].split()[0], []).append(ids)
    assert {domain: len(rounds) for domain, rounds in asked.items()} == {"math": 2, "coding": 2}
    assert not any(first & second for first, second in asked.values())


def test_one_round_is_the_recipe_as_it_is_and_more_of_them_repeat_none(two_rounds: Path) -> None:
    before = {m["key"] for s in ("distill", "branch", "merge") for m in manifests(two_rounds, s)}
    assert run(two_rounds, "rounds.count=1", "output=outputs/one").returncode == 0
    assert {m["key"] for s in ("distill", "branch", "merge") for m in manifests(two_rounds, s)} == before
    assert "linear" in rows(two_rounds / "outputs/one")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rounds.model=mergee"], "rounds.model: no round makes 'mergee'; did you mean 'merge'?"),
        (["rounds.model=mixture", "~mixture"], "no round makes 'mixture'"),
        (["domains.math.traces=null"], "domains.math.traces: must be a number"),
    ],
)
def test_a_round_that_cannot_be_is_refused_before_anything_is_made(
    words: list[str], line: str, tmp_path: Path, bm: Bm
) -> None:
    said = bm("run", *ROUNDS, *words, cwd=tmp_path)
    assert said.returncode == 2
    assert line in said.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_experts_go_on_from_the_merges_on_the_way(undisturbed: Path, bm: Bm) -> None:
    """Each part begins with the merge before it, ends in one test, and sees as many tokens as a training whole."""
    words = [*SHRUNK, "merge=linear", "mixture=proportional", "rounds.parts=2", "output=outputs/parts"]
    said = bm("run", *words, cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    manifests = [json.loads(p.read_text()) for p in undisturbed.glob("outputs/store/*/*/manifest.json")]
    made = {(m["stage"], m["label"]): m for m in manifests}
    started = {made["branch", f"{domain} 2/2"]["inputs"][0]["key"] for domain in ("math", "coding", "science")}
    assert started == {made["merge", "linear 1/2"]["key"]}
    for domain in ("math", "coding", "science"):
        parts = [made["branch", f"{domain} {part}/2"]["facts"]["tokens"] for part in (1, 2)]
        assert sum(parts) == made["branch", domain]["facts"]["tokens"]
    rows = json.loads((undisturbed / "outputs/parts/results.json").read_text())["rows"]
    assert [row["name"] for row in rows if row["kind"] == "merge"] == ["linear"]


@pytest.mark.slow
def test_experts_stop_where_their_merge_predicts_best(undisturbed: Path, bm: Bm) -> None:
    """Each goes on from its own weights; of the part whose merge has the lowest held-out loss the merge is made."""
    words = [*SHRUNK, "merge=linear", "~mixture", "rounds.parts=4", "rounds.go_on=own", "rounds.patience=1"]
    said = bm("run", *words, "branch.epochs=3", "branch.learning_rate=0.3", "output=outputs/stopped", cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    losses = [float(x) for x in re.findall(r"merge after part \d of 4: ([0-9.]+) nats", said.stdout + said.stderr)]
    best = losses.index(min(losses))
    assert len(losses) == min(4, best + 2)
    rows = json.loads((undisturbed / "outputs/stopped/results.json").read_text())["rows"]
    made = undisturbed.glob("outputs/store/branch/*/manifest.json")
    labels = {p.parent.name: json.loads(p.read_text())["label"] for p in made}
    experts = {row["name"]: labels[row["key"]] for row in rows if row["kind"] == "expert"}
    assert experts == {domain: f"{domain} {best + 1}/4" for domain in ("math", "coding", "science")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge=[linear,ties]"], "rounds.parts: experts continue from one merge, not from linear, ties"),
        (["merge=linear", "branch.held_out=0", "rounds.patience=1"], "rounds.patience: needs held-out traces"),
        (["merge=linear", "branch.ema=0.9"], "branch.ema: does not work with rounds.parts"),
    ],
)
def test_what_parts_cannot_do_is_one_line(words: list[str], message: str, bm: Bm, tmp_path: Path) -> None:
    said = bm("run", *SHRUNK, "rounds.parts=2", *words, cwd=tmp_path)
    assert said.returncode == 2 and message in said.stderr
