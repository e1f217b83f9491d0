"""DARE (Yu et al. 2024, arXiv 2311.03099): updates with entries dropped at random, added or elected."""

from bm.merge.methods.updates import (
    Rescale,
    Shares,
    Sparse,
    Update,
    Weights,
    add,
    add_elected,
    each,
    nothing,
    same_l1,
)
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def dare_linear(
    tensors: Tensors, *, weights: Weights, density: Shares, lam: float, normalize: bool, rescale: Rescale
) -> Apply:
    """DARE with task arithmetic (Yu et al. 2024, arXiv 2311.03099): drop entries of updates at random, rescale, add.

    θ = θ_base + λ·Σ_k w_k·m_k·u_k / density, u_k = θ_k − θ_base, m_k Bernoulli(density) drawn from (seed, tensor,
    model). Defaults: w 1, density 0.5, λ 0.4, not normalised, rescaled by 1/density (the paper's 1/(1 − p); mergekit's
    is `l1`).
    """
    return add(dropped(tensors, density, rescale), each(weights, tensors), lam, normalize)


@task_vectors
def dare_ties(
    tensors: Tensors, *, weights: Weights, density: Shares, lam: float, normalize: bool, rescale: Rescale
) -> Apply:
    """DARE with TIES (Yu et al. 2024, arXiv 2311.03099): the randomly dropped updates in place of TIES' trimmed ones.

    θ = θ_base + λ·Σ_k w_k·a_k·m_k·u_k / density, a_k: agreement with the elected sign as in `ties`.
    Defaults: w 1, density 0.5, λ 1, normalised by Σ_k w_k·a_k, rescaled by 1/density.
    """
    return add_elected(dropped(tensors, density, rescale), each(weights, tensors), lam, normalize)


def dropped(tensors: Tensors, density: Shares, rescale: Rescale) -> list[Update]:
    """Every model's update with a random share `density` of its entries."""

    def drop(k: int, share: float) -> Update:
        return Sparse(k, chance=share, rescaled=rescale == "probability") if share else nothing(k)

    updates = [drop(k, share) for k, share in enumerate(each(density, tensors))]
    return same_l1(tensors, updates) if rescale == "l1" else updates
