"""Many processes, one store."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bm.store import Store
from tests.conftest import BM, SHRUNK

MADE = re.compile(r"^(questions|distill|student|branch)\s+(\w+(?: \w+)?)\s+[\d.]+ s", re.MULTILINE)


@pytest.mark.slow
def test_eight_processes_at_once_make_each_artefact_once(tmp_path: Path) -> None:
    words = [word for word in SHRUNK if not word.startswith(("domains.coding", "domains.science"))]
    command = [BM, "branch", "domain=math", *words]
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"CI": "1"}, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 8, said
    made = [stage_label for text in said for stage_label in MADE.findall(text)]
    artefacts = Store(tmp_path / "outputs/store").all()  # which reads each, and refuses a damaged one
    assert sorted(made) == sorted((a.manifest["stage"], a.label) for a in artefacts)
    assert len({a.key for a in artefacts}) == len(artefacts) == 8
    assert not list(tmp_path.glob("outputs/store/*/*.work"))
