"""An engine that answers from a script: what is right, wrong, cut off or never closed is known beforehand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bm.generate import Message, Sample, Sampling


class Scripted:
    """Answers one question a batch. `asked` counts samples; after `patience` of them it gives up."""

    asked = 0
    patience = 1 << 30

    def __init__(self, script: Mapping[str, Sequence[str]]) -> None:
        self.script = script

    def facts(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def render(self, messages: Sequence[Message]) -> str:
        return json.dumps(messages)

    def generate(self, prompts: Sequence[str], sampling: Sampling, known: Any = ()) -> Iterator[list[Sample]]:
        for p, prompt in enumerate(prompts):
            question = json.loads(prompt)[-1]["content"] if prompt.startswith("[") else prompt
            if all((p, i) in known for i in range(sampling.n)):
                continue
            Scripted.asked += sampling.n
            if Scripted.asked > Scripted.patience:
                raise KeyboardInterrupt
            responses = self.script[question][: sampling.n]
            yield [Sample(p, i, r, len(r), not r.endswith("…")) for i, r in enumerate(responses)]


def engine(model: Any, script: dict[str, list[str]]) -> Scripted:
    """script: responses by the question's text, one a sample; one that ends in `…` was cut off."""
    return Scripted(script)


class Echo(Scripted):
    """Answers any prompt with itself."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, known: Any = ()) -> Iterator[list[Sample]]:
        for p, prompt in enumerate(prompts):
            yield [Sample(p, i, prompt, len(prompt), True) for i in range(sampling.n)]


def echo(model: Any) -> Scripted:
    return Echo({})
