"""What a teacher said of traces, on disk: at each label its likeliest tokens, or its last hidden state.

    00000.npy, 00001.npy, …   a record (`record`) per label, trace after trace; whole or absent
    head.npy                  beside hidden states: the weight [V, H] that makes logits of them, fp32
    about.json                what it is (`About`), written last

Files are mapped into memory, so ranks of one machine share what is read of them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bm.branch.data import MicroBatch
from bm.branch.documents import Documents
from bm.branch.loss import Head, Kept, Told
from bm.errors import UserError
from bm.losses import Likeliest
from bm.store import write_json

ABOUT, HEAD = "about.json", "head.npy"
Rows = NDArray[np.void]
"""[labels] records."""


@dataclass(frozen=True)
class About:
    """What the records of one domain are."""

    labels: int
    vocabulary: int
    """Tokens that there are; what a head has beyond them is padding."""
    likeliest: int | None
    """How many tokens a record has; None: it has a hidden state."""
    width: int | None = None
    """The width of a hidden state; None where a record has tokens."""
    scale: float = 1.0
    cap: float | None = None
    """How the head's products become logits (`bm.branch.loss.Head`)."""

    @property
    def record(self) -> np.dtype[np.void]:
        """A label's record: its token, so that records of other texts are noticed, and what the teacher says there.

        fp16 moves a log-probability between −1 and 0 by at most 0.00025, one between −16 and −8 by 0.004, and a hidden
        state by 0.05 % of itself.
        """
        if self.likeliest is None:
            return np.dtype([("token", "<i4"), ("hidden", "<f2", (self.width,))])
        others = self.likeliest < self.vocabulary
        entry = "<u2" if self.vocabulary <= 2**16 else "<u4"
        return np.dtype([("token", "<i4"), ("entries", entry, (self.likeliest,)),
                         ("log_p", "<f2", (self.likeliest + others,))])  # fmt: skip

    def write(self, folder: Path) -> None:
        write_json(folder / ABOUT, asdict(self))


def shard(folder: Path, number: int) -> Path:
    """The file of some records."""
    return folder / f"{number:05d}.npy"


def write(file: Path, values: NDArray[Any]) -> None:
    """An array to a file that is whole or absent, whenever this is killed."""
    beside = file.with_name(f".{file.name}")
    with beside.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(beside, file)


class _Records:
    """The records of one domain."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, About(**json.loads((folder / ABOUT).read_text()))
        files = sorted(folder.glob("[0-9]*.npy"))
        self._shards: list[Rows] = [np.load(file, mmap_mode="r").view(np.ndarray) for file in files]
        self._ends = np.cumsum([len(rows) for rows in self._shards])
        self._head: torch.Tensor | None = None

    def at(self, labels: NDArray[np.int64]) -> Rows:
        """The records of some labels, counted from the domain's first."""
        rows = np.empty(len(labels), self.about.record)
        of = np.searchsorted(self._ends, labels, side="right")
        for number in np.unique(of):
            mine, held = of == number, self._shards[number]
            rows[mine] = held[labels[mine] - (self._ends[number] - len(held))]
        return rows

    def head(self, device: torch.device) -> torch.Tensor:
        """The weight of the teacher's head, read once."""
        if self._head is None:
            self._head = torch.from_numpy(np.load(self.folder / HEAD)).to(device)
        return self._head


class Stored:
    """What was stored of each domain's teacher, in place of the teacher."""

    def __init__(self, folders: Sequence[Path], domains: Mapping[str, int], documents: Documents, heads: bool) -> None:
        """folders: of each domain, in the order of the run's traces; domains: by name which teacher is its own; heads:
        whether logits are asked for.

        UserError if a folder is not about these documents.
        """
        self._domains = [_Records(folder) for folder in folders]
        self._names, self._teachers = list(domains), list(domains.values())
        self._documents, self._heads = documents, heads
        counts = documents.lengths - documents.prompts
        self._starts = np.zeros(len(counts), np.int64)
        """By document, the place of its first label among its domain's."""
        for place, records in enumerate(self._domains):
            mine = documents.domain == place
            self._starts[mine] = np.cumsum(counts[mine]) - counts[mine]
            if int(counts[mine].sum()) != records.about.labels:
                raise UserError(f"{records.folder}: tells of {records.about.labels:,} labels of {self._names[place]}, "
                                f"which has {int(counts[mine].sum()):,} here; make it again")  # fmt: skip

    def likeliest(self, batch: MicroBatch) -> Kept | None:
        """The likeliest tokens at every label of a micro-batch, by its domain's teacher; None: these are states."""
        about = self._domains[0].about
        if about.likeliest is None:
            return None
        rows = np.empty(len(batch.targets), about.record)
        for _, mine, own in self._of(batch):
            rows[mine] = own
        entries, log_p = (torch.from_numpy(rows[name].astype(kind)).to(batch.targets.device)
                          for name, kind in (("entries", np.int32), ("log_p", np.float32)))  # fmt: skip
        return Kept(Likeliest(entries, log_p, about.vocabulary))

    def told(self, batch: MicroBatch) -> dict[int, Told]:
        """By teacher, its hidden states at the labels of its domains' traces; zero at others."""
        hidden: dict[int, NDArray[np.float32]] = {}
        for place, mine, own in self._of(batch):
            width = int(self._domains[place].about.width or 0)
            states = hidden.setdefault(self._teachers[place], np.zeros((len(batch.targets), width), np.float32))
            states[mine] = own["hidden"]
        return {teacher: self._told(teacher, states, batch.targets.device) for teacher, states in hidden.items()}

    def _told(self, teacher: int, states: NDArray[np.float32], device: torch.device) -> Told:
        first = self._domains[self._teachers.index(teacher)]
        weight = first.head(device) if self._heads else torch.zeros(0)
        head = Head(weight, first.about.scale, first.about.cap)
        return Told(torch.from_numpy(states).to(device), head, first.about.vocabulary)

    def _of(self, batch: MicroBatch) -> Iterator[tuple[int, NDArray[np.int64], Rows]]:
        """By domain of a micro-batch, the places of its labels among all, and their records."""
        owner, targets, domains = (x.cpu().numpy() for x in (batch.owner, batch.targets, batch.domains))
        documents = np.array(batch.documents, np.int64)[owner]
        labels = self._starts[documents] + batch.places.cpu().numpy()
        for place in np.unique(domains):
            mine = np.flatnonzero(domains[owner] == place)
            rows = self._domains[place].at(labels[mine])
            if (wrong := np.flatnonzero(rows["token"] != targets[mine])).size:
                trace = self._documents.ids[documents[mine[wrong[0]]]]
                raise UserError(f"{self._domains[place].folder}: tells of another text than the trace {trace} of "
                                f"{self._names[place]}; remove it, and it is made again")  # fmt: skip
            yield int(place), mine, rows
