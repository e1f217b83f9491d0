"""A micro-batch by its traces: what is averaged over each response, and how the traces of a pack lie to each other."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import cross_entropy

from bm.branch.data import MicroBatch
from bm.branch.loss import Told, at_a_time

Relation = Callable[[Tensor], Tensor]
"""Features [N, H] of a micro-batch's traces to this rank's share of the step's loss of relations."""


def averaged(values: Tensor, batch: MicroBatch) -> Tensor:
    """Mean over each trace of what its labels have, also where ranks share them: [S, H] to [N, H], fp32 or float64."""
    wide = values.dtype if values.dtype == torch.float64 else torch.float32
    columns = torch.cat([values.to(wide), values.new_ones(len(values), 1, dtype=wide)], 1)
    sums = columns.new_zeros(len(batch.domains), columns.shape[1]).index_add(0, batch.owner, columns)
    if (group := batch.segments.group) is not None:
        sums = all_reduce(sums, group=group)  # type: ignore[no-untyped-call]
    return sums[:, :-1] / sums[:, -1:].clamp_min(1)


def label_losses(told: Told, targets: Tensor) -> Tensor:
    """Cross entropy of each label, [S], logits chunk by chunk."""
    losses, size = torch.zeros(len(targets), device=targets.device), at_a_time(len(told.head.weight))
    for start in range(0, len(targets), size):
        part = slice(start, min(start + size, len(targets)))
        losses[part] = cross_entropy(told.said(part.start, part.stop, torch.float32), targets[part], reduction="none")
    return losses


def difficulties(losses: Sequence[Tensor], batches: Sequence[MicroBatch], traces: int) -> list[Tensor]:
    """The difficulty of each label by micro-batch: its trace's cross entropy over the mean of the step's traces.

    losses: of each label; traces: how many the whole step has, over all ranks.
    """
    each = [averaged(part[:, None], batch)[:, 0] for part, batch in zip(losses, batches, strict=True)]
    total = torch.stack([of_traces.sum() for of_traces in each]).sum()
    group = batches[0].segments.group
    if dist.is_initialized():
        dist.all_reduce(total)
    mean = total / (traces * (group.size() if group else 1))  # ranks that share a sequence have summed the same
    return [(of_traces / mean)[batch.owner] for of_traces, batch in zip(each, batches, strict=True)]
