"""Passthrough: one model as it is."""

from bm.errors import UserError
from bm.merge.tensors import Apply, Tensors, models


@models
def passthrough(tensors: Tensors, *, scale: float) -> Apply:
    """One model's tensors, times `scale` (mergekit's; a scale of 0 on output projections silences a repeated layer).

    θ = scale·θ_1. Default: scale 1.
    """
    if len(tensors.models) != 1:
        raise UserError(f"passthrough takes one model, not {len(tensors.models)}")
    return lambda tile: tile.models[0] * scale
