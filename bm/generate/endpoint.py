"""One request to an OpenAI-compatible endpoint, streamed, and asked again where asking again can help."""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import count
from threading import Event
from typing import Any, TypeVar

import openai

from bm.errors import UserError
from bm.generate.attempts import Toll
from bm.progress import say

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before the first repetition, doubled with each, and at most: drawn between half of it and all of it."""
LONGEST_WAIT = 900.0
"""Seconds of a Retry-After that are waited for at most."""
HOPELESS = {401: "refuses the key", 402: "says that the account is out of credit", 403: "refuses access",
            404: "has no such model or address"}  # fmt: skip
"""Answers that every other request would get too."""
QUOTA = "insufficient_quota"
"""A 429 that no waiting changes."""
BUSY = (408, 409, 425, 429)
"""Answers below 500 after which the same request may succeed."""
UNBILLED = (400, 401, 402, 403, 404, 405, 406, 410, 413, 422, 429)
"""Answers to a request that was turned away before anything was generated."""
NEWS = 10.0
"""Seconds between two lines about requests that are asked again."""
INTERRUPTED = ("insufficient_system_resource",)
"""Finish reasons (DeepSeek's) of a response that the endpoint itself broke off."""


@dataclass(frozen=True)
class Answer:
    """A response that arrived whole; tokens are the endpoint's own count, None where it reports none."""

    text: str
    finished: bool
    prompt_tokens: int | None
    tokens: int | None


class RefusedError(Exception):
    """The endpoint takes other requests but not this one."""


class ExhaustedError(Exception):
    """The request failed each time that it was asked."""


class _CutError(Exception):
    """A stream that ended before its response did."""


def secret(base_url: str, key: str | None) -> str:
    """The value of the environment variable `key`; UserError where it is not set."""
    held = os.environ.get(key, "") if key else ""
    if key and not held:
        raise UserError(f"the endpoint {base_url} needs a key: set the environment variable {key}")
    return held


class _PageError(Exception):
    """A web page in place of a response: nobody here answers questions, or a proxy stands between."""


class Endpoint:
    """A model behind a URL. `timeout`: seconds of silence, not of a whole response: a long thought may take an hour.

    Retries are counted here and not by the client, which neither repeats a stream that breaks nor waits for longer
    than a minute. A Retry-After holds back every request, not only the one that was told.
    """

    def __init__(self, served: str, base_url: str, key: str | None, timeout: float, retries: int) -> None:
        self._secret = secret(base_url, key)
        self.served, self.base_url, self._retries = served, base_url, retries
        self._client = openai.OpenAI(base_url=base_url, api_key=self._secret or "none", timeout=timeout, max_retries=0)
        self._not_before = self._next_news = 0.0
        self._reached = False
        """Whether anybody has ever answered, if only to say that there is no room."""

    @property
    def name(self) -> str:
        return f"{self.base_url} ({self.served})"

    def ask(self, request: Mapping[str, Any], stopped: Event, toll: Toll) -> Answer:
        """The answer to a request (the endpoint's parameters); UserError for what would meet every other one too.

        Before each attempt the toll is asked, whose NoRoomError ends the request.
        """
        return self._tried(lambda: self._streamed(request, stopped), stopped, toll)

    def told(self, request: Mapping[str, Any], stopped: Event, toll: Toll) -> Sequence[Any] | None:
        """What a server like vLLM's says of the tokens of a request's own prompt (its `prompt_logprobs`).

        By token None or {token: {"logprob": …}}; None from a server that says nothing of them. Errors as for `ask`.
        """
        return self._tried(lambda: self._of_prompt(request), stopped, toll)

    def _of_prompt(self, request: Mapping[str, Any]) -> Sequence[Any] | None:
        answer = self._client.completions.create(model=self.served, **request)
        self._reached = True
        said: Sequence[Any] | None = getattr(answer.choices[0], "prompt_logprobs", None)
        return said

    def _tried(self, attempted: Callable[[], T], stopped: Event, toll: Toll) -> T:
        for attempt in count():
            stopped.wait(max(0.0, self._not_before - time.monotonic()))
            if stopped.is_set():
                raise ExhaustedError("stopped")
            toll.begin()
            try:
                return attempted()
            except (
                openai.OpenAIError,
                _CutError,
                _PageError,
                ValueError,
            ) as problem:  # ValueError: a line that is no JSON
                said, status = self._said(problem), getattr(problem, "status_code", 0)
                nobody = _unconnected(problem)
                if status in UNBILLED or nobody:
                    toll.free()
                if nobody and not self._reached:
                    raise UserError(f"{self.name} cannot be reached: {said}; check its base_url") from None
                self._reached = self._reached or not nobody
                if status in HOPELESS or getattr(problem, "code", None) == QUOTA:
                    raise UserError(f"{self.name} {HOPELESS.get(status, 'is out of quota')}: {said}") from None
                if 400 <= status < 500 and status not in BUSY:
                    raise RefusedError(said) from None
                if attempt == self._retries:
                    raise ExhaustedError(said) from None
                self._pause(problem, said, attempt, stopped)
        raise AssertionError

    def _streamed(self, request: Mapping[str, Any], stopped: Event) -> Answer:
        thought, text, finish, usage = [], [], None, None
        with self._client.chat.completions.create(
            model=self.served, stream=True, stream_options={"include_usage": True}, **request
        ) as chunks:
            if "html" in chunks.response.headers.get("content-type", ""):
                raise _PageError("a web page came back and no response")
            for chunk in chunks:
                self._reached = True
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    thought.append(_thought(choice.delta))
                    text.append(choice.delta.content or "")
                    finish = choice.finish_reason or finish
                if stopped.is_set():
                    raise _CutError("stopped")
        if finish is None or finish in INTERRUPTED:
            raise _CutError(f"the response was broken off{f' ({finish})' if finish else ''}")
        prompt_tokens, tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        return Answer(_joined("".join(thought), "".join(text)), finish == "stop", prompt_tokens, tokens)

    def _pause(self, problem: Exception, said: str, attempt: int, stopped: Event) -> None:
        told = min(_retry_after(problem), LONGEST_WAIT)
        now = time.monotonic()
        self._not_before = max(self._not_before, now + told)
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
        pause = told + random.uniform(longest / 2, longest)  # drawn, so that not all come back at once
        if now >= self._next_news and not stopped.is_set():
            self._next_news = now + NEWS
            say(f"{self.name}: {said}; asked again in {pause:.1f} s (attempt {attempt + 2} of {self._retries + 1})")
        stopped.wait(pause)

    def _said(self, problem: Exception) -> str:
        """The problem in one line, without the key: some endpoints repeat what they were sent."""
        cause = problem.__cause__ if isinstance(problem, openai.APIConnectionError) else None
        line = (str(cause or problem).strip().splitlines() or [type(cause or problem).__name__])[0]
        return line.replace(self._secret, "***") if self._secret else line


def _unconnected(problem: Exception) -> bool:
    """Whether no server of models was met: refused, no such host, another site. (The client has httpx or httpx2.)"""
    return isinstance(problem, _PageError) or type(problem.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _retry_after(problem: Exception) -> float:
    """Seconds that the endpoint asks to wait, as a number or as a date; 0 if it does not."""
    response = getattr(problem, "response", None)
    told = (response.headers.get("retry-after") if response is not None else None) or "0"
    try:
        date = None if told.replace(".", "", 1).isdigit() else parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    return float(told) if date is None else max(0.0, date.timestamp() - time.time())


def _thought(delta: Any) -> str:
    """The reasoning that servers with a parser for it (DeepSeek, vLLM, SGLang) send apart from the answer."""
    return getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""


def _joined(thought: str, text: str) -> str:
    """A thought that came apart goes back into its tags, closed if an answer followed it."""
    if not thought:
        return text
    return f"<think>\n{thought.strip()}" + (f"\n</think>\n\n{text.strip()}" if text.strip() else "")
