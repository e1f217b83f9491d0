"""Random numbers that depend on an element's place alone: the same bits in whatever parts a merge is made."""

import hashlib
import threading
from functools import cached_property
from typing import Any

import numpy as np

from bm.merge.arrays import Array

_mine = threading.local()


class Stream:
    """The numbers of (seed, tensor, model): an element's is its place in a stream of PCG64-DXSM."""

    def __init__(self, seed: int, tensor: str, model: str) -> None:
        text = f"{seed}\0{tensor}\0{model}".encode()
        self.seed = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")

    @cached_property
    def _beginning(self) -> Any:
        return np.random.PCG64DXSM(self.seed).state

    def uniform(self, start: int, stop: int) -> Array:
        """Numbers in [0, 1) for the elements [start, stop), float32."""
        return (self.bits(start, stop) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)

    def bits(self, start: int, stop: int) -> Array:
        """What `uniform` is made of: 32 random bits an element, uint32."""
        even = start & ~1  # the generator makes two numbers at a time
        generator = _generator()
        generator.state = self._beginning
        pairs = generator.advance(even // 2).random_raw((stop - even + 1) // 2)
        return pairs.astype("<u8", copy=False).view(np.uint32)[start - even : stop - even]


def _generator() -> np.random.PCG64DXSM:
    """This thread's own: to make one takes longer than to set its state."""
    if not hasattr(_mine, "generator"):
        _mine.generator = np.random.PCG64DXSM(0)
    generator: np.random.PCG64DXSM = _mine.generator
    return generator
