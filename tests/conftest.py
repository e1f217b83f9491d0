"""The real configuration, shrunk: what tests run is what users run, with less of it."""

import gc
import io
import os
import pickle
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from filelock import FileLock
from joblib.externals.loky import get_reusable_executor

from bm.cli import main
from bm.garbage import set_aside
from tests.forked import Forked, started

BM = Path(sys.executable).with_name("bm")
"""The installed command, for tests in which the process is the point: kills, locks, launchers, exit status."""

hypothesis.settings.register_profile("bm", deadline=None, max_examples=50)  # a loaded machine is no failure
hypothesis.settings.load_profile("bm")

SHRUNK = [
    *(
        f"domains.{domain}.{setting}"
        for domain in ("math", "coding", "science")
        for setting in ("traces=48", "questions=12")
    ),
    *(f"student.domains.{domain}.traces=48" for domain in ("math", "coding", "science")),
    "student.build.hidden=32",
    "student.build.intermediate=64",
    "student.build.layers=2",
    "student.build.heads=2",
    "student.build.kv_heads=1",
    "student.branch.epochs=1",
    "branch.epochs=1",
    "evaluate.samples=2",
    "evaluate.max_new_tokens=24",
    "evaluate.resamples=200",
    "tracker.mode=disabled",
]
"""Overrides that make the tiny recipe take seconds."""


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    returncode: int
    stdout: str
    stderr: str


Bm = Callable[..., Said]

LONGEST = [
    f"tests/{name}.py"
    for name in (
        "test_wheel", "branch/test_compiling", "docs/test_first_hour", "test_run", "plan/test_ram", "test_mishaps",
        "test_notebooks", "docs/test_executed", "branch/test_kinds", "branch/test_parallel",  # slow
        "verify/test_sandbox", "sweeps/test_sweep", "test_errors", "verify/test_math", "experiments/test_experiments",
        "test_commands_printed", "distill/test_answers", "plan/test_plan", "verify/test_programs",
        "test_rounds", "branch/test_training", "distill/test_worked", "test_keys", "distill/test_traces",
        "branch/test_background", "plan/test_memory", "report/pages/test_experiment",
    )
]  # fmt: skip
"""Files that compute or wait for the longest."""


def slow(*values: Any) -> Any:
    """A parameter whose test is slow: a quick one has another of the same kind."""
    return pytest.param(*values, marks=pytest.mark.slow)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no worker is left alone with one of them in the end."""
    places = {file: place for place, file in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


IMPORTED = ExitStack()
"""What was imported is no garbage: each full collection, and each training ends in one, would walk it for 0.5 s."""


def pytest_collection_finish() -> None:
    gc.collect()
    IMPORTED.enter_context(set_aside())


def command(*words: str, cwd: Path) -> Said:
    """Run the real command line in a folder, in this process: start-up costs seconds, and none of it is under test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        chdir(cwd), patch.dict(os.environ, {"CI": "1"}), patch.object(sys, "argv", ["bm", *words]),
        redirect_stdout(out), redirect_stderr(err),
    ):  # fmt: skip
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except Exception:
            traceback.print_exc()
            status = 1
    if "hydra/launcher=joblib" in words:  # joblib keeps its processes for the next sweep, and they stand in this folder
        get_reusable_executor().shutdown(wait=True)
    return Said(status, out.getvalue(), err.getvalue())


@pytest.fixture
def bm() -> Bm:
    """The real command line."""
    return command


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session", autouse=True)
def indexed(shared: Path) -> Iterator[None]:
    """lm-eval's own tasks, fourteen thousand files, are read once for all workers and all folders of own tasks."""
    if "lm_eval.tasks" not in sys.modules:
        yield
        return
    from lm_eval.tasks import manager

    build, theirs, kept = manager.TaskIndex.build, Path(manager.__file__).parent, shared / "lm_eval.pickle"

    def built(paths: Iterable[Path], **settings: Any) -> dict[str, Any]:
        folders = list(paths)
        if theirs not in folders:
            return build(folders, **settings)
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                kept.write_bytes(pickle.dumps(build([theirs], **settings)))
        own = build([folder for folder in folders if folder != theirs], **settings)
        return {**pickle.loads(kept.read_bytes()), **own}

    with patch.object(manager.TaskIndex, "build", staticmethod(built)):
        yield


@pytest.fixture(scope="session")
def forked(shared: Path) -> Forked:
    """What starts real processes in a tenth of a second, for all workers."""
    path = shared / "forked"
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    with FileLock(f"{path}.lock"):
        if not path.exists():
            started(path, session)
    return Forked(path)


@pytest.fixture(scope="session")
def finished(shared: Path) -> Path:
    """A folder in which one shrunk run has finished, for all workers. Change nothing in it: take a copy."""
    folder = shared / "finished"
    with FileLock(f"{folder}.lock"):  # the first worker that needs it makes it
        if not (folder / "outputs/result/results.json").exists():
            folder.mkdir(exist_ok=True)
            said = command("run", *SHRUNK, "output=outputs/result", cwd=folder)
            assert said.returncode == 0, said.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run for the tests of one file."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("copy") / "finished"))
