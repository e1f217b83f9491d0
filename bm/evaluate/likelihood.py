"""Log-likelihoods as lm-eval computes them, written to disk as they come and found again by what was asked."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from bm.errors import UserError
from bm.generate import Engine
from bm.generate.journal import appending, entries, write
from bm.generate.transformers_engine import LOGITS, TransformersEngine
from bm.progress import progress

BATCHES = 16
"""Batches between two writings: within them, lm-eval orders requests and shares contexts as it likes."""

Kind = Literal["loglikelihood", "loglikelihood_rolling"]


class Scored(NamedTuple):
    """A request's score."""

    result: Any
    """lm-eval's: (log-likelihood, whether greedy decoding writes it), or the log-likelihood alone."""
    left_out: int
    """Tokens at the beginning of the prompt that the model did not see, because there was no room for them."""


def scores(engine: Engine, requests: Sequence[Instance], kind: Kind, journal: Path) -> list[Scored]:
    """The score of each request; those that `journal` holds are not computed again.

    Every continuation of a context is asked together, and longest contexts first, so an interrupted run resumes with
    the same pieces. UserError for an engine that has no likelihoods.
    """
    keys = [_key(kind, request) for request in requests]
    with appending(journal) as file, progress("score", total=len(requests), unit="requests") as bar:
        known = {e["key"]: Scored(_result(e["score"]), e.get("left_out", 0)) for e in entries(journal)}
        wanted = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        todo = sorted(wanted, key=lambda key: (-len(wanted[key].args[0]), wanted[key].args))
        if todo:
            scorer, size = _scorer(engine, [wanted[key] for key in todo], kind)
            for start in range(0, len(todo), size):
                piece = todo[start : start + size]
                computed = getattr(scorer, kind)([wanted[key] for key in piece], disable_tqdm=True)
                left_out = [scorer.left_out.get(wanted[key].args, 0) for key in piece]
                scored = {key: Scored(*score) for key, *score in zip(piece, computed, left_out, strict=True)}
                write(file, [{"key": key, "score": s.result, "left_out": s.left_out} for key, s in scored.items()])
                known.update(scored)
                bar.advance(len(piece))
    return [known[key] for key in keys]


def _result(kept: Any) -> Any:
    """JSON has lists for pairs."""
    return tuple(kept) if isinstance(kept, list) else kept


def _key(kind: Kind, request: Instance) -> str:
    return hashlib.blake2b(json.dumps([kind, *request.args]).encode(), digest_size=16).hexdigest()


def _scorer(engine: Engine, requests: Sequence[Instance], kind: Kind) -> "tuple[_Scorer, int]":
    """lm-eval's own model over the engine's, and how many requests to give it at a time."""
    if not isinstance(engine, TransformersEngine):
        name = engine.facts()["engine"]
        raise UserError(f"task {requests[0].task_name} scores log-likelihoods, which {name} cannot; use transformers")
    # HFLM makes the logits of every token of a batch; a character is a token at most, so this bounds them
    longest = max(len("".join(request.args)) for request in requests)
    rows = LOGITS // (engine.model.config.vocab_size * min(max(longest, 1), engine.context))
    batch = max(1, min(engine.batch, rows))
    if kind == "loglikelihood" and engine.shares:
        return _Shared(engine), engine.batch * BATCHES
    return _Scorer(engine.model, tokenizer=engine.tokenizer, batch_size=batch), batch * BATCHES


Tokens = tuple[tuple[str, str] | None, list[int], list[int]]
"""A request (None: a window of a rolling one, which leaves nothing out), and its prompt and continuation."""


class _Scorer(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's model, which makes tokens of requests and scores them; `left_out`: how many of a request's it could
    not."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.left_out: dict[Any, int] = {}

    def _loglikelihood_tokens(self, requests: Sequence[Tokens], **more: Any) -> list[Any]:
        room = self.max_length + 1  # the last token is not read
        self.left_out |= {pair: max(0, len(prompt) + len(rest) - room) for pair, prompt, rest in requests if pair}
        return self._scored(requests, **more)

    def _scored(self, requests: Sequence[Tokens], **more: Any) -> list[Any]:
        computed: list[Any] = super()._loglikelihood_tokens(requests, **more)
        return computed


class _Shared(_Scorer):
    """Continuations are scored by the engine, a prompt once for all.

    lm-eval computes the prompt again for each choice of more than one token, and pads whole batches to the longest.
    """

    def __init__(self, engine: TransformersEngine) -> None:
        super().__init__(engine.model, tokenizer=engine.tokenizer, max_length=engine.context)
        self._engine = engine

    def _scored(self, requests: Sequence[Tokens], **_: Any) -> list[Any]:
        return list(self._engine.likelihoods([(prompt, rest) for _, prompt, rest in requests]))
