"""OpenR1-Math-220k: problems of NuminaMath-1.5 with one to four responses of DeepSeek-R1 each.

Columns used: problem, answer, question_type, source (strings), generations (strings) and, one for each of these,
is_reasoning_complete and correctness_math_verify (booleans). Its config `default` has the 93,733 problems that the
paper calls 94k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from bm.config import Content
from bm.distill.selection import Question
from bm.distill.sources import Stream
from bm.distill.sources.reading import Row, rows
from bm.distill.sources.thoughts import normalised

COLUMNS = ("problem", "answer", "question_type", "source", "generations", "correctness_math_verify")


def stream(
    domain: str,
    seed: int,
    name: str | None,
    path: Annotated[Path, Content] | None,
    config: str | None,
    question_type: Sequence[str] | None,
    source: Sequence[str] | None,
    correctness_math_verify: bool,
    system: str,
) -> Stream:
    """Problems of these question types and sources (null: any), with their complete responses.

    correctness_math_verify: only responses that the set's own check found correct; a problem without any is refused.
    """
    for row in rows(name, path, COLUMNS, seed, config):
        kind, origin = row["question_type"], row["source"]
        wanted = (not question_type or kind in question_type) and (not source or origin in source)
        responses = _responses(row, correctness_math_verify) if wanted else ()
        if not responses:
            yield None
            continue
        yield Question(
            domain, f"openr1_math/{origin}", system, row["problem"], row["answer"] or "", "math", "{}", responses
        )


def _responses(row: Row, correct: bool) -> tuple[str, ...]:
    generations = row["generations"] or []
    complete = row.get("is_reasoning_complete") or [True] * len(generations)
    good = row["correctness_math_verify"] or [False] * len(generations)
    marked = zip(generations, complete, good, strict=False)
    return tuple(normalised(text) for text, ended, right in marked if ended and (right or not correct))
