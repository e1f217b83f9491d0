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


def commands(folder: Path) -> dict[str, list[str]]:
    """The page's own commands by stage, with this run's student in the place of the demo's."""
    (line,) = [line for block in blocks(PAGE) for line in block.commands if line.startswith("STUDENT=")]
    script = f"{line.replace('tiny_able', 'tiny')}; echo $STUDENT"  # what the student is called in the run that is here
    told = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    (student,) = told.stdout.split()
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
def test_the_first_hour(undisturbed: Path, bm: Bm) -> None:
    write(PAGE, undisturbed)
    subprocess.run([sys.executable, "make_problems.py"], cwd=undisturbed, check=True)
    told = commands(undisturbed)
    assert list(told) == ["distill", "branch", "run", "sweep"]
    for stage in ("distill", "branch", "run"):
        said = bm(*told[stage], cwd=undisturbed)
        assert said.returncode == 0, said.stderr
    assert (undisturbed / "outputs/mine/report/index.html").exists()

    killed_after_a_job(undisturbed, told["sweep"])
    said = bm(*told["sweep"], cwd=undisturbed)
    assert said.returncode == 0, said.stderr
    assert len(list(undisturbed.glob("outputs/sweeps/*/*/job.json"))) == 10

    assert bm("report", cwd=undisturbed).returncode == 0
    subprocess.run([sys.executable, "curve.py"], cwd=undisturbed, check=True, env={"MPLBACKEND": "agg", "HOME": "/tmp"})
    assert "<svg" in (undisturbed / "curve.svg").read_text()


def killed_after_a_job(folder: Path, words: list[str]) -> None:
    """The sweep in a process of its own, killed when one of its jobs is done and another is not."""
    sweep = subprocess.Popen([BM, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        if list(folder.glob("outputs/sweeps/*/*/job.json")) or sweep.poll() is not None:
            break
        time.sleep(0.1)
    sweep.kill()
    assert sweep.wait() == -9, "it was done before it was killed"
