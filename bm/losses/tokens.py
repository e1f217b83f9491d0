"""Losses of tokens, from logits: what a student learns at each label, alone or from a teacher."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from bm.losses.distributions import Likeliest, distributions

Temperature = Annotated[float, Field(gt=0)]
NEAR = 1 << 19
"""Entries that stay in a core's cache."""


def sft(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with the labels: Σ −log softmax(z)[y]. Overwrites `logits`, the largest tensor of a step."""
    loss: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


def near(values: Tensor) -> int:
    """Rows of [S, V] that are worked on at a time: on a CPU what stays in a core's cache, elsewhere, and of tensors
    without data, by which memory is planned, all."""
    real = values.device.type == "cpu" and type(values) in (Tensor, torch.nn.Parameter)
    return max(1, NEAR // values.shape[1] if real else len(values))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`sft` in fp32 or wider; its gradient softmax(z) − 1[y] takes the place of the logits, in their dtype.

    On a CPU a few rows at a time, which stay in a core's cache from the first of the passes over them to the last.
    """
    rows = near(logits)
    total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
    for i in range(0, len(logits), rows):
        total += _cross_entropy(logits[i : i + rows], targets[i : i + rows])
    return total


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    label = targets[:, None]
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    z -= z.amax(-1, keepdim=True)
    chosen = z.gather(1, label)
    sums = z.exp_().sum(-1, keepdim=True)
    z.div_(sums).scatter_add_(1, label, z.new_full(label.shape, -1.0))
    if z is not logits:
        logits.copy_(z)
    return (sums.log() - chosen).sum()


class _CrossEntropy(torch.autograd.Function):
    """The gradient is made with the loss, where the logits were."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.error = logits
        return cross_entropy(logits, targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.error.mul_(gradients[0]), None


def kd(
    logits: Tensor, targets: Tensor, teacher: Tensor | Likeliest, *, divergence: Literal["forward", "reverse", "jsd"],
    temperature: Temperature,
) -> Tensor:  # fmt: skip
    """Distillation from a teacher's logits: T² Σ D(p, q), p = softmax(teacher / T), q = softmax(logits / T).

    D is KL(p‖q) (`forward`, Hinton et al., arXiv 1503.02531), KL(q‖p) (`reverse`, arXiv 2306.08543) or the
    Jensen-Shannon divergence (`jsd`, `gkd` at β = ½). T² keeps the size of the gradient. On traces this is
    teacher-forced; on the student's own samples, `reverse` is on-policy distillation (MOPD, arXiv 2606.30406). The
    labels only say where a response is. Of a teacher's k likeliest tokens p and q are taken over these and all others
    together (`bm.losses.distributions`).
    """
    if divergence == "jsd":
        return gkd(logits, targets, teacher, beta=0.5, temperature=temperature)
    p, q = distributions(logits, teacher, temperature)
    return temperature**2 * (_kl(p, q) if divergence == "forward" else _kl(q, p)).sum()


def gkd(
    logits: Tensor, targets: Tensor, teacher: Tensor | Likeliest, *, beta: Annotated[float, Field(gt=0, lt=1)],
    temperature: Temperature,
) -> Tensor:  # fmt: skip
    """Generalised Jensen-Shannon divergence: T² Σ [β KL(p‖m) + (1 − β) KL(q‖m)], m = βp + (1 − β)q; p and q as in `kd`.

    GKD, arXiv 2306.13649, equation 1 and section 3.1. Divided by β it tends to KL(p‖q) as β → 0, divided by 1 − β to
    KL(q‖p) as β → 1.
    """
    p, q = distributions(logits, teacher, temperature)
    m = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    return temperature**2 * (beta * _kl(p, m) + (1 - beta) * _kl(q, m)).sum()


def pckd(
    logits: Tensor, targets: Tensor, teacher: Tensor | Likeliest, difficulty: Tensor, epoch: float, *,
    weight: Annotated[float, Field(gt=0)], growth: Annotated[float, Field(ge=1)], temperature: Temperature,
) -> Tensor:  # fmt: skip
    """Preview-based distillation: Σ −log q[y] + δ T² Σ w KL(p‖q), w = 1 if α ≤ growth^epoch, else exp(−α²).

    difficulty [S]: α, the cross entropy of the label's trace over the mean of the step's traces. Hard traces wait: the
    teacher's distribution counts for little on them until, epoch by epoch, the limit has grown past them. `weight` is
    δ. PCKD, arXiv 2410.14143, section 3 and its code; there a sample is an image, here it is a trace.
    """
    preview = torch.where(difficulty <= growth**epoch, 1.0, torch.exp(-difficulty.square()))
    p, q = distributions(logits, teacher, temperature)
    labels = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return labels + weight * temperature**2 * (preview * _kl(p, q)).sum()


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ eᵖ (p − q) of each row, for log-probabilities."""
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)
