"""Plans of the real recipes: every figure with its basis, operations as a training counts them, and what to change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bm import compose
from bm.branch import Traces
from bm.branch.attention import ISOLATED
from bm.branch.flops import Flops
from bm.branch.model import load
from bm.commands import chosen_merges
from bm.config import Experiment
from bm.plan import line, plan, remedies
from bm.plan.estimate import Estimates
from tests.branch.conftest import branch, trainer
from tests.branch.test_data import prepared
from tests.conftest import SHRUNK, Bm

FIGURES = {"stage", "peak_gib_per_gpu", "gpu_hours", "tokens", "flops", "disk_gib", "basis"}


def planned(config: Experiment) -> dict:
    return plan(config, [name for name, _, _ in chosen_merges(config)])


def test_bm_plan_writes_every_stage_with_its_basis(bm: Bm, tmp_path: Path) -> None:
    said = bm("plan", *SHRUNK, "output=PLAN.json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "PLAN.json").read_text())
    assert all(set(stage) >= FIGURES for stage in found["stages"])
    for stage in found["stages"]:
        assert all(how.startswith(("simulated", "computed", "assumed")) for how in stage["basis"].values())
    kinds = [stage["stage"] for stage in found["stages"]]
    assert (kinds.count("branch"), kinds.count("merge"), kinds.count("evaluate")) == (5, 2, 7)
    assert "math student" in said.stdout and list(tmp_path.iterdir()) == [tmp_path / "PLAN.json"]


def test_operations_are_those_that_a_training_counts(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """Exactly so on the same documents; of those that are not there yet a plan knows the mean length."""
    config = compose("domain=[math]", "~mixture", "domains.math.traces=24")
    values = json.loads((student / "config.json").read_text())
    figures = {name: values[name] for name in config.student.architecture or ()}
    data = prepared(student, traces[:1], branch(), tmp_path)
    mean = round(float(data.documents.lengths.mean()))
    config = replace(config, student=replace(config.student, architecture=figures),
                     plan=replace(config.plan, trace_tokens={"math": mean}))  # fmt: skip
    estimates, packs = Estimates(config, []), data.packs()
    counted = Flops(load(student, ISOLATED, 256, trainer(), None).model).step(data.documents, packs, True)
    assert estimates.flops.step(data.documents, packs, True) == counted
    tokens, flops = estimates._training(branch(), {"math": (config.domains["math"], 1.0)})
    assert tokens == pytest.approx(data.documents.total(packs), rel=0.05)
    assert flops == pytest.approx(counted, rel=0.1)


def test_what_does_not_fit_is_told_with_the_smallest_change() -> None:
    config = compose("recipe=tinyr1", "student=r1-distill-qwen-1.5b", "trainer=gpu", "plan.gpu=RTX4090",
                     "branch.sequence_length=4096", "domain=[openthoughts_code]", "~mixture")  # fmt: skip
    found = planned(config)
    (said,) = [r for r in remedies(found, config.plan.reserve_gib) if "(branch)" in r]
    assert "coding (branch) does not fit" in said and "it would with trainer=fsdp trainer.devices=2" in said
    adapted = planned(replace(config, branch=replace(config.branch, adapter=config.plan.adapter)))
    assert all(s["fits"] for s in adapted["stages"] if s["stage"] == "branch")
    assert "1 training" in line(found)


def test_an_evaluation_that_cannot_hold_its_weights_is_told() -> None:
    config = compose(
        "recipe=tinyr1", "trainer=cpu", "evaluate.engine.tensor_parallel=1", "evaluate.engine.data_parallel=8"
    )
    found = next(s for s in planned(config)["stages"] if s["stage"] == "evaluate")
    assert not found["fits"] and found["change"] == "evaluate.engine.tensor_parallel=2 evaluate.engine.data_parallel=4"


def test_a_run_begins_with_its_plan(bm: Bm, finished: Path, tmp_path: Path) -> None:
    said = bm("run", *SHRUNK, "output=outputs/result", f"paths.outputs={finished / 'outputs'}", cwd=tmp_path)
    assert "plan     5 trainings, 2 merges, 7 evaluations: about" in said.stderr
