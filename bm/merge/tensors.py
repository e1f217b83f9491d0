"""What a merge method sees: one named parameter across models, streamed in tiles that its shape alone fixes.

A method is one pure function `method(tensors, **parameters) -> Apply`. It may first ask for facts about the whole
tensor (`reduce`, `order_statistics`, `quantiles`), each a streamed pass, and returns how one tile is merged.
The tiling depends on the shape alone and partial results are combined in tile order, so a merge has the same bits for
any number of threads and any block size. A tiling of one tile is the whole-tensor form of the same method.
"""

import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

from bm.merge.arrays import Array
from bm.merge.dtypes import Dtype
from bm.merge.fused import Fused
from bm.merge.kinds import (
    Apply,
    Kind,
    Selection,
    above,
    directions,
    kind_of,
    models,
    pair,
    statistics_of,
    task_vectors,
    two,
    uses_base,
    weighed_by,
)  # fmt: skip
from bm.merge.lazy import Tensor, torch
from bm.merge.names import Place
from bm.merge.passes import TensorScores
from bm.merge.quantiles import order_statistics
from bm.merge.randomness import Stream
from bm.merge.scores import Change
from bm.merge.sources import Forgetting, Held, Releasing, Source
from bm.merge.tile import Tile
from bm.merge.tiling import Compute, Tiling

__all__ = [
    "Apply",
    "Compute",
    "Held",
    "Kind",
    "Method",
    "Selection",
    "Source",
    "Tensors",
    "Tile",
    "Tiling",
    "above",
    "directions",
    "kind_of",
    "models",
    "pair",
    "statistics_of",
    "task_vectors",
    "two",
    "uses_base",
    "weighed_by",
]  # fmt: skip

KEPT = 1 << 24  # entries of all models together that stay mapped between the passes over a tensor
HELD_COLUMNS = 16  # columns from which on a number per row is worth holding

T = TypeVar("T")
Method = Callable[["Tensors"], "Apply"]


class Tensors:
    """One named parameter in the base and in every model, streamed. See the module's docstring."""

    def __init__(
        self,
        name: str,
        base: Source | None,
        models: Sequence[Source],
        *,
        names: Sequence[str] = (),
        statistics: Sequence[Source] = (),
        layers: int = 0,
        run: Compute | None = None,
    ) -> None:
        self.name, self.base, self.models, self.statistics = name, base, tuple(models), tuple(statistics)
        self.names = tuple(names) or tuple(str(k) for k in range(len(models)))
        self.place, self.layers = Place.of(name), layers
        self.run = run or Compute()
        first: Source = self.models[0] if base is None else base
        self.shape, self._stored = tuple(first.shape), first.dtype
        self.tiling = Tiling.of(self.shape, self.run.tile_size)
        self._facts: dict[Hashable, Any] = {}
        self._scores: dict[Hashable, Tensor] = {}
        self._rows: dict[Hashable, tuple[Tensor, list[bool]]] = {}
        self._lock = threading.Lock()
        sources: list[tuple[int | None, object]] = [(None, base), *enumerate(self.models)]
        self._forgetting = {k: source.forget for k, source in sources if isinstance(source, Forgetting)}
        """How to let go of the base (None) and the models."""

    @classmethod
    def held(cls, base: Tensor | None, models: Sequence[Tensor], name: str = "tensor", **options: Any) -> "Tensors":
        """The same view of tensors in memory. `Compute(tile_elements=N)` sets the tiling; N ≥ their size: one tile."""
        return cls(name, None if base is None else Held(base), [Held(model) for model in models], **options)

    @property
    def elements(self) -> int:
        return self.tiling.elements

    @property
    def stored_dtype(self) -> "torch.dtype":
        """torch's type of the stored entries, of the base or the first model."""
        dtype: torch.dtype = self._stored.torch
        return dtype

    def tiles(self, block: range) -> Iterator[Tile]:
        """The tiles of one block, which is read once per source, when first asked for."""
        start, stop = self.tiling.span(block)
        held: dict[int, Tensor] = {}

        for index in block:
            first, last = self.tiling.span(range(index, index + 1))

            def read(source: Source, first: int = first, last: int = last) -> Tensor:
                if id(source) not in held:
                    held[id(source)] = source.read(start, stop).to(self.run.device)
                return held[id(source)][first - start : last - start]

            yield Tile(self, index, read)

    def map(self, f: Callable[[Tile], T]) -> list[T]:
        """f of every tile, in tile order."""
        parts = self.run.map(
            lambda block: [f(tile) for tile in self.tiles(block)], self.run.blocks(self.tiling, len(self.models) + 1)
        )
        return [value for part in parts for value in part]

    def reduce(self, f: Callable[[Tile], Tensor]) -> Tensor:
        """Σ f(tile) over the tensor as float64 on the CPU: f gives a tensor of one fixed shape for every tile."""
        if f not in self._facts:
            parts = self.map(lambda tile: f(tile).to("cpu", torch.float64))
            self._facts[f] = torch.stack(parts).sum(0)
        value: Tensor = self._facts[f]
        return value

    def order_statistics(self, f: Callable[[Tile], Tensor], ranks: Sequence[int]) -> list[float]:
        """The ranks[i]-th smallest (from 0) of f(tile) over the whole tensor, exact; f gives one score per element.

        Raises UserError when a score is not finite, naming the tensor.
        """
        key = (f, tuple(ranks))
        if key not in self._facts:
            self._facts[key] = (
                self.fused.order_statistics(f, ranks)
                if self.fused and isinstance(f, Change)
                else order_statistics(TensorScores(self, f), ranks)
            )
        value: list[float] = self._facts[key]
        return value

    def quantiles(self, f: Callable[[Tile], Tensor], qs: Sequence[float]) -> list[float]:
        """Exact quantiles of f(tile): the order statistic at ⌊q·(n − 1)⌋, as the released fusion takes them."""
        return self.order_statistics(f, [math.floor(q * (self.elements - 1)) for q in qs])

    def held_rows(self, f: Callable[[Tile], Tensor], tile: Tile) -> Tensor:
        """See `Tile.per_row`. Rows of a few entries are not worth holding."""
        if self.tiling.columns < HELD_COLUMNS:
            return f(tile)
        with self._lock:  # one buffer: small tensors kept between a pass's temporary ones would leave holes in the heap
            if f not in self._rows:
                rows = torch.empty(self.elements // self.tiling.columns, dtype=self.run.dtype, device=self.run.device)
                self._rows[f] = rows, [False] * self.tiling.tiles
        rows, known = self._rows[f]
        mine = rows[tile.start // self.tiling.columns : tile.stop // self.tiling.columns]
        if not known[tile.index]:
            mine.copy_(f(tile))
            known[tile.index] = True
        return mine

    def gather(self, f: Callable[[Tile], Tensor], offsets: Tensor) -> Tensor:
        """The scores f(tile) at these flat offsets of the tensor, in ascending order of the offsets."""
        offsets = offsets.sort().values

        def inside(tile: Tile) -> Tensor:
            first, last = torch.searchsorted(offsets, torch.tensor([tile.start, tile.stop])).tolist()
            return f(tile).reshape(-1)[offsets[first:last] - tile.start].cpu()

        return torch.cat(self.map(inside))

    def cached(self, f: Callable[[Tile], Any], tile: Tile) -> Tensor | None:
        """The scores f gave this tile in an earlier pass, if they are still held."""
        scores = self._scores.get(f)
        return None if scores is None else scores[tile.start : tile.stop].view(-1, self.tiling.columns)

    def name_of(self, source: Source) -> str:
        """The model that a source is of, as a message names it."""
        owners = [*zip(self.names, self.models, strict=True), *zip(self.names, self.statistics, strict=False)]
        return next((name for name, own in owners if own is source), "the base")

    @cached_property
    def fused(self) -> Fused | None:
        """The compiled kernels over this tensor, where they know its types."""
        types = {source.dtype for source in (*self.models, *([self.base] if self.base else []))}
        able = self.run.device == "cpu" and self.run.precision == Dtype.float32 and self.elements
        return Fused(self) if able and types <= {Dtype.bfloat16, Dtype.float16, Dtype.float32} else None

    def uniform(self, k: int, start: int, stop: int) -> Array:
        """Random numbers in [0, 1) for the flat elements [start, stop) of model k, float32 (`bm.merge.randomness`)."""
        return self.streams[k].uniform(start, stop)

    @cached_property
    def streams(self) -> list[Stream]:
        """Each model's random numbers."""
        return [Stream(self.run.seed, self.name, name) for name in self.names]

    def hold(self, f: Callable[[Tile], Tensor]) -> Tensor | None:
        """All scores of f in one flat tensor, kept until `release`; None when they are more than may be held now."""
        if f not in self._scores:
            if not self.run.allowance.take(self.elements * self.run.dtype.itemsize):
                return None
            scores = torch.empty(self.elements, dtype=self.run.dtype, device=self.run.device)

            def fill(block: range) -> None:
                for tile in self.tiles(block):
                    scores[tile.start : tile.stop] = f(tile).reshape(-1)

            self.run.map(fill, self.run.blocks(self.tiling, len(self.models) + 1))
            self._scores[f] = scores
        return self._scores[f]

    def forget(self, start: int, stop: int) -> None:
        """Lets go of what was read of [start, stop): memory stays flat, however large a tensor, and many the models."""
        for forget in self._forgetting.values():
            forget(start, stop)

    def forget_pair(self, k: int, start: int, stop: int) -> None:
        """Lets go of the base and model k, which will be looked at again; not where all are so little that they may
        stay: to map pages anew takes as long as to read them."""
        if self.elements * len(self._forgetting) > KEPT:
            for source in (None, k):
                if source in self._forgetting:
                    self._forgetting[source](start, stop)

    def release(self) -> None:
        """Gives back what is held of scores, here and in earlier steps of the merge."""
        self.run.allowance.give(sum(scores.nbytes for scores in self._scores.values()))
        self._scores.clear()
        for source in (self.base, *self.models):
            if isinstance(source, Releasing):
                source.release()
