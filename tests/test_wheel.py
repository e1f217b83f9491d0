"""The built wheel, in an empty environment, is the whole program: `bm run` works from it."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import SHRUNK

ROOT = Path(__file__).parent.parent


def needed(package: Distribution, extras: Iterable[str] = ()) -> set[tuple[str, frozenset[str]]]:
    """What a package requires on this machine by its own metadata: names, with their extras."""
    asked = [Requirement(line) for line in package.requires or ()]
    return {
        (canonicalize_name(one.name), frozenset(one.extras))
        for one in asked
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    }


def linked(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, to)
    except OSError:  # on another disk
        shutil.copyfile(file, to)


def installed(wheel: Path, environment: Path) -> None:
    """A wheel, and what it requires, directly or not, and nothing else; the files of that are linked from here."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment / "bin/python"]
    subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    (information,) = packages.glob("bm-*.dist-info")
    todo, there = needed(Distribution.at(information)), set[tuple[str, frozenset[str]]]()
    while todo:
        name, extras = todo.pop()
        there.add((name, extras))
        todo |= needed(distribution(name), extras) - there
    for name in {name for name, _ in there}:
        for file in distribution(name).files or ():
            if ".." not in file.parts and Path(file.locate()).exists():
                linked(Path(file.locate()), packages / file)


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
    installed(wheel, tmp_path / "empty")
    subprocess.run([tmp_path / "empty/bin/bm", "run", *SHRUNK, "output=here"], cwd=tmp_path, check=True)
    assert len(json.loads((tmp_path / "here/results.json").read_text())["rows"]) == 7
