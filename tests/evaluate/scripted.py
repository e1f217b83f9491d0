"""An engine that answers from a script: what is right, wrong, cut off or never closed is known beforehand."""

import json
from collections.abc import Mapping
from typing import Any

from bm.generate import Sample


def engine(model: Any, script: Mapping[str, list[str]]) -> "Scripted":
    """script: responses by the question's text, one a sample; one that ends in `…` was cut off."""
    return Scripted(script)


class Scripted:
    def __init__(self, script):
        self.script, self.asked = script, []

    def facts(self):
        return {"engine": "scripted"}

    def render(self, messages):
        return json.dumps(messages)

    def generate(self, prompts, sampling, known=()):
        self.asked.append(sampling)
        for p, prompt in enumerate(prompts):
            question = json.loads(prompt)[-1]["content"] if prompt.startswith("[") else prompt
            responses = self.script[question][: sampling.n]
            yield [Sample(p, i, r, len(r), not r.endswith("…")) for i, r in enumerate(responses)]
