"""Optimisers that training can step with: each makes a `torch.optim.Optimizer` for a module's trainable parameters.

A function `(module, learning_rate, *, …settings)` of your own, named by `_target_` in a YAML, does as well. The rate of
each step is set by the schedule; `learning_rate` is its peak.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]


def trained(module: nn.Module) -> list[nn.Parameter]:
    """What a step changes: all parameters, or an adapter's alone."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def adamw(
    module: nn.Module, learning_rate: float, *, betas: tuple[Decay, Decay], eps: Annotated[float, Field(gt=0)],
    weight_decay: NotNegative,
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW: Adam with decoupled weight decay (arXiv 1711.05101). State: two fp32 numbers a parameter."""
    return torch.optim.AdamW(
        trained(module), lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
    )


def sgd(
    module: nn.Module, learning_rate: float, *, momentum: Annotated[float, Field(ge=0, lt=1)], weight_decay: NotNegative
) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov's momentum (Sutskever et al. 2013). State: one fp32 number per parameter."""
    return torch.optim.SGD(
        trained(module), lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )
