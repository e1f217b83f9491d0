"""How a merge method is marked: which models it takes, what it has to know of them, and what a merged tile is."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from bm.errors import UserError
from bm.merge.arrays import Array
from bm.merge.fused import Fused
from bm.merge.lazy import Tensor, torch
from bm.merge.tile import Tile

Measured = Literal["fisher", "regmean", "regmean_plus_plus", "activations", "second_moments"]
Kind = Literal["pair", "two", "models", "directions", "task_vectors"]


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
