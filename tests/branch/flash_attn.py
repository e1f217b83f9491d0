"""Stands in for the package flash-attn: its signature and what its kernel refuses, computed by PyTorch on a CPU."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Tensor | None = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """q [T, heads, D], k and v [T, kv heads, D] to [T, heads, D], as flash-attn 2.8."""
    for x in (q, k, v):
        if x.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        if x.stride(-1) != 1:
            raise RuntimeError("Input tensor must have contiguous last dimension")
    if q.dtype != k.dtype or q.dtype != v.dtype:
        raise RuntimeError("query and key must have the same dtype")
    if cu_seqlens_q.dtype != torch.int32 or not cu_seqlens_q.is_contiguous() or cu_seqlens_k is not cu_seqlens_q:
        raise RuntimeError("cu_seqlens_q must have dtype int32")
    lengths = cu_seqlens_q.diff().tolist()
    assert causal and window_size == (-1, -1) and max(lengths) == max_seqlen_q == max_seqlen_k
    parts = (torch.split(x.transpose(0, 1)[None], lengths, dim=2) for x in (q, k, v))
    outputs = [
        scaled_dot_product_attention(a, b, c, is_causal=True, dropout_p=dropout_p, scale=softmax_scale, enable_gqa=True)
        for a, b, c in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)
