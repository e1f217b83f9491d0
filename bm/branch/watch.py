"""What a run shows while it goes: metrics.csv, the tracker, the progress bar; and the checkpoints by the clock."""

import csv
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from bm.branch import checkpoint
from bm.branch.attention import described
from bm.branch.averaging import Averaging
from bm.branch.checkpoint import State
from bm.branch.compiling import seconds
from bm.branch.data import Step, TraceData
from bm.branch.documents import realised
from bm.branch.flops import Flops, matmul_peak
from bm.branch.held_out import HeldOut
from bm.branch.model import export, prove_isolation
from bm.branch.module import StudentTraining
from bm.branch.moments import export_moments
from bm.branch.ram import most
from bm.progress import progress, say
from bm.store import write_json
from bm.track import Tracked

COLUMNS = ("step", "epoch", "loss", "gradient_norm", "learning_rate", "tokens", "supervised_tokens",
           "tokens_per_second", "seconds", "supervised_tokens_per_second", "flop_utilisation", "memory_gb")  # fmt: skip
"""Columns of metrics.csv, one row an optimiser step; held-out losses and cosines follow, where they are measured."""
METRICS, FACTS, RUNGS = "metrics.csv", "facts.json", "kept"
"""Names in the work folder; below the last a folder for every model that was kept on the way, with those two files."""


FIRST_SAVE = 60.0
"""Seconds until the first checkpoint, which tells what one costs."""
UNDISTURBED = 24 * 3600.0
"""Seconds that a run lasts on average: time limits, failures and people end it."""

Rows = list[dict[str, str]]


def metrics(path: Path, columns: Sequence[str], done: int, stack: ExitStack) -> "tuple[csv.DictWriter[str], Rows]":
    """metrics.csv, open for more rows, and those of the `done` steps that a run resumes from; no later ones."""
    kept: Rows = []
    if path.exists():
        with path.open(newline="") as file:
            kept = list(csv.DictReader(file))[:done]
    writer = csv.DictWriter(stack.enter_context(path.open("w", newline="", buffering=1)), columns)
    writer.writeheader()
    writer.writerows(kept)
    return writer, kept


class Watch(L.Callback):
    """Takes up where an interrupted run stood; counts, writes and shows every step; saves a checkpoint by the clock."""

    def __init__(self, name: str, work: Path, state: State, tracked: Tracked, stack: ExitStack) -> None:
        self.name, self.work, self.state, self.tracked, self.stack = name, work, state, tracked, stack
        self.first = not dist.is_initialized()
        self.save_seconds: float | None = None
        """What training waited for the last checkpoint; None before the first."""

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, StudentTraining)
        prove_isolation(module.student, module.data.place, module.device)
        self.average = Averaging(module.config, module.student, len(module.data.plan))
        self.background = checkpoint.Background(self.stack) if module.resources.async_checkpoints else None
        if self.state.step:
            checkpoint.load(self.work, module.student, trainer.optimizers[0], self.average.state())
        else:
            self.state = replace(self.state, step=module.data.start)
            if module.data.part.before:
                checkpoint.load_optimizer(module.data.part.before, module.student, trainer.optimizers[0])
        module.done = self.state.step
        data, self.first = module.data, trainer.is_global_zero
        self.rungs = rungs(data.plan, module.config.keep)
        self.held_out, self.flops = HeldOut(data), Flops(module.student.model)
        self.twice = getattr(trainer.optimizers[0], "again", False)
        self.objective = module.objective
        self.teachers = [Flops(teacher.model) for teacher in module.objective.teachers]
        self.attention = described(module.attention, module.device)
        self.peak = matmul_peak(module.device, module.resources.precision != "32-true") * trainer.world_size
        if self.first:
            columns = [*COLUMNS, *self.held_out.columns]
            self.metrics, kept = metrics(self.work / METRICS, columns, self.state.step - data.start, self.stack)
            self.tracked.catch_up((int(row.pop("step")), numbers(row)) for row in kept)
            total = announce(self.name, data, self.attention)
            self.bar = self.stack.enter_context(progress(self.name, total, "tokens", done=self.state.tokens))
        self.began = self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, StudentTraining)
        spent = time.monotonic() - self.began
        row = self._count(module, spent)
        if (module.done - 1) % module.config.watch_every == 0 or module.done == module.data.last:
            row |= self.held_out.measure(trainer, module)
        if self.first:
            self.metrics.writerow({"step": module.done, **row})
            self.tracked.log(row, module.done)
            self.bar.advance(self.state.tokens - self.before.tokens, f"loss {row['loss']:.3f}")
        self.average.update(module.done)
        for epochs in self.rungs.get(module.done, ()):
            self._keep(module, epochs)
        if self._due(module):
            started, held = time.monotonic(), (self.state, self.average.state())
            checkpoint.save(self.work, module.student, trainer.optimizers[0], *held, self.background)
            self.saved = time.monotonic()
            self.save_seconds = self.saved - started
        self.began = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, StudentTraining)
        if self.background:
            self.background.wait()
        self.average.finish(module.done)
        part = module.data.part
        if part.index + 1 < part.of:
            checkpoint.save_optimizer(self.work, module.student, trainer.optimizers[0])
        if module.config.second_moments:
            export_moments(module.student, trainer.optimizers[0], self.work)

    def _count(self, module: StudentTraining, spent: float) -> dict[str, float]:
        """The step's row of metrics.csv, after adding the step to the state."""
        data = module.data
        step = data.plan[module.done - 1]
        tokens, supervised = data.documents.total(step.packs), data.documents.supervised(step.packs)
        work = self._work(data, step.packs)
        self.before, self.state = self.state, self.state.after(tokens, supervised, spent)
        return {
            "epoch": round(step.epoch, 4),
            **module.last,
            "tokens": self.state.tokens,
            "supervised_tokens": self.state.supervised_tokens,
            "tokens_per_second": round(tokens / spent, 1),
            "seconds": round(self.state.seconds, 3),
            "supervised_tokens_per_second": round(supervised / spent, 1),
            "flop_utilisation": round(work / spent / self.peak, 4),
            "memory_gb": round(memory(module.device) / 1e9, 3),
        }

    def _work(self, data: TraceData, packs: Sequence[Sequence[int]]) -> float:
        """Operations of a step: the student's forward and backward passes, and the forward passes beside them."""
        isolate, documents = data.config.packing != "packing", data.documents
        once = self.flops.step(documents, packs, isolate)
        if self.objective.looks_ahead:
            once += self.flops.forward(documents, packs, isolate)
        asked = ((t, self.objective.asked(i, packs, documents)) for i, t in enumerate(self.teachers))
        once += sum(teacher.forward(documents, theirs, isolate) for teacher, theirs in asked if theirs)
        return 2 * once if self.twice else once

    def _keep(self, module: StudentTraining, epochs: float) -> None:
        """The model as it is now, and what it took, to a folder of its own; by all ranks together."""
        folder = rung(self.work, epochs)
        folder.mkdir(parents=True, exist_ok=True)
        with self.average.in_place(module.done):
            export(module.student, module.folder, folder, module.config.adapter)
        if self.first:
            shutil.copyfile(self.work / METRICS, folder / METRICS)
            write_json(folder / FACTS, self.facts(module) | {"seconds": round(self.state.seconds, 3)})

    def facts(self, module: StudentTraining) -> dict[str, Any]:
        """Facts of the run so far, for the manifest."""
        data, done, own = module.data, self.state, module.own
        flops = sum(self._work(data, step.packs) for step in data.plan[data.start : done.step])
        if own:
            flops += self.flops.forward(data.documents, [[i] for i in own.documents], True)
        return {"attention": self.attention, "tokens": done.tokens, "supervised_tokens": done.supervised_tokens,
                "steps": done.step - data.start, "flops": flops, "final_loss": module.last["loss"],
                **(own.facts() if own else {}),
                **({"compile_seconds": round(seconds(), 1)} if module.resources.compile else {})}  # fmt: skip

    def _due(self, module: StudentTraining) -> bool:
        """Whether to save now: the first rank's clock decides for all, and whether its last checkpoint has ended."""
        idle = self.background is None or self.background.idle()
        if module.done == module.data.last:
            return False
        passed = time.monotonic() - self.saved
        interval = checkpoint_interval(self.save_seconds, module.config.checkpoint_seconds)
        due = torch.tensor(float(idle and passed >= interval), device=module.device)
        if dist.is_initialized():
            dist.broadcast(due, 0)
        return bool(due)


def rung(work: Path, epochs: float) -> Path:
    """Where a training keeps its model after this many epochs."""
    return work / RUNGS / f"{epochs:g}"


def rungs(plan: Sequence[Step], keep: Sequence[float]) -> dict[int, list[float]]:
    """By the number of steps done, the epochs of `keep` that are reached with the last of them."""
    by_steps: dict[int, list[float]] = defaultdict(list)
    for epochs in keep:
        by_steps[next(done for done, step in enumerate(plan, 1) if step.epoch >= epochs - 1e-9)].append(epochs)
    return by_steps


def checkpoint_interval(save_seconds: float | None, most: float) -> float:
    """Seconds between checkpoints: √(2 · training's time for a save · time between interruptions), at most `most`.

    That loses the least to saving and to repeated work together (Young 1974, doi 10.1145/361147.361115).
    """
    best = FIRST_SAVE if save_seconds is None else math.sqrt(2 * save_seconds * UNDISTURBED)
    return min(best, most)


def numbers(row: Mapping[str, str]) -> dict[str, float]:
    """A row of metrics.csv without the columns that were not measured at its step."""
    return {name: float(value) for name, value in row.items() if value}


def announce(name: str, data: TraceData, attention: str) -> int:
    """Say what is going to be learned, steps, tokens and what share of them is whose, and how tokens attend.

    Returns the tokens of the run.
    """
    tokens, packs = realised(data.documents, data.traces, data.packs()), len(data.packs())
    total = sum(tokens.values())
    shares = ", ".join(f"{domain} {count / total:.0%}" for domain, count in tokens.items() if count)
    full = total / (packs * data.config.sequence_length)
    steps = f"{data.last - data.start:,} steps"
    say(f"{name}: {steps}, {total:,} tokens ({shares}), packs {full:.0%} full; attention: {attention}")
    return total


def memory(device: torch.device) -> int:
    """The most bytes held so far: on the GPU, or by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return most()
