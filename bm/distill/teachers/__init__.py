"""Who answers: an engine, how it is asked, and how its responses are drawn."""

from dataclasses import dataclass

from bm.distill.selection import Question
from bm.generate import Engine, Sampling


@dataclass(frozen=True)
class Teacher:
    """What a teacher's function returns when it is given the questions and the seed."""

    engine: Engine
    sampling: Sampling

    def prompt(self, question: Question) -> str:
        """The question as the engine takes it."""
        system = [{"role": "system", "content": question.system}] if question.system else []
        return self.engine.render([*system, {"role": "user", "content": question.prompt}])
