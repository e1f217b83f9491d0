"""Sweeps as users type them: killed, repeated, with bad cells, and through each launcher."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bm.store import Store
from bm.sweeps.jobs import outcome
from bm.track.wandb_log import ended, held
from tests.conftest import Bm
from tests.forked import Forked
from tests.sweeps.conftest import CHEAP

LAMS = ["-1", "0.1", "0.5", "1.5", "2.5"]
DEVICES = [*["cpu"] * 4, "cuda:99"]
FIVE = [
    "run", "-m", *CHEAP, "merge=arcee_fusion",
    f"merge.methods.arcee_fusion.lam={','.join(LAMS)}", f"merge.device={','.join(DEVICES)}",
    "hydra.sweeper.zip=[[merge.methods.arcee_fusion.lam,merge.device]]",
]  # fmt: skip
"""Five merges of three experts: the first has settings that are refused, the last a device that no machine has."""


def jobs(folder: Path) -> dict[str, dict[str, Any]]:
    """What each job of the sweeps in `folder` left, by the name of its folder."""
    files = sorted(folder.glob("outputs/sweeps/*/*/job.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in files}


def results(folder: Path) -> set[Path]:
    return set(folder.glob("outputs/runs/*/results.json"))


@pytest.mark.slow
def test_killed_a_sweep_goes_on_and_two_bad_cells_leave_three_results(trained: Path, bm: Bm, forked: Forked) -> None:
    forked.killed(["bm", *FIVE], "[*Path('outputs/runs').glob('*/done.json')]", cwd=trained)
    before = {path.parent: path.stat().st_mtime_ns for path in trained.glob("outputs/runs/*/done.json")}
    said = bm(*FIVE, cwd=trained)

    assert said.returncode == 1, said.stderr
    states = Counter(job["state"] for job in jobs(trained).values())
    assert states == {"done": 3 - len(before), "kept": len(before), "failed": 2}
    assert len(results(trained)) == 3
    assert all((folder / "done.json").stat().st_mtime_ns == when for folder, when in before.items())
    refused, crashed = sorted(
        trained.glob("outputs/sweeps/*/*/traceback.txt"), key=lambda path: "lam=-1" not in str(path)
    )
    assert "greater than or equal to 0" in refused.read_text()
    assert "Traceback (most recent call last)" in crashed.read_text()
    assert "2 of 5 jobs did not succeed" in said.stderr
    assert said.stdout.count("outputs/runs/tiny-") == 3
    assert said.stdout.count("failed") == 2
    labels = [artefact.label for artefact in Store(trained / "outputs/store").all()
              if artefact.manifest["stage"] == "branch"]  # fmt: skip
    assert Counter(labels) == {"tiny": 1, "math": 1, "coding": 1, "science": 1, "mixture": 1}

    again = bm(*FIVE, cwd=trained)
    assert again.returncode == 1
    assert Counter(job["state"] for job in jobs(trained).values()) == {"kept": 3, "failed": 2}
    assert "\nkept   lam=0.1" in again.stderr


WORKER = """
import os, time
from pathlib import Path
from joblib import Parallel, delayed
from bm.sweeps.jobs import _end_with_sweep

def job(number):
    _end_with_sweep()
    Path(f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(600)

Parallel(n_jobs=2)(delayed(job)(number) for number in range(2))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise")
def test_jobs_side_by_side_end_with_a_sweep_that_is_killed(tmp_path: Path, forked: Forked) -> None:
    started = "all(Path(f'{n}.pid').exists() and Path(f'{n}.pid').read_text() for n in range(2))"
    forked.killed(["-c", WORKER], started, cwd=tmp_path)
    pids = [int((tmp_path / f"{number}.pid").read_text()) for number in range(2)]
    while any(runs(pid) for pid in pids):  # forever, and so to the time limit, if one goes on
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_what_is_to_be_made_afresh_is_not_kept(trained: Path, bm: Bm) -> None:
    words = ["run", "-m", *CHEAP, "seed=42"]
    assert "1 jobs, 1 to run" in bm(*words, cwd=trained).stderr
    assert "1 jobs, 0 to run" in bm(*words, cwd=trained).stderr
    said = bm(*words, "fresh=[merge]", cwd=trained)
    assert "1 jobs, 1 to run" in said.stderr
    [made] = [line for line in said.stderr.splitlines() if line.startswith("merge ")]
    assert "kept" not in made


def test_stop_begins_no_job_after_one_that_failed(trained: Path, bm: Bm) -> None:
    words = ["merge.device=cuda:99,cpu", "merge.seed=1", "hydra.sweeper.on_error=stop"]
    said = bm("run", "-m", *CHEAP, *words, cwd=trained)
    assert said.returncode == 1
    states = {name.partition("-")[0]: job["state"] for name, job in jobs(trained).items() if name.startswith("device")}
    assert states == {"device=cuda99": "failed", "device=cpu": "stopped"}
    assert "1 of 2 jobs did not succeed, and 1 did not begin; rerun the command" in said.stderr


def test_stop_begins_no_job_where_the_settings_of_one_are_refused(tmp_path: Path, bm: Bm) -> None:
    words = ["merge.methods.linear.weights=[1,1,1],x", "hydra.sweeper.on_error=stop"]
    said = bm("run", "-m", *CHEAP, *words, cwd=tmp_path)
    assert said.returncode == 1, said.stderr
    assert sorted(job["state"] for job in jobs(tmp_path).values()) == ["failed", "stopped"]
    assert not (tmp_path / "outputs/store").exists()


def test_a_mistake_in_every_cell_is_one_line(tmp_path: Path, bm: Bm) -> None:
    said = bm("run", "-m", "seed=1,2", "merge.methods.linear.wieghts=1", cwd=tmp_path)
    assert (said.returncode, said.stderr.strip().count("\n")) == (2, 0), said.stderr
    assert "did you mean 'merge.methods.linear.weights'?" in said.stderr
    assert not (tmp_path / "outputs/store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_other_processes_run_jobs_and_tell_of_failures(trained: Path, bm: Bm, launcher: str) -> None:
    words = [f"hydra/launcher={launcher}", "merge.seed=2,3", "merge.device=cpu,cuda:99",
             "hydra.sweeper.zip=[[merge.seed,merge.device]]"]  # fmt: skip
    runs, sweeps = results(trained), set(trained.glob("outputs/sweeps/*"))
    said = bm("run", "-m", *CHEAP, *words, cwd=trained)
    assert said.returncode == 1, said.stderr
    assert len(results(trained) - runs) == 1
    (sweep,) = set(trained.glob("outputs/sweeps/*")) - sweeps
    assert {json.loads(p.read_text())["state"] for p in sweep.glob("*/job.json")} == {"done", "failed"}
    assert "Traceback" in next(sweep.glob("*cuda*/traceback.txt")).read_text()


def test_a_job_whose_process_left_nothing_is_lost(tmp_path: Path) -> None:
    assert outcome(tmp_path / "job").state == "lost"


def test_jobs_share_the_cores(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from bm.sweeps.jobs import _share_cores;"
        "_share_cores(2, Path(sys.argv[1])); import torch;"
        "print(sorted(os.sched_getaffinity(0)), torch.get_num_threads(), flush=True); input()"
    )
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-c", script, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]
    told = [process.stdout.readline().rsplit(" ", 1) for process in running]
    for process in running:
        process.communicate("\n")
    shares = [json.loads(share) for share, _ in told]
    assert sum(int(threads) for _, threads in told) <= max(2, len(cores))
    if len(cores) > 1:
        assert sorted(shares[0] + shares[1]) == cores


def test_mixtures_are_swept_by_ratio_and_by_domain(trained: Path, bm: Bm) -> None:
    def mixtures() -> list[Any]:
        models = [a for a in Store(trained / "outputs/store").all()
                 if (a.manifest["stage"], a.label) == ("branch", "mixture")]  # fmt: skip
        return [(a.manifest["config"]["ratio"], len(a.manifest["inputs"]) - 1) for a in models]

    words = [word for word in CHEAP if word != "~mixture" and not word.startswith(("merge", "output"))]
    said = bm("branch", "-m", *words, "mixture=proportional", "mixture.ratio.math=0.5,1.5", cwd=trained)
    assert said.returncode == 0, said.stderr
    said = bm("branch", "-m", *words, "mixture=leave_one_out", "mixture.leave_out=math,coding", cwd=trained)
    assert said.returncode == 0, said.stderr
    assert mixtures() == [({}, 3), ({"math": 0.5}, 3), ({"math": 1.5}, 3), ({}, 2), ({}, 2)]


@pytest.mark.slow
def test_wandb_agrees_on_four_cells_of_which_two_fail(trained: Path, bm: Bm) -> None:
    """Two runs that ended well and two that failed, in one group, each with the settings of its cell."""
    seeds, devices = ",".join(str(seed) for seed in range(20, 24)), ",".join(["cpu"] * 2 + ["cuda:99"] * 2)
    runs, sweeps = results(trained), set(trained.glob("outputs/sweeps/*"))
    said = bm("run", "-m", *CHEAP, "tracker.mode=offline", f"merge.seed={seeds}", f"merge.device={devices}",
              "hydra.sweeper.zip=[[merge.seed,merge.device]]", cwd=trained)  # fmt: skip
    assert said.returncode == 1 and "tracker:" not in said.stderr
    assert len(results(trained) - runs) == 2
    (sweep,) = set(trained.glob("outputs/sweeps/*")) - sweeps
    assert len(list(sweep.glob("*/traceback.txt"))) == 2
    logged = [held([file], "round") for file in trained.glob("outputs/wandb/offline-run-*/*.wandb") if ended(file)]
    kept = [run for run in logged if run.about["group"] == sweep.name]
    assert {(run.config["merge"]["seed"], run.exits[-1]) for run in kept} == {
        (seed, int(seed >= 22)) for seed in range(20, 24)
    }
    assert all(("merge/mean" in run.summary) == (run.exits == [0]) for run in kept)


def test_ray_runs_jobs(trained: Path, bm: Bm) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'bm[ray]'")
    said = bm("run", "-m", *CHEAP, "hydra/launcher=ray", "merge.seed=6,7", cwd=trained)
    assert said.returncode == 0, said.stderr
