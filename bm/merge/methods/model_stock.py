"""Model Stock (Jang et al. 2024, arXiv 2403.19522)."""

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.sphere import cosine, gram, updates
from bm.merge.methods.updates import sum_of
from bm.merge.tensors import Apply, Tensors, Tile, task_vectors


@task_vectors
def model_stock(tensors: Tensors, *, filter_wise: bool) -> Apply:
    """Model Stock (Jang et al. 2024, arXiv 2403.19522): from the base towards the models' mean, as far as they agree.

    θ = t·mean_k θ_k + (1 − t)·θ_base, t = N·c/(1 + (N − 1)·c), c the mean cosine between two of the N updates θ_k −
    θ_base, over the tensor or, `filter_wise`, over each row. The base where 1 + (N − 1)·c = 0. Default: over the
    tensor.
    """
    n = len(tensors.models)
    if n < 2:
        raise UserError("model_stock merges two models or more and a base, not one")
    whole = None if filter_wise else ratio(mean_cosine(gram(tensors, updates)), n).to(tensors.run.device)

    def apply(tile: Tile) -> Tensor:
        t = ratio(mean_cosine(row_products(tile)), n) if whole is None else whole
        return t * (sum_of(tile.models) / n).double() + (1 - t) * tile.kept

    return apply


def row_products(tile: Tile) -> Tensor:
    """⟨u_i, u_j⟩ of each row: [models, models, rows, 1] float64."""
    wide = [u.double() for u in updates(tile)]
    return torch.stack([torch.stack([(a * b).sum(-1, keepdim=True) for b in wide]) for a in wide])


def mean_cosine(products: Tensor) -> Tensor:
    """The mean over pairs i < j of the cosines in products [n, n, ...]."""
    n = len(products)
    return sum_of(
        [cosine(products[i, i], products[i, j], products[j, j]) for i in range(n) for j in range(i + 1, n)]
    ) / (n * (n - 1) / 2)


def ratio(c: Tensor, n: int) -> Tensor:
    """N·c/(1 + (N − 1)·c), 0 where that is singular."""
    denominator = 1 + (n - 1) * c
    return torch.where(denominator.abs() < 1e-6, 0, n * c / denominator)
