"""Checkpoints that are written while training goes on: whole ones alone count, and nothing else is different."""

import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter, state_dict_loader

from bm.branch import Traces, checkpoint, train
from bm.branch.launch import Job
from bm.branch.module import StudentTraining
from bm.config import Branch
from bm.errors import UserError
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_parallel import close, launched
from tests.branch.test_training import largest_file, rows, trained, weights
from tests.conftest import slow
from tests.forked import Forked, request

OFTEN = {"checkpoint_seconds": 0.001}
HANGING = """
import os, sys, threading, time
from pathlib import Path
from torch.distributed.checkpoint import FileSystemWriter
from bm.branch import checkpoint
from bm.branch.__main__ import rank

hung, write = Path(sys.argv[1]).parent / "hangs", checkpoint.Background.write

def one_at_a_step(self, *arguments):
    write(self, *arguments)
    while not self._last.done() and not hung.exists():
        time.sleep(0.001)

def hangs(owner, name, times):
    do = getattr(owner, name)
    def hanging(*arguments, **settings):
        nonlocal times
        times -= threading.current_thread() is not threading.main_thread()
        if not times:
            hung.touch()
            threading.Event().wait()
        return do(*arguments, **settings)
    setattr(owner, name, hanging)

checkpoint.Background.write = one_at_a_step
hangs(*{"data": (FileSystemWriter, "write_data", 3), "whole": (FileSystemWriter, "finish", 3),
        "renamed": (os, "replace", 5)}[sys.argv[2]])
rank(Path(sys.argv[1]))
"""
"""A rank whose third checkpoint, after its third step, hangs: before its data, before what makes it whole, or between
its two renames."""


def killed_while_it_writes(
    student: Path, traces: list[Traces], work: Path, config: Branch, forked: Forked, moment: str, ranks: int = 1
) -> int:
    """Steps in the checkpoint after kill -9 of a training that went on for two steps while a write hung."""
    work.mkdir()
    several = {"devices": ranks, "launch": "none"} if ranks > 1 else {}
    resources = trainer(async_checkpoints=True, **several)
    job = Job(student, tuple(traces), config, resources, tracker(), "math", "0123456789abcdef", work)
    words = ["-c", HANGING, str(job.write()), moment]
    with (work.parent / f"{work.name}.log").open("w") as said:
        process = request(str(forked.path), ranks, words, None, os.environ | {"CI": "1"}, [said.fileno()] * 2)
    while not (work / "hangs").exists():
        assert process.poll() is None, (work.parent / f"{work.name}.log").read_text()
        time.sleep(0.01)
    begun = len(rows(work))
    while len(rows(work)) < begun + 2:
        assert process.poll() is None, (work.parent / f"{work.name}.log").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for name in ("hangs", ".job.json"):
        (work / name).unlink()
    return checkpoint.reached(work).step


@pytest.mark.parametrize("moment", [slow("data"), slow("whole"), "renamed"])
def test_killed_while_it_writes_is_bit_equal(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, moment: str
) -> None:
    """The second checkpoint is the last whole one, and the state in it is that of its own step."""
    config, work = branch(ema=0.8, epochs=3, **OFTEN), tmp_path / "work"
    undisturbed = trained(student, traces, tmp_path / "undisturbed", branch(ema=0.8, epochs=3))
    reached = killed_while_it_writes(student, traces, work, config, forked, moment)
    assert 2 <= reached < len(rows(work)) - 1
    assert trained(student, traces, work, config) == undisturbed
    ours, expected = weights(work), weights(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert sorted(os.listdir(work)) == sorted(os.listdir(tmp_path / "undisturbed"))


@pytest.mark.slow
def test_ranks_killed_while_they_write_go_on(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked
) -> None:
    """Rank 0 is killed, and the other does not wait for it for ever."""
    config, work = branch(epochs=3, **OFTEN), tmp_path / "work"
    launched(student, traces, tmp_path / "alone", 1, 1, epochs=3)
    assert 2 <= killed_while_it_writes(student, traces, work, config, forked, "whole", ranks=2) < len(rows(work)) - 1
    resources = trainer(devices=2, launch=forked.launch(2), async_checkpoints=True)
    train(student, traces, config, resources, tracker(), "math", "0123456789abcdef", work)
    close(work, tmp_path / "alone")


def in_background(student: Path, traces: list[Traces], work: Path, **settings: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    resources = trainer(async_checkpoints=True)
    return train(student, traces, branch(**settings), resources, tracker(), "math", "0123456789abcdef", work)


@pytest.mark.parametrize(("full", "resumes"), [slow(1, "from the beginning"), (3, "after step")])
def test_a_full_disk_is_one_line(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int, resumes: str
) -> None:
    """While the first checkpoint is written, or the third: in the background, where training learns of it later."""
    work, writes, write = tmp_path / "work", list[int](), FileSystemWriter.write_data

    def write_on_a_disk_that_fills_up(self: FileSystemWriter, *plan: Any) -> Any:
        writes.append(1)
        if len(writes) == full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
        return write(self, *plan)

    monkeypatch.setattr(FileSystemWriter, "write_data", write_on_a_disk_that_fills_up)
    with largest_file(1 << 40), pytest.raises(UserError, match=rf"math: no room left on .* {resumes}") as said:
        in_background(student, traces, work, **OFTEN)
    assert "\n" not in str(said.value) and not (work / checkpoint.NEW).exists()
    assert (checkpoint.reached(work).step > 0) == (full > 1)
    assert in_background(student, traces, work, **OFTEN) == trained(student, traces, tmp_path / "other", branch())


def test_one_checkpoint_at_a_time(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first lasts until the fifth step: no other begins before, none is waited for, and it has its own weights."""
    work, begun, released, write = tmp_path / "work", list[int](), threading.Event(), FileSystemWriter.write_data
    step, done, after = StudentTraining.training_step, 0, dict[str, torch.Tensor]()

    def slow_write(self: FileSystemWriter, *plan: Any) -> Any:
        begun.append(done)
        if len(begun) == 2:
            assert checkpoint.reached(work).step == 1
            read = {name: torch.zeros_like(weight) for name, weight in after.items()}
            state_dict_loader.load({"model": read}, checkpoint_id=work / checkpoint.NAME, no_dist=True)
            assert all(torch.equal(read[name], after[name]) for name in after)
        assert released.wait(60)
        return write(self, *plan)

    def counted_step(self: StudentTraining, *batch: Any) -> None:
        nonlocal done
        step(self, *batch)
        done = self.done
        if done == 1:
            after.update({name: weight.detach().clone() for name, weight in self.student.named_parameters()})
        if done == 5:
            released.set()

    monkeypatch.setattr(FileSystemWriter, "write_data", slow_write)
    monkeypatch.setattr(StudentTraining, "training_step", counted_step)
    in_background(student, traces, work, **OFTEN)
    assert begun[1] >= 5 and after


def test_the_end_waits_for_the_last(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fault is the training's, though all steps were done."""
    over, step = threading.Event(), StudentTraining.training_step

    def last_step(self: StudentTraining, *batch: Any) -> None:
        step(self, *batch)
        if self.done == self.data.last:
            over.set()

    def fails(*_: Any) -> None:
        assert over.wait(60)
        time.sleep(0.3)
        raise RuntimeError("the last write failed")

    monkeypatch.setattr(StudentTraining, "training_step", last_step)
    monkeypatch.setattr(checkpoint, "_replace", fails)
    with pytest.raises(RuntimeError, match="the last write failed"):
        in_background(student, traces, tmp_path / "work", epochs=1, **OFTEN)
