"""DELLA (Deep et al. 2024, arXiv 2406.11617): updates with entries dropped at random by rank, added or elected."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import (
    Rescale,
    Shares,
    Sparse,
    Update,
    Weights,
    add,
    add_elected,
    drawn,
    each,
    magnitude,
    nothing,
    same_l1,
    update,
)
from bm.merge.tensors import Apply, Tensors, Tile, task_vectors

Spreads = Annotated[float, Field(ge=0)] | list[Annotated[float, Field(ge=0)]]


@task_vectors
def della(
    tensors: Tensors,
    *,
    weights: Weights,
    density: Shares,
    epsilon: Spreads,
    lam: float,
    normalize: bool,
    rescale: Rescale,
) -> Apply:
    """DELLA (Deep et al. 2024, arXiv 2406.11617): drop entries of updates at random by rank, elect signs, add.

    θ = θ_base + λ·Σ_k w_k·a_k·m_k·u_k / p_k, u_k = θ_k − θ_base, m_k Bernoulli(p_k) drawn from (seed, tensor, model).
    p_k grows with the rank of |u_k| in its row, from density − ε to density + ε (MagPrune); a_k: agreement with the
    elected sign as in `ties`. Defaults: w 1, density 0.5, ε 0.15, λ 1, normalised by Σ_k w_k·a_k, rescaled by 1/p_k
    (mergekit's is `l1`).
    """
    return add_elected(pruned(tensors, density, epsilon, rescale), each(weights, tensors), lam, normalize)


@task_vectors
def della_linear(
    tensors: Tensors,
    *,
    weights: Weights,
    density: Shares,
    epsilon: Spreads,
    lam: float,
    normalize: bool,
    rescale: Rescale,
) -> Apply:
    """DELLA's MagPrune with task arithmetic (arXiv 2406.11617): as `della`, every sign added.

    θ = θ_base + λ·Σ_k w_k·m_k·u_k / p_k. Defaults: w 1, density 0.5, ε 0.15, λ 0.4, not normalised, rescaled by 1/p_k.
    """
    return add(pruned(tensors, density, epsilon, rescale), each(weights, tensors), lam, normalize)


def pruned(tensors: Tensors, density: Shares, epsilon: Spreads, rescale: Rescale) -> list[Update]:
    """Every model's update with entries kept at random, the larger in their row the likelier."""

    def prune(k: int, share: float, spread: float) -> Update:
        if share in (0, 1):
            return Sparse(k) if share else nothing(k)
        if not 0 < share - spread <= share + spread < 1:
            raise UserError(f"density {share:g} ± epsilon {spread:g} leaves (0, 1); take a smaller epsilon")
        chance = keep_probability(k, share, spread)
        return lambda tile: drawn(tile, k, tile.of(update(k)), chance(tile), rescale == "probability")

    shares = zip(each(density, tensors), each(epsilon, tensors), strict=True)
    updates = [prune(k, share, spread) for k, (share, spread) in enumerate(shares)]
    return same_l1(tensors, updates) if rescale == "l1" else updates


def keep_probability(k: int, density: float, epsilon: float) -> Callable[[Tile], Tensor]:
    """density − ε + 2ε·rank/(columns − 1); rank: place of |u_k| in its row from 0, equal entries from left to right."""

    def probability(tile: Tile) -> Tensor:
        size = tile.of(magnitude(k))
        columns = size.shape[-1]
        by_rank = density - epsilon + torch.arange(columns, dtype=size.dtype) / max(1, columns - 1) * 2 * epsilon
        order = size.argsort(dim=-1, stable=True)
        return torch.empty_like(size).scatter_(-1, order, by_rank.to(size.device).expand_as(size))

    return probability
