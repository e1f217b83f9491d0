"""Attention within documents: a pack of many is computed as if each stood alone, and no mask over it is ever made.

On CUDA by FlashAttention 2, which takes segments as they are on every card since Ampere; else by PyTorch's SDPA, a
segment at a time. FlashAttention 3 and 4 are not used, as they are in beta and for Hopper and Blackwell alone, nor is
FlexAttention, which would have to be compiled anew for each pack's mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils.import_utils import is_flash_attn_2_available

from bm.branch.parallel import heads_for_tokens, tokens_for_heads
from bm.branch.shapes import evened

ISOLATED = "bm_isolated"
"""The name under which transformers knows this attention."""
OWN = "eager"
"""What every architecture has: its own attention, over one causal sequence."""
FLASH, SDPA = "FlashAttention", "PyTorch's SDPA"


@dataclass(frozen=True)
class Segments:
    """The stretches of a flat sequence that attend within themselves: lengths in order, and where they start."""

    lengths: Sequence[int]
    starts: Tensor
    """[segments + 1], int32, on the model's device: 0 … total (FlashAttention's `cu_seqlens`)."""
    group: dist.ProcessGroup | None = None
    """Ranks that hold an equal stretch of the sequence each; None: it is all here."""

    @classmethod
    def of(cls, lengths: Sequence[int], group: dist.ProcessGroup | None = None) -> "Segments":
        return cls(lengths, torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), group)

    def padded(self, tokens: int) -> "Segments":
        """With a segment of padding behind the others, if there is any."""
        return Segments.of([*self.lengths, tokens], self.group) if tokens else self

    def to(self, device: torch.device) -> "Segments":
        return replace(self, starts=self.starts.to(device, non_blocking=True))


def isolated(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, segments: Segments,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention inside each segment; transformers' attention interface.

    query [1, heads, T, D], key and value [1, kv heads, T, D], T the sum of the segments (over the group's ranks);
    returns [1, T, heads, D]. With a `sliding_window` a token sees itself and the window − 1 tokens before it.
    """
    if (group := segments.group) is not None:
        if key.shape[1] % group.size():  # fewer key heads than ranks: each rank needs a copy
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        query, key, value = (heads_for_tokens(x, group) for x in (query, key, value))
    varlen = flash_varlen if kernel(query.device) == FLASH else sdpa_varlen
    output = varlen(query, key, value, segments, scaling, dropout, sliding_window)
    if group is not None:
        output = tokens_for_heads(output, group)
    return output.transpose(1, 2), None


AttentionInterface.register(ISOLATED, isolated)


def kernel(device: torch.device) -> str:
    """What computes isolated attention on a device: FLASH where it is installed, else SDPA."""
    return FLASH if device.type == "cuda" and is_flash_attn_2_available() else SDPA


def described(attention: str, device: torch.device) -> str:
    """How tokens attend in a training, for its manifest."""
    if attention == OWN:
        return "the model's own, a segment at a time (eager)"
    name = kernel(device)
    return f"isolated segments by {name} {version('flash_attn') if name == FLASH else torch.__version__}"


def sdpa_varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, dropout: float,
    window: int | None,
) -> Tensor:  # fmt: skip
    """PyTorch's fused attention, segment by segment, on any device: [1, heads, T, D]."""
    parts = (torch.split(x, list(segments.lengths), dim=2) for x in (query, key, value))
    outputs = [_causal(q, k, v, scaling, dropout, window) for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=2)


def _causal(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float, window: int | None) -> Tensor:
    """One segment. Zeros behind it change nothing, as no token sees a later one."""
    length = q.shape[2]
    q, k, v = (evened(x, 2) for x in (q, k, v))
    if window and length > window:
        return _windowed(q, k, v, scaling, dropout, window)[:, :, :length]
    output = scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=True)
    return output[:, :, :length]


def _windowed(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, dropout: float, window: int) -> Tensor:
    """One segment in blocks of `window` queries against the keys that they can see: O(T · window)."""
    outputs = []
    for start in range(0, q.shape[2], window):
        first, end = max(0, start - window + 1), min(start + window, q.shape[2])
        behind = torch.arange(start, end, device=q.device)[:, None] - torch.arange(first, end, device=q.device)
        outputs.append(
            scaled_dot_product_attention(
                q[:, :, start:end], k[:, :, first:end], v[:, :, first:end],
                attn_mask=(behind >= 0) & (behind < window), dropout_p=dropout, scale=scaling, enable_gqa=True,
            )
        )  # fmt: skip
    return torch.cat(outputs, dim=2)


def flash_varlen(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scaling: float | None, dropout: float,
    window: int | None,
) -> Tensor:  # fmt: skip
    """FlashAttention 2 over all segments at once: [1, heads, T, D] in the dtype of `query`.

    The kernel takes half precision alone: what is wider is rounded to bf16 for it.
    """
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    half = query.dtype if query.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    q, k, v = (x[0].transpose(0, 1).to(half).contiguous() for x in (query, key, value))
    longest = max(segments.lengths)
    output: Tensor = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=segments.starts, cu_seqlens_k=segments.starts, max_seqlen_q=longest, max_seqlen_k=longest,
        dropout_p=dropout, softmax_scale=scaling, causal=True, window_size=(window - 1, 0) if window else (-1, -1),
    )  # fmt: skip
    return output.transpose(0, 1)[None].to(query.dtype)
