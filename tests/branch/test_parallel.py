"""Several processes against one: gradients on every mesh, whole runs, and a checkpoint that changes hands."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bm import compose
from bm.branch import Traces, checkpoint, train
from bm.branch.launch import Job
from bm.branch.moments import FILE, MOMENTS
from bm.errors import UserError
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_training import rows
from tests.conftest import slow
from tests.forked import Forked, processes

TORCHRUN = "torchrun --standalone --nproc-per-node"
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "tied"), [(2, True), (4, False)])
def test_gradients_equal_one_process(ranks: int, tied: bool, tmp_path: Path, forked: Forked) -> None:
    """FSDP2, sequence parallel and both, on fuzzed lengths; 4 ranks a sequence are more than there are key heads."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    command = [*forked.launch(ranks).split(), "-m", "tests.branch.ranks", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "all meshes agree" in ended.stdout


def launched(
    student: Path, traces: list[Traces], work: Path, ranks: int, sequence: int, launch: str = "", **settings: Any
) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    launch = launch or f"{TORCHRUN} {ranks}"
    several = {"devices": ranks, "sequence_parallel": sequence, "launch": launch} if ranks > 1 else {}
    return train(student, traces, branch(**settings), trainer(**several), tracker(), "math", "0123456789abcdef", work)


def close(work: Path, other: Path) -> None:
    for ours, theirs in zip(rows(work), rows(other), strict=True):
        for column in ("loss", "gradient_norm", "held_out_math", "cosine_math_science"):
            if theirs.get(column):
                assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=1e-3), column
        assert ours["tokens"] == theirs["tokens"]
    for name in ("config.json", "generation_config.json"):
        assert (work / name).read_bytes() == (other / name).read_bytes()
    ours_, theirs_ = (load_file(folder / "model.safetensors") for folder in (work, other))
    assert ours_.keys() == theirs_.keys()
    for name in ours_:
        torch.testing.assert_close(ours_[name], theirs_[name], rtol=0, atol=2e-4)  # a fifth of one step of AdamW


def stopped(student: Path, traces: list[Traces], work: Path) -> int:
    """Two ranks whose parent is killed after a few steps; the steps in the checkpoint, once they are gone too."""
    work.mkdir()
    resources = trainer(devices=2, launch=f"{TORCHRUN} 2")
    job = Job(student, tuple(traces), branch(checkpoint_seconds=0.001), resources, tracker(), "math", "k", work)
    start = f"import pathlib, bm.branch.launch as l; l.launch(l.Job.read(pathlib.Path({str(job.write())!r})))"
    parent = subprocess.Popen([sys.executable, "-c", start], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while parent.poll() is None and not ((work / "metrics.csv").exists() and len(rows(work)) >= 3):
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL
    while alive(str(work)):
        time.sleep(0.05)
    return checkpoint.reached(work).step


def alive(word: str) -> bool:
    """Whether a process has `word` on its command line."""
    return any(word in command for _, command in processes("cmdline"))


@pytest.mark.parametrize(("ranks", "sequence"), [(2, 1), slow(4, 2)])
def test_ranks_train_as_one(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, ranks: int, sequence: int
) -> None:
    """Forked ranks, which are quick; torchrun, as users have it, starts those of which one is killed."""
    alone = launched(student, traces, tmp_path / "alone", 1, 1)
    both = launched(student, traces, tmp_path / "both", ranks, sequence, forked.launch(ranks))
    close(tmp_path / "both", tmp_path / "alone")
    assert both["tokens"] == alone["tokens"] and both["packing"] == alone["packing"]
    assert sorted(os.listdir(tmp_path / "both")) == sorted(os.listdir(tmp_path / "alone"))


@pytest.mark.slow
def test_one_domain_is_exported_from_ranks(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    """The last step measures held-out loss alone, which leaves the root of FSDP unsharded."""
    alone = launched(student, traces[:1], tmp_path / "alone", 1, 1)
    both = launched(student, traces[:1], tmp_path / "both", 2, 1, forked.launch(2))
    close(tmp_path / "both", tmp_path / "alone")
    assert both["tokens"] == alone["tokens"]


@pytest.mark.parametrize("average", [{"ema": 0.8}, slow({"tail": 0.5})], ids=["ema", "tail"])
def test_ranks_average_as_one(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, average: dict[str, float]
) -> None:
    """Weights, Adam's second moments beside them, and a model that is kept on the way.

    With one domain, whose held-out loss is measured without a gradient, which leaves the root of FSDP unsharded.
    """
    settings = {**average, "keep": [0.5], "epochs": 1.0, "second_moments": True}
    launched(student, traces[:1], tmp_path / "alone", 1, 1, **settings)
    launched(student, traces[:1], tmp_path / "both", 2, 1, forked.launch(2), **settings)
    close(tmp_path / "both", tmp_path / "alone")
    close(tmp_path / "both/kept/0.5", tmp_path / "alone/kept/0.5")
    ours, theirs = (load_file(tmp_path / name / MOMENTS / FILE) for name in ("both", "alone"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_ranks_distil_as_one(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    """A teacher that is sharded like its student, and shares its sequences: logits of the same tokens meet."""
    tokenizer, model = AutoTokenizer.from_pretrained(student), AutoModelForCausalLM.from_pretrained(student)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    settings = {"loss": "kd", "teacher": tmp_path / "teacher", "epochs": 1}
    launched(student, traces, tmp_path / "alone", 1, 1, **settings)
    launched(student, traces, tmp_path / "both", 2, 2, forked.launch(2), **settings)
    close(tmp_path / "both", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ranks end with their parent on Linux only")
def test_one_process_goes_on_for_two(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    alone = launched(student, traces, tmp_path / "alone", 1, 1)
    reached = stopped(student, traces, tmp_path / "work")
    assert 0 < reached < alone["steps"]
    launched(student, traces, tmp_path / "work", 1, 1)
    close(tmp_path / "work", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_killed_rank_ends_the_run_and_the_next_one_goes_on(
    student: Path, traces: list[Traces], tmp_path: Path
) -> None:
    """kill -9 of one of two ranks: torchrun ends the other, the run ends in a line, a restart gives the same expert."""
    settings = {"checkpoint_seconds": 0.001}
    launched(student, traces, tmp_path / "alone", 1, 1, **settings)
    work = tmp_path / "work"

    killer = threading.Thread(target=kill_a_rank, args=[work], daemon=True)
    killer.start()
    with pytest.raises(UserError, match="math: the ranks ended with exit status"):
        launched(student, traces, work, 2, 1, **settings)
    killer.join()
    assert checkpoint.reached(work).step > 0
    launched(student, traces, work, 2, 1, **settings)
    close(work, tmp_path / "alone")


def kill_a_rank(work: Path) -> None:
    """After two steps of the job in `work`."""
    while not ((work / "metrics.csv").exists() and len(rows(work)) >= 2):
        time.sleep(0.01)
    ranks = [process for process, command in processes("cmdline") if _is_rank(command.split("\0"), str(work))]
    os.kill(max(ranks), signal.SIGKILL)


def _is_rank(words: list[str], work: str) -> bool:
    """Whether a process is a rank of the job in `work`, and not torchrun above it."""
    return "bm.branch" in words and any(work in word for word in words) and "--nproc-per-node" not in words


@pytest.mark.slow
def test_ranks_that_their_launcher_starts_again_go_on(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """kill -9 of one of two ranks under `torchrun --max-restarts`: one run, which ends with the same expert."""
    settings = {"checkpoint_seconds": 0.001}
    launched(student, traces, tmp_path / "alone", 1, 1, **settings)
    work = tmp_path / "work"
    killer = threading.Thread(target=kill_a_rank, args=[work], daemon=True)
    killer.start()
    launched(student, traces, work, 2, 1, "torchrun --standalone --max-restarts 1 --nproc-per-node 2", **settings)
    killer.join()
    close(work, tmp_path / "alone")


def test_a_fault_of_ranks_that_were_started_again_is_over(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    (launcher := tmp_path / "launcher").write_text(
        '#!/bin/sh\nfor job; do :; done\ncd $(dirname $job)\necho gone > .fault.txt\necho "{}" > .facts.json\n'
    )
    launcher.chmod(0o755)
    assert launched(student, traces, tmp_path / "work", 2, 1, str(launcher)) == {}
    assert os.listdir(tmp_path / "work") == []


def test_slurm_gives_ranks_their_cores_and_ends_them_together(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trainer=slurm starts, held against an srun that writes down how it was called."""
    (tmp_path / "bin").mkdir()
    (srun := tmp_path / "bin" / "srun").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/called\nfor job; do :; done\necho "{{}}" > $(dirname $job)/.facts.json\n'
    )
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_PER_TASK": "64", "SLURMD_NODENAME": "n1"}.items():
        monkeypatch.setenv(name, value)
    resources = {"nodes": 4, "devices": 8, "launch": compose("trainer=slurm").trainer.launch}
    (work := tmp_path / "work").mkdir()
    train(student, traces, branch(), trainer(**resources), tracker(), "math", "k", work)
    words = (tmp_path / "called").read_text().split(" torchrun ")
    assert words[0] == "--ntasks-per-node 1 --cpus-per-task 64 --kill-on-bad-exit=1"
    assert words[1].startswith(
        "--nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint n1:29500 -m bm.branch"
    )


@pytest.mark.slow
def test_a_mistake_on_a_rank_is_one_line(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    with pytest.raises(UserError, match=r"math: 24 traces; branch\.held_out=24 leaves none"):
        launched(student, traces, tmp_path / "work", 2, 2, forked.launch(2), held_out=24)


def test_ranks_that_cannot_be_formed_are_refused(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 ranks need trainer\.launch"):
        train(student, traces, branch(), trainer(devices=2), tracker(), "math", "k", tmp_path)
    with pytest.raises(UserError, match=r"sequence_parallel=2 does not divide the 1 ranks"):
        train(student, traces, branch(), trainer(sequence_parallel=2), tracker(), "math", "k", tmp_path)
    with pytest.raises(UserError, match="no command `nonesuch`"):
        train(student, traces, branch(), trainer(devices=2, launch="nonesuch"), tracker(), "math", "k", tmp_path)
