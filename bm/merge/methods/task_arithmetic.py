"""Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)."""

from bm.merge.methods.updates import Sparse, Weights, add, each
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def task_arithmetic(tensors: Tensors, *, weights: Weights, lam: float, normalize: bool) -> Apply:
    """Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): θ = θ_base + λ·Σ_k w_k·(θ_k − θ_base).

    With `normalize` the sum is over Σ_k w_k. Defaults: w 1, λ 0.4 (the paper's best are 0.3 to 0.5), no normalisation.
    """
    return add([Sparse(k) for k in range(len(tensors.models))], each(weights, tensors), lam, normalize)
