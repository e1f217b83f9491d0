"""Where merged tensors go: a Hugging Face folder, memory, or nowhere but a digest."""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bm.errors import UserError
from bm.merge.arrays import Array, from_torch
from bm.merge.checkpoint import INDEX, Shard, index_json
from bm.merge.lazy import Tensor, torch
from bm.merge.ordered import File, Ordered
from bm.progress import quantity

JOURNAL = ".merged.jsonl"
FLUSH_BYTES = 128 << 20

Rows = list[dict[str, Any]]


class Sink(Protocol):
    """Takes one merge, tensor by tensor in the order of the shards, each tensor in blocks that arrive in any order."""

    def open(self, shards: Sequence[Shard]) -> Mapping[str, Rows]:
        """Called first; the tensors which an interrupted run has finished, and what was measured of them."""

    def write(self, name: str, start: int, values: Array) -> None:
        """Flat elements from `start` of a tensor as they are to be stored; called by many threads."""

    def done(self, name: str, rows: Rows) -> None:
        """All blocks of a tensor were written."""

    def close(self) -> dict[str, str]:
        """All tensors are done: completes the result; SHA-256 of each file by its name."""

    def abandon(self) -> None:
        """The merge cannot be made: leaves nothing behind."""


def _size(count: int) -> str:
    """Bytes as a message names them."""
    return quantity(count / 1e9, "GB") if count >= 1e8 else quantity(count / 1e6, "MB")


def _bytes(values: Array) -> Array:
    return values.view(np.uint8)


class Folder:
    """Safetensors shards in a work folder, complete under their names or absent.

    Data goes to `NAME.part`; the journal lists a tensor once its bytes have reached the disk, so a killed run is taken
    up where it was. Files get their names when all of them are whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, File] = {}
        self._unlisted: deque[tuple[File, int, str]] = deque()
        """Tensors that are done: the file, the byte at which they end, and the journal's line."""
        self._unflushed_bytes = 0
        self._writer, self._background = ThreadPoolExecutor(1, "write"), ThreadPoolExecutor(1, "flush")
        self._flushes: list[Future[None]] = []

    def open(self, shards: Sequence[Shard]) -> Mapping[str, Rows]:
        self.shards = list(shards)
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in shards:  # a run killed while it named its files
            if (self.folder / JOURNAL).exists() and (self.folder / shard.name).exists():
                os.replace(self.folder / shard.name, self._part(shard))
        self._check_space()
        finished = self._journal()
        for shard in shards:
            begin = max((end for name, _, end in shard.spans() if name in finished), default=0)
            self._files[shard.name] = File(self._part(shard), shard.size, begin, self._writer)
        self._ends = {name: end for shard in shards for name, _, end in shard.spans()}
        self.ordered = Ordered(shards, self._files)
        for shard in shards:
            self._read_again(shard, finished)
        return finished

    def _part(self, shard: Shard) -> Path:
        return self.folder / f"{shard.name}.part"

    def _journal(self) -> Mapping[str, Rows]:
        """Reads what is finished, and starts anew if the journal is of another merge or its files are gone."""
        path = self.folder / JOURNAL
        plan = hashlib.sha256(b"".join(shard.header for shard in self.shards)).hexdigest()
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if not lines or json.loads(lines[0]) != plan or not all(self._part(shard).exists() for shard in self.shards):
            for part in self.folder.glob("*.safetensors.part"):
                part.unlink()
            path.write_text(json.dumps(plan) + "\n")
            return {}
        return dict(json.loads(line) for line in lines[1:])

    def _check_space(self) -> None:
        held = sum(os.stat(self._part(s)).st_blocks * 512 for s in self.shards if self._part(s).exists())
        need, free = sum(shard.size for shard in self.shards) - held, shutil.disk_usage(self.folder).free
        if need > free:
            lacking = f"the merged model needs {_size(need)}, and {_size(free)} are free"
            raise UserError(f"{self.folder}: {lacking}; make room, then rerun the command")

    def _read_again(self, shard: Shard, finished: Mapping[str, Rows]) -> None:
        """Hashes what an interrupted run has finished."""
        with self._part(shard).open("rb") as file:
            for name, offset, end in shard.spans():
                for start in range(offset, end, 1 << 24) if name in finished else ():
                    piece = os.pread(file.fileno(), min(1 << 24, end - start), start)
                    self.ordered.feed(name, start - offset, np.frombuffer(piece, np.uint8))

    def write(self, name: str, start: int, values: Array) -> None:
        self.ordered.feed(name, start * values.itemsize, _bytes(values))
        self._unflushed_bytes += values.nbytes

    def done(self, name: str, rows: Rows) -> None:
        shard, _ = self.ordered.at[name]
        self._unlisted.append((self._files[shard], self._ends[name], json.dumps([name, rows]) + "\n"))
        if self._unflushed_bytes >= FLUSH_BYTES:
            self._unflushed_bytes = 0
            self._flushes.append(self._background.submit(self._flush))

    def _flush(self) -> None:
        """Data to the disk first, then the journal's lines about it."""
        reached = {file: file.written for file in self._files.values()}
        for file in reached:
            os.fdatasync(file.number)
        with (self.folder / JOURNAL).open("a") as journal:
            while self._unlisted and self._unlisted[0][1] <= reached[self._unlisted[0][0]]:
                journal.write(self._unlisted.popleft()[2])

    def close(self) -> dict[str, str]:
        digests = self.ordered.result()
        for flush in self._flushes:
            flush.result()
        self._flush()
        self._shut()
        for shard in self.shards:
            os.replace(self._part(shard), self.folder / shard.name)
        if len(self.shards) > 1:
            text = index_json(self.shards)
            (self.folder / INDEX).write_text(text)
            digests[INDEX] = hashlib.sha256(text.encode()).hexdigest()
        (self.folder / JOURNAL).unlink()
        return digests

    def _shut(self) -> None:
        for thread in (self._writer, self._background):
            thread.shutdown(cancel_futures=True)
        for file in self._files.values():
            os.close(file.number)

    def abandon(self) -> None:
        self._shut()
        for shard in self.shards:
            self._part(shard).unlink(missing_ok=True)
        (self.folder / JOURNAL).unlink()
        with suppress(OSError):  # it holds something of the caller's
            self.folder.rmdir()


class Memory:
    """The merged tensors by name, to evaluate without a disk."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def open(self, shards: Sequence[Shard]) -> Mapping[str, Rows]:
        for shard in shards:
            for entry in shard.entries:
                self.tensors[entry.name] = torch.empty(entry.shape, dtype=entry.dtype.torch)
        return {}

    def write(self, name: str, start: int, values: Array) -> None:
        from_torch(self.tensors[name])[start : start + values.size] = values

    def done(self, name: str, rows: Rows) -> None:
        pass

    def close(self) -> dict[str, str]:
        return {}

    def abandon(self) -> None:
        self.tensors.clear()


class Digest:
    """Only the SHA-256 that the files would have."""

    def open(self, shards: Sequence[Shard]) -> Mapping[str, Rows]:
        self.ordered = Ordered(shards)
        return {}

    def write(self, name: str, start: int, values: Array) -> None:
        self.ordered.feed(name, start * values.itemsize, _bytes(values))

    def done(self, name: str, rows: Rows) -> None:
        pass

    def close(self) -> dict[str, str]:
        return self.ordered.result()

    def abandon(self) -> None:
        pass
