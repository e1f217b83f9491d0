"""Cross entropy where there is a label, without ever holding the logits of a sequence."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Labels whose logits exist at one time."""


class _LabelLoss(torch.autograd.Function):
    """Gradients are made with the loss, while a chunk's logits are there: (p − 1[label]) / denominator."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, denominator: float) -> Tensor:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=wide)
        total = hidden.new_zeros((), dtype=wide)
        for start in range(0, len(hidden), CHUNK):
            part, label = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            logits = (part @ weight.t()).to(wide)
            normaliser = torch.logsumexp(logits, -1, keepdim=True)
            total += (normaliser - logits.gather(1, label)).sum()
            error = logits.sub_(normaliser).exp_().scatter_add_(1, label, logits.new_full(label.shape, -1.0))
            error = error.div_(denominator).to(hidden.dtype)
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
        return hidden_gradient * gradients[0], weight_gradient * gradients[0], None, None


def label_loss(hidden: Tensor, weight: Tensor, targets: Tensor, denominator: float) -> Tensor:
    """Sum of −log softmax(hidden · weightᵀ)[target] over `denominator`, the supervised tokens of the whole step.

    hidden [S, H] at the positions that predict a label; weight [V, H]; targets [S], int64. Logits, softmax and sum in
    fp32 (float64 for float64 input); gradients exact. Peak memory: one chunk of logits and one gradient of `weight`.
    """
    loss: Tensor = _LabelLoss.apply(hidden, weight, targets, denominator)  # type: ignore[no-untyped-call]
    return loss
