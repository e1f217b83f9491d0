"""Every code block of the docs: files are written, commands composed with them, Python run, settings read."""

import json
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from bm.cli import STAGES
from docs.generate.papers import papers
from tests.docs.blocks import HOME, PAGES, SCRIPT, blocks, commands, name, scripts, write
from tests.test_commands_printed import composed

TARGETS = {line.partition(":")[0] for line in (HOME / "Makefile").read_text().splitlines() if ": " in line}
OWN = [page for page in PAGES if any(block.title for block in blocks(page))]
NEEDS_A_RUN = ("guides/figure.md", "first-hour.md")
"""Pages whose Python reads results: test_executed.py and test_first_hour.py run it."""
PROSE = ("source ", "STUDENT=")
"""What the tutorial does besides; tests/docs/test_first_hour.py does it."""


def test_there_are_pages_enough_and_most_have_code() -> None:
    assert len(PAGES) >= 20
    assert sum(len(blocks(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_of_a_kind_that_is_checked(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page):
        assert block.language in ("bash", "python", "yaml", "json", "text"), block
        assert block.language != "json" or all(json.loads(line) for line in block.code.splitlines())
        assert block.language != "yaml" or yaml.safe_load(block.code)
        if block.language == "python":
            compile(block.code, name(page), "exec")
        for line in block.commands:
            word, _, rest = line.partition(" ")
            known = (word == "bm" and rest.split()[0] in {*STAGES, "--help"}) or (
                word == "make" and rest.split()[0] in TARGETS
            )
            assert known or line.startswith(PROSE) or SCRIPT.fullmatch(line), line


@pytest.mark.parametrize("page", OWN, ids=name)
def test_commands_are_composed_with_the_files_of_their_page(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those without such files are composed by tests/test_commands_printed.py."""
    reader(page, tmp_path, monkeypatch)
    for line in commands(page):
        if "--config-dir" in line:
            composed(shlex.split(line.replace("$STUDENT", "DIR"))[1:])


@pytest.mark.slow
def test_the_commands_of_the_paper_index_are_composed() -> None:
    for command in dict.fromkeys(paper["run"] for paper in papers().values()):
        composed(shlex.split(command)[1:])


@pytest.mark.parametrize("page", [p for p in OWN if name(p) not in NEEDS_A_RUN], ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader(page, tmp_path, monkeypatch)
    python(page)


def python(page: Path) -> None:
    """Run the Python of a page in the folder that its files are in: blocks without a file, and files that it calls."""
    for block in blocks(page):
        if block.language == "python" and not block.title:
            exec(compile(block.code, name(page), "exec"), {})
    for script in scripts(page):
        runpy.run_path(script, run_name="__main__")


def reader(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder with the files of a page, and no trace of them afterwards."""
    write(page, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder / "mine")
    monkeypatch.setenv("PYTHONPATH", str(folder / "mine"))
    for file in (folder / "mine").glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
