"""A teacher for procedural questions: it works the answer out from what the generator knows about the question.

Its reasoning is true, written by a program rather than a model, and as fallible as it is told to be: each step slips
with probability `slip`, so that verification has something to reject, as it has with a model.
"""

import json
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from bm.distill.selection import Question
from bm.distill.teachers import Teacher
from bm.distill.teachers.worked import coding, math, science
from bm.distill.teachers.worked.hand import Hand
from bm.errors import UserError, nearest
from bm.generate import Message, Sample, Sampling

Solution = Callable[[dict[str, Any], Hand], tuple[list[str], str]]
SOLUTIONS: dict[str, Solution] = {
    "basic_arithmetic": math.expression,
    "calendar_arithmetic": science.calendar_arithmetic,
    "chain_sum": math.expression,
    "color_cube_rotation": science.color_cube_rotation,
    "gcd": math.gcd,
    "leg_counting": science.leg_counting,
    "letter_counting": coding.letter_counting,
    "number_filtering": coding.number_filtering,
    "number_sorting": coding.number_sorting,
    "palindrome_generation": coding.palindrome_generation,
    "products": math.products,
    "spell_backward": coding.spell_backward,
}
"""By generator: from a question's metadata to the lines of its solution and the final answer."""
BATCH = 256
"""Responses written to the disk at once."""


def teacher(questions: Sequence[Question], seed: int, slip: Annotated[float, Field(ge=0, le=1)]) -> Teacher:
    """A teacher for these questions; UserError if one comes from a generator that it has no solution for."""
    for question in questions:
        if question.source not in SOLUTIONS:
            raise UserError(
                f"the worked teacher has no solution for '{question.source}'{nearest(question.source, SOLUTIONS)}"
            )
    sampling = Sampling(n=1, temperature=1.0, top_p=1.0, max_new_tokens=1 << 16, seed=seed)
    return Teacher(WorkedSolutions({question.prompt: question for question in questions}, slip), sampling)


class WorkedSolutions:
    """An engine whose samples are worked solutions, each determined by the seed, its question and its index."""

    def __init__(self, questions: Mapping[str, Question], slip: float) -> None:
        self._questions, self._slip = questions, slip

    def facts(self) -> dict[str, Any]:
        return {"engine": "worked solutions", "slip": self._slip}

    def render(self, messages: Sequence[Message]) -> str:
        return messages[-1]["content"]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """In batches, as an engine does; a program generates no tokens, so `tokens` is 0."""
        wanted = [(p, i) for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known]
        for start in range(0, len(wanted), BATCH):
            yield [
                Sample(p, i, self._solution(self._questions[prompts[p]], sampling.seed, i), tokens=0, finished=True)
                for p, i in wanted[start : start + BATCH]
            ]

    def _solution(self, question: Question, seed: int, index: int) -> str:
        hand = Hand(random.Random(f"{seed}:{question.id}:{index}"), self._slip)
        steps, answer = SOLUTIONS[question.source](json.loads(question.metadata), hand)
        lines = "\n".join(steps)
        return f"<think>\n{lines}\n</think>\n\n{answer}"
