"""Pieces that arrive in any order near the right one become files: hashed and written from front to back."""

import errno
import fcntl
import hashlib
import mmap
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np

from bm.merge.arrays import Array
from bm.merge.checkpoint import Shard

LARGE = 64 << 20  # bytes of a file from which on it is written past the page cache
PAGE = mmap.PAGESIZE
BUFFER = 2 << 20  # bytes that are written at once
BUFFERS = 3  # of them, in one of which bytes are collected
NEAR = 1 << 20  # bytes that are in a core's cache once they are copied, and are hashed from there
WAITING = 80 << 20  # bytes of pieces that may wait for their turn


class File:
    """A file of known size, written from front to back by another thread, buffer by buffer, while the next is filled.

    It goes past the page cache, if it is large and its file system can (O_DIRECT). Else each byte would be copied once
    more, push from memory what others read, and all would wait whenever the kernel writes. What stands before the byte
    `begin` stays.
    """

    def __init__(self, path: Path, size: int, begin: int, writer: Executor) -> None:
        self.number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self.number).st_size != size:
            os.truncate(self.number, size)
        self.written = begin // PAGE * PAGE
        """Bytes from the front that the kernel has taken."""
        self._left, self._skipped, self._writer = size, self.written, writer
        self._place, self._filled = self.written, 0
        self._buffer, self._full = _buffer(), deque[Future[Array]]()
        self._straight = size >= LARGE and self._direct(getattr(os, "O_DIRECT", 0))

    def _direct(self, flag: int) -> bool:
        """Sets O_DIRECT, or with 0 takes it back; whether the file system has it."""
        flags = fcntl.fcntl(self.number, fcntl.F_GETFL) & ~getattr(os, "O_DIRECT", 0)
        try:
            fcntl.fcntl(self.number, fcntl.F_SETFL, flags | flag)
        except OSError as problem:
            if problem.errno != errno.EINVAL:
                raise
            return False
        return bool(flag)

    def append(self, piece: Array) -> None:
        """Bytes, uint8, that follow on those before; with the last ones the file is whole."""
        self._left -= len(piece)
        skipped = min(len(piece), self._skipped)
        self._skipped -= skipped
        piece = piece[skipped:]
        while len(piece):
            count = min(len(piece), BUFFER - self._filled)
            self._buffer[self._filled : self._filled + count] = piece[:count]
            self._filled += count
            piece = piece[count:]
            if self._filled == BUFFER:
                self._next()
        if not self._left:
            self._finish()

    def _next(self) -> None:
        """Hands on what is filled, and waits for a buffer that is empty."""
        self._full.append(self._writer.submit(self._write, self._buffer, self._filled, self._place))
        self._place, self._filled = self._place + self._filled, 0
        self._buffer = _buffer() if len(self._full) < BUFFERS else self._full.popleft().result()

    def _write(self, buffer: Array, size: int, place: int) -> Array:
        done = 0
        while done < size:
            try:
                done += os.pwrite(self.number, buffer[done:size].data, place + done)
            except OSError as problem:
                if problem.errno != errno.EINVAL or not self._straight:
                    raise
                self._straight = self._direct(0)  # the end of a file is no whole page, and a file system may want more
        self.written = place + size
        return buffer

    def _finish(self) -> None:
        """Writes what is left, and gives the buffers back."""
        if self._filled:
            self._next()
        for full in self._full:
            full.result()
        self._full.clear()
        self._buffer = self._buffer[:0]


def _buffer() -> Array:
    """Room for `BUFFER` bytes that begins with a page."""
    return np.frombuffer(mmap.mmap(-1, BUFFER), np.uint8)


class Ordered:
    """SHA-256 of the shards, and their files, from pieces that any thread brings.

    Whoever brings a piece takes all that are next in its shard, unless another thread is about it: what has just been
    made is still in its core's cache, and there are no more threads at work than cores.
    """

    def __init__(self, shards: Sequence[Shard], files: Mapping[str, File] | None = None) -> None:
        self.at = {name: (shard.name, offset) for shard in shards for name, offset in shard.offsets.items()}
        self._files = files or {}
        self._hash = {shard.name: hashlib.sha256() for shard in shards}
        self._next = {shard.name: 0 for shard in shards}
        self._turn = {shard.name: threading.Lock() for shard in shards}
        self._waiting: dict[tuple[str, int], Array] = {}
        for shard in shards:
            self._feed(shard.name, 0, np.frombuffer(shard.header, np.uint8))

    def feed(self, name: str, byte: int, piece: Array) -> None:
        """`piece` of tensor `name`, uint8, from byte `byte` on. Whoever brings it waits if much is waiting."""
        shard, offset = self.at[name]
        self._feed(shard, offset + byte, piece)

    def _feed(self, shard: str, byte: int, piece: Array) -> None:
        self._waiting[shard, byte] = piece
        waiting = sum(len(piece) for piece in list(self._waiting.values()))
        if self._turn[shard].acquire(blocking=waiting > WAITING):
            try:
                self._take(shard)
            finally:
                self._turn[shard].release()

    def _take(self, shard: str) -> None:
        """Takes what follows on what has been taken."""
        while (ready := self._waiting.pop((shard, self._next[shard]), None)) is not None:
            for begin in range(0, len(ready), NEAR):
                part = ready[begin : begin + NEAR]
                if shard in self._files:
                    self._files[shard].append(part)
                self._hash[shard].update(part.data)
            self._next[shard] += len(ready)

    def result(self) -> dict[str, str]:
        """All pieces were fed: the digests."""
        for shard in self._next:
            self._take(shard)  # what came as the last one before it was about to leave
        if self._waiting:
            raise RuntimeError(f"pieces of {sorted({shard for shard, _ in self._waiting})} were never reached")
        return {shard: digest.hexdigest() for shard, digest in self._hash.items()}
