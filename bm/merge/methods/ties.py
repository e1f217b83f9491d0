"""TIES (Yadav et al. 2023, arXiv 2306.01708)."""

from typing import Literal

from bm.merge.methods.updates import Shares, Update, Weights, add_elected, each, largest, same_l1
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def ties(
    tensors: Tensors,
    *,
    weights: Weights,
    density: Shares,
    lam: float,
    normalize: bool,
    rescale: Literal["none", "l1"],
) -> Apply:
    """TIES (Yadav et al. 2023, arXiv 2306.01708): trim each update, elect signs, average what agrees.

    θ = θ_base + λ·Σ_k w_k·a_k·u'_k / Σ_k w_k·a_k, where u'_k keeps the share `density` of u_k = θ_k − θ_base of
    greatest magnitude in the tensor and a_k is 1 where u'_k has the sign of Σ_k w_k·u'_k. Without `normalize` the
    agreeing updates are summed. Defaults: w 1, density 0.2, λ 1, normalised, not rescaled (the paper's).
    """
    trimmed: list[Update] = [largest(tensors, k, share) for k, share in enumerate(each(density, tensors))]
    updates = same_l1(tensors, trimmed) if rescale == "l1" else trimmed
    return add_elected(updates, each(weights, tensors), lam, normalize)
