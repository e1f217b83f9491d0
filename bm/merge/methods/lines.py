"""LiNeS (Wang et al. 2025, arXiv 2410.17146): updates grow with depth."""

from bm.merge.methods.updates import Sparse, Weights, add, each
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def lines(tensors: Tensors, *, weights: Weights, alpha: float | None, beta: float) -> Apply:
    """LiNeS of task arithmetic (Wang et al. 2025, arXiv 2410.17146, equation 3): deeper layers move further.

    θ = θ_base + (α + β·l/(L − 1))·Σ_k w_k·u_k in layer l = 0 … L − 1, α outside of the layers (embeddings, the last
    norm, the head). α null is 1/K of K models, the paper's for a sum of updates. Shallow layers hold what all tasks
    share. Defaults: w 1, α null, β 0.5 (the paper searches for it).
    """
    own = each(weights, tensors)
    least = 1 / len(own) if alpha is None else alpha
    depth = max(0, tensors.place.layer) / max(1, tensors.layers - 1)
    return add([Sparse(k) for k in range(len(own))], own, least + beta * depth, normalize=False)
