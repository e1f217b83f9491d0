"""Merges by the compiled kernels: what a tensor of bfloat16, float16 or float32 on a CPU takes in place of its tiles.

A method's `Apply` and scores are data that say what is computed; here the same data choose the kernel.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bm.errors import UserError
from bm.merge import kernels
from bm.merge.arrays import Array, stored, to_torch, widened
from bm.merge.checkpoint import Stored
from bm.merge.scores import Change

if TYPE_CHECKING:
    from bm.merge.methods.updates import Sum
    from bm.merge.sources import Source
    from bm.merge.tensors import Tensors

STACKED = 1 << 18  # entries of all models together that are at work at once
SORTED = 1 << 16  # scores up to which sorting them is faster than counting


class Fused:
    """One named parameter of a base and models, read as it is stored."""

    def __init__(self, tensors: "Tensors") -> None:
        self.tensors, self.grid, self.run = tensors, tensors.grid, tensors.run
        self._blocks = self.grid.blocks(self.run.block_tiles)
        self._factors: dict[int | None, Array] = {}

    def rows(self, source: "Source | None", block: range) -> Array:
        """A block's rows as the kernels take them: uint16 (the bits of bfloat16) or float32 [rows, columns]."""
        if source is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        return widened(stored(source, *self.grid.span(block))).reshape(-1, self.grid.columns)

    def pair(self, k: int, block: range) -> tuple[Array, Array]:
        """The rows of the base and of model k, of one type."""
        base, other = self.rows(self.tensors.base, block), self.rows(self.tensors.models[k], block)
        return (base, other) if base.dtype == other.dtype else (as_float(base), as_float(other))

    def factors(self, score: Change) -> Array:
        """What weighs each row's changes: its divergence or 1, float32 [rows]."""
        key = score.k if score.weighed else None
        if key not in self._factors:
            factors = np.ones(self.grid.elements // self.grid.columns, np.float32)
            if score.weighed:

                def measure(block: range) -> None:
                    kernels.divergences(*self.pair(score.k, block), self._of(factors, block))
                    self.forget(block)

                self.run.map(measure, self._blocks)
            self._factors[key] = factors
        return self._factors[key]

    def _of(self, factors: Array, block: range) -> Array:
        start, stop = self.grid.span(block)
        return factors[start // self.grid.columns : stop // self.grid.columns]

    def weighed(self, score: Change, start: int, stop: int) -> Tensor:
        """The factors of the rows of flat elements [start, stop)."""
        return to_torch(self.factors(score)[start // self.grid.columns : stop // self.grid.columns], torch.float32)

    def order_statistics(self, score: Change, ranks: Sequence[int]) -> list[float]:
        """The ranks[i]-th smallest score, exact: by the upper halves of the scores' bits, then by the lower ones."""
        factors = self.factors(score)
        if self.grid.elements <= SORTED:
            keys = np.empty((len(factors), self.grid.columns), np.uint32)
            kernels.scores(*self.pair(score.k, range(self.grid.tiles)), factors, score.signed, keys)
            flat = keys.reshape(-1)
            flat.sort()
            return [_value(int(flat[rank])) for rank in ranks]
        counted = self._counted(kernels.upper, score, (kernels.TOP,)).cumsum()
        highs = np.searchsorted(counted, ranks, side="right")
        wanted, own = np.unique(highs, return_inverse=True)
        place = np.full(kernels.TOP, -1, np.int8)
        place[wanted] = np.arange(len(wanted))
        within = self._counted(kernels.lower, score, (len(wanted), kernels.TOP), place).cumsum(1)
        before = [int(counted[high - 1]) if high else 0 for high in highs]
        lows = [
            np.searchsorted(within[i], rank - b, side="right") for i, rank, b in zip(own, ranks, before, strict=True)
        ]
        return [_value((int(high) << 16) | int(low)) for high, low in zip(highs, lows, strict=True)]

    def _counted(self, kernel: Any, score: Change, shape: tuple[int, ...], *more: Array) -> Array:
        """The counts of all blocks, each thread's in an array of its own."""
        factors, idle, used = self.factors(score), [], []  # type: ignore[var-annotated]

        def count(block: range) -> None:
            try:
                counts = idle.pop()
            except IndexError:
                counts = np.zeros(shape, np.int64)
                used.append(counts)
            kernel(*self.pair(score.k, block), self._of(factors, block), score.signed, *more, counts)
            idle.append(counts)
            self.forget(block)

        self.run.map(count, self._blocks)
        total: Array = sum(used[1:], start=used[0])
        return total

    def select(self, score: Change, threshold: float, block: range, out: Array) -> tuple[int, float]:
        """Merges a block's rows into `out` (uint16 or float32): how many entries were taken, Σ (merged − base)²."""
        base, other = self.pair(score.k, block)
        factors = self._of(self.factors(score), block)
        taken, square, most = kernels.select(base, other, factors, score.signed, np.float32(threshold),
                                             out.reshape(base.shape))  # fmt: skip
        self.check(most, ["the base", self.tensors.names[score.k]])
        self.forget(block)
        return taken, square

    def average(self, weights: Sequence[float], total: float, block: range, out: Array) -> float:
        """Σ_k w_k·θ_k / total into `out`; Σ (merged − base)², the last model in the place of a base."""
        square, models = 0.0, self.tensors.models
        base = () if self.tensors.base is None else (self.tensors.base,)
        for start, stop, part in self._parts(block, out, len(models)):
            entries = self._stack((*models, *base), start, stop)
            kept = entries[-1] if base else entries[0, :0]
            more, most = kernels.average(
                kept, entries[: len(models)], np.array(weights, np.float32), np.float32(total), part
            )
            self.check(most, self.tensors.names)
            square += more
        self.forget(block)
        return square

    def combine(self, added: "Sum", block: range, out: Array) -> float:
        """Base and updates, added as `Sum` says, into `out`; Σ (merged − base)²."""
        square, updates, base = 0.0, added.updates, self.tensors.base
        if base is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        own = np.array([(w, u.low, u.high, u.chance, u.rescaled, u.factor)
                        for u, w in zip(updates, added.weights, strict=True)], np.float32)  # fmt: skip
        drawn = any(update.chance < 1 for update in updates)
        sources = (base, *(self.tensors.models[u.k] for u in updates))
        for start, stop, part in self._parts(block, out, len(updates)):
            entries = self._stack(sources, start, stop)
            numbers = np.zeros((len(updates), (stop - start) * drawn), np.float32)
            for update, row in zip(updates, numbers, strict=True):
                if update.chance < 1:
                    row[:] = self.tensors.uniform(update.k, start, stop)
            more, most = kernels.combine(entries[0], entries[1:], own, numbers, added.elect, added.normalize,
                                         np.float32(added.total), np.float32(added.lam), part)  # fmt: skip
            self.check(most, ["the base", *(self.tensors.names[u.k] for u in updates)])
            square += more
        self.forget(block)
        return square

    def _parts(self, block: range, out: Array, models: int) -> Iterator[tuple[int, int, Array]]:
        """A block's entries in runs whose stacked models stay in a cache: start, stop, and that part of `out`."""
        first, last = self.grid.span(block)
        length = max(1 << 12, STACKED // models)
        for start in range(first, last, length):
            stop = min(start + length, last)
            yield start, stop, out[start - first : stop - first]

    def _stack(self, sources: "Sequence[Source]", start: int, stop: int) -> Array:
        """Stored elements of each source, [sources, elements] of one type."""
        parts = [widened(stored(source, start, stop)) for source in sources]
        if any(part.dtype == np.float32 for part in parts):
            parts = [as_float(part) for part in parts]
        return np.stack(parts)

    def forget(self, block: range) -> None:
        """Lets go of what was read of a block: memory stays flat, however large a tensor and however many models."""
        for source in (self.tensors.base, *self.tensors.models):
            if isinstance(source, Stored):
                source.forget(*self.grid.span(block))

    def check(self, most: Array, names: Sequence[str]) -> None:
        """UserError when the greatest magnitude in a model's entries, or last in the merged ones, is not finite."""
        for name, bits in zip([*names, None], most, strict=True):
            if bits >= kernels.INFINITE and name is not None:
                raise UserError(f"{self.tensors.name}: NaN or infinity in {name}; it cannot be merged")
            if bits >= kernels.INFINITE:
                raise beyond(self.tensors.name)


def beyond(name: str) -> UserError:
    """The mistake of an output type that is too narrow for what is merged."""
    return UserError(f"{name}: merged entries are beyond the output's type; take another out_dtype")


def halves(values: Array, name: str) -> Array:
    """Merged float32 entries as float16."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise beyond(name)
    return narrow


def as_float(rows: Array) -> Array:
    """Stored rows as float32."""
    if rows.dtype == np.float32:
        return rows
    return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _value(key: int) -> float:
    """The score that a key stands for."""
    bits = key ^ (0x80000000 if key & 0x80000000 else 0xFFFFFFFF)
    value = float(np.array([bits], np.uint32).view(np.float32)[0])
    return math.nan if bits & 0x7FFFFFFF > 0x7F800000 else value
