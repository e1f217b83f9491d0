"""What the methods of task vectors share: updates u_k = θ_k − θ_base, which of their entries to keep, how to add them.

An `Update` gives one model's (sparse) update for a tile, [rows, columns]. Where entries tie at a selection's threshold
they are kept together, so a selection does not depend on the order of a tensor's entries.

Masks are numbers, 0 or 1, and selections products or shrinkage: on a CPU torch does these with vector instructions and
`torch.where` without, thirty times slower.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from bm.errors import UserError
from bm.merge.arrays import Array
from bm.merge.fused import Fused
from bm.merge.lazy import Tensor, torch
from bm.merge.scores import Change
from bm.merge.tensors import Apply, Tensors, Tile

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Weights: TypeAlias = float | Sequence[float]
"""One weight for every model, or one per model in the merge's order."""
Shares: TypeAlias = Share | Sequence[Share]
Rescale: TypeAlias = Literal["none", "probability", "l1"]
"""What makes up for dropped entries: nothing, 1 / (the probability of being kept), or the update's L1 norm kept."""

Update: TypeAlias = Callable[[Tile], Tensor]


def each(value: float | Sequence[float], tensors: Tensors) -> list[float]:
    """One value per model; UserError when a list has another length."""
    if isinstance(value, int | float):
        return [float(value)] * len(tensors.models)
    if len(value) != len(tensors.models):
        raise UserError(
            f"{len(value)} values {list(value)} for {len(tensors.models)} models; give one, or one per model"
        )
    return list(value)


@dataclass(frozen=True)
class Sparse:
    """u_k where `low` ≤ |u_k| ≤ `high` and, below a chance of 1, a uniform number is below the chance; 0 elsewhere.

    Divided by the chance if `rescaled`, and times `factor`.
    """

    k: int
    low: float = 0.0
    high: float = math.inf
    chance: float = 1.0
    rescaled: bool = False
    factor: float = 1.0

    def __call__(self, tile: Tile) -> Tensor:
        kept = whole = tile.of(update(self.k))
        if self.low > 0:
            kept = at_least(whole, self.low)
        if self.high < math.inf:
            kept = kept - torch.nn.functional.hardshrink(whole, self.high)
        if self.chance < 1:
            kept = drawn(tile, self.k, kept, self.chance, self.rescaled)
        return kept if self.factor == 1 else kept * self.factor


def update(k: int) -> Update:
    """u_k; equal for the same k, so that merges of one tensor share their passes."""
    return Change(k, signed=True)


def magnitude(k: int) -> Update:
    """|u_k|."""
    return Change(k)


def nothing(k: int) -> Sparse:
    """Zero in place of u_k."""
    return Sparse(k, low=math.inf)


def largest(tensors: Tensors, k: int, density: float) -> Sparse:
    """u_k with the max(1, ⌊density·n⌋) entries of greatest magnitude, the rest zero."""
    if density >= 1:
        return Sparse(k)
    if density <= 0:
        return nothing(k)
    kept = max(1, int(density * tensors.elements))
    (threshold,) = tensors.order_statistics(magnitude(k), [tensors.elements - kept])
    return Sparse(k, low=threshold)


def middle(tensors: Tensors, k: int, density: float, gamma: float) -> Sparse:
    """u_k with the ⌊density·n⌋ entries of greatest magnitude but for the ⌊gamma·n⌋ greatest, the rest zero.

    Where density + gamma > 1 fewer outliers are dropped, so that the density holds.
    """
    n = tensors.elements
    kept, outliers = int(density * n), int(gamma * n)
    if density >= 1:
        return Sparse(k)
    if kept == 0:
        return nothing(k)
    first = max(0, n - kept - outliers)
    low, high = tensors.order_statistics(magnitude(k), [first, first + kept - 1])
    return Sparse(k, low=low, high=high)


def at_least(x: Tensor, threshold: float) -> Tensor:
    """The entries of magnitude ≥ threshold, the rest zero."""
    below = torch.tensor(threshold, dtype=x.dtype).nextafter(torch.tensor(-torch.inf, dtype=x.dtype)).item()
    return torch.nn.functional.hardshrink(x, below)


def drawn(tile: Tile, k: int, values: Tensor, chance: Tensor | float, rescaled: bool) -> Tensor:
    """The values where model k's uniform number is below the entry's chance (> 0) of being kept, the rest zero."""
    kept = values * torch.lt(tile.uniform(k), chance, out=torch.empty_like(values))
    return kept / chance if rescaled else kept


def same_l1(tensors: Tensors, updates: Sequence[Update]) -> list[Update]:
    """The sparse updates, each scaled to the L1 norm of the whole update: u'·‖u‖₁/‖u'‖₁."""

    def norms(tile: Tile) -> Tensor:
        sizes = [(tile.of(magnitude(k)), sparse(tile).abs()) for k, sparse in enumerate(updates)]
        return torch.stack([size.double().sum(-1).sum() for pair in sizes for size in pair])

    whole, kept = tensors.reduce(norms).view(-1, 2).unbind(1)
    factors = torch.where(kept > 0, whole / kept, 1).tolist()
    return [scaled(sparse, factor) for sparse, factor in zip(updates, factors, strict=True)]


def scaled(sparse: Update, factor: float) -> Update:
    return replace(sparse, factor=factor) if isinstance(sparse, Sparse) else lambda tile: sparse(tile) * factor


def add(updates: Sequence[Update], weights: Sequence[float], lam: float, normalize: bool) -> Apply:
    """θ_base + λ·Σ_k w_k·u_k, over Σ_k w_k if `normalize` (unless that is zero)."""
    total = sum(weights) if normalize and abs(sum(weights)) >= 1e-8 else 1.0
    return _sum(updates, weights, lam, total, elect=False, normalize=normalize)


def add_elected(updates: Sequence[Update], weights: Sequence[float], lam: float, normalize: bool) -> Apply:
    """θ_base + λ·Σ_k w_k·u_k·a_k, over Σ_k w_k·a_k if `normalize`; a_k: has w_k·u_k the elected sign (TIES, §3.2).

    An entry's elected sign is that of Σ_k w_k·u_k, + when the sum is zero; a zero update agrees with neither sign.
    """
    return _sum(updates, weights, lam, 1.0, elect=True, normalize=normalize)


@dataclass(frozen=True)
class Sum:
    """The base and its updates, all of them added or only those with the elected sign."""

    updates: Sequence[Any]
    weights: Sequence[float]
    lam: float
    total: float
    elect: bool
    normalize: bool

    def __call__(self, tile: Tile) -> Tensor:
        weighed = [update(tile) * w for update, w in zip(self.updates, self.weights, strict=True)]
        if not self.elect:
            return tile.kept + sum_of(weighed) / self.total * self.lam
        sign, agreeing = elected(weighed)
        mixed = sum_of(agreeing)
        if self.normalize:
            mixed = mixed / nonzero(sum_of([positive(u) * w for u, w in zip(agreeing, self.weights, strict=True)]))
        return tile.kept + mixed * sign * self.lam


class SparseSum(Sum):
    """A sum of `Sparse` updates."""

    def by_kernel(self, fused: Fused, block: range, out: Array) -> tuple[None, float]:
        return None, fused.combine(self, block, out)


def _sum(updates: Sequence[Update], *rest: Any, **more: Any) -> Apply:
    return (SparseSum if all(isinstance(u, Sparse) for u in updates) else Sum)(updates, *rest, **more)


def elected(updates: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Each entry's elected sign, 1 or −1, and the magnitudes of the updates that have it, 0 for those that have not."""
    total = sum_of(updates)
    sign = torch.ge(total, 0, out=torch.empty_like(total)) * 2 - 1
    return sign, [torch.relu(u * sign) for u in updates]


def positive(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, as numbers."""
    return torch.gt(x, 0, out=torch.empty_like(x))


def nonzero(x: Tensor) -> Tensor:
    """x with 1 in place of 0, to divide by."""
    return x + torch.eq(x, 0, out=torch.empty_like(x))


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum from first to last."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
