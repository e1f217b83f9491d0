"""The other trackers, by their settings in conf/: metrics and settings are there, after a second attempt too."""

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest

from bm.config import Component
from bm.track import tracked
from tests.track.conftest import KEY, about, tracker


def twice(to: Component) -> None:
    """A run that stops after step 3, and is taken up at step 2."""
    with pytest.raises(KeyboardInterrupt), tracked(to, about()) as run:
        for step in (1, 2, 3):
            run.log({"loss": 1 / step}, step)
        raise KeyboardInterrupt
    with tracked(to, about()) as run:
        run.catch_up([(1, {"loss": 1.0}), (2, {"loss": 0.5})])
        run.log({"loss": 0.25}, 3)
        run.summarise({"best": 0.75})


def test_nobody() -> None:
    twice(tracker("none"))


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_csv(tmp_path: Path) -> None:
    twice(tracker("csv", dir=str(tmp_path)))
    with (tmp_path / "csv" / KEY / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    assert [(row["step"], float(row["loss"])) for row in rows] == [("1", 1.0), ("2", 0.5), ("3", 0.25)]
    assert "batch: 2" in (tmp_path / "csv" / KEY / "hparams.yaml").read_text()


@pytest.mark.skipif(not (find_spec("tensorboard") or find_spec("tensorboardX")), reason="needs tensorboard")
def test_tensorboard(tmp_path: Path) -> None:
    twice(tracker("tensorboard", dir=str(tmp_path)))
    events = sorted((tmp_path / "tensorboard" / KEY).glob("events.*"))
    assert events and any(b"loss" in file.read_bytes() for file in events)


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra bm[mlflow]")
def test_mlflow(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    twice(tracker("mlflow", uri=uri, experiment="tests"))
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {1: 1.0, 2: 0.5, 3: 0.25} and run.data.tags["bm.key"] == KEY
