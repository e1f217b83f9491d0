"""Who answers: an engine, how it is asked, how its responses are drawn, and how they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked

from bm.distill.selection import Question
from bm.distill.teachers.reading import tagged, wrapped
from bm.generate import Engine, Sample, Sampling
from bm.generate.attempts import Billed, account
from bm.generate.samples import Row


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Prompt:
    """How a question is put."""

    system: str
    """A system prompt in place of the question's own; "" leaves that."""
    template: str
    """What is asked; `{prompt}` stands for the question."""

    def __post_init__(self) -> None:
        if "{prompt}" not in self.template:
            raise ValueError("template: must have {prompt} where the question goes")


PLAIN = Prompt("", "{prompt}")


@dataclass(frozen=True)
class Teacher:
    """What a teacher's function returns when it is given the questions and the seed."""

    engine: Engine
    sampling: Sampling
    put: Prompt = PLAIN
    put_in: Mapping[str, Prompt] = field(default_factory=dict)
    """By domain, where it differs."""
    reasoning: Literal["tags", "wrapped"] = "tags"

    def prompt(self, question: Question) -> str:
        """The question as the engine takes it. A trace keeps the question itself, and nothing of this."""
        put = self.put_in.get(question.domain, self.put)
        system = put.system or question.system
        messages = [{"role": "system", "content": system}] if system else []
        asked = put.template.replace("{prompt}", question.prompt)
        return self.engine.render([*messages, {"role": "user", "content": asked}])

    def response(self, prompt: str, sample: Sample) -> str:
        """What came back, as a trace has it: reasoning in its tags, then the answer."""
        response = tagged(prompt, sample.response)
        return wrapped(response) if self.reasoning == "wrapped" and sample.finished else response

    def facts(self, said: Mapping[Row, Sample], asked_by: str) -> dict[str, Any]:
        """Who answered, and what that took; `own`: what `asked_by` asked for itself."""
        bill = self.engine.bill(said) if isinstance(self.engine, Billed) else {}
        return {**self.engine.facts(), **account(self.engine, said.values(), asked_by), **bill}
