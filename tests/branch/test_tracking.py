"""What W&B holds of a training, read back from its files: whole, killed and taken up, failed, and out of order."""

import csv
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bm.branch import Traces, train
from bm.branch.launch import Job
from bm.errors import UserError
from bm.store import digest, write_json
from bm.track.wandb_log import Held, ended, held, logs
from tests.branch.conftest import branch, tracker, trainer
from tests.forked import Forked


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """W&B's process knows a run by its key for a while after its end."""
    return digest(request.node.name.encode())[:16]


def trained(student: Path, traces: list[Traces], work: Path, dir: Path, key: str) -> dict[str, Any]:  # noqa: A002
    work.mkdir(exist_ok=True)
    return train(student, traces, branch(), trainer(), tracker(mode="offline", dir=str(dir)), "math", key, work)


def rows(work: Path) -> list[dict[str, str]]:
    with (work / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(folder: Path, key: str) -> Held:
    files = logs(folder, key)
    assert ended(files[-1])
    return held(files, "step")


def same(history: dict[int, dict[str, Any]], table: list[dict[str, str]]) -> bool:
    """Whether every value of metrics.csv is in the history, and no step more."""
    wanted = {int(row["step"]): {name: float(value) for name, value in row.items() if value} for row in table}
    return history.keys() == wanted.keys() and all(
        {name: history[step].get(name) for name in row} == row for step, row in wanted.items()
    )


def test_everything_is_in_the_offline_file(
    student: Path, traces: list[Traces], tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(traces[0].path.parent / "manifest.json", {"stage": "distill", "key": "aa", "label": "math train"})
    facts = trained(student, traces, tmp_path / "work", tmp_path / "outputs", key)
    run = logged(tmp_path / "outputs", key)
    assert same(run.rows, rows(tmp_path / "work")) and len(run.rows) == facts["steps"]
    assert run.about == {"id": key, "name": "math", "project": "bm", "group": "trainings", "job type": "branch",
                         "tags": []}  # fmt: skip
    assert run.config["branch"]["batch"] == 2 and run.config["trainer"]["accelerator"] == "cpu"
    assert run.axes["loss"] == run.axes["held_out_*"] == "tokens" and run.axes["*"] == "step"
    assert (run.used, run.made, run.exits) == ({"bm:distill/aa"}, {f"bm:branch/{key}"}, [0])
    assert not (tmp_path / "work" / "wandb").exists()
    assert "tracker" not in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_taken_up_it_is_one_run_without_a_hole(
    student: Path, traces: list[Traces], tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str], forked: Forked
) -> None:
    """kill -9 of a real process in mid-training, its last records with it; then the same again to the end."""
    (work := tmp_path / "work").mkdir()
    config, outputs = branch(epochs=6, checkpoint_seconds=0.001), tmp_path / "outputs"
    to = tracker(mode="offline", dir=str(outputs))
    job = Job(student, tuple(traces), config, trainer(), to, "math", key, work)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}  # not our service
    words = ["-m", "bm.branch", job.write()]
    forked.killed(words, f"lines({str(work / 'metrics.csv')!r}) > 9", env={**alone, "CI": "1"})
    [first] = logs(outputs, key)
    time.sleep(1)  # W&B's own process is left behind, notices, and ends too
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) * 3 // 4])
    before = held([first], "step")
    assert not before.exits
    (work / ".job.json").unlink()
    train(student, traces, config, trainer(), to, "math", key, work)
    run = logged(outputs, key)
    assert len(logs(outputs, key)) == 2 and len(before.rows) < len(run.rows)
    assert same(run.rows, rows(work))
    assert run.exits[-1] == 0 and "tracker" not in capsys.readouterr().err


def test_a_failed_run_is_failed_there(
    student: Path, traces: list[Traces], tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bm.branch.module.clip", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(UserError, match="gradient norm inf"):
        trained(student, traces, tmp_path / "work", tmp_path / "outputs", key)
    assert logged(tmp_path / "outputs", key).exits == [1]


def test_a_broken_tracker_does_not_stop_the_run(
    student: Path, traces: list[Traces], tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    facts = trained(student, traces, tmp_path / "work", tmp_path / "file", key)
    assert facts["steps"] == len(rows(tmp_path / "work"))
    assert "the run continues" in capsys.readouterr().err
