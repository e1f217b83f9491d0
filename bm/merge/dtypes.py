"""The types of stored entries: torch's name, safetensors' code, and as what numpy holds them."""

from enum import Enum
from typing import Any, TypeAlias

import numpy as np

from bm.merge.lazy import torch

Truth: TypeAlias = bool


class Dtype(Enum):
    """A type by torch's name for it. numpy has no bfloat16 and no float8, so it holds their bits."""

    float64 = "F64", "float64"
    float32 = "F32", "float32"
    float16 = "F16", "float16"
    bfloat16 = "BF16", "uint16"
    float8_e4m3fn = "F8_E4M3", "uint8"
    float8_e5m2 = "F8_E5M2", "uint8"
    int64 = "I64", "int64"
    int32 = "I32", "int32"
    int16 = "I16", "int16"
    int8 = "I8", "int8"
    uint8 = "U8", "uint8"
    bool = "BOOL", "bool"

    def __init__(self, code: str, kind: str) -> None:
        self.code, self.kind = code, np.dtype(kind)

    @property
    def itemsize(self) -> int:
        """Bytes of an entry."""
        return self.kind.itemsize

    @property
    def is_floating_point(self) -> Truth:
        return self.name.startswith(("float", "bfloat"))

    @property
    def as_bits(self) -> Truth:
        """Whether numpy holds the bits alone."""
        return self.is_floating_point and self.kind.kind == "u"

    @property
    def torch(self) -> Any:
        """The type in torch."""
        return getattr(torch, self.name)


CODES = {dtype.code: dtype for dtype in Dtype}
FLOATING = (Dtype.float64, Dtype.float32, Dtype.float16, Dtype.bfloat16)
"""Types of weights."""


def promote(first: Dtype, second: Dtype) -> Dtype:
    """The type that holds both."""
    return first if first == second else dtype_of(torch.promote_types(first.torch, second.torch))


def dtype_of(own: "torch.dtype") -> Dtype:
    """torch's type as ours."""
    return Dtype[str(own).removeprefix("torch.")]
