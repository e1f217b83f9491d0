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
        lines = [_row(one).replace("<", "&lt;") for one in rows]
        parts += [f"## {kind.capitalize()}\n", HEAD, *lines, ""]
    return "\n".join(parts)


def _row(of: Mapping[str, Any]) -> str:
    meanwhile = [WHEN[of["when"]]] if "when" in of else []
    where = ", ".join([*meanwhile, *(f"{name} {_about(what)}" for name, what in of.get("given", {}).items())])
    return f"| `bm {of['command']}` | {where} | {of.get('status', 2)} | … {of['says']} … |"


def _about(what: Any) -> str:
    if isinstance(what, str):
        first = what.strip().splitlines()[-1].replace("|", "\\|") if what.strip() else ""
        return f"ends with `{first[:60]}`" if first else "is empty"
    if "each" in what:
        return f"has {what['rows']} rows"
    return "is a model" + "".join(f", {name} {value}" for name, value in what["model"].items())


HEAD = "| command | where | status | the line says |\n| --- | --- | --- | --- |"
WHEN = {
    "full": "the disk is full",
    "read-only": "the folder is read-only",
    "interrupted": "Ctrl-C comes",
    "twice": "given twice at once",
}


ERRORS = """\
# Mistakes and what is said

A mistake ends with one line on standard error, which says what is wrong, where, and what to do, and with the exit
status 2; an interruption ends with 130. Whatever is left behind is complete, or will be resumed. These
{number} wrong inputs and mishaps are held to that by the tests.
"""
