"""What is asked of an engine, and what comes back."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": …}`."""


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. With the same seed a prompt's i-th sample has its own random stream in any company."""

    n: int
    """Samples per prompt."""
    temperature: float
    """0 takes the most probable token each time."""
    top_p: float
    """Draw from the smallest set of tokens with at least this probability."""
    max_new_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    """A response ends before the first of these. Leave empty for reasoning: a stop string may occur in a thought."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens that were there before (Keskar et al. 2019, arXiv:1909.05858); null: as the
    model's generation_config says."""

    def key(self, prompt: str) -> str:
        """Names all that determines a prompt's samples but the engine and their number: 32 hex digits."""
        settings = {name: value for name, value in asdict(self).items() if name != "n"}
        if self.repetition_penalty is None:  # as journals had it before there was one
            del settings["repetition_penalty"]
        return hashlib.blake2b(json.dumps([prompt, settings], sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Thinking:
    """Whether and for how long a model thinks before it answers."""

    enabled: bool | None = None
    """`enable_thinking` of the chat template; null: as the template has it."""
    budget: int | None = None
    """Tokens after which a thought that has not ended is ended, so that an answer follows; null: none."""

    def template(self) -> dict[str, Any]:
        """What a chat template is given."""
        return {} if self.enabled is None else {"enable_thinking": self.enabled}

    def facts(self) -> dict[str, Any]:
        return self.template() | ({} if self.budget is None else {"thinking_budget": self.budget})


PLAIN = Thinking()


@dataclass(frozen=True)
class Sample:
    """One response to one prompt."""

    prompt: int
    """Position of the prompt among those asked."""
    index: int
    """Which of the prompt's n samples."""
    response: str
    tokens: int
    """Generated tokens, the end of the text not counted."""
    finished: bool
    """False: cut off by `max_new_tokens` or the model's context."""
    prompt_tokens: int = 0
    """Tokens of the prompt as an endpoint bills them; 0 for an engine of this machine."""
    asked_by: str = ""
    """Who asked for it first and so bears its cost, where several share a journal."""
    left_out: int = 0
    """Tokens at the beginning of the prompt that the model did not see, because there was no room for them."""


Row = tuple[int, int]
"""A sample's place: (prompt, index)."""
NOTHING: Mapping[Row, Sample] = MappingProxyType({})


class Engine(Protocol):
    """Anything that writes responses."""

    def facts(self) -> dict[str, Any]:
        """Engine, version, numeric type, parallelism and `gpus`: what must be known beside a score and a bill."""

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as the prompt that `generate` takes: the assistant's turn begins, or goes on if it is last."""

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Mapping[Row, Sample] = NOTHING
    ) -> Iterator[list[Sample]]:
        """The samples of every prompt in batches, as they are ready.

        What is `known` is not generated. Batches of an engine of this machine depend only on what remains, in a fixed
        order, so a run that was interrupted between two of them resumes with the same batches.
        """


@dataclass(frozen=True)
class Likely:
    """A model's likeliest tokens at the tokens of a text that follow its prompt, best first."""

    text: int
    """Position of the text among those asked about."""
    entries: list[list[int]]
    """[tokens, k]"""
    log_p: list[list[float]]
    """[tokens, k]: log-probabilities at temperature 1."""


@runtime_checkable
class Telling(Engine, Protocol):
    """An engine that tells what its model would have said where others have spoken."""

    def likeliest(self, texts: Sequence[tuple[list[int], int]], k: int) -> Iterator[list[Likely]]:
        """What is told about each text (token ids, and how many of them are its prompt), in batches as they are ready.

        UserError if a text is longer than the model's context, or for what keeps the model from answering.
        """


@runtime_checkable
class Lasting(Protocol):
    """An engine whose answers are worth keeping for whoever asks the same."""

    def identity(self) -> dict[str, Any]:
        """What its answers depend on besides the model's files, the prompt and the sampling."""
