"""Arcee Fusion: keep the left model, take from the right one the entries that matter (paper, section 3.2)."""

import hashlib
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bm.errors import UserError
from bm.merge.tensors import Apply, Selection, Tensors, Tile, above, pair

NEAR = {torch.float32: 2**-5, torch.float64: 2**-10}
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
    score = {
        ("exact", "absolute"): importance,
        ("exact", "signed"): signed_importance,
        ("paper", "absolute"): change,
        ("paper", "signed"): signed_change,
    }[variant, difference]
    q1, median, q3 = tensors.quantiles(score, QUARTILES)
    threshold = median + lam * (q3 - q1)
    return lambda tile: Selection(above(tile.of(score), threshold), tile.models[0], tile.kept)


def signed_change(tile: Tile) -> Tensor:
    """θR − θL: [rows, columns] in the compute dtype, like every score here."""
    return tile.models[0] - tile.kept


def change(tile: Tile) -> Tensor:
    """|θR − θL|."""
    return signed_change(tile).abs_()


def signed_importance(tile: Tile) -> Tensor:
    """KL(softmax(θR) ‖ softmax(θL)) of each row times θR − θL."""
    return signed_change(tile).mul_(tile.per_row(divergence_of).unsqueeze(-1))


def importance(tile: Tile) -> Tensor:
    """KL(softmax(θR) ‖ softmax(θL)) of each row times |θR − θL|."""
    return signed_importance(tile).abs_()


def divergence_of(tile: Tile) -> Tensor:
    return divergence(tile.kept, tile.models[0])


def divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL(softmax(right) ‖ softmax(left)) of each row, [rows]: without cancellation, however close the rows are.

    With q = softmax(left), d = right − left and K(t) = log Σ q·e^(t·d), the divergence is K′(1) − K(1): in cumulants
    κ_n of d under q, κ2/2 + κ3/3 + κ4/8 + κ5/30 + … Central moments lose no digits to cancellation. Cut after κ4 its
    relative error is about u³/15, u = max |d − Σ q·d|. Rows with u > 2⁻⁵ (2⁻¹⁰ in float64) are summed as they stand, in
    float64.
    """
    d = right - left
    q = torch.softmax(left, -1)
    u = d - (q * d).sum(-1, keepdim=True)
    square = u * u
    far = square.amax(-1) > NEAR[d.dtype] ** 2
    q.mul_(square)
    second, third, fourth = q.sum(-1), (q * u).sum(-1), (q * square).sum(-1)
    kl = second / 2 + third / 3 + (fourth - 3 * second * second) / 8
    if far.any():
        p, q = torch.log_softmax(right[far].double(), -1), torch.log_softmax(left[far].double(), -1)
        kl[far] = (p.exp() * (p - q)).sum(-1).to(kl.dtype)
    return kl


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
