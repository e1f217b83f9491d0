"""What of the commands that README and docs print the tests run, and what they only compose and check, and why."""

from functools import cache
from pathlib import Path

import yaml


@cache
def reasons() -> dict[str, str]:
    """Why a command is not run, by what is in it, or by `PAGE: COMMAND`."""
    by_words: dict[str, str] = yaml.safe_load(Path(__file__).with_name("composed.yaml").read_text())
    return by_words


def reason(page: str, command: str) -> str | None:
    """Why this command of a page is only composed; None where it is run."""
    return next((why for what, why in reasons().items() if what in f"{page}: {command}"), None)


def section() -> str:
    """The reasons as a section of a page."""
    rows = [f"| `{what.strip()}` | {why} |" for what, why in reasons().items()]
    return "\n".join([COMPOSED, "| a command with | is not run, as it |", "| --- | --- |", *rows, ""])


COMPOSED = """\
## What the tests run

The tests compose and check every command of these pages, and run it too, shrunk, as they run the Python; but not these:
"""
