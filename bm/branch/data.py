"""Documents to the micro-batches of every optimiser step: a function of the config, so a run can resume anywhere."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from bm.branch import documents as cache
from bm.branch.attention import Segments
from bm.branch.documents import Documents, Traces
from bm.branch.packing import best_fit_decreasing
from bm.branch.parallel import Place
from bm.branch.shapes import lacking
from bm.config import Branch, asks
from bm.errors import UserError

Ints = NDArray[np.int32]


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
    owner: Tensor
    """[S], whose label it is: a place in `documents`."""
    documents: Sequence[int]
    domains: Tensor
    """[documents], int64"""
    places: Tensor
    """[S], which of its document's labels each is."""
    packs: Sequence[int] = ()
    """How many documents each pack has."""

    def to(self, device: torch.device) -> "MicroBatch":
        names = ("ids", "positions", "segments", "labelled", "targets", "owner", "domains", "places")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        return replace(self, **moved)

    def evened(self) -> "MicroBatch":
        """With padding behind it where shapes cost (`bm.branch.shapes`) and no ranks share it."""
        padding = lacking(self.ids, 1) if self.segments.group is None else 0
        ids, positions = (pad(x, (0, padding)) for x in (self.ids, self.positions))
        return replace(self, ids=ids, positions=positions, segments=self.segments.padded(padding))

    def stretch(self, place: Place) -> "MicroBatch":
        """This rank's equal share of the tokens, where ranks share packs; the segments still tell of all of them."""
        if place.sequence_group is None or place.sequence_size == 1:
            return self
        padding = -self.ids.shape[1] % place.sequence_size
        size = (self.ids.shape[1] + padding) // place.sequence_size
        first = place.sequence_rank * size
        mine = (self.labelled >= first) & (self.labelled < first + size)
        ids, positions = (pad(x, (0, padding))[:, first : first + size] for x in (self.ids, self.positions))
        segments = replace(self.segments.padded(padding), group=place.sequence_group)
        of_labels: dict[str, Any] = {name: getattr(self, name)[mine] for name in ("targets", "owner", "places")}
        labelled = self.labelled[mine] - first
        return replace(self, ids=ids, positions=positions, segments=segments, labelled=labelled, **of_labels)


def flat(
    documents: Sequence[Ints],
    prompts: Sequence[int],
    segments: Sequence[int],
    names: Sequence[int] = (),
    domains: Sequence[int] = (),
    packs: Sequence[int] = (),
) -> MicroBatch:
    """Token ids of documents end to end, learned from behind each prompt; `segments` are lengths."""
    ends = np.cumsum([len(ids) for ids in documents])
    first = [end - len(ids) + prompt for ids, prompt, end in zip(documents, prompts, ends, strict=True)]
    labels = torch.from_numpy(np.concatenate([np.arange(a, b) for a, b in zip(first, ends, strict=True)]))
    ids = torch.from_numpy(np.concatenate(documents).astype(np.int64))
    positions = torch.from_numpy(np.concatenate([np.arange(n) for n in segments]))
    learned = torch.tensor([len(ids) - prompt for ids, prompt in zip(documents, prompts, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(documents)), learned)
    places = torch.cat([torch.arange(count) for count in learned.tolist()])
    of = torch.tensor(list(domains) or [0] * len(documents))
    return MicroBatch(
        ids[None], positions[None], Segments.of(segments), labels - 1, ids[labels], owner, names, of, places, packs
    )


def micro_batch(documents: Documents, packs: Sequence[Sequence[int]], isolate: bool) -> MicroBatch:
    """Packs end to end; a segment is a document if `isolate`, else a whole pack (the paper's math run)."""
    members = [i for pack in packs for i in pack]
    starts, lengths = documents.starts[members], documents.lengths[members]
    segments = lengths.tolist() if isolate else [documents.total([pack]) for pack in packs]
    parts = [documents.tokens[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    prompts, domains = documents.prompts[members].tolist(), documents.domain[members].tolist()
    return flat(parts, prompts, segments, members, domains, [len(pack) for pack in packs])


def packed(documents: Documents, members: NDArray[np.int64], config: Branch, apart: bool = False) -> list[list[int]]:
    """Some documents in packs, as `config.packing` has them; `apart`: no two domains share one."""
    if config.packing == "none":
        return [[i] for i in members.tolist()]
    domain = documents.domain[members]
    parts = [members[domain == of] for of in np.unique(domain)] if apart else [members]
    filled = ((part, best_fit_decreasing(documents.lengths[part], config.sequence_length)) for part in parts)
    return [part[places].tolist() for part, packs in filled for places in packs]


def epoch_packs(
    documents: Documents, weights: Sequence[float], config: Branch, epoch: int, apart: bool = False
) -> list[list[int]]:
    """The packs of one epoch in training order: drawn, packed and shuffled from (seed, epoch) alone."""
    draw = np.random.default_rng([config.seed, epoch])
    chosen = []
    for domain, weight in enumerate(weights):
        members = draw.permutation(np.flatnonzero((documents.domain == domain) & ~documents.held_out))
        chosen.append(np.tile(members, math.ceil(weight))[: round(weight * len(members))])
    order = draw.permutation(np.concatenate(chosen))
    packs = packed(documents, order, config, apart)
    return packs if config.packing == "none" else [packs[i] for i in draw.permutation(len(packs))]


@dataclass(frozen=True)
class Step:
    """One optimiser step: where in the run its end lies, in epochs, and its packs."""

    epoch: float
    packs: Sequence[Sequence[int]]


def plan(documents: Documents, weights: Sequence[float], config: Branch, apart: bool = False) -> list[Step]:
    """Every optimiser step of the run, `batch` packs each; the last of an epoch takes what is left."""
    steps = []
    for epoch in range(math.ceil(config.epochs)):
        packs = epoch_packs(documents, weights, config, epoch, apart)
        last = math.ceil(min(1.0, config.epochs - epoch) * len(packs))
        for start in range(0, last, config.batch):
            end = min(start + config.batch, last)
            steps.append(Step(epoch + end / len(packs), packs[start:end]))
    return steps


@dataclass(frozen=True)
class Part:
    """A stretch of a training between merges: the `index`-th, from 0, of `of` even parts of its steps."""

    index: int = 0
    of: int = 1
    before: Path | None = None
    """The folder that the part before this one left, with its optimiser state."""


class TraceData(L.LightningDataModule):
    """The run's documents and plan; iterating gives each optimiser step as its micro-batches, from step `first` on."""

    documents: Documents
    plan: list[Step]
    start: int
    last: int
    """Steps of the plan done before this part of the training, and with it."""

    def __init__(
        self,
        student: Path,
        traces: Sequence[Traces],
        config: Branch,
        work: Path,
        first: int = 0,
        part: Part = Part(),  # frozen
    ) -> None:
        super().__init__()
        self.part = part
        self.prepare_data_per_node = False
        self.student, self.traces, self.config, self.work, self.first = student, traces, config, work, first
        self.place = Place()
        self.one_segment = False
        """Whether a forward pass is one segment, as a model with attention of its own needs."""
        self.before: Callable[[int], None] = lambda step: None
        """Called before a step's micro-batches are made, so that the student can write its own samples for it."""

    def prepare_data(self) -> None:
        """On one process alone."""
        cache.tokenise(self.student, self.traces, self.config, self.work)

    def setup(self, stage: str) -> None:
        self.documents = cache.load(self.work)
        self.plan = plan(self.documents, [t.weight for t in self.traces], self.config, self.apart)
        steps, part = len(self.plan), self.part
        self.start, self.last = part.index * steps // part.of, (part.index + 1) * steps // part.of
        if part.of > steps:
            raise UserError(f"rounds.parts: {part.of} parts of a training that has only {steps} steps; take fewer")

    @property
    def apart(self) -> bool:
        """Whether packs are of one domain each: where domains have teachers of their own, so that one forward pass of
        one teacher does for a pack. What compares the domains within a pack goes before."""
        return len({t.teacher for t in self.traces}) > 1 and "domains" not in asks(self.config.relation)

    def packs(self) -> list[Sequence[int]]:
        """Every pack of this part of the run, in order."""
        return [pack for step in self.plan[self.start : self.last] for pack in step.packs]

    def longest_segment(self) -> int:
        """The most tokens that attend to each other."""
        if self.config.packing == "packing":
            return max(self.documents.total([pack]) for pack in self.packs())
        return int(self.documents.lengths.max())

    def batches(self, packs: Sequence[Sequence[int]]) -> list[MicroBatch]:
        """This rank's share of some packs, at most `micro_batch` a forward pass; equally many passes on every rank."""
        size = 1 if self.one_segment else self.config.micro_batch
        isolate, place = self.config.packing != "packing", self.place
        mine = packs[place.data_rank :: place.data_size]
        passes = math.ceil(math.ceil(len(packs) / place.data_size) / size)
        groups = [mine[i * size : (i + 1) * size] for i in range(passes)]
        return [(micro_batch(self.documents, g, isolate) if g else IDLE).stretch(place) for g in groups]

    def train_dataloader(self) -> "Remaining":
        return Remaining(self)


IDLE = flat([np.zeros(1, dtype=np.int32)], [1], [1])
"""One token and no label: what a rank without a pack passes through the model, as the others wait for it."""


@dataclass(frozen=True)
class Remaining:
    """What Lightning iterates over."""

    data: TraceData

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for step in range(max(self.data.first, self.data.start), self.data.last):
            self.data.before(step)
            yield self.data.batches(self.data.plan[step].packs)

    def __len__(self) -> int:
        return self.data.last - max(self.data.first, self.data.start)
