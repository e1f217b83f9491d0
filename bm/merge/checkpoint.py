"""Safetensors checkpoints: read by tensor and range without loading, written at given offsets by many threads.

The format: eight bytes (little-endian length), that many bytes of JSON (name → dtype, shape, data_offsets), the data.
"""

import ctypes
import json
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from bm.errors import UserError
from bm.merge.arrays import Array, to_torch
from bm.merge.dtypes import CODES, Dtype
from bm.merge.lazy import Tensor
from bm.merge.sources import Forgetting

INDEX = "model.safetensors.index.json"
_madvise = ctypes.CDLL(None).madvise  # that of `mmap` keeps the interpreter's lock meanwhile
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
MAPPED_AT_ONCE = 2 << 20  # bytes of a huge page: Linux may map all of it when one page in it is looked at
_HEADER_LIMIT = 100_000_000  # bytes, the format's own bound


@dataclass(frozen=True)
class Stored(Forgetting):
    """One tensor inside an open safetensors file; `offset` is in bytes from the file's start."""

    file: FileIO
    memory: mmap.mmap
    address: int
    """Where the memory begins."""
    shape: tuple[int, ...]
    dtype: Dtype
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def stored(self, start: int, stop: int) -> Array:
        """Flat elements [start, stop) as `bm.merge.arrays` has them, read when they are looked at."""
        return np.frombuffer(self.memory, self.dtype.kind, stop - start, self.offset + start * self.dtype.itemsize)

    def forget(self, start: int, stop: int) -> None:
        """These elements have been looked at: their pages count as this process's memory no longer.

        Pages around them were mapped with them and are let go too; a thread that still needs one maps it again.
        """
        size = self.dtype.itemsize
        first = (self.offset + start * size) // MAPPED_AT_ONCE * MAPPED_AT_ONCE
        last = -(-(self.offset + stop * size) // MAPPED_AT_ONCE) * MAPPED_AT_ONCE
        _madvise(self.address + first, min(last, len(self.memory)) - first, mmap.MADV_DONTNEED)

    def read(self, start: int, stop: int) -> Tensor:
        """Flat elements [start, stop) in the stored dtype."""
        size = self.dtype.itemsize
        buffer = np.empty(stop - start, self.dtype.kind)
        view, done = buffer.view(np.uint8).data, 0
        while done < len(view):
            count = os.preadv(self.file.fileno(), [view[done:]], self.offset + start * size + done)
            if count == 0:
                raise UserError(f"{self.file.name}: ends in the middle of a tensor; copy the model again")
            done += count
        return to_torch(buffer, self.dtype)


@contextmanager
def checkpoint(folder: Path) -> Iterator[Mapping[str, Stored]]:
    """The tensors of a Hugging Face folder in file order; its files stay open inside the context."""
    files = [FileIO(path) for path in _shards(folder)]
    try:
        for file in files:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # the kernel reads further ahead
        yield {name: tensor for file in files for name, tensor in _header(file).items()}
    finally:
        for file in files:
            file.close()


def _shards(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    index = folder / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as problem:
            raise UserError(f"{index}: not a safetensors index ({problem})") from problem
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise UserError(
            f"{folder}: no *.safetensors file; a model in another format must be saved as safetensors first"
        )
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing, though the index names it")
    return [folder / name for name in names]


def _header(file: FileIO) -> dict[str, Stored]:
    """The tensors of one file in the order of their data."""
    size = os.fstat(file.fileno()).st_size
    try:
        (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, 0))
        if length > min(size - 8, _HEADER_LIMIT):
            raise ValueError("the header is longer than the file")
        entries = json.loads(os.pread(file.fileno(), length, 8))
        entries.pop("__metadata__", None)
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
        tensors = {}
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            tensor = Stored(file, memory, address, tuple(entry["shape"]), CODES[entry["dtype"]], 8 + length + begin)
            if end - begin != tensor.elements * tensor.dtype.itemsize or not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{name} does not fit the file")
            tensors[name] = tensor
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as problem:
        raise UserError(f"{file.name}: not a whole safetensors file ({problem}); copy the model again") from problem
    return tensors


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One output file: its header, its tensors in the order of their data, and where each one's data begins."""

    name: str
    header: bytes
    entries: tuple[Entry, ...]
    offsets: Mapping[str, int]
    size: int

    def spans(self) -> list[tuple[str, int, int]]:
        """Each tensor's name and the bytes [start, end) of its data."""
        ends = [*list(self.offsets.values())[1:], self.size]
        return [(name, start, end) for (name, start), end in zip(self.offsets.items(), ends, strict=True)]


def layout(entries: list[Entry], max_shard_size: int) -> list[Shard]:
    """Entries in order, in files of at most `max_shard_size` bytes of data; a larger tensor has its own file."""
    groups: list[list[Entry]] = [[]]
    filled = 0
    for entry in entries:
        if groups[-1] and filled + entry.bytes > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += entry.bytes
    if len(groups) == 1:
        return [_shard("model.safetensors", groups[0])]
    return [_shard(f"model-{i:05d}-of-{len(groups):05d}.safetensors", group) for i, group in enumerate(groups, 1)]


def _shard(name: str, entries: list[Entry]) -> Shard:
    """Wider dtypes come first, so that every tensor is aligned to its elements."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins, begin = {}, 0
    entries = sorted(entries, key=lambda e: -e.dtype.itemsize)
    for entry in entries:
        end = begin + entry.bytes
        header[entry.name] = {"dtype": entry.dtype.code, "shape": list(entry.shape), "data_offsets": [begin, end]}
        begins[entry.name], begin = begin, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    offsets = {name: start + begin for name, begin in begins.items()}
    return Shard(name, struct.pack("<Q", len(text)) + text, tuple(entries), offsets, start + begin)


def index_json(shards: list[Shard]) -> str:
    """The index that Hugging Face readers of a sharded checkpoint expect."""
    weights = {name: shard.name for shard in shards for name in shard.offsets}
    total = sum(shard.size - len(shard.header) for shard in shards)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}, indent=2) + "\n"


def parse_size(text: str) -> int:
    """`5GB`, `200MB`, `1500000` as bytes, decimal units as Hugging Face counts."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text.strip().upper(), 1
    for suffix, factor in units.items():
        if number.endswith(suffix):
            number, unit = number[: -len(suffix)], factor
    try:
        size = int(float(number) * unit)
    except ValueError:
        size = 0
    if size <= 0:
        raise UserError(f"max_shard_size={text}: not a size such as 5GB or 200MB")
    return size
