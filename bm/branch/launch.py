"""Several ranks from one process: the command that starts them is a setting, so that torchrun, srun or mpirun will do.

    trainer.launch="torchrun --standalone --nproc-per-node 8"
    trainer.launch="srun torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint $HOSTNAME:29500"

Behind it the command gets `-m bm.branch JOB`; every rank trains, the first leaves the facts in the work folder,
which all nodes must share.
"""

import ctypes
import gc
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bm.branch.data import Part
from bm.branch.documents import Traces
from bm.config import Branch, Component, Trainer, resolved, typed
from bm.errors import UserError
from bm.store import write_json

JOB, FACTS, FAULT = ".job.json", ".facts.json", ".fault.txt"
NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Ranks that `torchrun --max-restarts` starts again meet in a new store: the old one has addresses of the old ones."""


@dataclass(frozen=True)
class Job:
    """The arguments of `train`."""

    student: Path
    traces: tuple[Traces, ...]
    config: Branch
    trainer: Trainer
    tracker: Component
    name: str
    key: str
    work: Path
    part: Part = Part()  # noqa: RUF009  # frozen

    def write(self) -> Path:
        settings = {name: resolved(getattr(self, name)) for name in ("config", "trainer", "tracker")}
        traces = [[_place(t.path), t.domain, t.weight, _place(t.teacher), _place(t.stored)] for t in self.traces]
        path = self.work.absolute() / JOB
        student, before = str(self.student.absolute()), self.part.before
        part = [self.part.index, self.part.of, str(before.absolute()) if before else None]
        write_json(
            path, {"student": student, "traces": traces, "name": self.name, "key": self.key, "part": part, **settings}
        )
        return path

    @classmethod
    def read(cls, path: Path) -> "Job":
        job = json.loads(path.read_text())
        return cls(
            Path(job["student"]),
            tuple(Traces(Path(p), domain, weight, t and Path(t), s and Path(s))
                  for p, domain, weight, t, s in job["traces"]),
            typed(Branch, job["config"]), typed(Trainer, job["trainer"]), typed(Component, job["tracker"]),
            job["name"], job["key"], path.parent,
            Part(job["part"][0], job["part"][1], Path(job["part"][2]) if job["part"][2] else None),
        )  # fmt: skip


def _place(path: Path | None) -> str | None:
    """A path as ranks find it, wherever they start."""
    return str(path.absolute()) if path else None


def alone(trainer: Trainer) -> bool:
    """Whether this process is to train by itself. UserError if the trainer's settings contradict each other."""
    ranks = trainer.devices * trainer.nodes
    if ranks % trainer.sequence_parallel:
        raise UserError(f"trainer.sequence_parallel={trainer.sequence_parallel} does not divide the {ranks} ranks")
    if ranks > 1 and not trainer.launch:
        raise UserError(f"{ranks} ranks need trainer.launch, the command that starts them, as in trainer=fsdp")
    return ranks == 1


def launch(job: Job) -> dict[str, Any]:
    """Start the ranks, wait for them, and return the facts that the first one left."""
    for name in (FACTS, FAULT):
        (job.work / name).unlink(missing_ok=True)
    free_memory()
    command = [*shlex.split(os.path.expandvars(job.trainer.launch)), "-m", "bm.branch", str(job.write())]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, **NEW_STORE}
    try:
        ended = subprocess.run(command, env=env, preexec_fn=end_with_parent)
    except FileNotFoundError as problem:
        raise UserError(f"trainer.launch: there is no command `{command[0]}`") from problem
    if ended.returncode:
        if (job.work / FAULT).exists():
            raise UserError((job.work / FAULT).read_text())
        raise UserError(f"{job.name}: the ranks ended with exit status {ended.returncode}; what they said stands above")
    facts: dict[str, Any] = json.loads((job.work / FACTS).read_text())
    for name in (JOB, FACTS, FAULT):  # a fault of ranks that were started again is over
        (job.work / name).unlink(missing_ok=True)
    return facts


def free_memory() -> None:
    """Give back what this process has cached on the GPUs: ranks are about to fill them."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def fewer_fragments() -> None:
    """Let PyTorch grow its segments of GPU memory: packs differ in length, which else leaves gaps of gigabytes."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def end_with_parent() -> None:
    """A killed run must not leave ranks or jobs behind that go on writing: the kernel kills them too, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
