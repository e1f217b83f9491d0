"""The tutorial is walked from its first line of yours to its last, with less of all; its sweep is killed on the way."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import BM, SHRUNK, Bm
from tests.docs.blocks import HOME, blocks, write

PAGE = HOME / "docs/first-hour.md"
LESS = [
    *(word for word in SHRUNK if word.startswith(("branch.", "evaluate.", "tracker."))),
    *(f"domains.{domain}.{less}" for domain in ("distances", "larger") for less in ("traces=48", "questions=12")),
]


def commands() -> dict[str, list[str]]:
    """The page's own commands by stage; the page is followed in a clone, so its student lies beside this folder."""
    (line,) = [line for block in blocks(PAGE) for line in block.commands if line.startswith("STUDENT=")]
    student = str(HOME / line.removeprefix("STUDENT="))
    by_stage: dict[str, list[str]] = {}
    for block in blocks(PAGE):
        for line in block.commands:
            if "--config-dir" in line:
                stage, *words = shlex.split(line.replace("$STUDENT", student))[1:]
                left = ["larger"] if stage == "branch" else []
                fewer = [word for word in LESS if not word.startswith(tuple(f"domains.{name}." for name in left))]
                by_stage["sweep" if "-m" in words else stage] = [stage, *words, *fewer]
    return by_stage


@pytest.mark.slow
def test_the_first_hour(tmp_path: Path, bm: Bm) -> None:
    write(PAGE, tmp_path)
    subprocess.run([sys.executable, "make_problems.py"], cwd=tmp_path, check=True)
    told = commands()
    assert list(told) == ["distill", "branch", "run", "sweep"]
    for stage in ("distill", "branch", "run"):
        said = bm(*told[stage], cwd=tmp_path)
        assert said.returncode == 0, said.stderr
    assert (tmp_path / "outputs/mine/report/index.html").exists()

    killed_after_a_job(tmp_path, told["sweep"])
    said = bm(*told["sweep"], cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/job.json"))) == 10

    assert bm("report", cwd=tmp_path).returncode == 0
    subprocess.run([sys.executable, "curve.py"], cwd=tmp_path, check=True, env={"MPLBACKEND": "agg", "HOME": "/tmp"})
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def killed_after_a_job(folder: Path, words: list[str]) -> None:
    """The sweep in a process of its own, killed when one of its jobs is done and another is not."""
    sweep = subprocess.Popen([BM, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        if list(folder.glob("outputs/sweeps/*/*/job.json")) or sweep.poll() is not None:
            break
        time.sleep(0.1)
    sweep.kill()
    assert sweep.wait() == -9, "it was done before it was killed"
