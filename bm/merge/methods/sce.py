"""SCE (Wan et al. 2024, arXiv 2408.07990)."""

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import Share, Update, elected, nonzero, positive, sum_of, update
from bm.merge.tensors import Apply, Tensors, Tile, task_vectors


@task_vectors
def sce(tensors: Tensors, *, density: Share) -> Apply:
    """SCE (Wan et al. 2024, arXiv 2408.07990): select by variance, calculate weights, erase minority signs.

    u'_k keeps the share `density` of the entries of u_k = θ_k − θ_base whose variance over models is greatest (of those
    where it is not zero); w_k = Σ u'_k² / Σ_j Σ u'_j² in the tensor; θ = θ_base + Σ_k w_k·a_k·u'_k / Σ_k w_k·a_k, a_k:
    agreement with the sign of Σ_k u'_k. Default: density 0.1 (the paper's best).
    """
    updates = selected(tensors, density)

    def energy(tile: Tile) -> Tensor:
        return torch.stack([sparse(tile).double().square().sum(-1).sum() for sparse in updates])

    energies = tensors.reduce(energy)
    weights = (energies / energies.sum()).tolist() if energies.sum() > 0 else [1 / len(updates)] * len(updates)

    def apply(tile: Tile) -> Tensor:
        sign, agreeing = elected([sparse(tile) for sparse in updates])
        total = sum_of([positive(u) * w for u, w in zip(agreeing, weights, strict=True)])
        mixed = sum_of([u * w for u, w in zip(agreeing, weights, strict=True)])
        return tile.kept + mixed * sign / nonzero(total)

    return apply


def variance(tile: Tile) -> Tensor:
    """Variance of each entry over the models' updates (over n)."""
    own = [tile.of(update(k)) for k in range(len(tile.models))]
    mean = sum_of(own) / len(own)
    return sum_of([(u - mean).square() for u in own]) / len(own)


def varied(tile: Tile) -> Tensor:
    """How many entries differ between the models."""
    return torch.count_nonzero(tile.of(variance))


def selected(tensors: Tensors, density: float) -> list[Update]:
    """Every model's update where the models vary most."""
    if density >= 1:
        return [update(k) for k in range(len(tensors.models))]
    kept = int(int(tensors.reduce(varied)) * density)
    threshold = tensors.order_statistics(variance, [tensors.elements - kept])[0] if kept else torch.inf

    def mask(tile: Tile) -> Tensor:
        score = tile.of(variance)
        return torch.ge(score, threshold, out=torch.empty_like(score))

    def select(k: int) -> Update:
        return lambda tile: tile.of(update(k)) * tile.of(mask)

    return [select(k) for k in range(len(tensors.models))]
