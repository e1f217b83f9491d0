"""Scores by which methods select entries: how far a model is from the base, weighed by its row's divergence or not."""

from dataclasses import dataclass

from bm.merge.lazy import Tensor, torch
from bm.merge.tile import Tile

NEAR = {4: 2**-5, 8: 2**-10}
"""By the bytes of an entry."""


@dataclass(frozen=True)
class Change:
    """|θ_k − θ_base| of each entry; `weighed`: times KL(softmax(θ_k) ‖ softmax(θ_base)) of its row; `signed`: no bars.

    Called with a tile: [rows, columns] in its dtype. Equal scores are one: merges of a tensor share their passes.
    """

    k: int = 0
    signed: bool = False
    weighed: bool = False

    def __call__(self, tile: Tile) -> Tensor:
        change = tile.models[self.k] - tile.kept
        if self.weighed:
            fused = tile.tensors.fused  # on a CPU passes by kernels and by tiles have the same divergences
            rows = tile.per_row(Divergence(self.k)) if fused is None else fused.weighed(self, tile.start, tile.stop)
            change.mul_(rows.unsqueeze(-1))
        return change if self.signed else change.abs_()


@dataclass(frozen=True)
class Divergence:
    """The divergence of each row of model k from the base's, [rows]."""

    k: int

    def __call__(self, tile: Tile) -> Tensor:
        return divergence(tile.kept, tile.models[self.k])


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
    far = square.amax(-1) > NEAR[d.dtype.itemsize] ** 2
    q.mul_(square)
    second, third, fourth = q.sum(-1), (q * u).sum(-1), (q * square).sum(-1)
    kl = second / 2 + third / 3 + (fourth - 3 * second * second) / 8
    if far.any():
        p, q = torch.log_softmax(right[far].double(), -1), torch.log_softmax(left[far].double(), -1)
        kl[far] = (p.exp() * (p - q)).sum(-1).to(kl.dtype)
    return kl
