"""Linear averaging, the model soup (Wortsman et al. 2022, arXiv 2203.05482)."""

from dataclasses import dataclass

from bm.errors import UserError
from bm.merge.arrays import Array
from bm.merge.fused import Fused
from bm.merge.lazy import Tensor
from bm.merge.methods.updates import Weights, each
from bm.merge.tensors import Apply, Tensors, Tile, models


@models
def linear(tensors: Tensors, *, weights: Weights, normalize: bool) -> Apply:
    """θ = Σ_k w_k·θ_k, over Σ_k w_k if `normalize`. Defaults: every model counts the same, normalised."""
    chosen = each(weights, tensors)
    total = sum(chosen) if normalize else 1.0
    if total == 0:
        raise UserError("linear: the weights sum to 0, so they cannot be normalised")

    return Average(tuple(chosen), total)


@dataclass(frozen=True)
class Average:
    """Σ_k w_k·θ_k / total."""

    weights: tuple[float, ...]
    total: float

    def __call__(self, tile: Tile) -> Tensor:
        merged = tile.models[0] * self.weights[0]
        for weight, model in zip(self.weights[1:], tile.models[1:], strict=True):
            merged.add_(model, alpha=weight)
        return merged.div_(self.total)

    def by_kernel(self, fused: Fused, block: range, out: Array) -> tuple[None, float]:
        return None, fused.average(self.weights, self.total, block, out)
