"""Spherical interpolation of two models, of two updates, and of many (SLERP, NuSLERP, Multi-SLERP)."""

from collections.abc import Callable
from typing import Literal

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.sphere import arc, combine, cosine, ends, from_base, gram, updates
from bm.merge.methods.updates import Share, Weights, each
from bm.merge.tensors import Apply, Tensors, Tile, directions, pair, two


@pair
def slerp(tensors: Tensors, *, t: Share) -> Apply:
    """SLERP (Shoemake 1985): from the base (t = 0) to the other model (t = 1) along the arc between their directions.

    θ = sin((1 − t)φ)/sin φ·θ_base + sin(tφ)/sin φ·θ_other, φ the angle between the flattened tensors; (1 − t)·θ_base +
    t·θ_other where |cos φ| > 0.9995. Default: t 0.5.
    """
    (aa, ab), (_, bb) = gram(tensors, ends)
    kept, other = arc(cosine(aa, ab, bb), t, parallel=0.9995)
    return combine(ends, [kept.item(), other.item()])


@two
def nuslerp(tensors: Tensors, *, weights: Weights, over: Literal["tensor", "last", "first"]) -> Apply:
    """NuSLERP (mergekit's): SLERP of two models, or of their updates when there is a base, at t = w_2/(w_1 + w_2).

    θ = θ_base + sin((1 − t)φ)/sin φ·u_1 + sin(tφ)/sin φ·u_2 with u_k = θ_k − θ_base; φ is one angle of the flattened
    tensors, or one for each vector along the `last` or the `first` dimension (rows or columns of a matrix); the line
    where the vectors are parallel. Defaults: w 1, over the tensor.
    """
    if len(tensors.models) != 2:  # as a mergekit config may name them; orders merge two at a time
        raise UserError(f"nuslerp merges two models (and a base), not {len(tensors.models)}")
    if over == "first" and len(tensors.shape) > 2:
        raise UserError(f"{tensors.name}: nuslerp over the first dimension needs a matrix, not shape {tensors.shape}")
    first, second = each(weights, tensors)
    t = second / (first + second) if abs(first + second) >= 1e-6 else 0.5
    products = _angles(tensors, over)

    def between(tile: Tile) -> Tensor:
        a, b = updates(tile)
        c1, c2 = arc(cosine(*products(tile)), t, parallel=1 - 1e-12)
        return a * c1 + b * c2

    return from_base(between)


def _angles(tensors: Tensors, over: str) -> Callable[[Tile], Tensor]:
    """⟨u_1, u_1⟩, ⟨u_1, u_2⟩, ⟨u_2, u_2⟩ that belong to a tile's entries: float64 [3, 1 or rows, 1 or columns]."""
    if over == "last" or (over == "first" and len(tensors.shape) < 2):
        return lambda tile: _products(tile, 1)
    whole = tensors.reduce(_columns if over == "first" else _all).to(tensors.run.device)
    return lambda tile: whole


def _columns(tile: Tile) -> Tensor:
    return _products(tile, 0)


def _all(tile: Tile) -> Tensor:
    return _products(tile, 1).sum(1, keepdim=True)


def _products(tile: Tile, dimension: int) -> Tensor:
    a, b = (u.double() for u in updates(tile))
    return torch.stack([(x * y).sum(dimension, keepdim=True) for x, y in ((a, a), (a, b), (b, b))])


@directions
def multislerp(tensors: Tensors, *, weights: Weights, normalize: bool) -> Apply:
    """Multi-SLERP (Goddard 2025, goddard.blog/posts/multislerp-wow-what-a-cool-idea): a weighted mean on the sphere.

    θ = θ_base + (Σ_k w_k·‖u_k‖)·m/‖m‖ with u_k = θ_k − θ_base (θ_k without a base) and m = Σ_k w_k·u_k/‖u_k‖. The
    source adds the exponential map of Σ_k w_k·(I − m̂m̂ᵀ)·u_k/‖u_k‖ at m̂ = m/‖m‖, which is (I − m̂m̂ᵀ)·m = 0. Weights
    are over their sum if `normalize`. When m vanishes two models are interpolated linearly and more are refused.
    Defaults: w 1, normalised.
    """
    given = torch.tensor(each(weights, tensors), dtype=torch.float64)
    w = given / given.sum() if normalize else given
    products = gram(tensors, updates)
    norms = products.diagonal().sqrt()
    units = torch.where(norms > 0, w / norms, 0)
    length = (units @ products @ units).clamp(min=0).sqrt()
    if length > 1e-8:
        return from_base(combine(updates, (units * (w @ norms) / length).tolist()))
    if len(w) > 2 and (norms > 0).any():
        raise UserError(
            f"{tensors.name}: the weighted directions cancel, so multislerp has no mean; change the weights"
        )
    return from_base(combine(updates, w.tolist()))
