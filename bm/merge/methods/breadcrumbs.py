"""Model Breadcrumbs (Davari & Belilovsky 2024, arXiv 2312.06795), plain and with elected signs."""

from typing import Literal

from bm.merge.methods.updates import Shares, Update, Weights, add, add_elected, each, middle, same_l1
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def breadcrumbs(
    tensors: Tensors,
    *,
    weights: Weights,
    density: Shares,
    gamma: Shares,
    lam: float,
    normalize: bool,
    rescale: Literal["none", "l1"],
) -> Apply:
    """Model Breadcrumbs (Davari & Belilovsky 2024, arXiv 2312.06795): updates without outliers and without small
    entries.

    θ = θ_base + λ·Σ_k w_k·u'_k, where u'_k keeps the share `density` of u_k = θ_k − θ_base below its share `gamma` of
    greatest magnitude in the tensor. Defaults: w 1, density 0.15, γ 0.01, λ 0.4, neither normalised nor rescaled (the
    paper masks the 85 % smallest and 1 % largest).
    """
    return add(crumbs(tensors, density, gamma, rescale), each(weights, tensors), lam, normalize)


@task_vectors
def breadcrumbs_ties(
    tensors: Tensors,
    *,
    weights: Weights,
    density: Shares,
    gamma: Shares,
    lam: float,
    normalize: bool,
    rescale: Literal["none", "l1"],
) -> Apply:
    """Model Breadcrumbs with the sign election of TIES (arXiv 2312.06795 and 2306.01708).

    θ = θ_base + λ·Σ_k w_k·a_k·u'_k, u'_k as in `breadcrumbs`, a_k: agreement with the elected sign as in `ties`.
    Defaults: w 1, density 0.15, γ 0.01, λ 1, normalised by Σ_k w_k·a_k, not rescaled.
    """
    return add_elected(crumbs(tensors, density, gamma, rescale), each(weights, tensors), lam, normalize)


def crumbs(tensors: Tensors, density: Shares, gamma: Shares, rescale: Literal["none", "l1"]) -> list[Update]:
    """Every model's update with the entries of middling to great magnitude, outliers left out."""
    shares = zip(each(density, tensors), each(gamma, tensors), strict=True)
    updates: list[Update] = [middle(tensors, k, share, outliers) for k, (share, outliers) in enumerate(shares)]
    return same_l1(tensors, updates) if rescale == "l1" else updates
