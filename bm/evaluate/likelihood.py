"""Log-likelihoods as lm-eval computes them, written to disk as they come and found again by what was asked."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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


def scores(engine: Engine, requests: Sequence[Instance], kind: Kind, journal: Path) -> list[Any]:
    """lm-eval's result of each request; those that `journal` holds are not computed again.

    Every continuation of a context is asked together, and longest contexts first, so an interrupted run resumes with
    the same pieces. UserError for an engine that has no likelihoods.
    """
    keys = [_key(kind, request) for request in requests]
    with appending(journal) as file, progress("score", total=len(requests), unit="requests") as bar:
        known: dict[str, Any] = {entry["key"]: entry["score"] for entry in entries(journal)}
        wanted = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        todo = sorted(wanted, key=lambda key: (-len(wanted[key].args[0]), wanted[key].args))
        scorer, size = _scorer(engine, [wanted[key] for key in todo], kind) if todo else (None, 1)
        for start in range(0, len(todo), size):
            piece = todo[start : start + size]
            computed = getattr(scorer, kind)([wanted[key] for key in piece], disable_tqdm=True)
            write(file, [{"key": key, "score": score} for key, score in zip(piece, computed, strict=True)])
            known.update(zip(piece, computed, strict=True))
            bar.advance(len(piece))
    return [tuple(known[key]) if kind == "loglikelihood" else known[key] for key in keys]


def _key(kind: Kind, request: Instance) -> str:
    return hashlib.blake2b(json.dumps([kind, *request.args]).encode(), digest_size=16).hexdigest()


def _scorer(engine: Engine, requests: Sequence[Instance], kind: Kind) -> tuple[HFLM, int]:
    """lm-eval's own model over the engine's, and how many requests to give it at a time."""
    if not isinstance(engine, TransformersEngine):
        name = engine.facts()["engine"]
        raise UserError(f"task {requests[0].task_name} scores log-likelihoods, which {name} cannot; use transformers")
    # HFLM makes the logits of every token of a batch; a character is a token at most, so this bounds them
    longest = max(len("".join(request.args)) for request in requests)
    rows = LOGITS // (engine.model.config.vocab_size * min(max(longest, 1), engine.context))
    batch = max(1, min(engine.batch, rows))
    if kind == "loglikelihood" and engine.shares:
        return _Shared(engine.model, tokenizer=engine.tokenizer, engine=engine), engine.batch * BATCHES
    return HFLM(engine.model, tokenizer=engine.tokenizer, batch_size=batch), batch * BATCHES


class _Shared(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's model, which makes tokens of requests; continuations are scored by the engine, a prompt once for all.

    lm-eval computes the prompt again for each choice of more than one token, and pads whole batches to the longest.
    """

    def __init__(self, *arguments: Any, engine: TransformersEngine, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._engine = engine

    def _loglikelihood_tokens(self, requests: list[tuple[Any, list[int], list[int]]], **_: Any) -> list[Any]:
        return list(self._engine.likelihoods([(prompt, rest) for _, prompt, rest in requests]))
