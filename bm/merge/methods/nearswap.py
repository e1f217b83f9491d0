"""NearSwap (alchemonaut 2024)."""

from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.tensors import Apply, Tensors, Tile, pair


@pair
def nearswap(tensors: Tensors, *, t: Annotated[float, Field(ge=0)]) -> Apply:
    """NearSwap (alchemonaut 2024, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001): take the other where it is
    near.

    θ = s·θ_other + (1 − s)·θ_base, s = min(1, t/|θ_other − θ_base|) of each entry. Default: t 1e-4.
    """

    def apply(tile: Tile) -> Tensor:
        distance = (tile.kept - tile.models[0]).abs().clamp(min=torch.finfo(tile.kept.dtype).tiny)
        share = (t / distance).clamp(max=1)
        return share * tile.models[0] + (1 - share) * tile.kept

    return apply
