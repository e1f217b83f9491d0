"""An lm-eval model over any engine: n samples of every request, all of them kept."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from bm.errors import UserError
from bm.evaluate.thinking import whole
from bm.generate import Engine, Sample, Sampling, sample
from bm.generate.transformers_engine import TransformersEngine
from bm.progress import progress

LOGITS = 1 << 28
"""Logits made at a time when scoring: 1 GiB in float32."""
NEUTRAL = {"top_k": (0, -1, None), "num_beams": (1,), "repetition_penalty": (1,), "min_p": (0,)}
"""Settings that some tasks write out, at the values that change nothing."""

Request = tuple[str, int, int]
"""Task, question (lm-eval's `doc_id`), and which of the question's requests."""


class EngineLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """Generates through an engine and journals every sample in `journal`; scores log-likelihoods as lm-eval does."""

    def __init__(self, engine: Engine, seed: int, journal: Path) -> None:
        super().__init__()
        self.engine, self.seed, self.journal = engine, seed, journal
        self.samples: dict[Request, list[Sample]] = {}
        """What was generated for each request, in the order of the samples."""

    @property
    def tokenizer_name(self) -> str:
        return str(self.engine.facts()["engine"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a prompt; lm-eval wants no generation prompt just where the assistant's turn is last."""
        return self.engine.render(chat_history)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """lm-eval repeats a request n times in a row for n samples; they come back in the same order."""
        repeats: dict[int, list[Instance]] = defaultdict(list)
        for request in requests:
            repeats[id(request)].append(request)
        asked: dict[Sampling, list[Instance]] = defaultdict(list)
        for copies in repeats.values():
            asked[self._sampling(copies[0], len(copies))].append(copies[0])
        with progress("evaluate", total=len(requests), unit="samples") as bar:
            for sampling, ones in asked.items():
                prompts = [one.args[0] for one in ones]
                for one, samples in zip(ones, sample(self.engine, prompts, sampling, self.journal, bar), strict=True):
                    self.samples[_name(one)] = samples
        return [
            whole(copies[0].args[0], s.response) for copies in repeats.values() for s in self.samples[_name(copies[0])]
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        scores: list[tuple[float, bool]] = self._scorer(requests).loglikelihood(requests, disable_tqdm=True)
        return scores

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        scores: list[float] = self._scorer(requests).loglikelihood_rolling(requests, disable_tqdm=True)
        return scores

    def _scorer(self, requests: Sequence[Instance]) -> HFLM:
        if not isinstance(self.engine, TransformersEngine):
            name = self.engine.facts()["engine"]
            raise UserError(
                f"task {requests[0].task_name} scores log-likelihoods, which {name} cannot; use transformers"
            )
        # HFLM makes the logits of every token of a batch; a character is a token at most, so this bounds them
        longest = max(len("".join(request.args)) for request in requests)
        rows = LOGITS // (self.engine.model.config.vocab_size * min(max(longest, 1), self.engine.context))
        batch = max(1, min(self.engine.batch, rows))
        return HFLM(self.engine.model, tokenizer=self.engine.tokenizer, batch_size=batch)

    def _sampling(self, request: Instance, n: int) -> Sampling:
        """From a task's `generation_kwargs`, read as lm-eval reads them; UserError for what no engine here does."""
        values = normalize_gen_kwargs(dict(request.args[1]))
        values.pop("do_sample")  # lm-eval has made it a temperature of 0
        sampling = Sampling(n, values.pop("temperature"), values.pop("top_p", 1.0), values.pop("max_gen_toks"),
                            self.seed, tuple(stop for stop in values.pop("until") if stop))  # fmt: skip
        for name, value in values.items():
            if value not in NEUTRAL.get(name, ()):
                raise UserError(
                    f"task {request.task_name}: generation_kwargs has {name}: {value}, which is not supported"
                )
        return sampling


def _name(request: Instance) -> Request:
    return request.task_name, request.doc_id, request.idx
