"""TSV-Merge (Gargiulo et al. 2025, arXiv 2412.00081): the tasks' singular vectors, made orthogonal to each other."""

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.spectra import Strip, Strips, averaged, inverse, inverse_root, is_matrix, of, spectrum
from bm.merge.methods.updates import Weights
from bm.merge.tensors import Apply, Tensors, task_vectors


@task_vectors
def tsv_m(tensors: Tensors, *, weights: Weights, lam: float) -> Apply:
    """TSV-M (Gargiulo et al. 2025, arXiv 2412.00081, algorithm 1): low-rank updates whose vectors do not interfere.

    Each of the K matrices w_k·u_k = U_k·S_k·V_kᵀ keeps its first ⌊s/K⌋ singular directions, s the shorter side;
    the vectors of all tasks side by side, U and V, are replaced by the nearest orthogonal matrices, Û and V̂; θ =
    θ_base + λ·Û·diag(S_1, …, S_K)·V̂ᵀ. Everything but matrices is the mean of the updates, times λ. With more tasks
    than directions each keeps one, where the paper would keep none. Defaults: w 1, λ 1 (the paper's).
    """
    if not is_matrix(tensors):
        return averaged(tensors, weights, lam)
    strips = Strips(tensors, weights)
    rank = max(1, strips.width // strips.models)
    spectra = [spectrum(strips.gram(of(k))) for k in range(strips.models)]
    leading = [(values[:rank], vectors[:, :rank]) for values, vectors in spectra]
    values, short = torch.cat([s for s, _ in leading]), torch.cat([v for _, v in leading], 1)

    def long(strip: Strip) -> Tensor:
        """[rows, K·rank]: the rows of the tasks' vectors of the long side."""
        return torch.cat([u @ (v * inverse(s)) for u, (s, v) in zip(strip, leading, strict=True)], 1)

    core = lam * (inverse_root(strips.gram(long)) * values) @ inverse_root(short.T @ short) @ short.T
    return strips.merged(lambda strip: long(strip) @ core)
