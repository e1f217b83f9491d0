"""What a distillation artefact holds, as a page to browse: kept and rejected traces, and how many of which."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bm.errors import UserError
from bm.report.findings.evidence import Funnel, funnel
from bm.store import MANIFEST, Artefact

FILES = {"kept": "traces.parquet", "rejected": "rejected.parquet"}
COLUMNS = ("id", "domain", "source", "system", "prompt", "response", "answer", "verifier", "metadata")
ROWS = 1024
"""Rows read at a time: a set of long traces does not fit in memory as Python's strings."""


@dataclass(frozen=True)
class Lengths:
    """Characters of every response in the folder, by verdict."""

    kept: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True)
class Browsed:
    """The traces that the page holds, and what is told of all of them."""

    name: str
    shown: tuple[Mapping[str, str], ...]
    """As in the files, with `verdict` (kept or rejected) and `reason`; in the order of the files."""
    lengths: Lengths
    funnel: Funnel | None
    """None for a folder without a manifest."""
    teacher: Mapping[str, Any]
    """Who answered, and at which cost, as far as the manifest says."""

    @property
    def total(self) -> int:
        return len(self.lengths.kept) + len(self.lengths.rejected)


def browse(folder: Path, limit: int) -> Browsed:
    """Read a folder of traces: all of them, or `limit` drawn evenly and always the same ones.

    UserError if there is no traces.parquet, or it has not the columns of one.
    """
    files = {verdict: folder / name for verdict, name in FILES.items() if (folder / name).exists()}
    if "kept" not in files:
        raise UserError(f"{folder} holds no traces.parquet; give the folder that `bm distill` named")
    places = [(verdict, row) for verdict, file in files.items() for row in range(_file(file).metadata.num_rows)]
    chosen = set(sorted(places, key=_rank)[:limit])
    shown: list[Mapping[str, str]] = []
    lengths: dict[str, list[int]] = {"kept": [], "rejected": []}
    for verdict, file in files.items():
        for row, trace in enumerate(_rows(file)):
            lengths[verdict].append(len(trace["response"]))
            if (verdict, row) in chosen:
                shown.append({"reason": "", **trace, "verdict": verdict})
    manifest = _manifest(folder)
    made = funnel(Artefact(folder, manifest)) if manifest else None
    teacher = manifest["facts"].get("teacher", {}) if manifest else {}
    measured = Lengths(tuple(lengths["kept"]), tuple(lengths["rejected"]))
    return Browsed(made.name if made else folder.resolve().name, tuple(shown), measured, made, teacher)


def embedded(traces: Browsed) -> str:
    """The traces as JSON that is inert within a <script>: nothing in it can end that element or begin another."""
    text = json.dumps(traces.shown, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _rank(place: tuple[str, int]) -> bytes:
    return hashlib.blake2b(repr(place).encode(), digest_size=8).digest()


def _rows(file: Path) -> Iterator[dict[str, str]]:
    for batch in _file(file).iter_batches(batch_size=ROWS):
        for row in batch.to_pylist():
            yield {name: str(value) for name, value in row.items() if value is not None}


def _file(path: Path) -> Any:
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} cannot be read: {str(problem).splitlines()[0]}") from problem
    if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
        raise UserError(f"{path} is not a file of traces: it has no column {', '.join(missing)}")
    return file


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a distillation artefact, None where there is none."""
    if not (folder / MANIFEST).exists():
        return None
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return manifest if manifest.get("stage") == "distill" else None
