"""The whole training: what it leaves, that it learns, and that an interrupted run ends the same."""

import csv
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.branch import Traces, checkpoint, train
from bm.branch.launch import Job
from bm.branch.module import StudentTraining, seed
from bm.branch.schedules import rate
from bm.branch.watch import checkpoint_interval
from bm.config import Branch
from bm.errors import UserError
from tests.branch.conftest import branch, sums, tracker, trainer, write
from tests.conftest import SHRUNK, Bm, slow
from tests.forked import Forked


def trained(student: Path, traces: list[Traces], work: Path, config: Branch, **more: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return train(student, traces, config, trainer(), tracker(**more), "math", "0123456789abcdef", work)


def rows(work: Path) -> list[dict[str, str]]:
    with (work / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def weights(work: Path) -> dict[str, torch.Tensor]:
    return load_file(work / "model.safetensors")


def test_leaves_a_model_metrics_and_facts(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    facts = trained(student, traces, tmp_path / "work", branch(epochs=8))
    assert sorted(os.listdir(tmp_path / "work")) == [
        "chat_template.jinja", "config.json", "generation_config.json", "metrics.csv", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "work")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "work")
    assert "attn_implementation" not in json.loads((tmp_path / "work" / "config.json").read_text())
    assert model.generate(**tokenizer("1 plus 1", return_tensors="pt"), max_new_tokens=4).shape[1] > 4
    table = rows(tmp_path / "work")
    assert [int(row["step"]) for row in table] == list(range(1, facts["steps"] + 1))
    assert float(table[-1]["loss"]) == facts["final_loss"] < 0.8 * float(table[0]["loss"])
    assert float(table[-1]["epoch"]) == 8
    assert int(table[-1]["tokens"]) == facts["tokens"] == sum(facts["tokens_per_domain"].values())
    assert facts["supervised_tokens"] == 8 * facts["packing"]["supervised_tokens"]
    json.dumps(facts)


def test_says_what_is_going_to_be_learned(
    student: Path, traces: list[Traces], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = trained(student, traces, tmp_path / "work", branch())
    share = round(100 * facts["tokens_per_domain"]["math"] / facts["tokens"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"math: {facts['steps']} steps, {facts['tokens']:,} tokens (math {share}%, science {100 - share}%)" in said


def test_measures_held_out_domains(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    trained(student, traces, tmp_path / "work", branch(epochs=8))
    measured = [row for row in rows(tmp_path / "work") if row["held_out_math"]]
    assert [int(row["step"]) for row in measured[:3]] == [1, 4, 7]
    assert float(measured[-1]["held_out_science"]) < 0.9 * float(measured[0]["held_out_science"])
    assert all(-1 <= float(row["cosine_math_science"]) <= 1 for row in measured)


def test_watching_does_not_disturb(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    trained(student, traces, tmp_path / "often", branch(watch_every=1))
    trained(student, traces, tmp_path / "seldom", branch(watch_every=1000))
    often, seldom = weights(tmp_path / "often"), weights(tmp_path / "seldom")
    assert all(torch.equal(often[name], seldom[name]) for name in often)


def test_accumulation_does_not_change_the_step(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """One denominator: packs one by one give what packs together give."""
    trained(student, traces, tmp_path / "one", branch(batch=4, micro_batch=1))
    trained(student, traces, tmp_path / "four", branch(batch=4, micro_batch=4))
    for alone, together in zip(rows(tmp_path / "one"), rows(tmp_path / "four"), strict=True):
        assert float(alone["loss"]) == pytest.approx(float(together["loss"]), rel=1e-4)
        assert float(alone["gradient_norm"]) == pytest.approx(float(together["gradient_norm"]), rel=1e-3)


def test_killed_and_gone_on_is_bit_equal(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    """kill -9 of a real process in mid-epoch, twice; then the same command. Models kept on the way are the same too."""
    config = branch(epochs=6, keep=[1, 4], checkpoint_seconds=0.001)
    undisturbed = trained(student, traces, tmp_path / "undisturbed", branch(epochs=6, keep=[1, 4]))
    work = tmp_path / "work"
    work.mkdir()
    job = Job(student, tuple(traces), config, trainer(), tracker(), "math", "0123456789abcdef", work)
    words = ["-m", "bm.branch", job.write()]
    for enough in (5, 12):
        forked.killed(words, f"lines({str(work / 'metrics.csv')!r}) > {enough}", env=os.environ | {"CI": "1"})
        assert checkpoint.reached(work).step > 0 and not (work / "model.safetensors").exists()
    (work / ".job.json").unlink()
    facts = trained(student, traces, work, config)
    assert facts == undisturbed
    for kept in (Path(), *(Path("kept") / epochs for epochs in ("1", "4"))):
        ours, expected = weights(work / kept), weights(tmp_path / "undisturbed" / kept)
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert sorted(os.listdir(work)) == sorted(os.listdir(tmp_path / "undisturbed"))
    stable = ("step", "epoch", "loss", "gradient_norm", "learning_rate", "tokens", "supervised_tokens", "held_out_math")
    for mine, theirs in zip(rows(work), rows(tmp_path / "undisturbed"), strict=True):
        assert {k: mine[k] for k in stable} == {k: theirs[k] for k in stable}


def test_interrupted_by_ctrl_c(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """SIGINT ends a training as Ctrl-C ends everything else, and it goes on from its checkpoint."""
    undisturbed = trained(student, traces, tmp_path / "undisturbed", branch())
    (work := tmp_path / "work").mkdir()
    handler, save = signal.getsignal(signal.SIGINT), checkpoint.save

    def save_and_interrupt(*arguments: Any) -> None:
        save(*arguments)
        if checkpoint.reached(work).step == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", save_and_interrupt)
        trained(student, traces, work, branch(checkpoint_seconds=0.001))
    assert signal.getsignal(signal.SIGINT) is handler, "a second Ctrl-C counts too"
    assert checkpoint.reached(work).step == 5
    assert trained(student, traces, work, branch()) == undisturbed


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("checkpoints", "size"), [(0.001, 40_000), slow(600, 40_000), slow(600, 300)])
def test_a_full_disk_is_one_line(
    student: Path, traces: list[Traces], tmp_path: Path, checkpoints: float, size: int
) -> None:
    """While a checkpoint, the model or a table is written; the same command then goes on."""
    (work := tmp_path / "work").mkdir()
    with (
        largest_file(size),
        pytest.raises(UserError, match=r"no room left on .* from the beginning") as said,
    ):
        trained(student, traces, work, branch(checkpoint_seconds=checkpoints))
    assert "\n" not in str(said.value) and not (work / ".checkpoint.new").exists()
    assert trained(student, traces, work, branch()) == trained(student, traces, tmp_path / "other", branch())


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work := tmp_path / "work").mkdir()
    save = checkpoint.save

    def save_on_a_disk_that_fills_up(
        folder: Path, model: Any, optimizer: Any, state: checkpoint.State, *more: Any
    ) -> None:
        with largest_file(40_000) if state.step == 3 else nullcontext():
            save(folder, model, optimizer, state, *more)

    monkeypatch.setattr(checkpoint, "save", save_on_a_disk_that_fills_up)
    with pytest.raises(UserError, match="rerun the command to resume after step 2"):
        trained(student, traces, work, branch(checkpoint_seconds=0.001))
    assert checkpoint.reached(work).step == 2
    assert trained(student, traces, work, branch()) == trained(student, traces, tmp_path / "other", branch())


def test_ctrl_c_ends_the_command_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bm: Bm) -> None:
    step = StudentTraining.training_step

    def interrupted(self: StudentTraining, *batch: Any) -> None:
        step(self, *batch)
        if self.done == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StudentTraining, "training_step", interrupted)
    of_math = [word for word in SHRUNK if not word.startswith(("domains.coding", "domains.science"))]
    said = bm("branch", *of_math, "domain=math", cwd=tmp_path)
    assert said.returncode == 130, said.stderr
    assert said.stderr.strip().splitlines()[-1].startswith("bm: interrupted") and "Traceback" not in said.stderr


def test_a_step_draws_as_after_torchs_own_seed() -> None:
    seed(7, torch.device("cpu"))
    drawn = torch.rand(4)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(4))


def test_a_negative_seed_is_one_line() -> None:
    with pytest.raises(UserError, match=r"seed: must be greater than or equal to 0, not -1"):
        branch(seed=-1)


def test_checkpoints_come_as_often_as_they_are_cheap() -> None:
    """Young's interval at a day between interruptions: √(2 · save · day), bounded, and a minute before the first."""
    assert checkpoint_interval(None, 3600) == 60 and checkpoint_interval(None, 5) == 5
    assert checkpoint_interval(0.1, 3600) == pytest.approx(131.45, abs=0.01)
    assert checkpoint_interval(10.0, 3600) == pytest.approx(1314.5, abs=0.1)
    assert checkpoint_interval(200.0, 3600) == 3600


def test_the_measured_time_of_a_save_spaces_the_next(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours pass in each step and saves take ten minutes: after the first, a checkpoint every three hours."""
    clock, saves, save = 0.0, list[int](), checkpoint.save

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock

    def slow_save(work: Path, model: Any, optimizer: Any, state: checkpoint.State, *more: Any) -> None:
        nonlocal clock
        save(work, model, optimizer, state, *more)
        saves.append(state.step)
        clock += 600

    step = StudentTraining.training_step

    def slow_step(self: StudentTraining, *batch: Any) -> None:
        nonlocal clock
        clock += 3000
        step(self, *batch)

    monkeypatch.setattr("bm.branch.watch.time", Clock)
    monkeypatch.setattr(checkpoint, "save", slow_save)
    monkeypatch.setattr(StudentTraining, "training_step", slow_step)
    trained(student, traces, tmp_path / "work", branch(checkpoint_seconds=1e6))
    assert saves[:3] == [1, 5, 9]  # √(2 · 600 · 86400) = 10182 s: four steps of 3000 s


def test_the_attention_that_ran_is_said_and_recorded(
    student: Path, traces: list[Traces], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = trained(student, traces, tmp_path / "work", branch())
    assert facts["attention"] == f"isolated segments by PyTorch's SDPA {torch.__version__}"
    assert facts["attention"] in " ".join(capsys.readouterr().err.split())


def test_bf16_arithmetic_over_fp32_weights(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        (work := tmp_path / precision).mkdir()
        train(student, traces, branch(), trainer(precision=precision), tracker(), "math", "k", work)
        losses[precision] = [float(row["loss"]) for row in rows(work)]
        assert weights(work)["model.norm.weight"].dtype == torch.float32
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=1e-2)


def test_the_model_keeps_its_dtype_and_its_way_of_generating(
    student: Path, traces: list[Traces], tmp_path: Path
) -> None:
    half = AutoModelForCausalLM.from_pretrained(student, dtype=torch.bfloat16)
    half.generation_config.update(temperature=0.6, do_sample=True)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(student).save_pretrained(tmp_path / "half")
    trained(tmp_path / "half", traces, tmp_path / "work", branch())
    assert {tensor.dtype for tensor in weights(tmp_path / "work").values()} == {torch.bfloat16}
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        before, after = ((tmp_path / folder / name).read_text() for folder in ("half", "work"))
        assert after == before, name


def test_a_step_that_is_not_finite_names_its_traces(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    poison = tokenizer("Ω")["input_ids"][0]  # one byte of a letter that a single trace has
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = float("nan")
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    table = sums(12, 3)
    table[5]["prompt"] = "Ω " + table[5]["prompt"]
    source = Traces(write(tmp_path / "t.parquet", table), "math")
    with pytest.raises(UserError, match=rf"step \d+: loss nan, .*its traces: .*{table[5]['id']}") as caught:
        trained(tmp_path / "student", [source], tmp_path / "work", branch(held_out=0, packing="none"))
    assert str(caught.value).count(",") == 1 + 1, "the micro-batch's traces alone"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.875, 0.75]), ("cosine", [0.5, 1, 1, 0.9619, 0.8536])],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    assert [rate(step, 10, 0.2, schedule) for step in range(5)] == pytest.approx(expected, abs=1e-4)
    assert rate(0, 10, 0.0, schedule) == 1
