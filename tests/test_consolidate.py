"""The third arm: experts become one model by training, beside the merge and the mixture, in the same run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bm.config import Prices
from bm.ledger import Ledger
from bm.store import Store
from tests.conftest import SHRUNK, Bm, command
from tests.forked import Forked

ARMS = ["consolidate=[opd,sft]", "ensemble=logits", "consolidate.opd.branch.epochs=1",
        "consolidate.opd.branch.own.max_new_tokens=8",
        "consolidate.opd.branch.own.every=2", "consolidate.sft.start=student", "output=outputs/arms"]  # fmt: skip


@pytest.fixture(scope="module")
def arms(undisturbed: Path) -> Path:
    """The finished run with two arms more: all else is there."""
    said = command("run", *SHRUNK, *ARMS, cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    return undisturbed


def manifests(folder: Path, label: str) -> list[dict[str, Any]]:
    stored = [json.loads(path.read_text()) for path in folder.glob("outputs/store/branch/*/manifest.json")]
    return [manifest for manifest in stored if manifest["label"] == label]


def test_rows_and_verdicts_of_the_third_arm(arms: Path) -> None:
    results = json.loads((arms / "outputs/arms/results.json").read_text())
    rows = {row["name"]: row for row in results["rows"] if row["kind"] == "consolidated"}
    assert rows.keys() == {"opd", "sft"}
    for row in rows.values():
        assert sorted(row["domains"]) == ["coding", "math", "science"]
        assert row["scores"].keys() == {"coding", "math", "science"} and row["cost"]["tokens"] > 0
    claims = {(v["claim"], v["against"]) for v in results["verdicts"] if v["name"] == "opd"}
    assert ("consolidated over student", "student") in claims and ("consolidated over mixture", "mixture") in claims
    assert {against for claim, against in claims if claim == "consolidated over merge"} == {
        row["name"] for row in results["rows"] if row["kind"] == "merge"
    }
    page = (arms / "outputs/arms/report/index.html").read_text()
    assert "Third arm over mixture" in page and "consolidated" in page


def test_each_begins_where_it_was_told_and_learns_from_whom_it_was_told(arms: Path) -> None:
    """On-policy distillation begins as the first merge and learns from the experts; plain SFT begins as the student."""
    (opd,), (sft,) = manifests(arms, "opd"), manifests(arms, "sft")
    assert [i["stage"] for i in opd["inputs"]] == ["merge", *["distill"] * 3, *["branch"] * 3]
    assert [i["stage"] for i in sft["inputs"]] == ["branch", *["distill"] * 3]
    assert opd["facts"]["own"]["tokens"] > 0 and "own" not in sft["facts"]


@pytest.mark.slow
def test_killed_in_on_policy_distillation_the_run_goes_on_to_the_same_bytes(
    arms: Path, tmp_path: Path, forked: Forked
) -> None:
    """Twice, each time with responses on disk that it has not learned from yet."""
    folder = Path(shutil.copytree(arms, tmp_path / "killed"))
    (key,) = (manifest["key"] for manifest in manifests(folder, "opd"))
    shutil.rmtree(folder / "outputs/store/branch" / key)
    shutil.rmtree(folder / "outputs/arms")
    words = ["bm", "run", *SHRUNK, *ARMS, "branch.checkpoint_seconds=0.001"]
    for block in (1, 3):
        forked.killed(words, f"[*Path('outputs/store/branch').glob('*.work/own/{block}.json')]", cwd=folder)
        assert not (folder / "outputs/arms/results.json").exists()
    assert forked.run(words, cwd=folder) == 0
    ours, theirs = (home / "outputs/store/branch" / key / "model.safetensors" for home in (folder, arms))
    assert ours.read_bytes() == theirs.read_bytes()
    scores = [json.loads((home / "outputs/arms/results.json").read_text())["rows"] for home in (folder, arms)]
    assert [row["scores"] for row in scores[0]] == [row["scores"] for row in scores[1]]


def test_the_ensemble_is_an_upper_line_with_its_price(arms: Path) -> None:
    """It has a row of its own kind, compared with merges and mixture; each token costs a pass of all three experts."""
    results = json.loads((arms / "outputs/arms/results.json").read_text())
    (row,) = (row for row in results["rows"] if row["kind"] == "ensemble")
    assert row["scores"].keys() == {"coding", "math", "science"} and sorted(row["domains"]) == [
        "coding",
        "math",
        "science",
    ]
    held = {(v["claim"], v["against"]) for v in results["verdicts"] if v["name"] == row["name"]}
    merges = {("ensemble over merge", r["name"]) for r in results["rows"] if r["kind"] == "merge"}
    assert held == merges | {("ensemble over mixture", "mixture")}
    assert "Ensemble over merges" in (arms / "outputs/arms/report/index.html").read_text()
    stored = [json.loads(path.read_text()) for path in arms.glob("outputs/store/*/*/manifest.json")]
    (ensemble,) = (m for m in stored if m["stage"] == "ensemble")
    assert [i["label"] for i in ensemble["inputs"]] == ["math", "coding", "science"]
    ledger = Ledger(Store(arms / "outputs/store").all(), Prices({}, 0.0))
    flops = {}
    for manifest in (m for m in stored if m["stage"] == "evaluate" and m["label"] in (ensemble["label"], "math")):
        made = Store(arms / "outputs/store").find("evaluate", manifest["key"])
        assert made
        flops[manifest["label"]] = ledger.of(made).flops / ledger.of(made).tokens
    assert flops[ensemble["label"]] == 3 * flops["math"] > 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("branch.teacher=experts loss=kd", "branch.teacher: only a consolidation has experts for teachers"),
        ("consolidate=sft consolidate.sft.start=mixture ~mixture", "consolidate.sft.start: there is no mixture"),
        ("consolidate=opd consolidate.opd.branch.teacher=null", "learns from a teacher"),
        ("consolidate=odp", "consolidate has no option 'odp'; did you mean 'opd'?"),
        ("ensemble=logits domain=math", "ensemble: one expert alone is none"),
        ("ensemble=mean", "ensemble: must be 'logits' or 'probabilities'"),
        ("ensemble=logits evaluate.engine=openai evaluate.engine.served=m", "in the engine transformers alone"),
        ("loss=rkd", "`bm.losses.rkd` learns from a teacher; set branch.teacher"),
    ],
)
def test_mistakes_are_one_line(words: str, why: str, tmp_path: Path, bm: Bm) -> None:
    said = bm("run", *words.split(), cwd=tmp_path)
    assert said.returncode != 0 and why in said.stderr and "Traceback" not in said.stderr
    assert not (tmp_path / "outputs").exists()
