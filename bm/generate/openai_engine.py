"""Any endpoint that speaks OpenAI's chat completions: vLLM's and SGLang's servers, DeepSeek, OpenAI."""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, Literal

import openai

from bm.errors import UserError
from bm.generate.attempts import Attempts, Budget, NoRoomError, Toll
from bm.generate.draw import stream
from bm.generate.endpoint import Answer, Endpoint, ExhaustedError, RefusedError
from bm.generate.openai_telling import likeliest
from bm.generate.price import Price
from bm.generate.samples import NOTHING, PLAIN, Likely, Message, Row, Sample, Sampling, Thinking

AWAY = 8
"""Requests in a row, or as many as are under way together, that failed with all their retries: nobody is there."""
TEMPLATE = 64
"""Tokens that an endpoint's chat template may add to a prompt."""


class OpenAIEngine:
    """One request a sample, at most `parallel` of them asked and not yet handed on.

    A request whose retries are used up does not end the others: they are asked, and one UserError at the end counts
    what is missing. With a `budget` no attempt is begun that could take the total over it: what is known counts with
    its tokens, each other attempt, under way or failed, with the most that it can have cost.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        parallel: int,
        refused: Literal["stop", "empty"],
        price: Price | None,
        budget: float | None,
        thinking: Thinking = PLAIN,
    ) -> None:
        self.endpoint, self.parallel, self.refused, self.price, self.budget = endpoint, parallel, refused, price, budget
        self.thinking = thinking
        self.attempts, self.charged = Attempts(), 0.0
        """What was begun of the rows that were asked for last, and what all that was asked for so far counts for in
        the budget: an evaluation asks once for each kind of sampling, a judge once for each batch."""

    def facts(self) -> dict[str, Any]:
        return {"engine": "openai", "version": openai.__version__, "model": self.endpoint.served,
                "base_url": self.endpoint.base_url, "dtype": None, "parallelism": self.parallel, "gpus": 0,
                **self.thinking.facts()}  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """A model counts by its name, wherever it is served: another address or key pays for nothing again."""
        return {"engine": "openai", "model": self.endpoint.served, **self.thinking.facts()}

    def failed(self, known: Mapping[Row, Sample]) -> dict[Row, int]:
        """By row, the attempts that may be on the bill but brought no answer."""
        lost = {row: begun - (row in known) for row, begun in self.attempts.begun.items()}
        return {row: number for row, number in lost.items() if number > 0}

    def bill(self, said: Mapping[Row, Sample]) -> dict[str, Any]:
        if self.price is None:
            return {}
        cost, number = self.price.total(said.values()), sum(self.failed(said).values())
        failed = {"failed_attempts": number, "failed_at_most": round(self.charged - cost, 6)} if number else {}
        return {"cost": round(cost, 6), **failed}

    def render(self, messages: Sequence[Message]) -> str:
        """The endpoint has the chat template: the prompt is the conversation itself, as JSON."""
        return json.dumps(list(messages), ensure_ascii=False)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Mapping[Row, Sample] = NOTHING
    ) -> Iterator[list[Sample]]:
        """See `Engine.generate`. Each sample is asked with a seed of its own; not every endpoint heeds it."""
        yield from _Run(self, prompts, sampling, known).samples()

    def likeliest(self, texts: Sequence[tuple[list[int], int]], k: int) -> Iterator[list[Likely]]:
        """See `Telling.likeliest`. UserError with a `budget`, which is of samples alone."""
        if self.budget is not None:
            raise UserError(
                "engine.budget: holds for samples alone, not for what is asked about traces; set it to null"
            )
        return likeliest(self.endpoint, texts, k, self.parallel)


class _Run:
    """One pass over rows that are to be asked: what is under way, what it may cost, and what went wrong."""

    def __init__(
        self, engine: OpenAIEngine, prompts: Sequence[str], sampling: Sampling, known: Mapping[Row, Sample]
    ) -> None:
        self._known = dict(known)
        self._engine, self._endpoint, self._prompts, self._sampling = engine, engine.endpoint, prompts, sampling
        self._rows = deque((p, i) for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known)
        self._answered = self._in_a_row = 0
        self._works = bool(known)
        self._flying: dict[Future[Answer], tuple[Row, Toll]] = {}
        self._stopped = Event()
        self._failed: list[str] = []
        self._hopeless: UserError | None = None
        self._budget = Budget(engine.budget, engine.charged + self._spent(known))
        self._missing = len(self._rows)

    def _spent(self, known: Mapping[Row, Sample]) -> float:
        """What is known, and the worst of every attempt beyond."""
        lost = (attempts * self._worst(row) for row, attempts in self._engine.failed(known).items())
        return sum(lost, self._engine.price.total(known.values()) if self._engine.price else 0.0)

    def samples(self) -> Iterator[list[Sample]]:
        with ThreadPoolExecutor(self._engine.parallel) as pool:
            try:
                while self._begin(pool):
                    done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                    if arrived := [s for future in done if (s := self._arrived(future))]:
                        yield arrived
            finally:
                self._stopped.set()
                self._engine.charged = self._budget.spent
        self._conclude()

    def _begin(self, pool: ThreadPoolExecutor) -> bool:
        """Ask as long as there is room; whether anything is under way."""
        while self._rows and len(self._flying) < self._engine.parallel and not self._over():
            row = self._rows[0]
            toll = Toll(row, self._worst(row), self._engine.attempts, self._budget)
            if not self._budget.take(toll.worst):
                break
            self._rows.popleft()
            self._flying[pool.submit(self._endpoint.ask, self._request(row), self._stopped, toll)] = row, toll
        return bool(self._flying)

    def _over(self) -> bool:
        return self._hopeless is not None or self._in_a_row >= max(AWAY, self._engine.parallel)

    def _worst(self, row: Row) -> float:
        """The most that an attempt can cost: a token for every byte of the prompt, and all that may be generated."""
        price, prompt = self._engine.price, self._prompts[row[0]]
        return price.of(len(prompt.encode()) + TEMPLATE, self._sampling.max_new_tokens) if price else 0.0

    def _request(self, row: Row) -> dict[str, Any]:
        prompt, sampling = self._prompts[row[0]], self._sampling
        return {
            "messages": _messages(prompt),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": stream(sampling.seed, prompt, row[1]) >> 33,  # endpoints take 31 bits
            "stop": list(sampling.stop) or openai.omit,
            **self._beyond(),
        }

    def _beyond(self) -> dict[str, Any]:
        """What OpenAI's own endpoint does not know, but servers of open models do."""
        penalty, template = self._sampling.repetition_penalty, self._engine.thinking.template()
        body: dict[str, Any] = {"repetition_penalty": penalty} if penalty is not None else {}
        body |= {"chat_template_kwargs": template} if template else {}
        return {"extra_body": body} if body else {}

    def _arrived(self, future: "Future[Answer]") -> Sample | None:
        """The sample, if there is one; what went wrong is kept for the end."""
        (prompt, index), toll = self._flying.pop(future)
        try:
            answer = future.result()
        except NoRoomError:  # asked again as soon as what is under way leaves room
            self._rows.appendleft((prompt, index))
            return None
        except UserError as problem:
            self._hopeless = self._hopeless or problem
            return None
        except (RefusedError, ExhaustedError) as problem:
            if isinstance(problem, RefusedError) and self._engine.refused == "empty" and self._works:
                self._answered += 1
                return Sample(prompt, index, "", 0, False)
            self._failed.append(str(problem))
            self._in_a_row += 1
            return None
        self._in_a_row, self._works, self._answered = 0, True, self._answered + 1
        if self._engine.budget is not None and answer.tokens is None:
            self._hopeless = UserError(f"{self._endpoint.name} reports no token counts, so no budget can be held")
        sample = Sample(prompt, index, answer.text, answer.tokens or 0, answer.finished, answer.prompt_tokens or 0)
        self._known[prompt, index] = sample
        self._budget.give_back(toll.worst - (self._engine.price.total([sample]) if self._engine.price else 0.0))
        return sample

    def _conclude(self) -> None:
        """Nothing if all was answered, else a UserError of one line."""
        missing = self._missing - self._answered
        if self._hopeless:
            raise self._hopeless
        kept = "answers are kept; rerun the command to resume"
        if self._failed:
            said = f"{missing} of {self._missing} responses are missing ({self._failed[-1]})"
            raise UserError(f"{self._endpoint.name}: {said}; {kept}")
        if self._rows:
            answered = len(self._prompts) * self._sampling.n - missing
            budget = f"the budget of {self._engine.budget:g} has no room for another response"
            lost = sum(self._engine.failed(self._known).values())
            counted = f" ({lost} failed attempt{'s' * (lost > 1)} at the most they can have cost)" if lost else ""
            raise UserError(f"{budget}: {self._budget.spent:.4g} spent{counted}, {answered} answered, {missing} to go;"
                            f" raise it: {kept}")  # fmt: skip


def _messages(prompt: str) -> Any:
    return json.loads(prompt) if prompt.startswith('[{"role"') else [{"role": "user", "content": prompt}]
