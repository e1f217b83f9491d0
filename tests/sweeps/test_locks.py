"""Many processes, one store."""

import os
import re
from pathlib import Path

import pytest

from bm.store import Store
from tests.conftest import SHRUNK
from tests.forked import Forked

MADE = re.compile(r"^(questions|distill|student|branch)\s+(\w+(?: \w+)?)\s+[\d.]+ s", re.MULTILINE)


@pytest.mark.slow
def test_eight_processes_at_once_make_each_artefact_once(tmp_path: Path, forked: Forked) -> None:
    words = [word for word in SHRUNK if not word.startswith(("domains.coding", "domains.science"))]
    command, files = ["bm", "branch", "domain=math", *words], [tmp_path / f"said-{index}" for index in range(8)]
    running = [forked.start(command, cwd=tmp_path, env=os.environ | {"CI": "1"}, said=file) for file in files]
    statuses = [process.wait() for process in running]
    said = [file.read_text() for file in files]
    assert statuses == [0] * 8, said
    made = [stage_label for text in said for stage_label in MADE.findall(text)]
    artefacts = Store(tmp_path / "outputs/store").all()  # which reads each, and refuses a damaged one
    assert sorted(made) == sorted((a.manifest["stage"], a.label) for a in artefacts)
    assert len({a.key for a in artefacts}) == len(artefacts) == 8
    assert not list(tmp_path.glob("outputs/store/*/*.work"))
