"""A teacher for procedural questions: it works the answer out from what the generator knows about the question.

Its reasoning is true, written by a program rather than a model, and as fallible as it is told to be: each step slips
with probability `slip`, so that verification has something to reject, as it has with a model.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from bm.distill.selection import Question
from bm.distill.teachers.worked import coding, math, science
from bm.distill.teachers.worked.hand import Hand
from bm.errors import UserError, nearest

Solution = Callable[[dict[str, Any], Hand], tuple[list[str], str]]
SOLUTIONS: dict[str, Solution] = {
    solution.__name__: solution
    for solution in (
        math.chain_sum,
        math.gcd,
        math.products,
        coding.number_filtering,
        coding.spell_backward,
        science.calendar_arithmetic,
        science.color_cube_rotation,
        science.leg_counting,
    )
}
"""By generator: from a question's metadata to the lines of its solution and the final answer."""


def respond(
    questions: Sequence[Question], slip: Annotated[float, Field(ge=0, le=1)], seed: int
) -> Iterator[tuple[Question, str]]:
    """Each question with its response; a response depends on nothing but the seed and its question."""
    for question in questions:
        if question.source not in SOLUTIONS:
            raise UserError(f"the worked teacher has no solution for '{question.source}'{nearest(question.source, SOLUTIONS)}")
        hand = Hand(random.Random(f"{seed}:{question.id}"), slip)
        steps, answer = SOLUTIONS[question.source](json.loads(question.metadata), hand)
        lines = "\n".join(steps)
        yield question, f"<think>\n{lines}\n</think>\n\n{answer}"
