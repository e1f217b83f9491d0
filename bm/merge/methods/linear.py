"""Linear averaging, the model soup (Wortsman et al. 2022, arXiv 2203.05482)."""

from collections.abc import Sequence

from torch import Tensor

from bm.errors import UserError
from bm.merge.tensors import Apply, Tensors, Tile, models


@models
def linear(tensors: Tensors, *, weights: Sequence[float] | None = None, normalize: bool = True) -> Apply:
    """θM = Σ w_k·θ_k, divided by Σ w_k when `normalize`. Without weights every model counts the same."""
    count = len(tensors.models)
    chosen = [1.0] * count if weights is None else list(weights)
    if len(chosen) != count:
        raise UserError(f"linear: {len(chosen)} weights for {count} models")
    total = sum(chosen) if normalize else 1.0
    if total == 0:
        raise UserError("linear: the weights sum to 0; they cannot be normalised")

    def apply(tile: Tile) -> Tensor:
        merged = tile.models[0] * chosen[0]
        for weight, model in zip(chosen[1:], tile.models[1:], strict=True):
            merged.add_(model, alpha=weight)
        return merged.div_(total)

    return apply
