"""How a tensor is cut into tiles, and how they are computed."""

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bm.errors import UserError
from bm.merge.dtypes import Dtype
from bm.merge.lazy import torch
from bm.merge.workers import Urgency, Workers

TILE_ELEMENTS = 1 << 17  # 512 KiB of float32: near a core's cache, and long enough to hide the cost of dispatch
CUDA_TILE_ELEMENTS = 1 << 22  # 16 MiB: a kernel's launch is short beside it
CUDA_THREADS = 4  # enough to read and launch while one waits; each has a tile and what its formula makes of it
BLOCK_TILES = 20  # tiles read and written by one task; no result depends on it
MAPPED_TILES = 40  # the same for tiles that are mapped and not copied, where a task holds only what it makes of them
ARRAYS = 4  # from which on it takes fewer, so that memory stays flat

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")


HELD = 256 << 20  # bytes of scores on a CPU, whose kernels need none


class Allowance:
    """Bytes that may be held at one time, taken and given back by many threads."""

    def __init__(self, size: int) -> None:
        self._left, self._lock = size, threading.Lock()

    def take(self, size: int) -> bool:
        """Whether this many are left; if so they are taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self._left += size


@dataclass(frozen=True)
class Compute:
    """How tiles are computed: none of it changes a bit of the result but `precision`, `seed` and the kind of device.

    `workers` help the caller with the tasks of a pass; None leaves all of them to the caller. `allowance` bounds the
    scores held between the passes over the tensors in work; what does not fit is scored again.
    """

    precision: Dtype = Dtype.float32
    device: str = "cpu"
    seed: int = 0
    workers: Workers | None = None
    allowance: Allowance = field(default_factory=lambda: Allowance(HELD))
    tile_elements: int | None = None
    task_tiles: int | None = None

    @property
    def dtype(self) -> "torch.dtype":
        """torch's type of the arithmetic."""
        dtype: torch.dtype = self.precision.torch
        return dtype

    @property
    def tile_size(self) -> int:
        return self.tile_elements or (CUDA_TILE_ELEMENTS if self.device.startswith("cuda") else TILE_ELEMENTS)

    def blocks(self, tiling: "Tiling", arrays: int, mapped: bool = False) -> list[range]:
        """The tasks of a pass that has entries of this many arrays at work: of many it takes fewer at a time."""
        on_cpu = MAPPED_TILES if mapped else BLOCK_TILES
        tiles = self.task_tiles or (1 if self.device.startswith("cuda") else on_cpu)
        return tiling.blocks(max(1, tiles * ARRAYS // max(ARRAYS, arrays)))

    @property
    def threads(self) -> int:
        """Threads that work on tiles, where the settings name no number."""
        return CUDA_THREADS if self.device.startswith("cuda") else len(os.sched_getaffinity(0))

    def map(self, task: Callable[[I], T], inputs: Sequence[I], urgency: Urgency = Urgency.SCORE_PART) -> list[T]:
        if self.workers is None:
            return [task(each) for each in inputs]
        return self.workers.map(urgency, task, inputs)


def device(name: str) -> str:
    """`merge.device`; UserError when torch knows none of that name, or this machine has none."""
    try:
        return name if name == "cpu" else str(torch.empty(0, device=name).device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise UserError(f"merge.device={name}: this machine has no such device; take merge.device=cpu") from problem


def computing(precision: Dtype, name: str, seed: int) -> Compute:
    """Tiles on the device of `merge.device`. A GPU holds scores in half of its free memory: the largest tensors fit."""
    place = device(name)
    held = torch.cuda.mem_get_info(place)[0] // 2 if place.startswith("cuda") else HELD
    return Compute(precision, place, seed, allowance=Allowance(held))


@dataclass(frozen=True)
class Tiling:
    """Tiles of whole rows: `rows` rows of the last dimension each, the last tile what remains."""

    elements: int
    columns: int
    rows: int

    @classmethod
    def of(cls, shape: tuple[int, ...], tile_elements: int) -> "Tiling":
        """A 1-d tensor is one row, a 0-d tensor one row of one element."""
        columns = max(1, shape[-1] if shape else 1)
        return cls(math.prod(shape), columns, max(1, tile_elements // columns))

    @property
    def tiles(self) -> int:
        return -(-self.elements // (self.rows * self.columns))

    def span(self, tiles: range) -> tuple[int, int]:
        """The flat elements a run of tiles covers."""
        size = self.rows * self.columns
        return tiles.start * size, min(tiles.stop * size, self.elements)

    def blocks(self, length: int) -> list[range]:
        """Even runs of at most `length` consecutive tiles, the tasks of a pass."""
        size = -(-self.tiles // max(1, -(-self.tiles // length)))
        return [range(first, min(first + size, self.tiles)) for first in range(0, self.tiles, size or 1)]
