"""Isotropic merging (Marczak et al. 2025, arXiv 2502.04959): all singular values of the merged update alike."""

from functools import partial

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.spectra import Strip, Strips, averaged, inverse, inverse_root, is_matrix, of, spectrum, total
from bm.merge.methods.updates import Share, Weights
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def iso_c(tensors: Tensors, *, weights: Weights, lam: float) -> Apply:
    """Iso-C (Marczak et al. 2025, arXiv 2502.04959): the common subspace of the updates, with a flat spectrum.

    θ = θ_base + λ·mean(S)·U·Vᵀ with U·S·Vᵀ = Σ_k w_k·u_k of a matrix; everything else is the mean of the updates, times
    λ. The mean is over all singular values, but directions in which nothing changed get no value (the paper's SVD gives
    them a basis of chance). Embeddings are matrices like the others, as in the authors' code; take `merge.schedule` to
    treat them otherwise. Defaults: w 1, λ 1 (the paper searches for λ).
    """
    if not is_matrix(tensors):
        return averaged(tensors, weights, lam)
    strips = Strips(tensors, weights)
    values, vectors = spectrum(strips.gram(total))
    flat = lam * values.mean() * (vectors * inverse(values)) @ vectors.T
    return strips.merged(lambda strip: total(strip) @ flat)


@task_vectors
def iso_cts(tensors: Tensors, *, weights: Weights, lam: float, common: Share) -> Apply:
    """Iso-CTS (Marczak et al. 2025, arXiv 2502.04959): a common subspace, and one of each task's own beside it.

    The share `common` of the singular directions of Σ_k w_k·u_k is kept; the rest are split evenly among the tasks,
    each giving the leading directions of what is left of its update outside the common left vectors, (I −
    U_c·U_cᵀ)·w_k·u_k. Left and right vectors are made orthogonal (the nearest orthogonal matrix), and all singular
    values their mean, as in Iso-C. Everything but matrices is averaged, times λ. Defaults: w 1, λ 1, common 0.8 (the
    paper's).
    """
    if not is_matrix(tensors):
        return averaged(tensors, weights, lam)
    strips = Strips(tensors, weights)
    models, width = strips.models, strips.width
    own = round((width - int(width * common)) / models)
    shared = width - own * models
    if shared < 0:  # more tasks than directions, and rounding up
        own, shared = width // models, width % models
    values, vectors = spectrum(strips.gram(total))
    values, vectors = values[:shared], vectors[:, :shared]
    lift = vectors * inverse(values)

    def common_rows(strip: Strip) -> Tensor:
        """[rows, shared]: the rows of the long side's common vectors."""
        return total(strip) @ lift

    within = vectors @ vectors.T  # where the long side is the inputs', the left vectors are these
    seen = [] if strips.turned else [strips.cross(common_rows, of(k)) for k in range(models)]

    def outside(strip: Strip, k: int) -> Tensor:
        """[rows, s]: what is left of task k's update outside the common left vectors."""
        return strip[k] - (strip[k] @ within if strips.turned else common_rows(strip) @ seen[k])

    spectra = [spectrum(strips.gram(partial(outside, k=k))) for k in range(models)]
    leading = [(s[:own], v[:, :own]) for s, v in spectra]
    short = torch.cat([*(v for _, v in leading), vectors], 1)
    mean = torch.cat([*(s for s, _ in leading), values]).mean()

    def long(strip: Strip) -> Tensor:
        """[rows, s]: the rows of all vectors of the long side."""
        parts = [outside(strip, k) @ (v * inverse(s)) for k, (s, v) in enumerate(leading)]
        return torch.cat([*parts, common_rows(strip)], 1)

    core = lam * mean * inverse_root(strips.gram(long)) @ inverse_root(short.T @ short) @ short.T
    return strips.merged(lambda strip: long(strip) @ core)
