"""A teacher that answers again, and sees what a student answered."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bm.config import TeacherTarget
from bm.distill.selection import Question
from bm.distill.teachers import Teacher
from bm.distill.teachers.published import Published
from bm.distill.teachers.worked import WorkedSolutions


@dataclass(frozen=True)
class Again(Teacher):
    """Asks about a question together with its response; what comes back is a trace of the question alone."""

    template: str = ""

    def prompt(self, question: Question) -> str:
        (response,) = question.responses
        parts = self.template.split("{response}")
        put = response.join(part.replace("{prompt}", question.prompt) for part in parts)
        return super().prompt(replace(question, prompt=put))


def teacher(questions: Sequence[Question], seed: int, teacher: TeacherTarget, template: str) -> Teacher:
    """The same teacher, asked by `template`: {prompt} stands for the question, {response} for what was rejected.

    A program that knows the question (worked solutions) and a published set read nothing: they answer as they are.
    """
    asked: Teacher = teacher(questions, seed=seed)
    if isinstance(asked.engine, WorkedSolutions | Published):
        return asked
    return Again(asked.engine, asked.sampling, asked.put, asked.put_in, asked.reasoning, template)
