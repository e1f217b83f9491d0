"""W&B's own files, read back: all that was told is there; what is lost or changed is told in one line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bm.track import LoggedTable, Reference, Tracked, tracked
from bm.track.wandb_log import Held, ended, held, logs
from tests.conftest import Bm
from tests.track.conftest import KEY, about, wandb

KILLED = """
import os, signal, sys, time
from pathlib import Path
from bm.track import tracked
from tests.conftest import Bm
from tests.track.conftest import about, wandb
with tracked(wandb(Path(sys.argv[1])), about()) as run:
    for step in range(1, 13):
        run.log({"loss": 1 / step, "tokens": 100 * step}, step)
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def logged(folder: Path, key: str) -> Held:
    files = logs(folder, key)
    assert ended(files[-1])
    return held(files, "step")


def told(run: Tracked, folder: Path) -> None:
    for step in range(1, 4):
        run.log({"loss": 1 / step, "tokens": 100 * step, "never": float("nan")}, step)
    run.uses([Reference("distill", "aa", "math train")])
    run.makes([Reference("branch", "bb", "math")])
    Image.new("RGB", (4, 4)).save(folder / "figure.png")
    run.figure("figure", folder / "figure.png")
    run.table("scores", LoggedTable(["model", "score"], [["math", 0.5], ["coding", None]]))
    run.summarise({"best": 0.75})


def test_everything_told_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracked(wandb(tmp_path, tags=["a"]), about("a1", group="table2")) as run:
        told(run, tmp_path)
    it = logged(tmp_path, "a1")
    assert it.about == {"id": "a1", "name": "math", "project": "bm", "group": "table2", "job type": "branch",
                        "tags": ["a"]}  # fmt: skip
    assert it.rows[2]["loss"] == 0.5 and it.rows[3]["never"] == "NaN" and it.config["branch"]["warmup"] is None
    assert it.axes == {"*": "step", "loss": "tokens"} and it.summary["best"] == 0.75
    assert (it.used, it.made, it.exits) == ({"bm:distill/aa"}, {"bm:branch/bb"}, [0])
    assert it.media.keys() == {"figure", "scores"}
    assert "tracker" not in capsys.readouterr().err


def test_what_is_lost_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step, a table's file and the exit status that W&B has otherwise than they were told."""
    whole = held

    def robbed(files: Any, step: str) -> Held:
        it = whole(files, step)
        it.rows.pop(2, None)
        it.media.pop("scores", None)
        it.exits = [3]
        return it

    with tracked(wandb(tmp_path), about("a2")) as run:
        told(run, tmp_path)
        monkeypatch.setattr("bm.track.wandb_run.held", robbed)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "rows: step 2" in said and "media: scores" in said and "exit status is [3], not [0]" in said


def test_killed_and_taken_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kill -9 with the last records not on disk; the run taken up at step 11 has no hole and is one run."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}  # not our service
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], env={**alone, "PYTHONPATH": os.getcwd()})
    assert killed.returncode == -9
    [first] = logs(tmp_path, KEY)
    first.write_bytes(first.read_bytes()[: first.stat().st_size * 3 // 4])
    before = held([first], "step")
    assert not before.exits and len(before.rows) < 10
    with tracked(wandb(tmp_path), about()) as run:
        run.catch_up((step, {"loss": 1 / step, "tokens": 100 * step}) for step in range(1, 11))
        for step in range(11, 16):
            run.log({"loss": 1 / step, "tokens": 100 * step}, step)
    it = logged(tmp_path, KEY)
    assert len(logs(tmp_path, KEY)) == 2
    assert {step: row["loss"] for step, row in it.rows.items()} == {step: 1 / step for step in range(1, 16)}
    again = held(logs(tmp_path, KEY)[1:], "step")
    assert again.rows.keys() == set(range(1, 16)) - before.rows.keys(), "only what was lost is logged anew"
    assert "tracker" not in capsys.readouterr().err


def test_an_exception_marks_the_run_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), tracked(wandb(tmp_path), about("a3")):
        raise ZeroDivisionError
    assert logged(tmp_path, "a3").exits == [1]


def test_disabled_leaves_nothing(tmp_path: Path) -> None:
    with tracked(wandb(tmp_path / "none", mode="disabled"), about("a4")) as run:
        run.log({"loss": 1.0}, 1)
    assert not (tmp_path / "none").exists()


def test_a_bad_cell_of_a_sweep_is_a_failed_run_and_a_mistake_alone_is_none(tmp_path: Path, bm: Bm) -> None:
    """Refused before anything is made: of a sweep, W&B knows it too; by itself, it leaves nothing."""
    bad = "merge.order='(math & sciense) & coding'"
    assert bm("run", bad, cwd=tmp_path).returncode == 2 and not (tmp_path / "outputs").exists()
    assert bm("run", "-m", bad, "seed=1,2", cwd=tmp_path).returncode != 0
    files = sorted((tmp_path / "outputs" / "wandb").glob("offline-run-*/*.wandb"))
    runs = [held([file], "round") for file in files if ended(file)]
    assert [run.exits for run in runs] == [[1], [1]]
    assert len({run.about["group"] for run in runs}) == 1 and all(run.about["group"] for run in runs)
