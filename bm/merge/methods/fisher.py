"""Fisher-weighted averaging (Matena & Raffel 2022, arXiv 2111.09832)."""

from typing import Annotated

from pydantic import Field

from bm.errors import UserError
from bm.merge.lazy import Tensor
from bm.merge.methods.updates import Weights, each, sum_of
from bm.merge.tensors import Apply, Tensors, Tile, models, weighed_by


@weighed_by("fisher")
@models
def fisher(tensors: Tensors, *, weights: Weights, floor: Annotated[float, Field(gt=0)]) -> Apply:
    """Fisher-weighted averaging (Matena & Raffel 2022, arXiv 2111.09832): each entry leans to the model it matters to.

    θ = Σ_k w_k·(F_k + floor)·θ_k / Σ_k w_k·(F_k + floor), F_k the mean squared gradient of model k's log-likelihood,
    from `bm.merge.statistics.fisher`. Entries that matter to no model are averaged. Defaults: w 1, floor 1e-6.
    """
    if len(tensors.statistics) != len(tensors.models):
        raise UserError(f"{tensors.name}: fisher needs the Fisher statistics of each model; make them first")
    each_weight = each(weights, tensors)

    def apply(tile: Tile) -> Tensor:
        trust = [(f + floor) * w for f, w in zip(tile.statistics, each_weight, strict=True)]
        return sum_of([f * m for f, m in zip(trust, tile.models, strict=True)]) / sum_of(trust)

    return apply
