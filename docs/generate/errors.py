"""What `bm` says to wrong inputs: the table that tests/test_errors.py holds it to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).parents[2]


def errors_page() -> str:
    """A table a kind: the command, and what its line says."""
    table: Mapping[str, Sequence[Mapping[str, Any]]] = yaml.safe_load((HOME / "tests/mistakes.yaml").read_text())
    parts = [ERRORS.format(number=sum(map(len, table.values())))]
    for kind, rows in table.items():
        lines = [f"| `bm {one['command']}` | {_given(one.get('given', {}))} | … {one['says']} … |" for one in rows]
        lines = [line.replace("<", "&lt;") for line in lines]
        parts += [f"## {kind.capitalize()}\n", "| command | where | the line says |", "| --- | --- | --- |", *lines, ""]
    return "\n".join(parts)


def _given(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_about(what)}" for name, what in given.items())


def _about(what: Any) -> str:
    if isinstance(what, str):
        first = what.strip().splitlines()[-1].replace("|", "\\|") if what.strip() else ""
        return f"ends with `{first[:60]}`" if first else "is empty"
    return "is a model" + "".join(f", {name} {value}" for name, value in what["model"].items())


ERRORS = """\
# Mistakes and what is said

A mistake ends with one line on standard error, which says what is wrong, where, and what to do, and with the exit
status 2; nothing is left behind but what is whole. These {number} wrong inputs are held to that by the tests.
"""
