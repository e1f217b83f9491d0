"""What a step costs in floating-point operations, and what the machine could do: model-FLOP utilisation."""

import time
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from bm.branch.documents import Documents


class Flops:
    """Operations of one optimiser step of a model, forward and backward, without what checkpointing computes again."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, head = model.config, model.get_output_embeddings()  # type: ignore[no-untyped-call]
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        heads = getattr(config, "num_attention_heads", 0)  # a model that keeps a state attends to no pairs
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        self._token = float(sum(_operations(m) for m in linear))
        self._label: float = _operations(head)
        self._pair: float = 12 * width * heads * config.num_hidden_layers

    def step(self, documents: Documents, packs: Sequence[Sequence[int]], isolate: bool) -> float:
        """Products with weights at every token, with the head at every label, and n²/2 attended pairs a segment."""
        lengths = [documents.lengths[list(pack)] for pack in packs]
        segments = np.concatenate(lengths) if isolate else np.array([part.sum() for part in lengths])
        pairs = float((segments.astype(np.float64) ** 2).sum()) / 2
        products = self._token * documents.total(packs) + self._label * documents.supervised(packs)
        return products + self._pair * pairs


def _operations(product: nn.Linear) -> int:
    """A multiplication and an addition an entry: forward, for its input's gradient, and if it learns for its own."""
    return (6 if product.weight.requires_grad else 4) * product.in_features * product.out_features


@cache
def matmul_peak(device: torch.device, mixed: bool) -> float:
    """FLOP/s of the best of a few large matrix products in the precision that training uses.

    On a CPU it is measured by the time that the cores spend on the product, which other work does not lengthen.
    """
    cuda = device.type == "cuda"
    size, dtype = (8192 if cuda else 1024), (torch.bfloat16 if mixed else torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    clock, at_a_time = (time.perf_counter, 1) if cuda else (time.process_time, torch.get_num_threads())
    best = float("inf")
    for _ in range(10):
        start = clock()
        a @ b
        if cuda:
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return 2.0 * size**3 * at_a_time / best
