"""Weights & Biases beside the local files: offline unless told, and never a reason for a run to fail."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from bm.config import Tracker
from bm.progress import say


class Tracked:
    """One run at the tracker, found again by its key; the first failure is told and ends the tracking, not the run."""

    def __init__(self, tracker: Tracker, name: str, key: str, settings: Mapping[str, Any]) -> None:
        self._logger: WandbLogger | None = None
        if tracker.mode != "disabled" and os.environ.get("RANK", "0") == "0":
            self._attempt(lambda: self._begin(tracker, name, key, settings))

    def _begin(self, tracker: Tracker, name: str, key: str, settings: Mapping[str, Any]) -> None:
        import wandb

        tracker.dir.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True,
                               save_code=False, disable_job_creation=True)  # fmt: skip
        run = wandb.init(name=name, id=key, project=tracker.project, dir=tracker.dir, tags=list(tracker.tags),
                         mode=tracker.mode, resume="allow", settings=quiet, reinit="create_new")  # fmt: skip
        logger = WandbLogger(experiment=run)
        logger.log_hyperparams(dict(settings))
        self._logger = logger

    def log(self, values: Mapping[str, float], step: int) -> None:
        if (logger := self._logger) is not None:
            self._attempt(lambda: logger.log_metrics(dict(values), step=step))

    def __enter__(self) -> "Tracked":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if (logger := self._logger) is not None:
            self._attempt(lambda: logger.experiment.finish(exit_code=int(kind is not None)))

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as problem:
            say(f"[yellow]W&B:[/] {problem}; the run goes on, metrics.csv has everything")
            self._logger = None
