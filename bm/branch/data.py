"""Traces on disk to the micro-batches of every optimiser step, the same ones in every run and after every restart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from bm.branch.attention import Segments
from bm.branch.chat import render
from bm.branch.packing import Certificate, best_fit_decreasing
from bm.config import Branch
from bm.errors import UserError

COLUMNS = ["id", "system", "prompt", "response"]


@dataclass(frozen=True)
class Traces:
    """One domain's traces and how often an epoch sees each: 1 once, 0.5 a random half, 2.5 twice and a random half."""

    path: Path
    domain: str
    weight: float = 1.0


@dataclass(frozen=True)
class Documents:
    """Tokenised traces, one after another. Arrays have one entry a document unless said otherwise."""

    tokens: NDArray[np.int32]
    """Every document's tokens, concatenated."""
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]
    """Leading tokens that are not learned."""
    domain: NDArray[np.int64]
    ids: NDArray[np.str_]

    def supervised(self, packs: Sequence[Sequence[int]]) -> int:
        """Tokens with a loss: everything after the prompt."""
        return sum(int(self.lengths[i] - self.prompts[i]) for pack in packs for i in pack)

    def total(self, packs: Sequence[Sequence[int]]) -> int:
        return sum(int(self.lengths[i]) for pack in packs for i in pack)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: packs laid end to end in one flat sequence of T tokens, S of them followed by a label."""

    ids: Tensor
    """[1, T]"""
    positions: Tensor
    """[1, T], restarting with every segment."""
    segments: Segments
    labelled: Tensor
    """[S], where in T a label is predicted."""
    targets: Tensor
    """[S]"""
    documents: Sequence[int]

    def to(self, device: torch.device) -> "MicroBatch":
        ids, positions, labelled, targets = (
            x.to(device, non_blocking=True) for x in (self.ids, self.positions, self.labelled, self.targets)
        )
        return MicroBatch(ids, positions, self.segments.to(device), labelled, targets, self.documents)


def micro_batch(documents: Documents, packs: Sequence[Sequence[int]], isolate: bool) -> MicroBatch:
    """Packs end to end; a segment is a document if `isolate`, else a whole pack (the paper's math run)."""
    members = [i for pack in packs for i in pack]
    lengths = [int(documents.lengths[i]) for i in members]
    ends = np.cumsum(lengths)
    ids = np.concatenate([documents.tokens[documents.starts[i] :][:n] for i, n in zip(members, lengths, strict=True)])
    labelled = np.concatenate(
        [np.arange(end - n + documents.prompts[i], end) for i, n, end in zip(members, lengths, ends, strict=True)]
    )
    segments = lengths if isolate else [documents.total([pack]) for pack in packs]
    positions = np.concatenate([np.arange(n) for n in segments])
    flat = torch.from_numpy(ids.astype(np.int64))
    where = torch.from_numpy(labelled)
    return MicroBatch(flat[None], torch.from_numpy(positions)[None], Segments.of(segments), where - 1, flat[where], members)


def epoch_packs(documents: Documents, weights: Sequence[float], config: Branch, epoch: int) -> list[list[int]]:
    """The packs of one epoch in training order: drawn, packed and shuffled from (seed, epoch) alone."""
    draw = np.random.default_rng([config.seed, epoch])
    chosen: list[int] = []
    for domain, weight in enumerate(weights):
        members = draw.permutation(np.flatnonzero(documents.domain == domain))
        chosen += np.tile(members, math.ceil(weight))[: round(weight * len(members))].tolist()
    order = draw.permutation(np.array(chosen, dtype=np.int64))
    if config.packing == "none":
        return [[i] for i in order.tolist()]
    packs = [[int(order[i]) for i in members] for members in best_fit_decreasing(documents.lengths[order], config.sequence_length)]
    return [packs[i] for i in draw.permutation(len(packs))]


def plan(documents: Documents, weights: Sequence[float], config: Branch) -> list[tuple[float, list[list[int]]]]:
    """Every optimiser step of the run: the epoch when it ends, and its packs. The last step of an epoch may be short."""
    steps = []
    for epoch in range(math.ceil(config.epochs)):
        packs = epoch_packs(documents, weights, config, epoch)
        share = min(1.0, config.epochs - epoch)
        for start in range(0, math.ceil(share * len(packs)), config.batch):
            steps.append((epoch + min(1.0, (start + config.batch) / len(packs)), packs[start : start + config.batch]))
    return steps


class TraceData(L.LightningDataModule):
    """Every optimiser step as a list of micro-batches, from `first` on."""

    def __init__(self, student: Path, traces: Sequence[Traces], config: Branch, first: int = 0) -> None:
        super().__init__()
        self.config, self.traces, self.first = config, traces, first
        self.documents, self.certificate = tokenised(student, traces, config)
        self.plan = plan(self.documents, [t.weight for t in traces], config)

    def tokens(self) -> int:
        """Tokens through the model in the whole run."""
        return sum(self.documents.total(packs) for _, packs in self.plan)

    def train_dataloader(self) -> "Steps":
        return Steps(self)


@dataclass(frozen=True)
class Steps:
    """What Lightning iterates over: one item an optimiser step."""

    data: TraceData

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        config, size = self.data.config, self.data.config.micro_batch
        for _, packs in self.data.plan[self.data.first :]:
            yield [
                micro_batch(self.data.documents, packs[start : start + size], config.packing != "packing")
                for start in range(0, len(packs), size)
            ]

    def __len__(self) -> int:
        return len(self.data.plan) - self.data.first


def tokenised(student: Path, traces: Sequence[Traces], config: Branch) -> tuple[Documents, Certificate]:
    """All traces through the student's template and tokenizer; what does not fit is left out and counted."""
    tokenizer = AutoTokenizer.from_pretrained(student)
    pairs: list[tuple[list[int], list[int]]] = []
    domain: list[int] = []
    ids: list[str] = []
    for index, source in enumerate(traces):
        rows = pq.read_table(source.path, columns=COLUMNS).to_pylist()
        pairs += render(tokenizer, rows)
        domain += [index] * len(rows)
        ids += [row["id"] for row in rows]
    fits = [i for i, (p, r) in enumerate(pairs) if len(p) + len(r) <= config.sequence_length]
    if not fits:
        raise UserError(f"no trace fits branch.sequence_length={config.sequence_length}")
    lengths = np.array([len(pairs[i][0]) + len(pairs[i][1]) for i in fits], dtype=np.int64)
    documents = Documents(
        tokens=np.concatenate([np.array(pairs[i][0] + pairs[i][1], dtype=np.int32) for i in fits]),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
        prompts=np.array([len(pairs[i][0]) for i in fits], dtype=np.int64),
        domain=np.array([domain[i] for i in fits], dtype=np.int64),
        ids=np.array([ids[i] for i in fits]),
    )
    packs = epoch_packs(documents, [t.weight for t in traces], config, 0)
    used = documents.total(packs)
    whole = sum(len(p) + len(r) for p, r in pairs)
    certificate = Certificate(
        mode=config.packing, documents=len(fits), tokens=int(lengths.sum()), supervised_tokens=documents.supervised([range(len(fits))]),
        dropped=len(pairs) - len(fits), dropped_tokens=whole - int(lengths.sum()), cut=0, cut_tokens=0,
        packs=len(packs), utilisation=used / (len(packs) * config.sequence_length),
    )  # fmt: skip
    return documents, certificate
