"""The trackers to choose from: each a function of what the run is and of the settings in `conf/tracker/`."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bm.config import Component
from bm.errors import UserError
from bm.track.about import GROUP, About, Backend, LoggedTable, Reference

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger


PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
"""By tracker, the package that it needs and that `pip install bm` does not bring."""


def check(tracker: Component) -> None:
    """UserError for a tracker whose package is not installed."""
    module, _, name = tracker.target.rpartition(".")
    if module == __name__ and name in PACKAGES and find_spec(PACKAGES[name]) is None:
        raise UserError(f"tracker={name} needs the package {PACKAGES[name]}: pip install 'bm[{name}]'")


def nobody(about: About) -> None:
    """Local files alone."""


def weights_and_biases(
    about: About,
    mode: Literal["offline", "online", "disabled"],
    dir: Path,  # noqa: A002
    project: str,
    group: str | None,
    tags: Sequence[str],
) -> Backend | None:
    """Weights & Biases, its files below `dir`/wandb."""
    from bm.track.wandb_run import WandbRun

    if mode == "disabled":
        return None
    return WandbRun(about, dir, project, about.group or group or os.environ.get(GROUP), list(tags), mode)


def csv(about: About, dir: Path) -> Backend:  # noqa: A002
    """`dir`/csv/<key>: metrics.csv and hparams.yaml."""
    from lightning.pytorch.loggers import CSVLogger

    return Metrics(about, CSVLogger(dir, "csv", about.key))


def tensorboard(about: About, dir: Path) -> Backend:  # noqa: A002
    """`dir`/tensorboard/<key>, for `tensorboard --logdir`; what an earlier attempt logged is logged anew."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return Metrics(about, TensorBoardLogger(dir, "tensorboard", about.key, default_hp_metric=False, purge_step=0))


def mlflow(about: About, uri: str, experiment: str | None) -> Backend:
    """A run of an MLflow server or database, found again by its tag `bm.key`; experiment: null, `bm`."""
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.tracking import MlflowClient

    experiment, client = experiment or "bm", MlflowClient(uri)
    place = client.get_experiment_by_name(experiment)
    runs = client.search_runs([place.experiment_id], f"tags.`bm.key` = '{about.key}'") if place else []
    known = runs[0].info.run_id if runs else None
    tags = {"bm.key": about.key, "bm.job": about.job, "bm.group": about.group or os.environ.get(GROUP, "")}
    logged = client.get_metric_history(known, "loss") if known else []
    held = frozenset(metric.step for metric in logged)
    return Metrics(about, MLFlowLogger(experiment, about.name, uri, tags, run_id=known), held)


class Metrics:
    """One of Lightning's loggers, which keep settings and metrics; tables, figures and lineage are in local files."""

    def __init__(self, about: About, logger: "Logger", held: frozenset[int] = frozenset()) -> None:
        self.held, self._logger, self._last = held, logger, 0
        logger.log_hyperparams(dict(about.settings))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._logger.log_metrics(dict(values), step)
        self._last = step

    def summarise(self, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), self._last)

    def table(self, name: str, table: LoggedTable) -> None: ...
    def figure(self, name: str, file: Path) -> None: ...
    def uses(self, artefacts: Sequence[Reference]) -> None: ...
    def makes(self, artefacts: Sequence[Reference]) -> None: ...

    def finish(self, failed: bool) -> list[str]:
        self._logger.finalize("failed" if failed else "success")
        return []
