"""What training minimises, over a chunk of the positions that predict a label.

A loss is a function `(logits, targets, …settings)` or, to learn from a teacher's logits as well, `(logits, targets,
teacher, …settings)`. Logits and teacher are [S, V] in fp32 (float64 in gradient checks), targets [S], int64; it returns
the sum over the chunk as a scalar. Training differentiates it with respect to the logits, divides by the supervised
tokens of the whole step, and never holds the logits of more than a chunk. A function of your own that a YAML names by
`_target_` does as well.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor


def sft(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with the labels: Σ −log softmax(z)[y]. Overwrites `logits`, the largest tensor of a step."""
    loss: Tensor = _CrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """The gradient softmax(z) − 1[y] is made with the loss, in the place of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        label = targets[:, None]
        logits -= logits.amax(-1, keepdim=True)
        chosen = logits.gather(1, label)
        sums = logits.exp_().sum(-1, keepdim=True)
        ctx.error = logits.div_(sums).scatter_add_(1, label, logits.new_full(label.shape, -1.0))
        return (sums.log() - chosen).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.error.mul_(gradients[0]), None


def kd(
    logits: Tensor, targets: Tensor, teacher: Tensor, *, divergence: Literal["forward", "reverse", "jsd"],
    temperature: Annotated[float, Field(gt=0)],
) -> Tensor:  # fmt: skip
    """Distillation on the traces, teacher-forced: T² Σ D(p, q), p = softmax(teacher / T), q = softmax(logits / T).

    D is KL(p‖q) (`forward`, Hinton et al., arXiv 1503.02531), KL(q‖p) (`reverse`, arXiv 2306.08543), or with
    m = (p + q) / 2 the Jensen-Shannon divergence ½ KL(p‖m) + ½ KL(q‖m) (`jsd`, arXiv 2306.13649). T² keeps the
    size of the gradient. The labels only say where a response is.
    """
    p, q = (torch.log_softmax(z / temperature, -1) for z in (teacher, logits))
    if divergence == "forward":
        each = _kl(p, q)
    elif divergence == "reverse":
        each = _kl(q, p)
    else:
        m = torch.logaddexp(p, q) - torch.log(p.new_tensor(2.0))
        each = (_kl(p, m) + _kl(q, m)) / 2
    return temperature**2 * each


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ eᵖ (p − q) for log-probabilities."""
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
