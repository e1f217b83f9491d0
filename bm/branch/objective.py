"""What an optimiser step minimises: a loss of tokens, perhaps a relation of traces, and the teachers that they see."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from bm.branch.data import MicroBatch
from bm.branch.documents import Documents, Traces
from bm.branch.loss import NOTHING, Loss, Said, Several, Told
from bm.branch.model import Student
from bm.branch.stored import Stored
from bm.branch.traces import Relation, averaged, difficulties, label_losses
from bm.config import Branch, Component, asks
from bm.config.component import checked


class Objective:
    """The settings of a training as functions. Teachers are loaded by whoever trains, in the order of `folders`."""

    def __init__(self, config: Branch, traces: Sequence[Traces]) -> None:
        self.loss, self.relation = _with_settings(config.loss), config.relation and _with_settings(config.relation)
        self._asked, self._compared = asks(config.loss), asks(config.relation)
        given = [source.teacher or config.teacher for source in traces] if self._sees_teachers else []
        known = [Path(folder) for folder in dict.fromkeys(given) if folder is not None]
        self._teacher_of = torch.tensor([known.index(Path(f)) for f in given if f is not None])
        """By domain, which teacher is its own."""
        self.folders = known if config.stored is None else []
        self.teachers: list[Student] = []
        self.stored: Stored | None = None
        """What was stored of them, in their place."""

    def read(self, traces: Sequence[Traces], documents: Documents) -> None:
        """Open what was stored of the traces' teachers; UserError if it is of other texts than these documents."""
        folders = [source.stored for source in traces if source.stored]
        if folders:
            domains = {source.domain: int(teacher) for source, teacher in zip(traces, self._teacher_of, strict=True)}
            self.stored = Stored(folders, domains, documents, heads="teacher" in self._asked)

    @property
    def looks_ahead(self) -> bool:
        """Whether a step begins with a forward pass over all of its traces."""
        return "difficulty" in self._asked

    def asked(self, teacher: int, packs: Sequence[Sequence[int]], documents: Documents) -> list[Sequence[int]]:
        """The packs that a teacher is asked about."""
        of = self._teacher_of.numpy()
        return [pack for pack in packs if teacher in of[documents.domain[list(pack)]]]

    @property
    def _sees_teachers(self) -> bool:
        return "teacher" in self._asked | self._compared

    def shares(
        self, student: Student, batches: Sequence[MicroBatch], denominator: float, traces: int, packs: int, epoch: float
    ) -> "list[Callable[[], Tensor]]":
        """For each micro-batch what gives its share of the step's loss, to be called and differentiated one by one.

        denominator: supervised tokens of the step; traces, packs: how many it has, over all ranks.
        """
        loss = partial(self.loss, epoch=epoch) if "epoch" in self._asked else self.loss
        rows: Sequence[Mapping[str, Tensor]] = [NOTHING] * len(batches)
        if self.looks_ahead:
            losses = [label_losses(student.tell(batch), batch.targets) for batch in batches]
            rows = [{"difficulty": difficulty} for difficulty in difficulties(losses, batches, traces)]

        def share(batch: MicroBatch, more: Mapping[str, Tensor]) -> Tensor:
            likeliest = self.stored.likeliest(batch) if self.stored else None
            told = {} if likeliest else self._told(batch)
            seen = (likeliest or self._mine(batch, told)) if "teacher" in self._asked else None
            relation = self._related(batch, told, packs)
            value: Tensor = student(batch, denominator, loss, seen, more, relation)
            return value

        return [partial(share, batch, more) for batch, more in zip(batches, rows, strict=True)]

    def _told(self, batch: MicroBatch) -> Mapping[int, Told]:
        """What each teacher says that this micro-batch, or the one of another rank, has traces of."""
        if self.stored:
            return self.stored.told(batch)
        if not self.teachers:
            return {}
        needed = torch.zeros(len(self.teachers), device=batch.ids.device)
        needed[self._owners(batch)] = 1
        if dist.is_initialized() and len(self.teachers) > 1:  # sharded teachers speak only if all ranks ask them
            dist.all_reduce(needed, dist.ReduceOp.MAX)
        return {i: self.teachers[i].tell(batch) for i in needed.nonzero().flatten().tolist()}

    def _owners(self, batch: MicroBatch) -> Tensor:
        """The teacher of each trace: [N]."""
        return self._teacher_of.to(batch.domains.device)[batch.domains]

    def _mine(self, batch: MicroBatch, told: Mapping[int, Told]) -> Said:
        """At each label what its own teacher says."""
        if len(told) == 1:
            return next(iter(told.values()))
        of_label = self._owners(batch)[batch.owner]
        places = ((i, (of_label == i).nonzero().flatten()) for i in told)
        return Several([(rows, replace(told[i], hidden=told[i].hidden[rows])) for i, rows in places])

    def _related(self, batch: MicroBatch, told: Mapping[int, Told], packs: int) -> Relation | None:
        """The relation as a function of the student's features: its mean over the packs of the step."""
        if self.relation is None:
            return None
        relation, compared, group = self.relation, self._compared, batch.segments.group
        theirs = {i: averaged(said.hidden, batch) for i, said in told.items()} if "teacher" in compared else {}
        owners = self._owners(batch).tolist() if theirs else []
        shared = packs * (group.size() if group else 1)  # ranks that share a sequence compute the same

        def share(features: Tensor) -> Tensor:
            total, first = features.new_zeros(()), 0
            for size in batch.packs:
                pack = slice(first, first + size)
                given = {"domains": batch.domains[pack]} if "domains" in compared else {}
                if theirs:
                    given["teacher"] = theirs[owners[first]][pack]
                total, first = total + relation(features[pack], **given), first + size
            return total / shared

        return share


def _with_settings(component: Component) -> Loss:
    """A loss or a relation with its settings; the function itself where it has none, as a fused kernel is for `sft`."""
    settings = checked(component)
    return partial(component.function, **settings) if settings else component.function
