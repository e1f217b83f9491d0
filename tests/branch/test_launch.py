"""What ranks find when they start, and what they leave."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from bm.branch import Traces, launch, train
from bm.branch.launch import FACTS, Job
from tests.branch.conftest import branch, tracker, trainer
from tests.forked import Forked

ENDED = """import runpy, sys
import torch.distributed as dist
from bm.branch import training

run, within = training.run, []
training.run = lambda job: (run(job), within.append(dist.is_initialized()))[0]
runpy.run_module("bm.branch", run_name="__main__")
assert (within, dist.is_initialized()) == ([True], False)
"""
"""A rank as `python -m bm.branch JOB`, which looks whether its group is there after training, and after all."""


def test_ranks_leave_their_group(student: Path, traces: list[Traces], tmp_path: Path, forked: Forked) -> None:
    resources = trainer(devices=2, launch="torchrun")
    job = Job(student, tuple(traces), branch(epochs=1), resources, tracker(), "math", "k", tmp_path)
    ended = subprocess.run([*forked.launch(2).split(), "-c", ENDED, str(job.write())], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "model.safetensors").exists() and "destroy_process_group" not in ended.stderr


def test_ranks_find_what_their_parent_had_cached_on_the_gpus_free(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def ranks(command: list[str], **_: object) -> SimpleNamespace:
        happened.append(f"ranks with {os.environ['PYTORCH_ALLOC_CONF']}")
        (Path(command[-1]).parent / FACTS).write_text("{}")
        return SimpleNamespace(returncode=0)

    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: happened.append("freed"))
    monkeypatch.setattr(launch.subprocess, "run", ranks)
    train(student, traces, branch(), trainer(devices=2, launch="torchrun"), tracker(), "math", "k", tmp_path)
    assert happened == ["freed", "ranks with expandable_segments:True"]
