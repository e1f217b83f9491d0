"""Arcee Fusion: keep the left model, take from the right one the entries that matter (paper, section 3.2)."""

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from bm.errors import UserError
from bm.merge.arrays import Array
from bm.merge.fused import Fused
from bm.merge.lazy import Tensor, torch
from bm.merge.scores import Change
from bm.merge.tensors import Apply, Selection, Tensors, Tile, above, pair

SAMPLED = 1_000_000  # mergekit's sample for quantiles
QUARTILES = (0.25, 0.5, 0.75)


@pair
def arcee_fusion(
    tensors: Tensors,
    *,
    lam: Annotated[float, Field(ge=0)],
    variant: Literal["exact", "paper", "mergekit"],
    difference: Literal["absolute", "signed"],
) -> Apply:
    """θM = θL + (θR − θL)·1[IS > median(IS) + λ·(Q3 − Q1)], θL the base, θR the other model, with the importance

        IS = KL(softmax(θR) ‖ softmax(θL)) · |θR − θL|.

    - `exact`: softmax and KL of each row (last dimension, as in the released merge), exact quantiles, stable KL.
    - `paper`: softmax over the flattened tensor, as printed. Its KL is then one positive number for the tensor (0 only
      if nothing changed; ε, added to both sides, does not alter that), which scales IS and its threshold alike: an
      entry is taken if |θR − θL| exceeds the threshold of |θR − θL|.
    - `mergekit`: the arithmetic of mergekit 0.1.5 bit for bit: in the dtype of the weights, ε = 1e-8, `≥`, quartiles of
      a million sampled entries, here from a seed.

    `difference: signed` drops the absolute value, as the paper's formula prints it; mergekit has none of that.
    Defaults: λ 1.5, exact, absolute.
    """
    if variant == "mergekit":
        if difference == "signed":
            raise UserError(
                "arcee_fusion: difference=signed does not go with variant=mergekit, which takes the absolute"
            )
        return _mergekit(tensors, lam)
    score = Change(signed=difference == "signed", weighed=variant == "exact")
    q1, median, q3 = tensors.quantiles(score, QUARTILES)
    return Taken(score, median + lam * (q3 - q1))


@dataclass(frozen=True)
class Taken:
    """The other model's entries whose score is above the threshold, the base's elsewhere."""

    score: Change
    threshold: float

    def __call__(self, tile: Tile) -> Selection:
        return Selection(above(tile.of(self.score), self.threshold), tile.models[0], tile.kept)

    def by_kernel(self, fused: Fused, block: range, out: Array) -> tuple[int, float]:
        return fused.select(self.score, self.threshold, block, out)


def _mergekit(tensors: Tensors, lam: float) -> Apply:
    if tensors.elements > SAMPLED:
        seed = hashlib.sha256(f"{tensors.run.seed}\0{tensors.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "little", signed=True))
        offsets = torch.randint(tensors.elements, (SAMPLED,), generator=generator)
        ordered = tensors.gather(mergekit_importance, offsets).sort().values
        q1, median, q3 = (ordered[math.floor(q * (SAMPLED - 1))] for q in QUARTILES)
    else:
        quartiles = tensors.quantiles(mergekit_importance, QUARTILES)
        q1, median, q3 = torch.tensor(quartiles, dtype=tensors.stored_dtype)
    threshold = median + lam * (q3 - q1)

    def apply(tile: Tile) -> Selection:
        left, right = (part.to(tensors.stored_dtype) for part in (tile.kept, tile.models[0]))
        taken = tile.of(mergekit_importance) >= threshold.to(left.device)
        return Selection(taken, tile.kept + (right - left), tile.kept)

    return apply


def mergekit_importance(tile: Tile) -> Tensor:
    """The importance as mergekit computes it, [rows, columns] in the dtype of the weights."""
    left, right = (part.to(tile.tensors.stored_dtype) for part in (tile.kept, tile.models[0]))
    p, q = torch.softmax(right, -1) + 1e-8, torch.softmax(left, -1) + 1e-8
    return (right - left).abs() * (p * torch.log(p / q)).sum(-1, keepdim=True)
