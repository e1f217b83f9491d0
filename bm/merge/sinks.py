"""Where merged tensors go: a Hugging Face folder, memory, or nowhere but a digest."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bm.errors import UserError
from bm.merge.arrays import Array, from_torch
from bm.merge.checkpoint import INDEX, Shard, index_json
from bm.merge.lazy import Tensor, torch
from bm.progress import quantity

JOURNAL = ".merged.jsonl"
FLUSH_BYTES = 128 << 20
_WAITING = 16  # blocks that may wait for their turn to be hashed

Rows = list[dict[str, Any]]


class Sink(Protocol):
    """Takes one merge, tensor by tensor in the order of the shards, each tensor in blocks that arrive in any order."""

    def open(self, shards: Sequence[Shard], threads: int) -> Mapping[str, Rows]:
        """Called first; the tensors which an interrupted run has finished, and what was measured of them.

        With one thread the sink computes in those that call it.
        """

    def write(self, name: str, start: int, values: Array) -> None:
        """Flat elements from `start` of a tensor as they are to be stored; called by many threads."""

    def done(self, name: str, rows: Rows) -> None:
        """All blocks of a tensor were written."""

    def close(self) -> dict[str, str]:
        """All tensors are done: completes the result; SHA-256 of each file by its name."""

    def abandon(self) -> None:
        """The merge cannot be made: leaves nothing behind."""


class Digests:
    """SHA-256 of the shards, fed with pieces in any order near the right one.

    A thread of its own hashes, or where there is one thread only, the one that feeds.
    """

    def __init__(self, shards: Sequence[Shard], threads: int) -> None:
        self.at = {name: (shard.name, offset) for shard in shards for name, offset in shard.offsets.items()}
        self._hash = {shard.name: hashlib.sha256(shard.header) for shard in shards}
        self._next = {shard.name: len(shard.header) for shard in shards}
        self._waiting: dict[tuple[str, int], memoryview] = {}
        self._thread = ThreadPoolExecutor(1, "hash") if threads > 1 else None

    def feed(self, name: str, byte: int, piece: memoryview) -> None:
        """`piece` of tensor `name` from byte `byte` on. Where many wait, so does whoever brings one more."""
        shard, offset = self.at[name]
        self._waiting[shard, offset + byte] = piece
        if self._thread is None:
            self._hash_ready(shard)
            return
        hashed = self._thread.submit(self._hash_ready, shard)
        if len(self._waiting) > _WAITING:
            hashed.result()

    def _hash_ready(self, shard: str) -> None:
        """Hashes what follows on what has been hashed."""
        while (ready := self._waiting.pop((shard, self._next[shard]), None)) is not None:
            self._hash[shard].update(ready)
            self._next[shard] += len(ready)

    def result(self) -> dict[str, str]:
        if self._thread:
            self._thread.shutdown()
        if self._waiting:
            raise RuntimeError(f"pieces of {sorted({shard for shard, _ in self._waiting})} were never reached")
        return {shard: digest.hexdigest() for shard, digest in self._hash.items()}

    def abandon(self) -> None:
        if self._thread:
            self._thread.shutdown(cancel_futures=True)


def _size(count: int) -> str:
    """Bytes as a message names them."""
    return quantity(count / 1e9, "GB") if count >= 1e8 else quantity(count / 1e6, "MB")


def _bytes(values: Array) -> memoryview:
    return values.view(np.uint8).data


class Folder:
    """Safetensors shards in a work folder, complete under their names or absent.

    Data goes to `NAME.part`; the journal lists a tensor once its bytes have reached the disk, so a killed run is taken
    up where it was. Files get their names when all of them are whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, FileIO] = {}
        self._unflushed: list[str] = []
        self._unflushed_bytes = 0
        self._background = ThreadPoolExecutor(1, "flush")
        self._flushes: list[Future[None]] = []

    def open(self, shards: Sequence[Shard], threads: int) -> Mapping[str, Rows]:
        self.shards = list(shards)
        self.digests = Digests(shards, threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in shards:  # a run killed while it named its files
            if (self.folder / JOURNAL).exists() and (self.folder / shard.name).exists():
                os.replace(self.folder / shard.name, self._part(shard))
        self._check_space()
        finished = self._journal()
        for shard in shards:
            file = FileIO(os.open(self._part(shard), os.O_RDWR | os.O_CREAT, 0o644), "r+")
            if os.fstat(file.fileno()).st_size != shard.size:
                os.truncate(file.fileno(), shard.size)
            os.pwrite(file.fileno(), shard.header, 0)
            self._files |= dict.fromkeys(shard.offsets, file)
            self._rehash(shard, file, finished)
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

    def _rehash(self, shard: Shard, file: FileIO, finished: Mapping[str, Rows]) -> None:
        ends = [*list(shard.offsets.values())[1:], shard.size]
        for (name, offset), end in zip(shard.offsets.items(), ends, strict=True):
            if name in finished:
                for start in range(offset, end, 1 << 24):
                    piece = os.pread(file.fileno(), min(1 << 24, end - start), start)
                    self.digests.feed(name, start - offset, memoryview(piece))

    def write(self, name: str, start: int, values: Array) -> None:
        data = _bytes(values)
        byte = start * values.itemsize
        file, position, written = self._files[name], self.digests.at[name][1] + byte, 0
        while written < len(data):
            written += os.pwrite(file.fileno(), data[written:], position + written)
        self.digests.feed(name, byte, data)
        self._unflushed_bytes += len(data)

    def done(self, name: str, rows: Rows) -> None:
        self._unflushed.append(json.dumps([name, rows]) + "\n")
        if self._unflushed_bytes >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Data to the disk first, then the journal's lines about it; in the background, one after the other."""
        lines, self._unflushed, self._unflushed_bytes = "".join(self._unflushed), [], 0

        def flush() -> None:
            for file in set(self._files.values()):
                os.fdatasync(file.fileno())
            with (self.folder / JOURNAL).open("a") as journal:
                journal.write(lines)

        self._flushes.append(self._background.submit(flush))

    def close(self) -> dict[str, str]:
        self._flush()
        for flush in self._flushes:
            flush.result()
        self._background.shutdown()
        for file in set(self._files.values()):
            file.close()
        for shard in self.shards:
            os.replace(self._part(shard), self.folder / shard.name)
        digests = self.digests.result()
        if len(self.shards) > 1:
            text = index_json(self.shards)
            (self.folder / INDEX).write_text(text)
            digests[INDEX] = hashlib.sha256(text.encode()).hexdigest()
        (self.folder / JOURNAL).unlink()
        return digests

    def abandon(self) -> None:
        self.digests.abandon()
        self._background.shutdown(cancel_futures=True)
        for file in set(self._files.values()):
            file.close()
        for shard in self.shards:
            self._part(shard).unlink(missing_ok=True)
        (self.folder / JOURNAL).unlink()
        with suppress(OSError):  # it holds something of the caller's
            self.folder.rmdir()


class Memory:
    """The merged tensors by name, to evaluate without a disk."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def open(self, shards: Sequence[Shard], threads: int) -> Mapping[str, Rows]:
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

    def open(self, shards: Sequence[Shard], threads: int) -> Mapping[str, Rows]:
        self.digests = Digests(shards, threads)
        return {}

    def write(self, name: str, start: int, values: Array) -> None:
        self.digests.feed(name, start * values.itemsize, _bytes(values))

    def done(self, name: str, rows: Rows) -> None:
        pass

    def close(self) -> dict[str, str]:
        return self.digests.result()

    def abandon(self) -> None:
        self.digests.abandon()
