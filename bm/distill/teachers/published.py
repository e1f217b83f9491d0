"""A teacher that has answered already: the responses that came with the questions of a published set."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from bm.distill.selection import Question
from bm.distill.teachers import Teacher
from bm.errors import UserError
from bm.generate import Message, Sample, Sampling

BATCH = 256
"""Responses written to the disk at once."""


def teacher(questions: Sequence[Question], seed: int, samples: Annotated[int, Field(gt=0)] | None) -> Teacher:
    """The first `samples` published responses of each question, null: all; UserError if a source has none at all."""
    most = max((len(question.responses) for question in questions), default=0)
    if not most:
        domains = ", ".join(sorted({question.domain for question in questions}))
        raise UserError(
            f"the source of {domains} has no published responses: choose a teacher that answers itself (openai);"
            " a student with domains of its own (student.domains) asks the same teacher for them"
        )
    sampling = Sampling(n=min(samples or most, most), temperature=1.0, top_p=1.0, max_new_tokens=1 << 20, seed=seed)
    return Teacher(Published({question.prompt: question.responses for question in questions}), sampling)


class Published:
    """An engine that hands out what was published; of a question with fewer than n responses, all of them."""

    def __init__(self, responses: Mapping[str, tuple[str, ...]]) -> None:
        self._responses = responses

    def facts(self) -> dict[str, Any]:
        return {"engine": "published"}

    def render(self, messages: Sequence[Message]) -> str:
        return messages[-1]["content"]

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """In batches, as an engine does; nothing is generated, so `tokens` is 0."""
        wanted = [(p, i) for p, prompt in enumerate(prompts) for i in range(len(self._responses[prompt][: sampling.n]))
                  if (p, i) not in known]  # fmt: skip
        for start in range(0, len(wanted), BATCH):
            yield [Sample(p, i, self._responses[prompts[p]][i], tokens=0, finished=True)
                   for p, i in wanted[start : start + BATCH]]  # fmt: skip
