"""What a merge method sees: one named parameter across models, streamed in tiles on a grid fixed by its shape.

A method is one pure function `method(tensors, **parameters) -> Apply`. It may first ask for facts about the whole
tensor (`reduce`, `order_statistics`, `quantiles`), each a streamed pass, and returns how one tile is merged.
The grid depends on the shape alone and partial results are combined in tile order, so a merge has the same bits for any
number of threads and any block size. A grid of one tile is the whole-tensor form of the same method.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from bm.errors import UserError
from bm.merge.names import Place
from bm.merge.quantiles import SAMPLE, order_statistics

TILE_ELEMENTS = 1 << 16  # 256 KiB of float32: a method's few live tiles stay in a core's cache
CUDA_TILE_ELEMENTS = 1 << 24
SAMPLED_TILES = 128
ROW_DRAWS = 8
HELD_COLUMNS = 16
BLOCK_TILES = 16  # tiles read and written by one task; no result depends on it

T = TypeVar("T")
Kind = Literal["pair", "models", "task_vectors"]
Method = Callable[["Tensors"], "Apply"]


class Selection(NamedTuple):
    """A merged tile with the entries of `other` where `taken` is 1 and those of `base` where it is 0 (or bool)."""

    taken: Tensor
    other: Tensor
    base: Tensor


def above(scores: Tensor, threshold: float) -> Tensor:
    """1 where a score is above the threshold, else 0, in the scores' dtype: a mask made and used at full speed."""
    return torch.gt(scores, threshold, out=torch.empty_like(scores))


Apply = Callable[["Tile"], "Tensor | Selection"]
"""Merges one tile: [rows, columns] in the compute dtype, or the selection between two such tiles."""

F = TypeVar("F", bound=Callable[..., Apply])


def pair(method: F) -> F:
    """Marks a method of two models: `tile.base` is kept (the left model), `tile.models[0]` is the other."""
    return _mark(method, "pair")


def models(method: F) -> F:
    """Marks a method of any number of models on an equal footing; `tile.base` is the student if one is given."""
    return _mark(method, "models")


def task_vectors(method: F) -> F:
    """Marks a method of updates θ_k − θ_base of any number of models; the student is required as `tile.base`."""
    return _mark(method, "task_vectors")


def _mark(method: F, kind: Kind) -> F:
    method.kind = kind  # type: ignore[attr-defined]
    return method


def kind_of(method: Any) -> Kind:
    """What a method takes, read through partial applications of it."""
    if hasattr(method, "target"):  # a Component of the configuration
        from hydra.utils import get_method

        method = get_method(method.target)
    method = getattr(method, "func", method)  # functools.partial
    if not hasattr(method, "kind"):
        raise UserError(f"{method!r} is no merge method: mark it with @pair, @models or @task_vectors")
    kind: Kind = method.kind
    return kind


class Source(Protocol):
    """Where the entries of one tensor come from: a file, memory, or an earlier merge step."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Flat elements [start, stop) in the stored dtype."""


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory as a source."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read(self, start: int, stop: int) -> Tensor:
        return self.tensor.reshape(-1)[start:stop]


@dataclass(frozen=True)
class Run:
    """How tiles are computed. None of it changes a bit of the result but `dtype` and `seed` (and the kind of device).

    `workers` runs the tasks of a pass, None runs them in the caller. `cache_bytes` bounds the scores that are held
    between the passes over one tensor; a larger tensor is scored again.
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    workers: Executor | None = None
    cache_bytes: int = 256 << 20
    tile_elements: int | None = None
    block_tiles: int = BLOCK_TILES

    @property
    def tile_size(self) -> int:
        return self.tile_elements or (CUDA_TILE_ELEMENTS if self.device.type == "cuda" else TILE_ELEMENTS)

    def map(self, task: Callable[[range], T], tasks: Sequence[range]) -> list[T]:
        if self.workers is None or len(tasks) < 2:
            return [task(one) for one in tasks]
        return list(self.workers.map(task, tasks))


@dataclass(frozen=True)
class Grid:
    """Tiles of whole rows: `rows` rows of the last dimension each, the last tile what remains."""

    elements: int
    columns: int
    rows: int

    @classmethod
    def of(cls, shape: tuple[int, ...], tile_elements: int) -> "Grid":
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
        """Runs of `length` consecutive tiles, the tasks of a pass."""
        return [range(first, min(first + length, self.tiles)) for first in range(0, self.tiles, length)]


class _Loaded(Sequence[Tensor]):
    """Tiles of several sources, each read when first asked for."""

    def __init__(self, sources: Sequence[Source], load: Callable[[Source], Tensor]) -> None:
        self._sources, self._load = sources, load
        self._tiles: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, k: Any) -> Any:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        k = range(len(self))[k]
        if k not in self._tiles:
            self._tiles[k] = self._load(self._sources[k])
        return self._tiles[k]


class Tile:
    """Whole rows of one parameter in every model, [rows, columns] in the compute dtype. Methods never write into them.

    `models[k]` is model k, `statistics[k]` its statistics (same shape), both read when asked for. `start` is the flat
    offset of the first element, `index` the tile's place in the grid.
    """

    def __init__(self, tensors: "Tensors", index: int, read: Callable[[Source], Tensor]) -> None:
        self.tensors, self.index = tensors, index
        self.start, self.stop = tensors.grid.span(range(index, index + 1))

        def load(source: Source) -> Tensor:
            return read(source).to(tensors.run.dtype).view(-1, tensors.grid.columns)

        self.models: Sequence[Tensor] = _Loaded(tensors.models, load)
        self.statistics: Sequence[Tensor] = _Loaded(tensors.statistics, load)
        self._base = _Loaded(() if tensors.base is None else (tensors.base,), load)
        self._memo: dict[Hashable, Any] = {}

    @property
    def base(self) -> Tensor | None:
        """The base's tile; None when the merge has no base."""
        return self._base[0] if self._base else None

    @property
    def kept(self) -> Tensor:
        """The base's tile where the method cannot do without one."""
        if self.base is None:
            raise UserError(f"{self.tensors.name}: this merge method needs a base model")
        return self.base

    def of(self, f: Callable[["Tile"], T]) -> T:
        """f(self), computed once: f is known by identity, so give the same function to `quantiles` and here."""
        if f not in self._memo:
            cached = self.tensors.cached(f, self)
            self._memo[f] = f(self) if cached is None else cached
        value: T = self._memo[f]
        return value

    def per_row(self, f: Callable[["Tile"], Tensor]) -> Tensor:
        """f(self), one number for each row, [rows]: computed once and held for every pass over the tensor."""
        return self.tensors.held_rows(f, self)

    def uniform(self, k: int) -> Tensor:
        """Random numbers in [0, 1) for model k, the tile's shape, float32: a hash of (seed, tensor, model, element)."""
        low, high = self.tensors.stream(k)
        counter = torch.arange(self.start, self.stop, device=self.tensors.run.device)
        x = _mix((counter & 0x7FFFFFFF).to(torch.int32) ^ low)
        x = _mix(x ^ (counter >> 31).to(torch.int32) ^ high)
        return ((x >> 8) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24).view(-1, self.tensors.grid.columns)


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 whose every output bit depends on every input bit (C. Wellons' `lowbias32`)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


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
        run: Run | None = None,
    ) -> None:
        self.name, self.base, self.models, self.statistics = name, base, tuple(models), tuple(statistics)
        self.names = tuple(names) or tuple(str(k) for k in range(len(models)))
        self.place, self.layers = Place.of(name), layers
        self.run = run or Run()
        first: Source = self.models[0] if base is None else base
        self.shape, self.stored_dtype = tuple(first.shape), first.dtype
        self.grid = Grid.of(self.shape, self.run.tile_size)
        self._facts: dict[Hashable, Any] = {}
        self._scores: dict[Hashable, Tensor] = {}
        self._rows: dict[Hashable, dict[int, Tensor]] = {}
        self._lock = threading.Lock()

    @classmethod
    def held(cls, base: Tensor | None, models: Sequence[Tensor], name: str = "tensor", **options: Any) -> "Tensors":
        """The same view of tensors in memory. `run=Run(tile_elements=N)` sets the grid; N ≥ their size is one tile."""
        return cls(name, None if base is None else Held(base), [Held(model) for model in models], **options)

    @property
    def elements(self) -> int:
        return self.grid.elements

    def tiles(self, block: range) -> Iterator[Tile]:
        """The tiles of one block, which is read once per source, when first asked for."""
        start, stop = self.grid.span(block)
        held: dict[int, Tensor] = {}

        for index in block:
            first, last = self.grid.span(range(index, index + 1))

            def read(source: Source, first: int = first, last: int = last) -> Tensor:
                if id(source) not in held:
                    held[id(source)] = source.read(start, stop).to(self.run.device)
                return held[id(source)][first - start : last - start]

            yield Tile(self, index, read)

    def map(self, f: Callable[[Tile], T]) -> list[T]:
        """f of every tile, in tile order."""
        parts = self.run.map(
            lambda block: [f(tile) for tile in self.tiles(block)], self.grid.blocks(self.run.block_tiles)
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
            self._facts[key] = order_statistics(_Scores(self, f), ranks)
        value: list[float] = self._facts[key]
        return value

    def quantiles(self, f: Callable[[Tile], Tensor], qs: Sequence[float]) -> list[float]:
        """Exact quantiles of f(tile): the order statistic at ⌊q·(n − 1)⌋, as the released fusion takes them."""
        return self.order_statistics(f, [math.floor(q * (self.elements - 1)) for q in qs])

    def held_rows(self, f: Callable[[Tile], Tensor], tile: Tile) -> Tensor:
        """See `Tile.per_row`. Rows of a few entries are not worth holding."""
        if self.grid.columns < HELD_COLUMNS:
            return f(tile)
        with self._lock:
            held = self._rows.setdefault(f, {})
        if tile.index not in held:
            held[tile.index] = f(tile)
        return held[tile.index]

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
        return None if scores is None else scores[tile.start : tile.stop].view(-1, self.grid.columns)

    def stream(self, k: int) -> tuple[int, int]:
        """Two int32 keys of model k's random numbers."""
        key = ("stream", k)
        if key not in self._facts:
            text = f"{self.run.seed}\0{self.name}\0{self.names[k]}".encode()
            digest = hashlib.sha256(text).digest()
            self._facts[key] = tuple(int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4))
        value: tuple[int, int] = self._facts[key]
        return value

    def hold(self, f: Callable[[Tile], Tensor]) -> Tensor | None:
        """All scores of f in one flat tensor, kept for later passes; None when they are more than may be held."""
        if f not in self._scores:
            if self.elements * self.run.dtype.itemsize > self.run.cache_bytes:
                return None
            scores = torch.empty(self.elements, dtype=self.run.dtype, device=self.run.device)

            def fill(block: range) -> None:
                for tile in self.tiles(block):
                    scores[tile.start : tile.stop] = f(tile).reshape(-1)

            self.run.map(fill, self.grid.blocks(self.run.block_tiles))
            self._scores[f] = scores
        return self._scores[f]


class _Scores:
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
        grid = self.tensors.grid
        step = max(1, grid.tiles // SAMPLED_TILES)
        tasks = [range(i, i + 1) for i in range(step // 2, grid.tiles, step)]
        share = max(1, len(tasks) * grid.rows * grid.columns // SAMPLE) | 1
        parts = self.tensors.run.map(lambda task: self.f(next(self.tensors.tiles(task))).reshape(-1)[::share], tasks)
        return torch.cat(parts), ROW_DRAWS * len(tasks) * grid.rows

    def total(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        def block(tiles: range) -> Tensor:
            total: Tensor | int = 0
            for tile in self.tensors.tiles(tiles):
                total = total + f(tile.of(self.f).to(self.tensors.run.dtype))
            assert isinstance(total, Tensor)
            return total

        tensors = self.tensors
        return torch.stack(tensors.run.map(block, tensors.grid.blocks(tensors.run.block_tiles))).sum(0)

    def map(self, f: Callable[[Tensor], T]) -> list[T]:
        return self.tensors.map(lambda tile: f(self._finite(tile.of(self.f).to(self.tensors.run.dtype))))

    def _finite(self, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores.sum()) and not torch.isfinite(scores).all():
            raise UserError(f"{self.tensors.name}: NaN or infinity in one of the models; it cannot be merged")
        return scores
