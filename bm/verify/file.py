"""A file of responses, graded line by line."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bm.config import Verify
from bm.errors import UserError
from bm.progress import progress
from bm.verify import JUDGED, Case, Grader, Verdict, check, disagreement
from bm.verify.cases import BrokenCaseError
from bm.verify.programs import read_tests

TOGETHER = 256
"""Lines judged at a time."""


def grade(verifier: str, file: Path, output: Path, settings: Verify) -> list[Verdict]:
    """Grade `file` (JSON Lines with `response`, and `answer` or `tests`, perhaps `choices`) into `output`, in order.

    Each line of the output has the fields of its input and `accepted`, `reason`, `graded` (the answer that was judged)
    and `note`; one that cannot be read is refused as a broken line. The output appears when all of it is there.
    UserError where the file cannot be read or the output not written.
    """
    check(verifier, settings)
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as problem:
        raise UserError(f"file: {file} cannot be read: {problem.strerror}") from problem
    lines = lines[:-1] if lines[-1] == b"" else lines
    if not lines:
        raise UserError(f"file: {file} is empty; a line of it is a response, as JSON")
    verdicts: list[Verdict] = []
    grader = Grader(settings, output.name)
    beside = output.with_name(f".{output.name}.unfinished")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as made, progress(f"verify {verifier}", len(lines), "responses") as bar:
            for start in range(0, len(lines), TOGETHER):
                rows = [_row(verifier, line) for line in lines[start : start + TOGETHER]]
                found = _judged([case for _, case in rows], grader, bar)
                made.writelines(_line(fields, verdict) for (fields, _), verdict in zip(rows, found, strict=True))
                verdicts += found
            made.flush()
            os.fsync(made.fileno())
        beside.replace(output)
    except OSError as problem:
        said = f"output: {output} cannot be written: {problem.strerror}; free or choose another place"
        raise UserError(said) from problem
    finally:
        beside.unlink(missing_ok=True)
    return verdicts


def _judged(rows: Sequence[Case | Verdict], grader: Grader, bar: Any) -> list[Verdict]:
    """Verdicts of cases, beside those that were no case."""
    found = iter(grader.verdicts([row for row in rows if isinstance(row, Case)], bar))
    return [next(found) if isinstance(row, Case) else row for row in rows]


def _row(verifier: str, line: bytes) -> tuple[dict[str, Any], Case | Verdict]:
    """A line's fields, and its case or why it has none."""
    fields: Any = {}
    try:
        fields = json.loads(line.decode("utf-8-sig"))
        if not isinstance(fields, dict):
            fields = {}
            raise BrokenCaseError("no JSON object")
        return fields, _case(verifier, fields)
    except (ValueError, RecursionError):
        return fields, Verdict(False, "broken line: no JSON", "")
    except BrokenCaseError as problem:
        return fields, Verdict(False, f"broken line: {problem}", "")


def _case(verifier: str, fields: dict[str, Any]) -> Case:
    if not isinstance(fields.get("response"), str):
        raise BrokenCaseError("response must be a string" if "response" in fields else "response is missing")
    metadata = fields.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = Case("", "", "", metadata).fields()
    if not isinstance(metadata, dict):
        raise BrokenCaseError("metadata must be a JSON object")
    metadata |= {name: fields[name] for name in ("tests", "choices", "question") if name in fields}
    if verifier == "code":
        read_tests(metadata)
    answer = fields.get("answer", "" if verifier == "code" else None)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str):
        raise BrokenCaseError("answer must be a string or a number" if "answer" in fields else "answer is missing")
    return Case(verifier, fields["response"], answer, json.dumps(metadata))


def _line(fields: dict[str, Any], verdict: Verdict) -> str:
    graded = {"accepted": verdict.accepted, "reason": verdict.reason, "graded": verdict.answer, "note": verdict.note}
    try:
        line = json.dumps(fields | graded, ensure_ascii=False)
    except RecursionError:  # fields nested as deeply as could just be read
        line = json.dumps(graded, ensure_ascii=False)
    return line.encode(errors="replace").decode() + "\n"


def summary(verdicts: Sequence[Verdict]) -> Table:
    """How many were accepted, and refused for which reason; how often the two checks of plain numbers disagreed."""
    table = Table("verdict", "responses", "share", show_edge=False)
    kinds = Counter(verdict.kind for verdict in verdicts)
    for kind, count in [("", kinds.pop("", 0)), *kinds.most_common()]:
        table.add_row(kind or "accepted", str(count), f"{count / max(len(verdicts), 1):.1%}")
    differ, both = disagreement(verdicts)
    if both:
        table.add_section()
        table.add_row("plain numbers, checked twice", str(both), "")
        table.add_row("of those, checks disagree", str(differ), f"{differ / both:.1%}")
    if judged := sum(verdict.note == JUDGED for verdict in verdicts):
        table.add_section()
        table.add_row(JUDGED, str(judged), f"{judged / len(verdicts):.1%}")
    return table
