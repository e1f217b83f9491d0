"""What a tracker is told, as plain values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bm.store import MANIFEST

GROUP = "WANDB_RUN_GROUP"
"""The environment variable, W&B's own, in which a sweep leaves its name for every run that its jobs open."""


@dataclass(frozen=True)
class About:
    """What a run is: the same key is the same run, also when it is taken up after an interruption."""

    key: str
    name: str
    job: str
    """The stage: what `bm` was asked for."""
    settings: Mapping[str, Any]
    """The resolved settings, as JSON values."""
    step: str = "step"
    """What the steps of `log` count."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """By metric (`held_out_*` stands for several), what it is drawn over; every other one is drawn over `step`."""
    group: str | None = None
    """What the run is shown with; None: as the tracker's settings say, or the sweep that it is a job of."""


@dataclass(frozen=True)
class Reference:
    """An artefact of a store, by its key."""

    stage: str
    key: str
    label: str

    @property
    def uri(self) -> str:
        return f"bm:{self.stage}/{self.key}"


@dataclass(frozen=True)
class LoggedTable:
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Backend(Protocol):
    """One open run at one tracker. What a tracker has no place for, it leaves out."""

    held: frozenset[int]
    """Steps that earlier attempts have logged already."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def summarise(self, values: Mapping[str, float]) -> None: ...
    def table(self, name: str, table: LoggedTable) -> None: ...
    def figure(self, name: str, file: Path) -> None: ...
    def uses(self, artefacts: Sequence[Reference]) -> None: ...
    def makes(self, artefacts: Sequence[Reference]) -> None: ...

    def finish(self, failed: bool) -> list[str]:
        """End the run, read back what the tracker holds of it, and say where that is not what was logged."""
        ...


def lineage(folders: Iterable[Path]) -> list[Reference]:
    """The artefacts that these folders are, each once; a folder without a manifest of a store is none."""
    manifests = [json.loads((f / MANIFEST).read_text()) for f in folders if (f / MANIFEST).is_file()]
    return list(dict.fromkeys(Reference(m["stage"], m["key"], m["label"]) for m in manifests if "stage" in m))
