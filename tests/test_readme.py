"""The README's sweep is the shipped experiment, and what it prints is what `bm report` prints of the committed rows."""

import io
import json

import yaml
from rich.console import Console

from bm.report.findings.claims import claims
from bm.report.findings.published import published
from bm.report.pages.experiment import _title
from bm.report.pages.record import recorded
from bm.report.pages.tables import claimed, contested, tabled
from bm.report.pages.terminal import show_grid
from tests.docs.blocks import HOME, blocks

BLOCKS = {block.language: block.code for block in blocks(HOME / "README.md")}


def test_the_sweep_is_the_shipped_one() -> None:
    assert yaml.safe_load(BLOCKS["yaml"]) == yaml.safe_load((HOME / "conf/experiment/lambda.yaml").read_text())
    assert len(BLOCKS["yaml"].splitlines()) <= 12


def test_it_prints_what_the_rows_say() -> None:
    grid, paper = recorded(json.loads((HOME / "experiments/lambda/measured.json").read_text())), published("lambda")
    console = Console(width=110, record=True, file=io.StringIO())
    show_grid(_title(grid, paper), tabled(grid, paper), claimed(claims(grid, paper)), contested(grid), [], console)
    printed = [line.rstrip() for line in console.export_text().splitlines()]
    shown = BLOCKS["text"].splitlines()
    assert len(shown) > 10 and printed[: len(shown)] == shown
