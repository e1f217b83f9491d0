"""Arcee Fusion (paper, section 3.2; after arcee-ai/mergekit)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bm.merge.tensors import Apply, Selection, Tensors, Tile, pair

SERIES = 1 / 16


@pair
def arcee_fusion(
    tensors: Tensors,
    *,
    lam: Annotated[float, Field(ge=0)] = 1.5,
    variant: Literal["exact", "paper", "mergekit"] = "exact",
) -> Apply:
    """Keeps the left model θL and takes the entries of the right model θR that are important:

        IS = KL(softmax(θR) ‖ softmax(θL)) · |θR − θL|,   θM = θL + (θR − θL)·1[IS > median(IS) + λ·(Q3 − Q1)].

    `exact`: softmax and KL per row (last dimension), exact quantiles, no ε: what the released script meant, in stable form.
    """
    q1, median, q3 = tensors.quantiles(importance, (0.25, 0.5, 0.75))
    threshold = median + lam * (q3 - q1)

    def apply(tile: Tile) -> Selection:
        return Selection(tile.of(importance) > threshold, tile.models[0], tile.kept)

    return apply


def importance(tile: Tile) -> Tensor:
    """KL(softmax(θR) ‖ softmax(θL)) of each row times |θR − θL|: [rows, columns] in the compute dtype."""
    left, right = tile.kept, tile.models[0]
    return divergence(left, right).unsqueeze(-1) * (right - left).abs()


def divergence(left: Tensor, right: Tensor) -> Tensor:
    """KL(softmax(right) ‖ softmax(left)) of each row, [rows]: without cancellation, however close the rows are.

    With q = softmax(left), d = right − left, c = log Σ q·eᵈ = log1p(Σ q·(eᵈ − 1)) and u = d − c, the ratio of the two
    distributions is eᵘ and KL = Σ q·(u·eᵘ − eᵘ + 1), every term of which is at least 0. For |u| ≤ 1/16 the term is its
    series u²·(1/2 + u/3 + u²/8 + u³/30); rows that go beyond are summed in float64.
    """
    d = right - left
    q = torch.softmax(left, -1)
    u = d - torch.log1p((q * torch.expm1(d)).sum(-1, keepdim=True))
    terms = (u / 30).add_(1 / 8).mul_(u).add_(1 / 3).mul_(u).add_(1 / 2).mul_(u).mul_(u)
    kl = terms.mul_(q).sum(-1)
    far = u.abs().amax(-1) > SERIES
    if far.any():
        p, q = torch.log_softmax(right[far].double(), -1), torch.log_softmax(left[far].double(), -1)
        kl[far] = (p.exp() * (p - q)).sum(-1).to(kl.dtype)
    return kl
