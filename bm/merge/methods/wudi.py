"""WUDI-Merging (Cheng et al. 2025, arXiv 2503.08099): the update that disturbs each task least."""

from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.spectra import Strip, Strips, averaged, inverse, is_matrix, of, total
from bm.merge.methods.updates import Weights, sum_of
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def wudi(tensors: Tensors, *, weights: Weights, lam: float, ridge: Annotated[float, Field(gt=0)]) -> Apply:
    """WUDI (Cheng et al. 2025, arXiv 2503.08099): a task's update stands for its inputs, which the others should not
    see.

    θ = θ_base + λ·τ, τ minimising Σ_k ‖(τ − w_k·u_k)·u_kᵀ‖² / ‖u_k‖² for a matrix [out, in]. The paper takes 300 steps
    of Adam from the sum of the updates; here it is the exact minimum nearest to that sum, τ = Σ + D with D·(A + ρI) =
    Σ_k (w_k·u_k − Σ)·u_kᵀu_k/‖u_k‖² and A = Σ_k u_kᵀu_k/‖u_k‖², whose trace is K: where no task has inputs, the sum
    stays. ρ is `ridge` times A's mean eigenvalue; a greater one stops nearer to the sum, as fewer steps do. Everything
    but matrices is averaged. Holds K + 1 matrices [in, in] float64. Defaults: w 1, λ 1, ridge 1e-3.
    """
    if not is_matrix(tensors):
        return averaged(tensors, weights, lam)
    strips = Strips(tensors, weights, turn=False)
    grams = [strips.gram(of(k)) for k in range(strips.models)]
    grams = [gram * inverse(gram.trace()) for gram in grams]
    whole = sum_of(grams)
    size = ridge * whole.trace() / strips.width
    if not size:  # nothing changed
        return strips.merged(total)
    factor = torch.linalg.cholesky(whole + size * torch.eye(strips.width, dtype=whole.dtype, device=whole.device))

    def solved(strip: Strip) -> Tensor:
        summed = total(strip)
        right = sum_of([(own - summed) @ gram for own, gram in zip(strip, grams, strict=True)])
        return lam * (summed + torch.cholesky_solve(right.T, factor).T)

    return strips.merged(solved)
