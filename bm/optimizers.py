"""Optimisers that training can step with: each makes a `torch.optim.Optimizer` for a module's trainable parameters.

An optimiser with `again = True` needs a gradient more than once per step: its `step` is called, with the gradient in
place, with a function that computes it anew at the weights as they are then.

A function `(module, learning_rate, *, …settings)` of your own, named by `_target_` in a YAML, does as well. The rate of
each step is set by the schedule; `learning_rate` is its peak.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.distributed.tensor import DTensor

Decay = Annotated[float, Field(ge=0, lt=1)]
TINY = 1e-12
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


class SAM(torch.optim.AdamW):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412, algorithm 1) with AdamW's steps.

    A step goes by the gradient at w + ρ·g/‖g‖, the worst place near w to first order, g the gradient at w over all
    parameters and ranks. Two gradients a step; the weights are held a second time meanwhile.
    """

    again = True

    def __init__(self, params: Any, rho: float, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.rho = rho

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """closure: computes the gradient anew, at the weights as they are; without it AdamW's step."""
        if closure is None:
            return super().step()
        own = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in own])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        before = [p.clone() for p in own]
        for p in own:
            p.add_(p.grad * (self.rho / (norm + TINY)))
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, w in zip(own, before, strict=True):
            p.copy_(w)  # to the bit, which subtracting what was added is not
        return super().step()


def sam(
    module: nn.Module, learning_rate: float, *, rho: Annotated[float, Field(gt=0)], betas: tuple[Decay, Decay],
    eps: Annotated[float, Field(gt=0)], weight_decay: NotNegative,
) -> torch.optim.Optimizer:  # fmt: skip
    """SAM over AdamW: flat minima, which merge better (arXiv 2504.14662). State: AdamW's; twice the time."""
    return SAM(module.parameters(), rho, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
