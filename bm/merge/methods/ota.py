"""OTA merging with Fast Fisher Grafting (Mahdavinia et al. 2025, arXiv 2509.11167): Adam's second moment as
curvature.
"""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import Shares, Weights, each, magnitude, sum_of, update
from bm.merge.tensors import Apply, Tensors, Tile, above, task_vectors, weighed_by


@weighed_by("second_moments")
@task_vectors
def ota(
    tensors: Tensors,
    *,
    weights: Weights,
    lam: float,
    density: Shares,
    power: Annotated[float, Field(ge=0)],
    epsilon: Annotated[float, Field(gt=0)],
) -> Apply:
    """OTA with FFG (Mahdavinia et al. 2025, arXiv 2509.11167): prune by v·u², then weigh by √v.

    θ = θ_base + λ·Σ_k w_k·P_k·m_k·u_k / Σ_k w_k·P_k, P_k = v_k^power + ε, v_k Adam's second moment of expert k (kept by
    `branch.second_moments=true`), and m_k 1 for the share `density` of entries of greatest saliency v_k·u_k². An entry
    that is pruned still counts in the sum below: it votes for the base. The paper selects over the whole model, by a
    threshold; here it is within each tensor, which needs no pass over the model. Tensors without a moment are averaged.
    Defaults: w 1, λ 1, density 0.4, power 0.5 (the authors'), ε 1e-12.
    """
    own = each(weights, tensors)
    if not tensors.statistics:
        return lambda tile: (
            tile.kept + lam * sum_of([(m - tile.kept) * w for m, w in zip(tile.models, own, strict=True)]) / sum(own)
        )
    if len(tensors.statistics) != len(own):
        raise UserError(f"{tensors.name}: ota needs the second moments of all {len(own)} models or of none")
    grafts = [grafted(tensors, k, share) for k, share in enumerate(each(density, tensors))]

    def apply(tile: Tile) -> Tensor:
        trust = [(v**power + epsilon) * w for v, w in zip(tile.statistics, own, strict=True)]
        return tile.kept + lam * sum_of([t * graft(tile) for t, graft in zip(trust, grafts, strict=True)]) / sum_of(
            trust
        )

    return apply


def grafted(tensors: Tensors, k: int, density: float) -> Callable[[Tile], Tensor]:
    """u_k where its saliency is among the max(1, ⌊density·n⌋) greatest of the tensor and not zero, 0 elsewhere."""
    if density >= 1:
        return update(k)
    kept = max(1, int(density * tensors.elements))

    def saliency(tile: Tile) -> Tensor:
        return tile.statistics[k].sqrt() * tile.of(magnitude(k))  # the root of v·u², which does not underflow

    (threshold,) = tensors.order_statistics(saliency, [tensors.elements - kept]) if density > 0 else (torch.inf,)
    low = torch.tensor(threshold, dtype=tensors.run.dtype).nextafter(torch.tensor(0.0, dtype=tensors.run.dtype)).item()
    return lambda tile: tile.of(update(k)) * above(tile.of(saliency), low if threshold > 0 else 0.0)
