"""Weights & Biases beside the local files: offline unless told, and never a reason for a run to fail."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from bm.config import Tracker
from bm.progress import say


class Tracked:
    """One run at the tracker, found again by its key; the first failure is told and ends the tracking, not the run."""

    def __init__(self, tracker: Tracker, name: str, key: str, settings: Mapping[str, Any]) -> None:
        self._logger: WandbLogger | None = None
        if tracker.mode != "disabled":
            self._attempt(lambda: self._begin(tracker, name, key, settings))

    def _begin(self, tracker: Tracker, name: str, key: str, settings: Mapping[str, Any]) -> None:
        import wandb

        tracker.dir.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True,
                               save_code=False, disable_job_creation=True)  # fmt: skip
        logger = WandbLogger(name=name, id=key, project=tracker.project, save_dir=tracker.dir, tags=list(tracker.tags),
                             mode=tracker.mode, settings=quiet, reinit="create_new")  # fmt: skip
        logger.log_hyperparams(dict(settings))
        self._logger = logger

    def log(self, values: Mapping[str, float], step: int) -> None:
        if (logger := self._logger) is not None:
            self._attempt(lambda: logger.log_metrics(dict(values), step=step))

    def finish(self, failed: bool) -> None:
        if (logger := self._logger) is not None:
            self._attempt(lambda: logger.experiment.finish(exit_code=int(failed)))

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except Exception as problem:
            say(f"[yellow]W&B:[/] {problem}; the run goes on, metrics.csv has everything")
            self._logger = None
