"""Plans of the real recipes: every figure with its basis, operations as a training counts them, and what to change."""

import json
from dataclasses import replace
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest

from bm import compose
from bm.branch import Traces
from bm.branch.attention import ISOLATED
from bm.branch.flops import Flops
from bm.branch.model import load
from bm.config import Experiment
from bm.plan import line, on_this_machine, plan, remedies
from bm.plan.estimate import Estimates
from bm.rounds import chosen_merges
from bm.tuning import searched
from experiments.tinyr1.plans import HERE, MACHINES, rows
from tests.branch.conftest import branch, trainer
from tests.branch.test_data import prepared
from tests.conftest import SHRUNK, Bm

FIGURES = {"stage", "peak_gib_per_gpu", "gpu_hours", "tokens", "flops", "disk_gib", "basis"}


PLANS = (HERE / "PLANS.md").read_text().splitlines()[2:]


def plural(gpus: str) -> str:
    return "1 GPU" if gpus == "1" else f"{gpus} GPUs"


def planned(config: Experiment) -> dict:
    merges = list(chosen_merges(config))
    return plan(config, [name for name, _, _ in merges], [name for name, *_ in searched(config, merges)])


def test_bm_plan_writes_every_stage_with_its_basis(bm: Bm, tmp_path: Path) -> None:
    said = bm("plan", *SHRUNK, "output=PLAN.json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    written = json.loads((tmp_path / "PLAN.json").read_text())
    assert all(set(stage) >= FIGURES for stage in written["stages"])
    assert "tiny on CPUs" in said.stdout
    for stage in written["stages"]:
        assert all(how.startswith(("simulated", "computed", "assumed")) for how in stage["basis"].values())
    kinds = [stage["stage"] for stage in written["stages"]]
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


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_the_smallest_change() -> None:
    config = compose("recipe=tinyr1", "student=r1-distill-qwen-1.5b", "trainer=gpu", "plan.gpu=RTX4090",
                     "branch.sequence_length=4096", "domain=[openthoughts_code]")  # fmt: skip
    unadapted = planned(config)
    (said,) = [r for r in remedies(unadapted, config.plan.reserve_gib) if r.startswith("coding (branch)")]
    assert "does not fit" in said and "it would with trainer=fsdp trainer.devices=2" in said
    adapted = planned(replace(config, branch=replace(config.branch, adapter=config.plan.adapter)))
    assert all(s["fits"] for s in adapted["stages"] if s["stage"] == "branch")
    assert "2 trainings" in line(unadapted)


def test_an_evaluation_that_cannot_hold_its_weights_is_told() -> None:
    config = compose(
        "recipe=tinyr1", "trainer=cpu", "evaluate.engine.tensor_parallel=1", "evaluate.engine.data_parallel=8"
    )
    stage = Estimates(config, [])._evaluate("student")
    assert not stage.fits and stage.change == "evaluate.engine.tensor_parallel=2 evaluate.engine.data_parallel=4"


def test_a_state_instead_of_keys_is_planned() -> None:
    """Mamba has no heads: nothing to share a sequence by, no keys beside an evaluation, and kernels that no CPU has."""
    config = compose("recipe=tinyr1", "trainer=gpu", "branch.packing=none")
    mamba = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128}
    stages = planned(replace(config, student=replace(config.student, architecture=mamba)))["stages"]
    trainings = [s for s in stages if s["stage"] == "branch"]
    assert trainings and all(s["flops"] > 0 and s["fits"] and "peak" not in s["basis"] for s in trainings)
    assert all(s["fits"] for s in stages if s["stage"] == "evaluate")


def test_tuning_parts_and_consolidations_are_planned() -> None:
    words = ["merge=[ties,passthrough]", "tune=default", "tune.trials=5", "consolidate=[kd,sft]"]
    stages = planned(compose(*words))["stages"]
    by_label = {(s["stage"], s["label"]): s for s in stages}
    tune, kd, sft = by_label["tune", "ties tuned"], by_label["branch", "kd"], by_label["branch", "sft"]
    questions = sum(60 * ceil(0.25 * compose().evaluate.max_new_tokens) for _ in range(3))
    assert tune["tokens"] == 5 * questions and tune["seconds"] > 5 * by_label["merge", "ties"]["seconds"]
    assert ("tune", "passthrough tuned") not in by_label  # it has nothing to tune
    assert {("merge", "ties tuned"), ("evaluate", "ties tuned"), ("evaluate", "kd")} <= by_label.keys()
    assert kd["flops"] == pytest.approx(4 / 3 * sft["flops"])  # the experts look at every token too
    merges = [s["label"] for s in planned(compose("merge=linear", "rounds.parts=4"))["stages"] if s["stage"] == "merge"]
    assert merges == ["linear 1/4", "linear 2/4", "linear 3/4", "linear"]


def test_a_student_kept_on_the_way_and_annealed_is_planned() -> None:
    """What anneals it begins with the model that was kept, and so keeps none."""
    config = compose("recipe=tiny", "student=tiny_taught", "student.branch.at=0.5")
    first, last = (s for s in planned(config)["stages"] if s["stage"] == "branch" and s["label"] == "tiny_taught")
    assert last["tokens"] == pytest.approx(first["tokens"] * 0.3 / 5.5, rel=0.01)


def test_a_run_begins_with_its_plan(bm: Bm, finished: Path, tmp_path: Path) -> None:
    said = bm("run", *SHRUNK, "output=outputs/result", f"paths.outputs={finished / 'outputs'}", cwd=tmp_path)
    assert "plan     5 trainings, 2 merges, 7 evaluations: about" in said.stderr


def test_a_machine_with_gpus_is_planned_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    sizes = [24 << 30, 12 << 30]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda k: SimpleNamespace(total_memory=sizes[k]))
    assert on_this_machine(compose("trainer=gpu")).plan.card.gib == 12
    assert on_this_machine(compose()).plan.card.gib == 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "gpus"), dict.fromkeys(tuple(cell.strip() for cell in row.split("|")[1:3]) for row in PLANS)
)
def test_the_committed_plans_are_those_of_this_version(student: str, gpus: str) -> None:
    """Memory of every student on every machine, simulated again."""
    config = compose("recipe=tinyr1", f"student=r1-distill-qwen-{student.lower()}", *MACHINES[plural(gpus)])
    committed = [row for row in PLANS if row.startswith(f"| {student} | {gpus} |")]
    assert list(rows(config, student.lower(), plural(gpus))) == committed
