"""Traces as token ids: rendered, linted, fitted to the sequence length, and accounted for to the last token."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bm import parquet
from bm.branch.chat import Rendered, check_template, coloured, lint, render
from bm.config import Branch
from bm.errors import UserError
from bm.generate.text import model_folder
from bm.progress import console, say, watched

COLUMNS = ["id", "system", "prompt", "response"]
CACHE = "documents"


@dataclass(frozen=True)
class Traces:
    """One domain's traces and how often an epoch sees each: 1 once, 0.5 a random half, 2.5 twice and a random half.

    At weight 0 a domain is only watched: its held-out loss and gradient are measured, and nothing of it is learned.
    """

    path: Path
    domain: str
    weight: float = 1.0
    teacher: Path | None = None
    """Its own, where each domain's expert teaches it; None: `branch.teacher`, if there is one."""
    stored: Path | None = None
    """The folder of what its teacher says of them (`bm.branch.stored`); None: the teacher is asked in training."""


@dataclass(frozen=True)
class Documents:
    """Tokenised traces. Arrays have one entry per document, but for `tokens`."""

    tokens: NDArray[np.int32]
    """Every document's tokens, one document after another."""
    starts: NDArray[np.int64]
    """Where a document begins in `tokens`."""
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]
    """Leading tokens, which are not learned."""
    domain: NDArray[np.int64]
    """Index into the list of Traces."""
    held_out: NDArray[np.bool_]
    """Never trained on; measured instead."""
    cut: NDArray[np.int64]
    """Tokens lost at the end."""
    dropped: NDArray[np.int64]
    """[number of Traces, 2]: documents left out, and their tokens."""
    ids: NDArray[np.str_]

    def total(self, packs: Iterable[Sequence[int]]) -> int:
        """Tokens in some packs."""
        return sum(int(self.lengths[i]) for pack in packs for i in pack)

    def supervised(self, packs: Iterable[Sequence[int]]) -> int:
        """Tokens with a loss in some packs: everything after the prompts."""
        return sum(int(self.lengths[i] - self.prompts[i]) for pack in packs for i in pack)


def tokenise(student: Path, traces: Sequence[Traces], config: Branch, work: Path) -> None:
    """All traces as Documents in `work/documents`, whole or not at all; made once per run, by one process."""
    if (work / CACHE).exists():
        return
    tokenizer = model_folder(student)
    check_template(tokenizer, config.chat_template)
    samples: list[list[Rendered]] = []
    for source in traces:
        samples.append(render(tokenizer, parquet.read(source.path, columns=COLUMNS).to_pylist()))
        lint(tokenizer, samples[-1], f"{source.domain} ({source.path})")
    if watched():
        console.print(coloured(samples[0][0], str(tokenizer.eos_token)))
    _store(_fitted(samples, traces, config), work)


def rendered(model: Path, traces: Path, count: int) -> list[Rendered]:
    """The first `count` traces as a model reads them: token ids of prompt and response."""
    rows = parquet.read(traces, columns=COLUMNS).slice(0, count).to_pylist()
    return render(model_folder(model), rows)


def _fitted(samples: Sequence[Sequence[Rendered]], traces: Sequence[Traces], config: Branch) -> Documents:
    """What fits the sequence length; UserError if more than `max_overlong` of a domain's traces do not."""
    limit, cut = config.sequence_length, config.overlong == "cut"
    kept: list[tuple[int, Rendered]] = []
    dropped = np.zeros((len(traces), 2), dtype=np.int64)
    held_out: list[bool] = []
    for index, (source, of_domain) in enumerate(zip(traces, samples, strict=True)):
        overlong = [s for s in of_domain if len(s) > limit]
        _check_share(source, len(overlong), len(of_domain), config)
        left = [s for s in of_domain if len(s) <= limit or (cut and len(s.prompt_ids) < limit)]
        dropped[index] = len(of_domain) - len(left), sum(map(len, of_domain)) - sum(map(len, left))
        kept += [(index, s) for s in left]
        held_out += _held_out(source, len(left), config)
    lengths = np.array([min(len(s), limit) for _, s in kept], dtype=np.int64)
    return Documents(
        tokens=np.concatenate([np.array([*s.prompt_ids, *s.response_ids][:limit], dtype=np.int32) for _, s in kept]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        prompts=np.array([len(s.prompt_ids) for _, s in kept], dtype=np.int64),
        domain=np.array([index for index, _ in kept], dtype=np.int64),
        held_out=np.array(held_out),
        cut=np.array([len(s) for _, s in kept], dtype=np.int64) - lengths,
        dropped=dropped,
        ids=np.array([s.id for _, s in kept]),
    )


def _check_share(source: Traces, overlong: int, total: int, config: Branch) -> None:
    if not total:
        raise UserError(f"{source.path}: no traces of {source.domain}")
    if overlong > config.max_overlong * total or overlong == total:
        raise UserError(
            f"{source.domain}: {overlong} of {total} traces are longer than the {config.sequence_length} tokens of "
            f"branch.sequence_length; raise it, or allow it with branch.max_overlong (now {config.max_overlong})"
        )
    if overlong:
        limit = config.sequence_length
        say(f"{source.domain}: {overlong} of {total} traces are longer than {limit} tokens ({config.overlong})")


def _held_out(source: Traces, count: int, config: Branch) -> list[bool]:
    """Which of a domain's documents are held out: `held_out` of them, the same for its expert and for a mixture."""
    if source.weight and count <= config.held_out:
        raise UserError(f"{source.domain}: {count} traces; branch.held_out={config.held_out} leaves none to train on")
    held = np.zeros(count, dtype=np.bool_)
    held[np.random.default_rng(config.seed).permutation(count)[: config.held_out]] = True
    return [bool(h) for h in held]


def _store(documents: Documents, work: Path) -> None:
    beside = work / f".{CACHE}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for field in fields(Documents):
        np.save(beside / f"{field.name}.npy", getattr(documents, field.name), allow_pickle=False)
    os.replace(beside, work / CACHE)


def load(work: Path) -> Documents:
    """The documents of `work`, mapped from disk: ranks of one machine share the memory."""
    files = {field.name: work / CACHE / f"{field.name}.npy" for field in fields(Documents)}
    return Documents(**{name: np.load(file, mmap_mode="r").view(np.ndarray) for name, file in files.items()})


def remove(work: Path) -> None:
    shutil.rmtree(work / CACHE, ignore_errors=True)


def certificate(
    documents: Documents, packs: Sequence[Sequence[int]], config: Branch, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The packing certificate: what became of every document and token, with the packs of the whole run.

    `cut` and `dropped` count documents, `…_tokens` what they lost; `utilisation`: tokens over packs × sequence length.
    """
    trained = ~documents.held_out
    return {
        "mode": config.packing,
        "documents": int(trained.sum()),
        "tokens": int(documents.lengths[trained].sum()),
        "supervised_tokens": int((documents.lengths - documents.prompts)[trained].sum()),
        "held_out": int(documents.held_out.sum()),
        "dropped": int(documents.dropped[:, 0].sum()),
        "dropped_tokens": int(documents.dropped[:, 1].sum()),
        "cut": int((documents.cut > 0).sum()),
        "cut_tokens": int(documents.cut.sum()),
        "packs": len(packs),
        "utilisation": round(documents.total(packs) / (len(packs) * config.sequence_length), 4),
        "chat_template": check_template(tokenizer, config.chat_template),
    }


def realised(documents: Documents, traces: Sequence[Traces], packs: Sequence[Sequence[int]]) -> dict[str, int]:
    """Tokens of each domain in the packs of a whole run."""
    members = np.array([i for pack in packs for i in pack])
    tokens = np.bincount(documents.domain[members], documents.lengths[members], minlength=len(traces))
    return {source.domain: int(count) for source, count in zip(traces, tokens, strict=True)}
