"""Any endpoint that speaks OpenAI's chat completions: vLLM's and SGLang's servers, DeepSeek, OpenAI."""

import json
import os
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import openai

from bm.errors import UserError
from bm.generate.draw import stream
from bm.generate.samples import Message, Sample, Sampling


class OpenAIEngine:
    """One request a sample, `parallel` of them under way at a time; each sample is handed on when it comes."""

    def __init__(
        self, served: str, base_url: str, key: str | None, parallel: int, timeout: float, retries: int
    ) -> None:
        secret = os.environ.get(key, "") if key else "none"
        if not secret:
            raise UserError(f"the endpoint {base_url} needs a key: set the environment variable {key}")
        self.served, self.base_url, self.parallel = served, base_url, parallel
        self._client = openai.OpenAI(base_url=base_url, api_key=secret, timeout=timeout, max_retries=retries)

    def facts(self) -> dict[str, Any]:
        return {"engine": "openai", "version": openai.__version__, "model": self.served, "base_url": self.base_url,
                "dtype": None, "parallelism": self.parallel}  # fmt: skip

    def render(self, messages: Sequence[Message]) -> str:
        """The endpoint has the chat template: the prompt is the conversation itself, as JSON."""
        return json.dumps(list(messages), ensure_ascii=False)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """See `Engine.generate`. Each sample is asked with a seed of its own; not every endpoint heeds it."""
        rows = [(p, i) for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known]
        with ThreadPoolExecutor(self.parallel) as pool:
            asked = [pool.submit(self._ask, p, i, prompts[p], sampling) for p, i in rows]
            try:
                for answer in as_completed(asked):
                    yield [answer.result()]
            finally:
                for one in asked:
                    one.cancel()

    def _ask(self, prompt: int, index: int, text: str, sampling: Sampling) -> Sample:
        try:
            answer = self._client.chat.completions.create(
                model=self.served,
                messages=_messages(text),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=stream(sampling.seed, text, index) >> 33,  # endpoints take 31 bits
                stop=list(sampling.stop) or openai.omit,
            )
        except openai.OpenAIError as problem:
            raise UserError(f"{self.base_url} ({self.served}): {str(problem).splitlines()[0]}") from problem
        choice, usage = answer.choices[0], answer.usage
        return Sample(prompt, index, _response(choice.message), usage.completion_tokens if usage else 0,
                      choice.finish_reason == "stop")  # fmt: skip


def _messages(prompt: str) -> Any:
    return json.loads(prompt) if prompt.startswith('[{"role"') else [{"role": "user", "content": prompt}]


def _response(message: Any) -> str:
    """Reasoning servers hand over a thought apart from its answer: back into its tags, closed if it ended."""
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not thought:
        return message.content or ""
    return f"<think>\n{thought.strip()}" + (f"\n</think>\n\n{message.content}" if message.content else "")
