"""Documents kept from training: the loss on each domain, and whether the domains' gradients pull against each other."""

from itertools import combinations

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from bm.branch.data import MicroBatch, TraceData, packed
from bm.branch.module import StudentTraining
from bm.branch.parallel import summed

ENTRIES = 1 << 22
"""About as many entries of a gradient go into its cosines: evenly spaced ones of every tensor if it has more."""


class HeldOut:
    """Measures every domain's held-out loss and, with several domains, the cosine of each pair of gradients (Eq. 5)."""

    def __init__(self, data: TraceData) -> None:
        documents = data.documents
        self.batches: dict[str, list[MicroBatch]] = {}
        self.labels: dict[str, int] = {}
        for index, source in enumerate(data.traces):
            members = np.flatnonzero(documents.held_out & (documents.domain == index))
            if len(members):
                packs = packed(documents, members, data.config)
                self.batches[source.domain] = data.batches(packs)
                self.labels[source.domain] = documents.supervised(packs)
        self.pairs = list(combinations(self.batches, 2))

    @property
    def columns(self) -> list[str]:
        return [f"held_out_{domain}" for domain in self.batches] + [f"cosine_{a}_{b}" for a, b in self.pairs]

    def measure(self, trainer: L.Trainer, module: StudentTraining) -> dict[str, float]:
        """One value a column. The weights and the optimiser stay as they are."""
        losses, gradients = {}, []
        for domain, batches in self.batches.items():
            total = torch.zeros((), device=module.device)
            for batch in batches:
                with torch.set_grad_enabled(bool(self.pairs)), trainer.precision_plugin.train_step_context():
                    loss = module.student(batch.to(module.device), float(self.labels[domain]))
                if self.pairs:
                    loss.backward()
                total += loss.detach()
            losses[f"held_out_{domain}"] = summed(total).item()
            if self.pairs:
                gradients.append(sampled_gradient(module))
                module.zero_grad()
        return {**losses, **(self._cosines(gradients) if self.pairs else {})}

    def _cosines(self, gradients: list[Tensor]) -> dict[str, float]:
        stacked = torch.stack(gradients)
        products = summed((stacked @ stacked.t()).double())
        lengths = products.diagonal().sqrt()
        cosines = products / (lengths[:, None] * lengths)
        return {f"cosine_{a}_{b}": cosines[i, j].item() for (i, a), (j, b) in combinations(enumerate(self.batches), 2)}


def sampled_gradient(module: torch.nn.Module) -> Tensor:
    """Evenly spaced entries of this rank's part of the gradient, fp32, about ENTRIES over all ranks."""
    held = [p for p in module.parameters() if p.grad is not None]
    stride = max(1, sum(p.numel() for p in held) // ENTRIES)
    parts = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in held]
    return torch.cat([part.reshape(-1)[::stride].float() for part in parts if part is not None])
