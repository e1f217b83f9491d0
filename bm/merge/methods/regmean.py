"""RegMean (Jin et al. 2023, arXiv 2212.09849)."""

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import Share, sum_of
from bm.merge.tensors import Apply, Tensors, Tile, models, weighed_by


@weighed_by("regmean")
@models
def regmean(tensors: Tensors, *, alpha: Share) -> Apply:
    """RegMean (Jin et al. 2023, arXiv 2212.09849): the linear layer nearest to every expert's on the expert's inputs.

    W = (Σ_k W_k·G̃_k)·(Σ_k G̃_k)⁻¹ with W_k [out, in], G_k = mean x·xᵀ over the layer's inputs [in, in], from
    `bm.merge.statistics.regmean`, and G̃ = α·G + (1 − α)·diag(G). Parameters without a Gram matrix (embeddings, norms,
    biases) are averaged. Holds the Gram matrices of one layer in memory in float64. Default: α 0.9 (the paper's).
    """
    n = len(tensors.models)
    if not tensors.statistics:
        return lambda tile: sum_of(tile.models) / n
    if len(tensors.statistics) != n:
        raise UserError(f"{tensors.name}: regmean needs the Gram matrices of all {n} models or of none")
    grams = [damped(tensors, k, alpha) for k in range(n)]
    factor, fault = torch.linalg.cholesky_ex(sum_of(grams))
    if fault:
        raise UserError(f"{tensors.name}: its inputs' Gram matrices are singular; take alpha below 1, or more traces")

    def apply(tile: Tile) -> Tensor:
        right = sum_of([m.double() @ g for m, g in zip(tile.models, grams, strict=True)])
        return torch.cholesky_solve(right.T, factor).T.to(tile.models[0].dtype)

    return apply


@weighed_by("regmean_plus_plus")
@models
def regmean_plus_plus(tensors: Tensors, *, alpha: Share) -> Apply:
    """RegMean++ (2025, arXiv 2508.03121): RegMean whose Gram matrices know that the layers below are merged too.

    As `regmean`, with G_k the mean x·xᵀ of what expert k's layer sees on expert k's traces when the layers below it are
    those of the merged model, not its own (`bm.merge.regmean_plus_plus` measures them with the same α, layer by layer).
    Default: α 0.95 (the reference configuration's).
    """
    return regmean(tensors, alpha=alpha)


def damped(tensors: Tensors, k: int, alpha: float) -> Tensor:
    """α·G + (1 − α)·diag(G) of model k: [in, in] float64 on the merge's device."""
    columns = tensors.tiling.columns
    source = tensors.statistics[k]
    if source.shape != (columns, columns):
        raise UserError(f"{tensors.name}: the Gram matrix has shape {source.shape}, the layer {columns} inputs")
    gram = source.read(0, columns * columns).view(columns, columns).to(tensors.run.device, torch.float64)
    return alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())
