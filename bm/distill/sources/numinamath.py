"""NuminaMath-1.5: 896,215 problems with reference answers and human solutions, no model's responses.

Columns used: problem, answer, question_type, problem_is_valid, solution_is_valid ("Yes" if so), source, synthetic. Some
rows have `proof` or `notfound` in place of an answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from bm.config import Content
from bm.distill.selection import Question
from bm.distill.sources import Stream
from bm.distill.sources.reading import Row, rows

COLUMNS = ("problem", "answer", "question_type", "problem_is_valid", "solution_is_valid", "source", "synthetic")
UNANSWERED = ("", "proof", "notfound")


def stream(
    domain: str,
    seed: int,
    name: str | None,
    path: Annotated[Path, Content] | None,
    question_type: Sequence[str] | None,
    source: Sequence[str] | None,
    valid: bool,
    synthetic: bool,
    system: str,
) -> Stream:
    """Problems with an answer, of these question types and sources (null: any).

    valid: only those whose problem and solution the set calls valid; synthetic: also those that a model made up.
    """

    def wanted(row: Row) -> bool:
        return (
            (row["answer"] or "").strip() not in UNANSWERED
            and (not question_type or row["question_type"] in question_type)
            and (not source or row["source"] in source)
            and (not valid or (row["problem_is_valid"], row["solution_is_valid"]) == ("Yes", "Yes"))
            and (synthetic or not row["synthetic"])
        )

    for row in rows(name, path, COLUMNS, seed):
        origin = f"numinamath/{row['source']}"
        yield Question(domain, origin, system, row["problem"], row["answer"], "math", "{}") if wanted(row) else None
