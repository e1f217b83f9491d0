"""OpenThoughts-114k, its config `metadata`: code with tests, science and puzzles, a response of DeepSeek-R1 each.

Columns: problem, deepseek_reasoning, deepseek_solution, ground_truth_solution, domain (code, math, puzzle, biology,
chemistry, physics), source, and for code test_cases (JSON: inputs, outputs, fn_name) and starter_code. Its rows are
those whose solutions its authors verified; OpenThoughts-Unverified-173k has the same columns and the others too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from bm.config import Content
from bm.distill.selection import UNVERIFIED, Question
from bm.distill.sources import Stream
from bm.distill.sources.reading import Row, rows
from bm.distill.sources.thoughts import thought

COLUMNS = ("problem", "deepseek_reasoning", "deepseek_solution", "domain", "source")
PROGRAM = "Write a Python program that reads from standard input and writes to standard output."
FUNCTION = "Write a Python function named `{name}` and do not call it."


def stream(
    domain: str,
    seed: int,
    name: str | None,
    path: Annotated[Path, Content] | None,
    config: str | None,
    domains: Sequence[str],
    verifier: Literal["code", "math", "judge", "none"],
    system: str,
) -> Stream:
    """Problems of the set's own `domains`, one response each. verifier code: tests and starter code belong to them."""
    columns = (*COLUMNS, "test_cases", "starter_code") if verifier == "code" else COLUMNS
    for row in rows(name, path, columns, seed, config):
        yield _question(domain, row, verifier, system) if row["domain"] in domains else None


def _question(domain: str, row: Row, verifier: str, system: str) -> Question | None:
    """None for code without tests, and for what a verifier has no reference for."""
    tests = _tests(row["test_cases"]) if verifier == "code" else {}
    answer = row.get("ground_truth_solution") or ""
    if not tests.get("inputs") if verifier == "code" else verifier != UNVERIFIED and not answer:
        return None
    prompt = _program(row, tests.get("fn_name")) if tests else row["problem"]
    metadata = json.dumps({"tests": tests}, ensure_ascii=False) if tests else "{}"
    response = thought(row["deepseek_reasoning"], row["deepseek_solution"])
    reference = "" if tests else answer
    return Question(domain, f"openthoughts/{row['source']}", system, prompt, reference, verifier, metadata, (response,))


def _tests(cases: str | None) -> dict[str, Any]:
    """The tests as an object; none where there is none, or a broken one."""
    try:
        tests = json.loads(cases or "{}")
    except ValueError:
        return {}
    return tests if isinstance(tests, dict) else {}


def _program(row: Row, function: str | None) -> str:
    """The problem with what its tests expect: a whole program, or a function by its name."""
    asked = FUNCTION.format(name=function) if function else PROGRAM
    starter = f"\n\n```python\n{row['starter_code'].strip()}\n```" if (row["starter_code"] or "").strip() else ""
    return f"{row['problem'].strip()}\n\n{asked}{starter}"
