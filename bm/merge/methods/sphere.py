"""What the methods on the sphere share: all they need of a tensor are its Gram matrix and a linear combination.

Directions, angles and means of a few vectors live in the space that these span, so a method solves for coefficients of the
models in float64 from ⟨u_i, u_j⟩, one streamed pass, and each tile is then a weighted sum. Float64 also keeps the angle of
close models, whose cosine differs from 1 by less than float32 resolves.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bm.merge.tensors import Apply, Tensors, Tile

PARALLEL = 0.9995
"""|cosine| past which SLERP interpolates linearly."""


def model_products(tile: Tile) -> Tensor:
    """⟨θ_i, θ_j⟩ of one tile for every i ≤ j, the base (if any) first; float64."""
    base = [] if tile.base is None else [tile.base]
    return _products([*base, *tile.models])


def update_products(tile: Tile) -> Tensor:
    """⟨u_i, u_j⟩ of one tile for every i ≤ j, u_k = θ_k − θ_base, or θ_k without a base; float64."""
    return _products([model if tile.base is None else model - tile.base for model in tile.models])


def _products(tensors: Sequence[Tensor]) -> Tensor:
    wide = [tensor.double() for tensor in tensors]
    return torch.stack([(a * b).sum(-1).sum() for i, a in enumerate(wide) for b in wide[i:]])


def gram(products: Tensor) -> Tensor:
    """The symmetric matrix [n, n] of n(n + 1)/2 products in the order i ≤ j."""
    n = (math.isqrt(8 * len(products) + 1) - 1) // 2
    matrix = torch.zeros(n, n, dtype=products.dtype)
    rows, columns = torch.triu_indices(n, n)
    matrix[rows, columns] = products
    matrix[columns, rows] = products
    return matrix


def update_gram(tensors: Tensors) -> Tensor:
    """⟨u_i, u_j⟩ over the whole tensor, [models, models] float64."""
    return gram(tensors.reduce(update_products))


def combine(coefficients: Sequence[float]) -> Apply:
    """θ_base + Σ_k c_k·(θ_k − θ_base), or Σ_k c_k·θ_k without a base."""

    def apply(tile: Tile) -> Tensor:
        if tile.base is None:
            return weighted_sum(tile.models, coefficients)
        return tile.base + weighted_sum([model - tile.base for model in tile.models], coefficients)

    return apply


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor * weight
    return total


def cosine(aa: Tensor, ab: Tensor, bb: Tensor) -> Tensor:
    """ab / √(aa·bb) within [−1, 1], and 0 where a vector is zero."""
    norm = aa.sqrt() * bb.sqrt()
    return torch.where(norm > 0, ab / norm, 0).clamp(-1, 1)


def arc(cosines: Tensor, t: float, parallel: float) -> tuple[Tensor, Tensor]:
    """Coefficients sin((1 − t)φ)/sin φ and sin(tφ)/sin φ of spherical interpolation, φ = arccos; 1 − t and t past `parallel`."""
    line = cosines.abs() > parallel
    angle = torch.acos(torch.where(line, 0, cosines))
    first, second = torch.sin((1 - t) * angle) / torch.sin(angle), torch.sin(t * angle) / torch.sin(angle)
    return torch.where(line, 1 - t, first), torch.where(line, t, second)
