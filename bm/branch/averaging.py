"""Averages of the weights along a training: flatter than its last point, and nearer to where the others average to."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bm.branch.parallel import held
from bm.config import Branch


class Averaging:
    """The mean of a model's weights over steps of its training, fp32, sharded as they are; none if not asked for.

    `ema`: θ̄ ← d·θ̄ + (1 − d)·θ after each step, from the first step's weights on. `tail`: the plain mean over the last
    share of the steps (Polyak & Juditsky 1992, doi 10.1137/0330046; late weights as in SWA, arXiv 1803.05407).
    """

    def __init__(self, config: Branch, model: nn.Module, steps: int) -> None:
        self.decay, self.model = config.ema, model
        self.first = steps + 1
        """The first step, from 1, whose weights count."""
        if config.ema is not None:
            self.first = 1
        elif config.tail is not None:
            self.first = min(steps, round((1 - config.tail) * steps) + 1)
        self.mean: dict[str, Tensor] = {}
        if self.first <= steps:
            self.mean = {name: torch.zeros_like(p.detach()) for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step, counted from 1."""
        if not self.mean or step < self.first:
            return
        share = 1 / (step - self.first + 1)  # of the newest weights in a plain mean
        if self.decay is not None:
            share = 1.0 if step == self.first else 1 - self.decay
        for name, parameter in _trained(self.model):
            self.mean[name].lerp_(parameter.detach(), share)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of it, or is read into."""
        return {"average": self.mean} if self.mean else {}

    @torch.no_grad()
    def finish(self, step: int) -> None:
        """The mean in place of the weights."""
        if self.mean and step >= self.first:
            for name, parameter in _trained(self.model):
                parameter.copy_(self.mean[name])

    @contextmanager
    def in_place(self, step: int) -> Iterator[None]:
        """Inside, the model has the mean for weights."""
        own = {name: p.detach().clone() for name, p in _trained(self.model)} if self.mean else {}
        self.finish(step)
        yield
        with torch.no_grad():
            for name, parameter in _trained(self.model):
                if name in own:
                    parameter.copy_(own[name])


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What steps change: all parameters, or an adapter's."""
    return [(name, parameter) for name, parameter in held(model) if parameter.requires_grad]
