"""A tile: whole rows of one parameter in every model."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.sources import Source, is_finite

if TYPE_CHECKING:
    from bm.merge.tensors import Tensors

T = TypeVar("T")


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
    offset of the first element, `index` the tile's place in the tiling.
    """

    def __init__(self, tensors: "Tensors", index: int, read: Callable[[Source], Tensor]) -> None:
        self.tensors, self.index = tensors, index
        self.start, self.stop = tensors.tiling.span(range(index, index + 1))

        def load(source: Source) -> Tensor:
            values = read(source).to(tensors.run.dtype).view(-1, tensors.tiling.columns)
            if not is_finite(values):
                raise UserError(f"{tensors.name}: NaN or infinity in {tensors.name_of(source)}; it cannot be merged")
            return values

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
        """Random numbers in [0, 1) for model k, the tile's shape, float32 (`Tensors.uniform`)."""
        numbers = self.tensors.uniform(k, self.start, self.stop)
        return torch.from_numpy(numbers).to(self.tensors.run.device).view(-1, self.tensors.tiling.columns)
