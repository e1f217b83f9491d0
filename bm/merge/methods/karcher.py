"""The Karcher mean of models (Karcher 1977; arXiv 2603.04972)."""

from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.sphere import combine, gram, thetas
from bm.merge.methods.updates import Weights, each
from bm.merge.tensors import Apply, Tensors, models


@models
def karcher(
    tensors: Tensors,
    *,
    weights: Weights,
    iterations: Annotated[int, Field(ge=0)],
    tolerance: Annotated[float, Field(gt=0)],
) -> Apply:
    """Karcher mean (Karcher 1977; of models: arXiv 2603.04972): the direction nearest to all models' on the sphere.

    θ = (Σ_k α_k·‖θ_k‖)·argmin_m Σ_k α_k·arccos²⟨m, θ_k/‖θ_k‖⟩, α = w/Σw, by gradient steps m ← exp_m(Σ_k α_k·log_m
    θ̂_k) from the normalised mean until a step is shorter than `tolerance`. A base takes no part. Defaults: w 1, at
    most 10 iterations, tolerance 1e-5.
    """
    alpha = torch.tensor(each(weights, tensors), dtype=torch.float64)
    alpha = alpha / alpha.sum()
    products = gram(tensors, thetas)
    norms = products.diagonal().sqrt()
    unit = torch.where(norms > 0, 1 / norms, 0)
    mean = karcher_mean(products * unit.outer(unit), alpha * (norms > 0), iterations, tolerance)
    return combine(thetas, ((alpha @ norms) * mean * unit).tolist())


def karcher_mean(cosines: Tensor, alpha: Tensor, iterations: int, tolerance: float) -> Tensor:
    """The mean direction's coefficients over unit vectors whose products are `cosines`: [n] float64."""
    mean = normalised(alpha / alpha.sum().clamp(min=1e-300), cosines)
    for _ in range(iterations):
        dots = (cosines @ mean).clamp(-1, 1)
        angle = torch.acos(dots)
        pull = alpha * torch.where(angle > 0, angle / torch.sin(angle), 1)
        step = pull - (pull @ dots) * mean
        length = (step @ cosines @ step).clamp(min=0).sqrt()
        if length < tolerance:
            break
        mean = normalised(torch.cos(length) * mean + torch.sin(length) * step / length, cosines)
    return mean


def normalised(coefficients: Tensor, cosines: Tensor) -> Tensor:
    """The combination at unit length; the first vector when it vanishes, as for opposite vectors."""
    length = (coefficients @ cosines @ coefficients).clamp(min=0).sqrt()
    if length < 1e-8:
        return torch.eye(len(coefficients), dtype=coefficients.dtype)[int(cosines.diagonal().argmax())]
    return coefficients / length
