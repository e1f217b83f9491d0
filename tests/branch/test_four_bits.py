"""QLoRA with bitsandbytes itself, whose kernels run on CPUs too, in a process that finds it: no environment has it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from bm.branch import Traces

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture(scope="module")
def bitsandbytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, out of the wheel that the extra `gpu` would install; skips where there is no index."""
    folder = tmp_path_factory.mktemp("bitsandbytes")
    (wanted,) = (requirement for requirement in EXTRAS["gpu"] if requirement.startswith("bitsandbytes"))
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "--disable-pip-version-check", "-d", folder]
    if (asked := subprocess.run([*pip, wanted], capture_output=True, text=True)).returncode:
        pytest.skip(f"no bitsandbytes: {asked.stderr.splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # what it has for GPUs is large
        archive.extractall(folder, [n for n in archive.namelist() if not n.endswith(".so") or n.endswith("_cpu.so")])
    return folder


@pytest.mark.slow
def test_an_adapter_learns_beside_four_bits(
    student: Path, traces: list[Traces], tmp_path: Path, bitsandbytes: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": f"{bitsandbytes}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.branch.four_bits", str(student), str(traces[0].path), str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "four bits hold" in said.stdout
