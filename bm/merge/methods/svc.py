"""Singular value calibration (SVC, 2026, arXiv 2602.05536): what several updates share is not added up."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.spectra import Strip, Strips, inverse, is_matrix, of, spectrum, total
from bm.merge.methods.updates import Sparse, Weights, add, each
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def svc(tensors: Tensors, *, weights: Weights, lam: float, alpha: Annotated[float, Field(gt=0)]) -> Apply:
    """SVC of task arithmetic (arXiv 2602.05536, algorithm 1): singular values that were counted more than once shrink.

    For a matrix M = λ·Σ_k w_k·u_k = U·S·Vᵀ and each direction r: s_r^k = ⟨u_rᵀM, u_rᵀu_k⟩ / ‖u_rᵀu_k‖², how many times
    M has task k's response; γ_r = K / Σ_k max(α, s_r^k); θ = θ_base + U·diag(γ·S)·Vᵀ. A task without a response counts
    α. Everything but matrices stays task arithmetic. The paper calibrates any merge; this is the one that it gains most
    on. Defaults: w 1, λ 0.3, α 0.1 (the reference code's; a smaller α also raises what the merge has lost).
    """
    own = each(weights, tensors)
    if not is_matrix(tensors):
        return add([Sparse(k) for k in range(len(own))], own, lam, normalize=False)
    strips = Strips(tensors)
    scale = lam * strips.weights.new_tensor(own).view(-1, 1, 1)

    def merged(strip: Strip) -> Tensor:
        return total(strip * scale)

    def left(strip: Strip) -> Tensor:
        return merged(strip) @ (vectors * inverse(values))

    def response(k: int) -> Callable[[Strip], Tensor]:
        return lambda strip: strip[k] @ vectors

    values, vectors = spectrum(strips.gram(merged))
    if strips.turned:  # `vectors` are the left ones, and a response is a column of X_k·U
        responses = [response(k) for k in range(strips.models)]
        norms = [strips.gram(r).diagonal() for r in responses]
        products = [(vectors * strips.cross(merged, r)).sum(0) for r in responses]
    else:  # response r of task k is row r of Uᵀ·u_k
        seen = [strips.cross(left, of(k)) for k in range(strips.models)]
        norms = [rows.square().sum(1) for rows in seen]
        products = [values * (rows * vectors.T).sum(1) for rows in seen]
    shares = torch.stack(products) * inverse(torch.stack(norms))
    gamma = len(own) / shares.clamp(min=alpha).sum(0)
    return strips.merged(lambda strip: merged(strip) @ (vectors * gamma) @ vectors.T)
