"""What the methods on the sphere share: all they need of a tensor are its Gram matrix and a linear combination.

Directions, angles and means of a few vectors live in the space that these span, so a method solves for coefficients of
the models in float64 from the products ⟨v_i, v_j⟩, one streamed pass, and each tile is then a weighted sum. Float64
also keeps the angle of close models, whose cosine differs from 1 by less than float32 resolves.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import sum_of
from bm.merge.tensors import Apply, Tensors, Tile

Vectors: TypeAlias = Callable[[Tile], Sequence[Tensor]]
"""A tile's part of each vector, [rows, columns]; one of a module's functions, so that merges share their passes."""


def thetas(tile: Tile) -> Sequence[Tensor]:
    """Every model but the base."""
    return tile.models


def ends(tile: Tile) -> Sequence[Tensor]:
    """The base and the one other model."""
    return [tile.kept, tile.models[0]]


def updates(tile: Tile) -> Sequence[Tensor]:
    """θ_k − θ_base, or θ_k without a base."""
    return [model if tile.base is None else model - tile.base for model in tile.models]


def gram(tensors: Tensors, vectors: Vectors) -> Tensor:
    """⟨v_i, v_j⟩ over the whole tensor: [vectors, vectors] float64."""
    return tensors.reduce(_products(vectors))


@cache
def _products(vectors: Vectors) -> Callable[[Tile], Tensor]:
    def products(tile: Tile) -> Tensor:
        wide = [v.double() for v in vectors(tile)]
        return torch.stack([torch.stack([(a * b).sum(-1).sum() for b in wide]) for a in wide])

    return products


def combine(vectors: Vectors, coefficients: Sequence[float]) -> Callable[[Tile], Tensor]:
    """Σ_k c_k·v_k, float64."""
    return lambda tile: sum_of([v.double() * c for v, c in zip(vectors(tile), coefficients, strict=True)])


def from_base(apply: Callable[[Tile], Tensor]) -> Apply:
    """The merge of updates added to the base, if there is one."""
    return lambda tile: apply(tile) if tile.base is None else tile.base + apply(tile)


def cosine(aa: Tensor, ab: Tensor, bb: Tensor) -> Tensor:
    """ab/√(aa·bb) within [−1, 1], and 0 where a vector is zero."""
    norm = aa.sqrt() * bb.sqrt()
    return torch.where(norm > 0, ab / norm, 0).clamp(-1, 1)


def arc(cosines: Tensor, t: float, parallel: float) -> tuple[Tensor, Tensor]:
    """sin((1 − t)φ)/sin φ and sin(tφ)/sin φ with φ = arccos; 1 − t and t where |cosine| > `parallel`."""
    line = cosines.abs() > parallel
    angle = torch.acos(torch.where(line, 0, cosines))
    first, second = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return torch.where(line, 1 - t, first), torch.where(line, t, second)
