"""Cheap jobs of the tiny recipe, and a folder in which their experts are trained."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import SHRUNK

CHEAP = [
    *SHRUNK,
    "~mixture",
    "merge=linear",
    "merge.interference=null",
    "evaluate.limit=4",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=8",
]


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A folder whose store has the three experts, with no run of its own yet."""
    folder = tmp_path / "trained"
    shutil.copytree(finished / "outputs/store", folder / "outputs/store")
    return folder
