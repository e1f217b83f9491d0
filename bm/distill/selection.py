"""Questions, and which of them may be used for what."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bm import parquet
from bm.errors import UserError

Part = Literal["evaluate", "student", "train"]
SHARES: dict[Part, range] = {"evaluate": range(0, 20), "student": range(20, 60), "train": range(60, 100)}
"""Each part's share of all possible questions, in hundredths of the hash range."""
Wanted = Part | Literal["student or train"]
"""What traces may come from: the second where the student has learned nothing of the domain before."""
PATIENCE = 1000
"""Draws without a new question after which a source counts as exhausted."""
FILTERED = "filtered by the source"
UNVERIFIED = "none"
"""The verifier of questions that have no reference to hold a response to."""


@dataclass(frozen=True)
class Question:
    """One question with its reference answer and whatever its verifier needs (`metadata`, JSON)."""

    domain: str
    source: str
    system: str
    prompt: str
    answer: str
    verifier: str
    metadata: str
    responses: tuple[str, ...] = ()
    """Published responses of a set that has some; a teacher may hand them out."""

    @property
    def id(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:16]


def part_of(question: Question) -> Part:
    """The only part that the prompt may serve: a function of it, so training and evaluation can never share one."""
    bucket = int(question.id, 16) % 100
    return next(part for part, share in SHARES.items() if bucket in share)


class Selection(NamedTuple):
    """What was taken from a source, and how much of it was not."""

    questions: list[Question]
    duplicates: int
    """Repeats of a question already taken, passed over."""
    refused: Counter[str]
    """Rows refused before anything was asked, by reason."""


def select(
    stream: Iterator[Question | None],
    part: Wanted | None,
    count: int | None,
    setting: str,
    screen: Callable[[Question], str] = lambda question: "",
    short: bool = False,
) -> Selection:
    """The first `count` distinct questions of `part` in the stream that the screen lets pass.

    Where prompts are equal, the first counts, or the first that has responses. part: None takes every part; count:
    None takes all that there are, which must be some. setting: the setting that asks for so many. screen: the reason
    to refuse a question, "" if there is none; asked once about each distinct question, in order. UserError if the
    stream ends before `count` and may not be `short` of it, or if it brings nothing new for so long that there is
    little left to find.
    """
    chosen: dict[str, Question] = {}
    refused = Counter[str]()
    duplicates = stale = 0
    passed_over = set[str]()
    for question in stream:
        if len(chosen) == count or stale == PATIENCE:
            break
        if question is None:
            refused[FILTERED] += 1
        elif part is None or part_of(question) in part.split(" or "):
            stale += 1
            if question.id in chosen or question.id in passed_over:
                duplicates += 1
                if question.responses and question.id in chosen and not chosen[question.id].responses:
                    chosen[question.id] = question
            elif reason := screen(question):
                refused[reason] += 1
                passed_over.add(question.id)
            else:
                chosen[question.id], stale = question, 0
    empty = not chosen and count != 0 and refused.total() == refused[FILTERED]
    if empty or (count is not None and len(chosen) < count and not short):
        if not chosen and refused[FILTERED]:
            raise UserError(
                f"the source refuses all of its {refused[FILTERED]} rows: none has a reference that its settings find;"
                " check the answer's field and `answer_pattern`, or the source's other filters"
            )
        raise UserError(f"{setting}: {_too_few(len(chosen), part, count, refused)}")
    return Selection(list(chosen.values()), duplicates, refused)


def _too_few(there: int, part: Wanted | None, count: int | None, refused: Counter[str]) -> str:
    """How many questions are lacking, what became of others, and what to do."""
    share = sum(len(hundredths) for name, hundredths in SHARES.items() if part and name in part.split(" or "))
    of_part = f" for '{part}' (about {share} % of all)" if part else ""
    others = f"; {refused.total()} more are refused ({', '.join(refused)})" if refused else ""
    has = f"but the source has {there or 'none'}{of_part}"
    if count is None:
        return f"asks for all questions, {has}{others}; choose a larger source"
    return (
        f"asks for {count} distinct questions, {has}, {count - there} too few{others};"
        " ask for fewer, or choose a larger source"
    )


def check_apart(questions: Mapping[str, Path], traces: Sequence[Path]) -> None:
    """Check that no evaluation question (by domain) is the prompt of a trace; UserError names the first that is.

    `part_of` makes it so; this holds it to the files, whoever wrote them.
    """
    trained = {i for path in traces for i in parquet.read(path, columns=["id"])["id"].to_pylist()}
    for domain, path in questions.items():
        for question in parquet.read(path, columns=["id"])["id"].to_pylist():
            if question in trained:
                raise UserError(f"{domain}: evaluation question {question} is a training trace too")
