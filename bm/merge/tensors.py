"""What a merge method sees: one named parameter across models, streamed in tiles that its shape alone fixes.

A method is one pure function `method(tensors, **parameters) -> Apply`. It may first ask for facts about the whole
tensor (`reduce`, `order_statistics`, `quantiles`), each a streamed pass, and returns how one tile is merged.
The tiling depends on the shape alone and partial results are combined in tile order, so a merge has the same bits for
any number of threads and any block size. A tiling of one tile is the whole-tensor form of the same method.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from bm.errors import UserError
from bm.merge.arrays import Array
from bm.merge.dtypes import Dtype
from bm.merge.fused import Fused
from bm.merge.lazy import Tensor, torch
from bm.merge.names import Place
from bm.merge.quantiles import SAMPLE, SIGMAS, order_statistics
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

SAMPLED_TILES = 128  # at least, of a tensor whose scores are not held
KEPT = 1 << 24  # entries of all models together that stay mapped between the passes over a tensor
COLLECTED = 1 << 24  # scores inside brackets that are held at once
ROW_DRAWS = 8  # draws that a row of theirs is worth
HELD_COLUMNS = 16  # columns from which on a number per row is worth holding

_mine = threading.local()
T = TypeVar("T")
Measured = Literal["fisher", "regmean", "regmean_plus_plus", "activations", "second_moments"]
Kind = Literal["pair", "two", "models", "directions", "task_vectors"]
Method = Callable[["Tensors"], "Apply"]


class Selection(NamedTuple):
    """A merged tile with the entries of `other` where `taken` is 1 and those of `base` where it is 0 (or bool)."""

    taken: Tensor
    other: Tensor
    base: Tensor


def above(scores: Tensor, threshold: float) -> Tensor:
    """1 where a score is above the threshold, else 0, in the scores' dtype: a mask made and used at full speed."""
    return torch.gt(scores, threshold, out=torch.empty_like(scores))


Apply = Callable[[Tile], "Tensor | Selection"]
"""Merges one tile: [rows, columns] in the compute dtype, or the selection between two such tiles."""


@runtime_checkable
class ByKernel(Protocol):
    """An `Apply` that compiled kernels can do as well."""

    def by_kernel(self, fused: Fused, block: range, out: Array) -> tuple[int | None, float]:
        """Merges a block into `out`; how many entries were taken (None: not a selection), Σ (merged − base)²."""


F = TypeVar("F", bound=Callable[..., Apply])


def pair(method: F) -> F:
    """Marks a method of two models: `tile.base` is kept (the left model), `tile.models[0]` is the other."""
    return _mark(method, "pair")


def two(method: F) -> F:
    """Marks a method of two models on an equal footing, `tile.models`; `tile.base` is the student if one is given."""
    return _mark(method, "two")


def models(method: F) -> F:
    """Marks a method of any number of models on an equal footing, in which a base has no part."""
    return _mark(method, "models")


def directions(method: F) -> F:
    """Marks a method of any number of models, or of their updates where there is a student, `tile.base`."""
    return _mark(method, "directions")


def task_vectors(method: F) -> F:
    """Marks a method of updates θ_k − θ_base of any number of models; the student is required as `tile.base`."""
    return _mark(method, "task_vectors")


def _mark(method: F, kind: Kind) -> F:
    method.kind = kind  # type: ignore[attr-defined]
    return method


def weighed_by(statistics: Measured) -> Callable[[F], F]:
    """Marks a method that needs to know something of each model, or of the base, measured beforehand."""

    def mark(method: F) -> F:
        method.statistics = statistics  # type: ignore[attr-defined]
        return method

    return mark


def kind_of(method: Any) -> Kind:
    """What a method takes, read through partial applications of it."""
    method = _function(method)
    if not hasattr(method, "kind"):
        raise UserError(
            f"{method!r} is not a merge method: mark it with @pair, @two, @models, @directions or @task_vectors"
        )
    kind: Kind = method.kind
    return kind


def uses_base(method: Any) -> bool:
    """Whether a base that is given takes part in the merge."""
    return kind_of(method) != "models"


def statistics_of(method: Any) -> str | None:
    """Which statistics a method needs of each model, if any."""
    name: str | None = getattr(_function(method), "statistics", None)
    return name


def _function(method: Any) -> Any:
    if hasattr(method, "target"):  # a Component of the configuration
        from hydra.utils import get_method

        method = get_method(method.target)
    return getattr(method, "func", method)  # functools.partial


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
        """Random numbers in [0, 1) for the flat elements [start, stop) of model k, float32.

        An element's number is its place in PCG64-DXSM's stream of (seed, tensor, model), whatever part it is drawn in.
        """
        return (self.random_bits(k, start, stop) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)

    def random_bits(self, k: int, start: int, stop: int) -> Array:
        """What `uniform` is made of: 32 random bits an element, uint32."""
        even = start & ~1  # the generator makes two numbers at a time
        generator = _generator()
        generator.state = self._streams[k]
        pairs = generator.advance(even // 2).random_raw((stop - even + 1) // 2)
        return pairs.astype("<u8", copy=False).view(np.uint32)[start - even : stop - even]

    @cached_property
    def _streams(self) -> list[Any]:
        """How each model's generator begins."""
        return [np.random.PCG64DXSM(self.stream(k)).state for k in range(len(self.models))]

    def stream(self, k: int) -> int:
        """The seed of model k's random numbers, 128 bits."""
        text = f"{self.run.seed}\0{self.name}\0{self.names[k]}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")

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


def _generator() -> "np.random.PCG64DXSM":
    """This thread's own: to make one takes longer than to set its state."""
    if not hasattr(_mine, "generator"):
        _mine.generator = np.random.PCG64DXSM(0)
    generator: np.random.PCG64DXSM = _mine.generator
    return generator


class TensorScores:
    """The scores f gives the tiles of a tensor, as `order_statistics` wants them."""

    def __init__(self, tensors: Tensors, f: Callable[[Tile], Tensor]) -> None:
        self.tensors, self.f, self.elements = tensors, f, tensors.elements
        self.bits = 8 * tensors.run.dtype.itemsize

    def sample(self) -> tuple[Tensor, int]:
        """An even share of held scores; else evenly spaced tiles, where scores of a row are alike: few draws' worth."""
        scores = self.tensors.hold(self.f)
        if scores is not None:
            values = scores[:: max(1, self.elements // SAMPLE) | 1]
            return values, len(values)
        tiling = self.tensors.tiling
        wide = 3 * SIGMAS * self.elements / COLLECTED  # three brackets of the sample collect no more than that
        sampled = max(SAMPLED_TILES, round(wide**2 / (ROW_DRAWS * tiling.rows)))
        step = max(1, tiling.tiles // sampled)
        tasks = [range(i, i + 1) for i in range(step // 2, tiling.tiles, step)]
        share = max(1, len(tasks) * tiling.rows * tiling.columns // SAMPLE) | 1
        sizes = [-(-(stop - start) // share) for start, stop in map(tiling.span, tasks)]
        values = torch.empty(sum(sizes), dtype=self.tensors.run.dtype, device=self.tensors.run.device)
        places = dict(zip(tasks, torch.split(values, sizes), strict=True))

        def draw(task: range) -> None:
            places[task].copy_(self.f(next(self.tensors.tiles(task))).reshape(-1)[::share])

        self.tensors.run.map(draw, tasks)
        return values, ROW_DRAWS * len(tasks) * tiling.rows

    def total(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        def block(tiles: range) -> Tensor:
            total: Any = 0
            for tile in self.tensors.tiles(tiles):
                total = total + f(tile.of(self.f).to(self.tensors.run.dtype))
            summed: Tensor = total
            return summed

        tensors = self.tensors
        return torch.stack(tensors.run.map(block, tensors.run.blocks(tensors.tiling, len(tensors.models) + 1))).sum(0)

    def each(self, f: Callable[[Tensor], None]) -> None:
        self.tensors.map(lambda tile: f(self._finite(tile.of(self.f).to(self.tensors.run.dtype))))

    def _finite(self, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.sum()) and not torch.isfinite(scores).all():
            raise UserError(f"{self.tensors.name}: NaN or infinity in one of the models; it cannot be merged")
        return scores
