"""Every extra can be had from the package index, at a version that its bounds allow."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.slow
@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_can_be_had(extra: str) -> None:
    """Its own packages, not what they need in turn; skipped where there is no index."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run(
        [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed", "-q", "six"], capture_output=True
    ).returncode:
        pytest.skip("no package index")
    dry = [*pip, "install", "--dry-run", "--no-deps", "--ignore-installed", "-q", *EXTRAS[extra]]
    said = subprocess.run(dry, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
