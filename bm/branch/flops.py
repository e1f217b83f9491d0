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
    """Operations of an optimiser step of a model and of a forward pass alone, without what checkpointing repeats."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, head = model.config, model.get_output_embeddings()  # type: ignore[no-untyped-call]
        linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
        heads = getattr(config, "num_attention_heads", 0)  # a model that keeps a state attends to no pairs
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        pair = 4.0 * width * heads * config.num_hidden_layers
        self._forward = (sum(_product(m) for m in linear), _product(head), pair)
        self._step = (sum(_passes(m) * _product(m) for m in linear), _passes(head) * _product(head), 3 * pair)

    def step(self, documents: Documents, packs: Sequence[Sequence[int]], isolate: bool) -> float:
        """Products with weights at every token, with the head at every label, and n²/2 attended pairs a segment."""
        return _operations(self._step, documents, packs, isolate)

    def forward(self, documents: Documents, packs: Sequence[Sequence[int]], isolate: bool) -> float:
        """The same without gradients: a third of a step in which all weights learn."""
        return _operations(self._forward, documents, packs, isolate)


def _product(layer: nn.Linear) -> float:
    """A multiplication and an addition an entry."""
    return 2.0 * layer.in_features * layer.out_features


def _passes(layer: nn.Linear) -> int:
    """Products in a step: forward, for its input's gradient, and if it learns for its own."""
    return 3 if layer.weight.requires_grad else 2


def _operations(
    each: tuple[float, float, float], documents: Documents, packs: Sequence[Sequence[int]], isolate: bool
) -> float:
    """In all, from the operations of `each` token, label and attended pair."""
    token, label, pair = each
    lengths = [documents.lengths[list(pack)] for pack in packs]
    segments = np.concatenate(lengths) if isolate else np.array([part.sum() for part in lengths])
    pairs = float((segments.astype(np.float64) ** 2).sum()) / 2
    return token * documents.total(packs) + label * documents.supervised(packs) + pair * pairs


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
