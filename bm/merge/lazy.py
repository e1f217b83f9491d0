"""torch, imported when it is first used: merges by the compiled kernels do without it, and start in half the time.

What belongs to merging says `from bm.merge.lazy import Tensor, torch`, annotates with `Tensor`, and uses `torch` inside
functions alone.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor


class _Here(threading.local):
    """torch as the present thread uses it."""

    single = False
    """Whether torch has one thread in this one."""

    @cached_property
    def torch(self) -> Any:
        import torch

        if self.single:
            torch.set_num_threads(1)
        return torch


_here = _Here()


class _Torch:
    def __getattr__(self, name: str) -> Any:
        return getattr(_here.torch, name)


if not TYPE_CHECKING:
    torch, Tensor = _Torch(), Any


def alone() -> None:
    """From here on torch computes with one thread in this one, whenever it is loaded."""
    _here.single = True
    if "torch" in sys.modules:
        torch.set_num_threads(1)


@contextmanager
def single_threaded() -> Iterator[None]:
    """`alone` inside the context."""
    before = torch.get_num_threads() if "torch" in sys.modules else None
    alone()
    try:
        yield
    finally:
        _here.single = False
        if "torch" in sys.modules:
            torch.set_num_threads(before or len(os.sched_getaffinity(0)))
