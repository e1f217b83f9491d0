"""One job of a sweep, in whatever process its launcher runs it: done, or failed with its traceback in its folder."""

import json
import os
import time
import traceback
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from bm import finished
from bm.errors import UserError
from bm.progress import say, say_where
from bm.store import write_json

JOB, TRACEBACK, STOPPED = "job.json", "traceback.txt", "stopped"
SUMMARY = "summary.txt"
"""What a run shows of its results, beside its page."""


class JobError(Exception):
    """What a launcher and a sweeper see of a job that raised: plain text, which any process can send to any other."""


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job; on disk in its folder, since jobs may run on other machines or be killed."""

    state: Literal["done", "kept", "failed", "stopped", "lost"]
    """kept: an earlier run had done it; stopped: another job failed first; lost: its process ended without a word."""
    seconds: float
    folder: str
    """Where its results are; of a job that failed, its traceback."""
    mean: float | None = None
    """The mean score of the best merge."""
    error: str = ""


def perform(stage: str, composed: DictConfig) -> float | None:
    """Run a stage with its composed configuration; in a sweep an exception is a `JobError`, and others continue."""
    from bm.track import GROUP

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        done = finished.find(composed) if stage == "run" else None
        return _shown(composed, done) if done else _command(stage, composed)[0]
    folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.sweep.dir)
    stops = hydra.sweeper.get("on_error") == "stop"
    if stops and (sweep / STOPPED).exists():
        record(folder, JobOutcome("stopped", 0.0, str(folder)))
        return None
    _end_with_sweep()
    _share_cores(hydra.launcher.get("n_jobs"), sweep)
    os.environ[GROUP] = sweep.name  # for the runs of trainings too, whichever process does them
    started = time.monotonic()
    say(escape(f"\njob {hydra.job.num + 1}  {folder.name}"))
    try:
        mean, home = _command(stage, composed)
    except Exception as problem:
        failed(folder, problem, time.monotonic() - started)
        if stops:
            (sweep / STOPPED).touch()
        raise JobError(f"{folder.name}: {_line(problem)}") from None
    record(folder, JobOutcome("done", time.monotonic() - started, str(home or folder), mean))
    return mean


def failed(folder: Path, problem: Exception, seconds: float = 0.0) -> None:
    """Leave in a job's folder what it raised."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRACEBACK).write_text("".join(traceback.format_exception(problem)))
    record(folder, JobOutcome("failed", seconds, str(folder), error=_line(problem)))
    say(escape(f"failed  {folder.name}: {_line(problem)}"))


def record(folder: Path, outcome: JobOutcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB, asdict(outcome))


def outcome(folder: Path) -> JobOutcome:
    """What became of the job of a folder."""
    path = folder / JOB
    return JobOutcome(**json.loads(path.read_text())) if path.exists() else JobOutcome("lost", 0.0, str(folder))


def _command(stage: str, composed: DictConfig) -> tuple[float | None, Path | None]:
    """What a stage returns, and where a run's results are."""
    from bm import commands, runs

    began, config = time.time(), settings(stage, composed)
    result = getattr(commands, stage)(config)
    if stage != "run":
        return result, None
    home = runs.folder_of(config)
    finished.note(composed, began, home, result, runs.rests_on(config))
    return result, home


def _shown(composed: DictConfig, done: Mapping[str, Any]) -> float | None:
    """What a run said when it ended that has nothing to do now."""
    home, mean = Path(done["home"]), done["mean"]
    print((home / "report" / SUMMARY).read_text())
    say("nothing to do: nothing that this run depends on has changed")
    say_where(home, Path(composed.paths.outputs) / "store")
    return None if mean is None else float(mean)


def settings(stage: str, composed: DictConfig) -> Any:
    """The typed settings of a stage; UserError for the first one that is wrong."""
    from bm import commands
    from bm.config import load

    return load(typing.get_type_hints(getattr(commands, stage))["config"], composed)


def _line(problem: Exception) -> str:
    """An exception in one line."""
    first = (str(problem).strip().splitlines() or [""])[0]
    return first if isinstance(problem, UserError) else f"{type(problem).__name__}: {first}"


def _end_with_sweep() -> None:
    """A process that joblib started for a sweep ends when the sweep is killed."""
    if parent_process() is not None:
        from bm.branch.launch import end_with_parent

        end_with_parent()


_mine: list[FileLock] = []
"""The lock on this process's share of the cores, held as long as it lives."""


def _share_cores(jobs: int | None, sweep: Path) -> None:
    """Give this process its share of the machine's cores, where the launcher (joblib) runs several jobs at a time.

    Everything in `bm` uses the cores that its process may use, and torch is told. A share is held through a lock, so
    two processes of a sweep do not crowd one core while another is idle.
    """
    cores = sorted(os.sched_getaffinity(0))
    if jobs is None or _mine:
        return
    shares = min(len(cores), jobs if jobs > 0 else max(1, len(cores) + 1 + jobs))
    for share in range(shares):
        lock = FileLock(sweep / f".cores-{share}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _mine.append(lock)
        os.sched_setaffinity(0, cores[share::shares])
        break
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)) if _mine else 1)
