"""What a run shows while it goes: metrics.csv, the tracker, the progress bar; and the checkpoints by the clock."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from bm.branch import checkpoint
from bm.branch.checkpoint import State
from bm.branch.module import Sft
from bm.branch.tracking import Tracked
from bm.progress import Bar

COLUMNS = ("step", "epoch", "loss", "gradient_norm", "learning_rate", "tokens", "supervised_tokens", "tokens_per_second", "seconds")


class Metrics:
    """metrics.csv: one row an optimiser step; rows past the checkpoint that a run resumes from are taken back."""

    def __init__(self, path: Path, done: int) -> None:
        kept = list(csv.DictReader(path.open()))[:done] if path.exists() else []
        self._file = path.open("w", newline="", buffering=1)
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._writer.writerows(kept)

    def add(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow(row)

    def close(self) -> None:
        self._file.close()


class Watch(L.Callback):
    """Takes up where an interrupted run stood; counts, writes and shows every step; saves a checkpoint by the clock."""

    def __init__(self, work: Path, state: State, tracked: Tracked, bar: Bar) -> None:
        self.work, self.state, self.tracked, self.bar = work, state, tracked, bar
        self.metrics = Metrics(work / "metrics.csv", state.step)
        self.step_began = self.saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, Sft)
        if self.state.step:
            checkpoint.load(self.work, module.student, trainer.optimizers[0])
            module.done = self.state.step
        self.step_began = self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, Sft)
        epoch, packs = module.data.plan[module.done - 1]
        tokens, supervised = module.data.documents.total(packs), module.data.documents.supervised(packs)
        now = time.monotonic()
        spent, self.step_began = now - self.step_began, now
        self.state = self.state.after(tokens, supervised, spent)
        row = {"epoch": round(epoch, 4), **module.last, "tokens": self.state.tokens, "supervised_tokens": self.state.supervised_tokens,
               "tokens_per_second": round(tokens / spent, 1), "seconds": round(self.state.seconds, 3)}  # fmt: skip
        self.metrics.add({"step": module.done, **row})
        self.tracked.log(row, module.done)
        self.bar.advance(tokens, f"loss {module.last['loss']:.3f}")
        if now - self.saved >= module.config.checkpoint_seconds and module.done < len(module.data.plan):
            checkpoint.save(self.work, module.student, trainer.optimizers[0], self.state)
            self.saved = self.step_began = time.monotonic()
