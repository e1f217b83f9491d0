"""Attention within documents: a pack of many is computed as if each stood alone, and no mask is ever made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ISOLATED = "bm_isolated"
"""The name under which transformers knows this attention."""


@dataclass(frozen=True)
class Segments:
    """Lengths of the stretches of a flat sequence that may attend within themselves, in order, and where they start."""

    lengths: Sequence[int]
    starts: Tensor
    """[segments + 1], int32, on the model's device: 0 … total (FlashAttention's `cu_seqlens`)."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Segments":
        return cls(lengths, torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32))

    def to(self, device: torch.device) -> "Segments":
        return Segments(self.lengths, self.starts.to(device, non_blocking=True))


def isolated(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *,
    segments: Segments, scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention inside each segment; transformers' attention interface.

    query [1, heads, T, D], key and value [1, kv heads, T, D], T the sum of the segments; returns [1, T, heads, D].
    """
    parts = (x.split(list(segments.lengths), dim=2) for x in (query, key, value))
    outputs = [
        scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ISOLATED, isolated)
