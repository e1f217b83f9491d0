"""Reinforced Agent Merging, RAM and RAM+ (arXiv 2601.13572)."""

from typing import Annotated

from pydantic import Field

from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import magnitude, sum_of, update
from bm.merge.tensors import Apply, Tensors, Tile, task_vectors

NonNegative = Annotated[float, Field(ge=0)]


@task_vectors
def ram(tensors: Tensors, *, epsilon: NonNegative) -> Apply:
    """Reinforced Agent Merging, RAM (arXiv 2601.13572): average updates where they overlap, keep them whole elsewhere.

    θ = θ_base + Σ_k u_k·c_k / max(1, Σ_j c_j), u_k = θ_k − θ_base, c_k: |u_k| > ε. Default: ε 1e-5.
    """
    return overlapped([1.0] * len(tensors.models), epsilon)


@task_vectors
def ram_plus(tensors: Tensors, *, epsilon: NonNegative, r: NonNegative, alpha: NonNegative) -> Apply:
    """RAM+ (arXiv 2601.13572), tensor by tensor: as `ram`, and what only one model changed is scaled up.

    Unique entries of model k are multiplied by λ_k = 1 + r·min(α, shared_k/unique_k), the counts of its changed entries
    in the tensor that other models changed too, and that only it changed. Defaults: ε 1e-5, r 0.1, α 0.2.
    """

    def counts(tile: Tile) -> Tensor:
        changed, count = overlap(tile, epsilon)
        return torch.stack(
            [(own * mask).sum(dtype=torch.float64) for own in changed for mask in (count > 1, count == 1)]
        )

    shared, unique = tensors.reduce(counts).view(-1, 2).unbind(1)
    boost = 1 + r * (shared / unique.clamp(min=max(epsilon, 1e-300))).clamp(max=alpha)
    return overlapped(boost.tolist(), epsilon)


def overlap(tile: Tile, epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Which entries each model changed, 1 or 0, and how many models changed each entry."""
    sizes = [tile.of(magnitude(k)) for k in range(len(tile.models))]
    changed = [torch.gt(size, epsilon, out=torch.empty_like(size)) for size in sizes]
    return changed, sum_of(changed)


def overlapped(boost: list[float], epsilon: float) -> Apply:
    """θ_base + Σ_k u_k·c_k·(boost_k where only model k changed the entry, 1 / how many did elsewhere)."""

    def apply(tile: Tile) -> Tensor:
        changed, count = overlap(tile, epsilon)
        terms = [tile.of(update(k)) * own for k, own in enumerate(changed)]
        alone = torch.eq(count, 1, out=torch.empty_like(count))
        unique = sum_of([term * b for term, b in zip(terms, boost, strict=True)])
        shared = sum_of([term / count.clamp(min=1) for term in terms])
        return tile.kept + (unique * alone + shared * (1 - alone))

    return apply
