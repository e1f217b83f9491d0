"""The commands and the Python of the docs are run as a reader would, page by page beside a finished run; less of all.

What is only composed, and why, is in docs/generate/composed.yaml; the first hour is walked by test_first_hour.py.
"""

import json
import shlex
from pathlib import Path

import pytest

import bm as package
from docs.generate import composing
from tests.conftest import SHRUNK, Bm
from tests.docs.blocks import PAGES, blocks, commands, name, scripts
from tests.docs.test_blocks import python, reader
from tests.test_commands_printed import READ, shrunk

WALKED = [page for page in PAGES if name(page) != "first-hour.md"]
RUN = {page: [c for c in commands(page) if composing.reason(name(page), c) is None] for page in WALKED}
CODE = [page for page in WALKED if RUN[page] or scripts(page) or any(b.language == "python" for b in blocks(page))]
MORE = {
    "squares.jsonl": lambda n: {"question": f"What is {n} squared?", "answer": str(n * n),
                                "response": f"<think>{n} * {n} = {n * n}</think>{n * n}"},
    "sums.jsonl": lambda n: {"question": f"What is {n + 1} + 1?", "answer": str(n + 2),
                             "response": f"<think>{n + 1} + 1 = {n + 2}</think>{n + 2}"},
    "halves.jsonl": lambda n: {"question": f"What is half of {n}?", "answer": f"{n / 2:g}",
                               "response": f"<think>{n} / 2 = {n / 2:g}</think>{n / 2:g}"},
}  # fmt: skip
"""More rows for the problem sets of which a page shows only a few."""


def test_every_reason_is_one_of_a_printed_command() -> None:
    printed = [(name(page), line) for page in PAGES for block in blocks(page) for line in block.commands]
    told = [f"{page}: {line}" for page, line in [*printed, *(("README.md", command) for command in READ)]]
    assert not [what for what in composing.reasons() if not any(what in line for line in told)]


def test_most_commands_are_run() -> None:
    printed = [command for page in WALKED for command in commands(page)]
    assert sum(len(run) for run in RUN.values()) > 0.6 * len(printed)


@pytest.mark.slow
@pytest.mark.parametrize("page", CODE, ids=name)
def test_a_page_is_run(page: Path, undisturbed: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages share one store."""
    reader(page, undisturbed, monkeypatch)
    for file, row in MORE.items():
        (undisturbed / file).write_text("".join(json.dumps(row(number)) + "\n" for number in range(3, 153)))
    for number, command in enumerate(RUN[page]):
        words = shrunk(shlex.split(command)[1:], undisturbed, f"-{page.stem}-{number}")
        said = bm(*(word for word in words if applies(word, command)), cwd=undisturbed)
        lacks = "lacks something on this machine" in said.stderr  # bm doctor's status tells scripts so
        assert said.returncode == 0 or lacks, f"{command}\n{said.stderr}"
    compose = package.compose
    monkeypatch.setattr(package, "compose", lambda *words: compose(*words, *SHRUNK))
    monkeypatch.setenv("MPLBACKEND", "agg")
    python(page)


def applies(word: str, command: str) -> bool:
    """Whether a shrinking word is of something that the command has: a student of yours is not built."""
    return not (word.startswith("student.") and "student=hf" in command and word.partition("=")[0] not in command)
