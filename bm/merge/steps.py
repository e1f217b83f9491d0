"""One tensor through a merge tree: each node a step whose result, rounded to the output dtype, feeds the next."""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from bm.merge.arrays import Array, from_torch, to_torch
from bm.merge.dtypes import Dtype
from bm.merge.fused import halves
from bm.merge.kinds import ByKernel
from bm.merge.lazy import Tensor, torch
from bm.merge.sources import Forgetting, Releasing
from bm.merge.tensors import Compute, Method, Selection, Source, Tensors, Tile


@dataclass(frozen=True)
class Node:
    """A merge of one tensor: `base` and `models` are tensors on disk or in memory, or earlier merges."""

    method: Method
    base: "Input | None"
    models: "tuple[Input, ...]"
    base_name: str
    model_names: tuple[str, ...]
    statistics: tuple[Source, ...] = ()


Input: TypeAlias = Source | Node


@dataclass(frozen=True)
class Item:
    """One output tensor in each of the merges made in one pass: a merge tree, or a source that is copied."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    trees: tuple[Input, ...]

    @cached_property
    def entries(self) -> int:
        """How many entries are read and made for it; every tree reads the same ones."""
        return math.prod(self.shape) * (_sources(self.trees[0]) + len(self.trees))


def _sources(tree: Input) -> int:
    """How many tensors a tree reads."""
    if not isinstance(tree, Node):
        return 1
    return sum(_sources(part) for part in (tree.base, *tree.models) if part is not None)


class Step(Forgetting, Releasing):
    """A node at work; to the step after it, a source in the output dtype.

    Tiles are made when read and not held: what a later step reads twice is merged twice, from held scores if they fit.
    """

    def __init__(self, node: Node, item: Item, layers: int, run: Compute, shared: dict[Any, Tensors]) -> None:
        self.node, self.shape, self.dtype = node, item.shape, item.dtype
        key = (node.base, node.models, node.statistics)
        if key not in shared:
            base, *models = (None if part is None else _source(part, item, layers, run, shared)
                             for part in (node.base, *node.models))  # fmt: skip
            shared[key] = Tensors(item.name, base, [m for m in models if m is not None], names=node.model_names,
                                  statistics=node.statistics, layers=layers, run=run)  # fmt: skip
        self.tensors = shared[key]
        self.apply = node.method(self.tensors)
        fused, apply = self.tensors.fused, self.apply
        self.kernel = partial(apply.by_kernel, fused) if fused and isinstance(apply, ByKernel) else None
        self._measured: dict[int, tuple[int | None, float]] = {}

    def merged(self, tile: Tile) -> Tensor:
        """The merged tile in the compute dtype; notes how much was taken and how far it is from what was kept."""
        result = self.apply(tile)
        if isinstance(result, Selection):
            merged = torch.lerp(result.base, result.other, result.taken.to(result.base.dtype))  # exact at 0 and 1
            taken, kept = int(result.taken.sum()), result.base
        else:
            merged, taken = result, None
            kept = tile.models[-1] if tile.base is None else tile.base
        update = (merged - kept).reshape(-1)
        self._measured[tile.index] = taken, float(torch.dot(update, update))
        return merged

    def read(self, start: int, stop: int) -> Tensor:
        return to_torch(self.stored(start, stop), self.dtype)

    def stored(self, start: int, stop: int) -> Array:
        """Merged elements [start, stop), whole tiles, in the output dtype as `bm.merge.arrays` has it."""
        tiling = self.tensors.tiling
        size = tiling.rows * tiling.columns
        block = range(start // size, -(-stop // size))
        if self.kernel is not None:
            out = np.empty(stop - start, np.uint16 if self.dtype == Dtype.bfloat16 else np.float32)
            self._measured[block.start] = self.kernel(block, out)
            return out if self.dtype != Dtype.float16 else halves(out, self.tensors.name)
        tiles = self.tensors.tiles(block)
        return from_torch(torch.cat([self.merged(tile).to(self.dtype.torch).reshape(-1) for tile in tiles]))

    def forget(self, start: int, stop: int) -> None:
        """What was looked at for these elements may go."""
        self.tensors.forget(start, stop)

    def release(self) -> None:
        self.tensors.release()

    def rows(self) -> list[dict[str, Any]]:
        """What `tensors.parquet` says of this tensor, one row for each step, earlier steps first."""
        sources = (self.tensors.base, *self.tensors.models)
        earlier = [row for source in sources if isinstance(source, Step) for row in source.rows()]
        measured = [self._measured[i] for i in sorted(self._measured)]
        taken = None if measured[0][0] is None else sum(count or 0 for count, _ in measured)
        place = self.tensors.place
        return [*earlier, {
            "base": self.node.base_name, "other": " & ".join(self.node.model_names),
            "tensor": self.tensors.name, "layer": place.layer, "module": place.module,
            "elements": self.tensors.elements,
            "kept_share": None if taken is None else taken / self.tensors.elements,
            "update_norm": sum(square for _, square in measured) ** 0.5,
        }]  # fmt: skip


def _source(part: Input, item: Item, layers: int, run: Compute, shared: dict[Any, Tensors]) -> Source:
    return Step(part, item, layers, run, shared) if isinstance(part, Node) else part
