"""Cheap jobs of the tiny recipe, and a folder in which their experts are trained."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import BM, SHRUNK

CHEAP = [
    *SHRUNK,
    *(f"domains.{domain}.questions=4" for domain in ("math", "coding", "science")),
    "~mixture",
    "merge=linear",
    "merge.interference=null",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=8",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store has the three experts, from a run of its own."""
    folder = tmp_path_factory.mktemp("trained")
    subprocess.run([BM, "run", *CHEAP], cwd=folder, check=True)
    return folder
