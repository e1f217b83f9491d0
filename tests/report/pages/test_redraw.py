"""Committed figures are those that their records draw today; `python -m experiments.judge` draws them again."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bm.report.findings.forecast import FILE as LAW
from bm.report.pages.experiment import redraw
from bm.report.pages.record import FILE
from tests.report import grids
from tests.report.pages.test_experiment import report_grid

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
RECORDS = sorted(f.parent for f in EXPERIMENTS.glob(f"*/{FILE}") if "cells" in json.loads(f.read_text()))


def words(svg: str) -> list[str]:
    """All that a figure says: title, caption, names, numbers and what is told when a mark is pointed at."""
    return re.findall(r"<(?:title|desc|text)[^>]*>([^<]*)<", svg)


@pytest.mark.slow
@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: str(folder.name))
def test_committed_figures_say_what_their_record_says(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / FILE, tmp_path / FILE)
    redraw(tmp_path)
    drawn = {file.name: words(file.read_text()) for file in (tmp_path / "figures").glob("*.svg")}
    committed = {file.name: words(file.read_text()) for file in (folder / "figures").glob("*.svg")}
    assert len(drawn) >= 6
    stale = {name for name, said in drawn.items() if committed.get(name) != said}
    assert not stale, f"python -m experiments.judge {folder.name}"
    beyond = {name for name in committed.keys() - drawn.keys() if not name.startswith(("retention", "cosines"))}
    assert not beyond, "figures that no record draws any more"
    if (folder / LAW).is_file():  # its fits may differ in the last bits between makes of processor
        again, kept = (json.loads((place / LAW).read_text())["elsewhere"] for place in (tmp_path, folder))
        assert again == kept, f"python -m experiments.judge {folder.name}"


def test_a_record_draws_every_figure_of_its_report_again(tmp_path: Path) -> None:
    grids.methods(tmp_path)
    (record := tmp_path / "figure2").mkdir()
    report_grid(tmp_path, "figure2", None, grids.PRICES, tmp_path / "report", record)
    first = {file.name: file.read_bytes() for file in (record / "figures").glob("*.svg")}
    shutil.rmtree(record / "figures")
    redraw(record)
    assert first == {file.name: file.read_bytes() for file in (record / "figures").glob("*.svg")}
    assert "retention.svg" in first and "cosines-updates.svg" in first
