"""The code blocks of the docs: files that the reader is to write, commands, Python, settings, and what is shown."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).parents[2]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]
SCRIPT = re.compile(r"(?:PYTHONPATH=mine )?python (\S+\.py)")
FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]+)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    """The file that the reader is to write; "" where there is none."""
    code: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block."""
        return [line for line in self.code.splitlines() if line] if self.language == "bash" else []


def blocks(page: Path) -> list[Block]:
    return [Block(lang, title, textwrap.dedent(code)) for _, lang, title, code in FENCE.findall(page.read_text())]


def write(page: Path, folder: Path) -> None:
    """The files of a page in a reader's folder."""
    for block in blocks(page):
        if block.title:
            (file := folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code)


def commands(page: Path) -> Iterator[str]:
    """Every `bm` command of a page's shell blocks."""
    yield from (line for block in blocks(page) for line in block.commands if line.startswith("bm "))


def scripts(page: Path) -> list[str]:
    """The Python files that a page has its reader run."""
    lines = [line for block in blocks(page) for line in block.commands]
    return [found[1] for line in lines if (found := SCRIPT.fullmatch(line))]


def name(page: Path) -> str:
    return page.name if page.parent == HOME else str(page.relative_to(HOME / "docs"))
