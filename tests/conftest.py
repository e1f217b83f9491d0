"""The real configuration, shrunk: what tests run is what users run, with less of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BM = Path(sys.executable).with_name("bm")

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
    "branch.checkpoint_seconds=0.001",
    "evaluate.samples=2",
    "evaluate.max_new_tokens=24",
    "evaluate.resamples=200",
    "tracker.mode=disabled",
]
"""Overrides that make the tiny recipe take seconds."""

Bm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bm() -> Bm:
    """Runs the real command line in a folder and gives back what it said."""

    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BM, *words], cwd=cwd, capture_output=True, text=True, env=os.environ | {"CI": "1"})

    return run
