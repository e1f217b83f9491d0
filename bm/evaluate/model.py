"""An lm-eval model over any engine: n samples of every request, all of them kept."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from bm.errors import UserError
from bm.evaluate.likelihood import Kind, scores
from bm.generate import Engine, Sample, Sampling, sample
from bm.progress import progress
from bm.verify.thinking import CLOSE, unclosed, whole

RESPONSES, LIKELIHOODS = "responses.jsonl", "likelihoods.jsonl"
"""The journals of a model."""
NEUTRAL = {"top_k": (0, -1, None), "num_beams": (1,), "min_p": (0,)}
"""Settings that some tasks write out, at the values that change nothing."""

Request = tuple[str, int, int]
"""Task, question (lm-eval's `doc_id`), and which of the question's requests."""


class EngineLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """Generates through an engine, scores log-likelihoods as lm-eval does, and keeps both in the folder `journals`."""

    def __init__(self, engine: Engine, seed: int, journals: Path) -> None:
        super().__init__()
        journals.mkdir(parents=True, exist_ok=True)
        self.engine, self.seed, self.journals = engine, seed, journals
        self.conversing = False
        """Whether prompts went through a chat template."""
        self.samples: dict[Request, list[Sample]] = {}
        """What was generated for each request, in the order of the samples."""
        self.left_out: dict[Request, int] = {}
        """How many tokens of each scored request's prompt were cut off because they did not fit into the context."""

    @property
    def tokenizer_name(self) -> str:
        return str(self.engine.facts()["engine"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt; lm-eval wants no generation prompt just where the assistant's turn is last."""
        self.conversing = True
        return self.engine.render(chat_history)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """lm-eval repeats a request n times in a row for n samples; they come back in the same order.

        Without a chat template stop strings end a response, as in lm-eval. In a conversation a model may think first,
        so they do not end anything there: they are looked for in its answer alone, as lm-eval would. The blank lines
        behind a thought are no part of that answer.
        """
        repeats: dict[int, list[Instance]] = defaultdict(list)
        for request in requests:
            repeats[id(request)].append(request)
        asked: dict[Sampling, list[Instance]] = defaultdict(list)
        for copies in repeats.values():
            asked[self._sampling(copies[0], len(copies))].append(copies[0])
        with progress("evaluate", total=len(requests), unit="samples") as bar:
            for sampling, alike in asked.items():
                prompts = [request.args[0] for request in alike]
                drawn = sample(self.engine, prompts, sampling, self.journals / RESPONSES, bar)
                self.samples.update(zip(map(_name, alike), drawn, strict=True))
        return [self._response(request, s) for request, *_ in repeats.values() for s in self.samples[_name(request)]]

    def _response(self, request: Instance, sample: Sample) -> str:
        response = whole(request.args[0], sample.response)
        if not self.conversing or unclosed(response):
            return response
        thought, end, said = response.rpartition(CLOSE)
        blank = len(said) - len(said.lstrip()) if end else 0
        positions = (said.find(stop, 0 if stop.strip() else blank) for stop in _stops(request.args[1]))
        return thought + end + said[: min((at for at in positions if at >= 0), default=None)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self._scores(requests, "loglikelihood")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self._scores(requests, "loglikelihood_rolling")

    def _scores(self, requests: list[Instance], kind: Kind) -> list[Any]:
        scored = scores(self.engine, requests, kind, self.journals / LIKELIHOODS)
        self.left_out.update((_name(request), score.left_out) for request, score in zip(requests, scored, strict=True))
        return [score.result for score in scored]

    def _sampling(self, request: Instance, n: int) -> Sampling:
        """From a task's `generation_kwargs`, read as lm-eval reads them; UserError for what no engine here does."""
        values = normalize_gen_kwargs(dict(request.args[1]))
        values.pop("do_sample")  # lm-eval has made it a temperature of 0
        sampling = Sampling(n, values.pop("temperature"), values.pop("top_p", 1.0), values.pop("max_gen_toks"),
                            self.seed, () if self.conversing else _stops(values),
                            values.pop("repetition_penalty", None))  # fmt: skip
        values.pop("until")
        for name, value in values.items():
            if value not in NEUTRAL.get(name, ()):
                raise UserError(
                    f"task {request.task_name}: generation_kwargs has {name}: {value}, which is not supported"
                )
        return sampling


def _stops(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(stop for stop in normalize_gen_kwargs(dict(settings))["until"] if stop)


def _name(request: Instance) -> Request:
    return request.task_name, request.doc_id, request.idx
