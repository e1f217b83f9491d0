"""Even shapes: on a CPU every shape of a bf16 product has code compiled for it by oneDNN, and kept.

That is 1.5 ms and 0.7 MB a shape, and documents, packs and their labels have a length each: without zeros behind them
memory grows with every step, by up to a gigabyte before the oldest code is dropped. Products in fp32 have no such code.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

ROWS = 128
"""Lengths are multiples of this where shapes cost: half of it takes 0.1 GB more, twice as much 5 % more time."""


def lacking(values: Tensor, dim: int) -> int:
    """How many more entries of dimension `dim` make an even shape; 0 where shapes cost nothing."""
    if values.device.type != "cpu":
        return 0
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
    return -values.shape[dim] % ROWS if dtype in (torch.bfloat16, torch.float16) else 0


def evened(values: Tensor, dim: int) -> Tensor:
    """`values` with zeros behind them in dimension `dim`, as many as it lacks."""
    more = lacking(values, dim)
    return pad(values, (0, 0) * (values.ndim - 1 - dim) + (0, more)) if more else values
