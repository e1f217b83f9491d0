"""The built wheel, in an empty environment, is the whole program: `bm run` works from it."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SHRUNK

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for source in (ROOT / "conf").rglob("*.yaml"):
        assert f"bm/conf/{source.relative_to(ROOT / 'conf')}" in inside
    for source in (ROOT / "experiments").glob("*/published.yaml"):
        assert f"bm/experiments/{source.parent.name}/published.yaml" in inside
    assert "bm/experiments/phase/law.json" in inside, "what forecasts rest on"
    assert "bm/student/tiny_ready/model.safetensors" in inside, "the demo's student"

    venv.create(tmp_path / "empty")
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "empty/bin/python", "install", "-q", "--no-compile"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", wheel], check=True)
    subprocess.run([tmp_path / "empty/bin/bm", "run", *SHRUNK, "output=here"], cwd=tmp_path, check=True)
    assert len(json.loads((tmp_path / "here/results.json").read_text())["rows"]) == 7
