"""Entries as they are stored, in numpy: bfloat16, which numpy does not have, as its bits in uint16."""

import threading
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bm.merge.dtypes import Dtype, dtype_of
from bm.merge.lazy import Tensor, torch
from bm.merge.sources import Source

Array: TypeAlias = npt.NDArray[Any]
CHUNK = 1 << 10  # entries in a kernel's buffers: a few of them stay in the nearest cache
_mine = threading.local()


def stored(source: Source, start: int, stop: int) -> Array:
    """Flat elements [start, stop) of a source."""
    own = getattr(source, "stored", None)
    array: Array = own(start, stop) if own else from_torch(source.read(start, stop))
    return array


def held(name: str, size: int, dtype: npt.DTypeLike) -> Array:
    """Room for `size` numbers that a thread takes again and again by this name: new memory costs more than its use."""
    kind = np.dtype(dtype)
    room: Array | None = getattr(_mine, name, None)
    if room is None or len(room) < size * kind.itemsize:
        room = np.empty(size * kind.itemsize, np.uint8)
        setattr(_mine, name, room)
    return room[: size * kind.itemsize].view(kind)


def from_torch(values: Tensor) -> Array:
    """The same memory as flat numpy numbers."""
    flat, dtype = values.reshape(-1), dtype_of(values.dtype)
    if not dtype.as_bits:
        return flat.numpy()
    bits: Array = flat.view(torch.uint8 if dtype.itemsize == 1 else torch.int16).numpy()
    return bits.view(dtype.kind)


def to_torch(values: Array, dtype: Dtype) -> Tensor:
    """The same memory as a torch tensor of this dtype."""
    if not dtype.as_bits:
        return torch.from_numpy(values)
    return torch.from_numpy(values.view(np.int16 if dtype.itemsize == 2 else np.uint8)).view(dtype.torch)


def widened(values: Array) -> Array:
    """float16 as float32; bfloat16's bits and float32 as they are."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def as_float(values: Array) -> Array:
    """bfloat16's bits as float32; other numbers as they are."""
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32) if values.dtype == np.uint16 else values
