"""Entries as they are stored, in numpy: bfloat16, which numpy does not have, as its bits in uint16."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bm.merge.sources import Source

Array: TypeAlias = npt.NDArray[Any]
_BITS = {1: torch.uint8, 2: torch.int16}
_AS_BITS = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def stored(source: Source, start: int, stop: int) -> Array:
    """Flat elements [start, stop) of a source."""
    own = getattr(source, "stored", None)
    array: Array = own(start, stop) if own else from_torch(source.read(start, stop))
    return array


def from_torch(values: Tensor) -> Array:
    """The same memory as flat numpy numbers."""
    flat = values.reshape(-1)
    if values.dtype not in _AS_BITS:
        return flat.numpy()
    bits: Array = flat.view(_BITS[values.dtype.itemsize]).numpy()
    return bits.view(np.uint16 if values.dtype.itemsize == 2 else np.uint8)


def to_torch(values: Array, dtype: torch.dtype) -> Tensor:
    """The same memory as a torch tensor of this dtype."""
    if dtype not in _AS_BITS:
        return torch.from_numpy(values)
    return torch.from_numpy(values.view(np.int16 if dtype.itemsize == 2 else np.uint8)).view(dtype)


def widened(values: Array) -> Array:
    """float16 as float32; bfloat16's bits and float32 as they are."""
    return values.astype(np.float32) if values.dtype == np.float16 else values
