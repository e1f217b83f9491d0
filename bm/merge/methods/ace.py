"""ACE-Merging (Xu et al. 2026, arXiv 2603.02945): RegMean without data, each update telling its inputs' covariance."""

from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.spectra import Strip, Strips, averaged, inverse, is_matrix, spectrum
from bm.merge.methods.updates import Share, Weights, sum_of
from bm.merge.tensors import Apply, Tensors, task_vectors

TINY = 1e-12


@task_vectors
def ace(
    tensors: Tensors,
    *,
    weights: Weights,
    lam: float,
    epsilon: Annotated[float, Field(gt=0)],
    heterogeneity: Annotated[float, Field(ge=0)],
    refined: Share,
) -> Apply:
    """ACE (Xu et al. 2026, arXiv 2603.02945): (Σ_k W_k·Σ̂_k)·(Σ_k Σ̂_k)⁻¹ with Σ̂_k estimated from the update W_k =
    w_k·u_k.

    For a matrix [out, in], as in the authors' code: Σ_k = W̃_kᵀW̃_k of the update with each column's mean taken off,
    plus ε·I; τ = (Σ_k W̃_k·Σ̂_k)·(Σ_k Σ̂_k + 1·cᵀ)⁻¹, c the mean row of Σ_k Σ_k (the collective prior, added to every
    row). Where var(log t_k) / mean(log t_k)² > `heterogeneity`, t_k = ‖W_k‖², the updates are of unlike sizes: each Σ_k
    and its ε are over its trace, c is over the mean of t_k, and σ·U·Vᵀ is added, the first share `refined` of the
    singular directions of τ + Σ_k W_k·(Σ_k − mean Σ̂) with σ their mean value. θ = θ_base + λ·τ. Everything but
    matrices is averaged. ε is absolute where sizes are alike, so updates much smaller than √ε are just averaged. Holds
    K + 3 matrices [in, in] float64. Defaults: w 1, λ 1, ε 0.01, heterogeneity 0.3, refined 0.3 (the code's).
    """
    if not is_matrix(tensors):
        return averaged(tensors, weights, lam)
    strips = Strips(tensors, weights, turn=False)
    models, width = strips.models, strips.width
    moments = [_moments(strips, k) for k in range(models)]
    sizes = torch.stack([size for size, _, _ in moments])
    means = torch.stack([mean for _, mean, _ in moments]).unsqueeze(1)
    logs = (sizes + TINY).log()
    unlike = bool(models > 1 and logs.var() / (logs.mean() ** 2 + TINY) > heterogeneity)
    traces = [gram.trace() + TINY if unlike else gram.new_ones(()) for _, _, gram in moments]
    raw = [gram / trace for (_, _, gram), trace in zip(moments, traces, strict=True)]
    identity = torch.eye(width, dtype=torch.float64, device=means.device)
    estimates = [gram + epsilon / trace * identity for gram, trace in zip(raw, traces, strict=True)]
    prior = sum_of(raw).mean(0, keepdim=True) / (sizes.mean() + TINY if unlike else 1)
    whole = sum_of(estimates)
    inverted: Tensor = torch.linalg.inv(whole + prior)

    def closed(strip: Strip) -> Tensor:
        merged: Tensor = (
            sum_of([own @ estimate for own, estimate in zip(strip - means, estimates, strict=True)]) @ inverted
        )
        return merged

    if not unlike:
        return strips.merged(lambda strip: lam * closed(strip))

    def fused(strip: Strip) -> Tensor:
        left: Tensor = sum_of([own @ (gram - whole / models) for own, gram in zip(strip, raw, strict=True)])
        return left + closed(strip)

    values, vectors = spectrum(strips.gram(fused))
    first = int(min(tensors.shape) * refined)
    values, vectors = values[:first], vectors[:, :first]
    flat = (vectors * inverse(values)) @ vectors.T * (values.mean() if first else 0)
    return strips.merged(lambda strip: lam * (closed(strip) + fused(strip) @ flat))


def _moments(strips: Strips, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """One update: ‖W‖², the mean of each column [in], and the Gram matrix of what is left without it [in, in]."""
    gram = strips.gram(lambda strip: strip[k])
    mean = sum_of([strip[k].sum(0) for strip in strips]) / strips.rows
    return gram.trace(), mean, gram - strips.rows * mean.outer(mean)
