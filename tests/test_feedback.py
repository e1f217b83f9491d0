"""The second stage of a round: what experts get wrong is answered again, learned, and foreseen."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bm.branch.foresight import fitted, probabilities, scored
from bm.config import Component, Content
from bm.distill.selection import Question
from bm.distill.sources.mistakes import stream
from bm.distill.teachers import Prompt, Teacher
from bm.distill.teachers.again import teacher as again
from bm.distill.teachers.worked import teacher as worked
from bm.generate import Sampling
from tests.conftest import SHRUNK, command
from tests.forked import Forked

TOGETHER = pytest.mark.xdist_group("feedback")  # one worker makes the run for all of them
TEMPLATE = "{prompt}\nWrong: {response}\nAgain:"
FEEDBACK = [
    *(word for word in SHRUNK if not word.startswith("domains.science")),
    "domain=[math,coding]",
    "merge=linear",
    "feedback=default",
    "rounds.feedback.head={plan: 4, ridge: 1.0}",
    "~rounds.teacher",
    "+rounds.teacher={_target_: tests.test_feedback.scripted, model: null}",
    "output=outputs/result",
]


def scripted(questions: Any, seed: int, model: Annotated[Path, Content] | None) -> Teacher:
    """Stands where an expert would answer: a shrunk one is too weak to answer anything right."""
    assert model and (model / "model.safetensors").exists()
    return worked(questions, seed=seed, slip=0.2)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feedback")
    said = command("run", *FEEDBACK, cwd=folder)
    assert said.returncode == 0, said.stderr
    told = " ".join((said.stdout + said.stderr).split())
    assert "questions answered wrongly" in told and "acceptance foreseen from the plan: Brier score" in told, told
    return folder


def manifests(folder: Path, stage: str, label: str) -> list[dict[str, Any]]:
    stored = [json.loads(p.read_text()) for p in folder.glob(f"outputs/store/{stage}/*/manifest.json")]
    return sorted((m for m in stored if m["label"] == label), key=lambda m: m["created"])


def ids(folder: Path, manifest: dict[str, Any], *files: str) -> set[str]:
    home = folder / "outputs/store/distill" / manifest["key"]
    return {i for file in files for i in pq.read_table(home / f"{file}.parquet")["id"].to_pylist()}


@TOGETHER
@pytest.mark.slow
def test_each_expert_is_trained_again_on_what_it_got_wrong_and_merged_then(taught: Path) -> None:
    merged = {i["key"] for m in manifests(taught, "merge", "linear") for i in m["inputs"]}
    for domain in ("math", "coding"):
        first, second = manifests(taught, "branch", domain)
        (attempts,), (mistakes,) = (manifests(taught, "distill", f"{domain} {w}") for w in ("attempts", "mistakes"))
        assert attempts["inputs"][0]["key"] == first["key"]
        assert mistakes["inputs"][0]["key"] == attempts["key"]
        assert {i["key"] for i in second["inputs"]} == {first["key"], mistakes["key"]}
        assert second["key"] in merged and first["key"] not in merged


@TOGETHER
@pytest.mark.slow
def test_mistakes_are_of_new_questions_and_their_traces_are_the_teachers(taught: Path) -> None:
    for domain in ("math", "coding"):
        (trained,) = manifests(taught, "distill", f"{domain} train")
        (attempts,), (mistakes,) = (manifests(taught, "distill", f"{domain} {w}") for w in ("attempts", "mistakes"))
        wrong, kept = ids(taught, attempts, "rejected"), ids(taught, mistakes, "traces")
        assert len(ids(taught, attempts, "traces", "rejected")) == 48
        assert ids(taught, mistakes, "traces", "rejected") == wrong and len(kept) > len(wrong) / 2
        assert not ids(taught, attempts, "traces", "rejected") & ids(taught, trained, "traces", "rejected")
        home = taught / "outputs/store/distill"
        said = {r["id"]: r for r in pq.read_table(home / attempts["key"] / "rejected.parquet").to_pylist()}
        for row in pq.read_table(home / mistakes["key"] / "traces.parquet").to_pylist():
            assert row["prompt"] == said[row["id"]]["prompt"] and row["response"] != said[row["id"]]["response"]


@TOGETHER
@pytest.mark.slow
def test_acceptance_is_foreseen_on_questions_apart(taught: Path) -> None:
    for domain in ("math", "coding"):
        (made,) = manifests(taught, "foresight", domain)
        assert made["facts"]["responses"] == 48 and 0 < made["facts"]["accepted"] < 1
        for seen in made["facts"]["scores"].values():
            assert 0 <= seen["ece"] <= 1 and 0 <= seen["brier"] <= 1 and 20 <= seen["responses"] <= 28


@TOGETHER
@pytest.mark.slow
def test_again_makes_nothing_and_costs_are_those_of_both_stages(taught: Path) -> None:
    before = sorted(str(p) for p in taught.glob("outputs/store/*/*/manifest.json"))
    assert command("run", *FEEDBACK, "output=outputs/again", cwd=taught).returncode == 0
    assert sorted(str(p) for p in taught.glob("outputs/store/*/*/manifest.json")) == before
    rows = {row["name"]: row for row in json.loads((taught / "outputs/result/results.json").read_text())["rows"]}
    for domain in ("math", "coding"):
        tokens = [m["facts"]["tokens"] for m in manifests(taught, "branch", domain)]
        assert rows[domain]["cost"]["tokens"] == tokens[1]
        assert rows[domain]["total"]["tokens"] >= sum(tokens)


@TOGETHER
@pytest.mark.slow
def test_killed_in_its_second_stage_it_goes_on_to_the_same_bytes(taught: Path, tmp_path: Path, forked: Forked) -> None:
    folder = Path(shutil.copytree(taught, tmp_path / "killed"))
    made = {m["key"]: m for d in ("math", "coding") for m in manifests(taught, "branch", d)[1:]}
    for key in made:
        shutil.rmtree(folder / "outputs/store/branch" / key)
    for manifest in manifests(taught, "distill", "math mistakes"):
        shutil.rmtree(folder / "outputs/store/distill" / manifest["key"])
    shutil.rmtree(folder / "outputs/result")
    words = ["bm", "run", *FEEDBACK, "branch.checkpoint_seconds=0.001"]
    for stage in ("distill", "branch"):
        forked.killed(words, f"[*Path('outputs/store/{stage}').glob('*.work/*')]", cwd=folder)
    assert forked.run(words, cwd=folder) == 0
    for key in made:
        ours, theirs = (home / "outputs/store/branch" / key / "model.safetensors" for home in (folder, taught))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_question_with_an_accepted_response_is_no_mistake(tmp_path: Path) -> None:
    row = {"domain": "d", "source": "s", "system": "", "answer": "1", "verifier": "math", "metadata": "{}"}
    accepted = [{**row, "id": "a", "prompt": "A", "response": "1"}]
    refused = [("a", "A", "0", "wrong"), ("b", "B", "1", "not chosen by agreement"), ("b", "B", "2", "wrong"),
               ("c", "C", "3", "wrong"), ("c", "C", "4", "wrong")]  # fmt: skip
    rows = [{**row, "id": i, "prompt": p, "response": r, "reason": why} for i, p, r, why in refused]
    for name, of in (("traces", accepted), ("rejected", rows)):
        pq.write_table(pa.Table.from_pylist(of), tmp_path / f"{name}.parquet")
    (mistake,) = list(stream("d", 0, tmp_path))
    assert isinstance(mistake, Question) and (mistake.prompt, mistake.responses) == ("C", ("3",))


class Echo:
    """An engine that would answer; what it is asked is what is tested."""

    def render(self, messages: Any) -> str:
        return str(messages)


def echoing(questions: Any, seed: int) -> Teacher:
    return Teacher(Echo(), Sampling(1, 0.0, 1.0, 8, seed), Prompt("", "Q: {prompt}"))  # type: ignore[arg-type]


def test_a_model_sees_the_question_and_its_response_and_a_program_neither() -> None:
    asked = Question("d", "gcd", "be brief", "1 + 1?", "2", "math", json.dumps({}), ("it is {prompt} 3",))
    model = again([asked], 0, Component("tests.test_feedback.echoing", {}), TEMPLATE)
    content = "Q: 1 + 1?\nWrong: it is {prompt} 3\nAgain:"
    assert model.prompt(asked) == str([{"role": "system", "content": "be brief"}, {"role": "user", "content": content}])
    program = again([asked], 0, Component("bm.distill.teachers.worked.teacher", {"slip": 0.0}), TEMPLATE)
    assert program.prompt(asked) == "1 + 1?"


def test_a_head_is_at_its_optimum() -> None:
    """The gradient of the penalised likelihood vanishes, and planted weights are found from many responses."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(4000, 3, generator=draw, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1]) + 2
    true = states @ torch.tensor([1.0, -0.2, 0.0], dtype=torch.float64) - 1.5
    labels = (torch.rand(4000, generator=draw, dtype=torch.float64) < torch.sigmoid(true)).double()
    weights = fitted(states, labels, ridge=2.0)
    w, mean, deviation = weights
    x = (states - mean[:-1]) / deviation[:-1]
    error = probabilities(weights, states) - labels
    assert torch.allclose(x.t() @ error + 2.0 * w[:-1], torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert abs(float(error.sum())) < 1e-5
    assert torch.allclose((w / deviation)[:2], torch.tensor([1.0, -0.2], dtype=torch.float64), atol=0.15)


def test_calibration_by_hand() -> None:
    foreseen = torch.tensor([0.1, 0.15, 0.9, 0.95], dtype=torch.float64)
    labels = torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    told = scored(foreseen, labels)
    assert told["brier"] == pytest.approx((0.01 + 0.7225 + 0.01 + 0.0025) / 4)
    assert told["brier_of_share"] == pytest.approx(0.75 * 0.25)
    assert told["ece"] == pytest.approx((abs(0.25 - 1) + abs(1.85 - 2)) / 4)
