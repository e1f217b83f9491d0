"""Cross entropy where there is a label, without ever holding the logits of a sequence."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Labels whose logits exist at one time."""


@dataclass(frozen=True)
class Head:
    """From a hidden state h to logits: z = scale · W h, and where a model caps them cap · tanh(z / cap)."""

    weight: Tensor
    """[V, H]"""
    scale: float = 1.0
    cap: float | None = None

    @property
    def plain(self) -> bool:
        return self.scale == 1.0 and self.cap is None


class _LabelLoss(torch.autograd.Function):
    """Gradients are made with the loss, while a chunk's logits are there: (p − 1[label]) / denominator."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, denominator: float, scale: float, cap: float | None
    ) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=wide)
        total = hidden.new_zeros((), dtype=wide)
        for start in range(0, len(hidden), CHUNK):
            part, label = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            logits = (part @ weight.t()).to(wide)  # and from here in place: they are the largest tensor of the step
            slope = _reshape(logits, scale, cap)
            logits -= logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, label)
            sums = logits.exp_().sum(-1, keepdim=True)
            total += (sums.log() - chosen).sum()
            error = logits.div_(sums).scatter_add_(1, label, logits.new_full(label.shape, -1.0))
            error = (error if slope is None else error.mul_(slope)).div_(denominator).to(hidden.dtype)
            torch.mm(error, weight, out=hidden_gradient[start : start + CHUNK])
            if weight.dtype == wide:
                weight_gradient.addmm_(error.t(), part)
            else:
                weight_gradient += error.t() @ part
        ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        return total / denominator

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], weight_gradient * gradients[0], None, None, None, None


def _reshape(logits: Tensor, scale: float, cap: float | None) -> Tensor | float | None:
    """Scale and cap products with the head's weight in place; returns what their gradient is to be multiplied with."""
    if scale != 1.0:
        logits *= scale
    if cap is None:
        return None if scale == 1.0 else scale
    logits.div_(cap).tanh_()
    slope = (1 - logits.square()).mul_(scale)  # d(cap · tanh(s x / cap)) / dx
    logits *= cap
    return slope


def label_loss(hidden: Tensor, head: Head, targets: Tensor, denominator: float) -> Tensor:
    """Sum of −log softmax(head(hidden))[target] over `denominator`, the supervised tokens of the whole step.

    hidden [S, H] at the positions that predict a label; targets [S], int64. Logits, softmax and sum in
    fp32 (float64 for float64 input); gradients exact. Peak memory: one chunk of logits and one gradient of `weight`.
    On CUDA with liger-kernel installed its fused kernel does the same.
    """
    device, weight = hidden.device.type, head.weight
    if torch.is_autocast_enabled(device):
        hidden, weight = (x.to(torch.get_autocast_dtype(device)) for x in (hidden, weight))
    with torch.autocast(device, enabled=False):
        if device == "cuda" and head.plain and len(targets) and find_spec("liger_kernel"):
            return fused(hidden, weight, targets) / denominator
        loss: Tensor = _LabelLoss.apply(hidden, weight, targets, denominator, head.scale, head.cap)  # type: ignore[no-untyped-call]
        return loss


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The summed loss by liger-kernel, which needs at least one label."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

    loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)(weight, hidden, targets)
    return loss
