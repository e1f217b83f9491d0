"""AIM (Heyrani Nobari et al. 2025, arXiv 2502.02421): what the base's activations need changes least."""

from bm.errors import UserError
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.updates import Share, Sparse, Weights, add, each
from bm.merge.tensors import Apply, Tensors, Tile, task_vectors, weighed_by


@weighed_by("activations")
@task_vectors
def aim(tensors: Tensors, *, weights: Weights, lam: float, omega: Share) -> Apply:
    """AIM over task arithmetic (arXiv 2502.02421, section 3): weights that salient inputs of the base meet are held
    back.

    θ = θ_base + (λ·Σ_k w_k·u_k)·(1 − (1 − ω)·a/max(a)), a the mean magnitude of each input channel of the layer in the
    base over calibration data, from `bm.merge.statistics.activations`; entry (i, j) of a matrix goes by a_j, and a
    norm's weight by its own channels. What has no inputs measured (embeddings, biases) is not held back, as in the
    authors' code. They calibrate on a corpus of the base's; here it is the domains' traces. Defaults: w 1, λ 0.4, ω 0.4
    (the code's ω).
    """
    own = each(weights, tensors)
    plain = add([Sparse(k) for k in range(len(own))], own, lam, normalize=False)
    if not tensors.statistics:
        return plain
    (source,) = tensors.statistics
    columns = tensors.tiling.columns
    if source.shape != (columns,):
        raise UserError(f"{tensors.name}: the activations have shape {source.shape}, the layer {columns} inputs")
    size = source.read(0, columns).to(tensors.run.device, tensors.run.dtype)
    relaxed = 1 - (1 - omega) * size / size.max().clamp(min=torch.finfo(size.dtype).tiny)

    def apply(tile: Tile) -> Tensor:
        merged = plain(tile)
        assert isinstance(merged, torch.Tensor)
        return tile.kept + (merged - tile.kept) * relaxed

    return apply
