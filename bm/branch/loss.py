"""A loss where there is a label, without ever holding the logits of a sequence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bm.branch.shapes import evened
from bm.losses import Likeliest, cross_entropy, near, sft

NOTHING: Mapping[str, Tensor] = MappingProxyType({})
CHUNK = 512
"""Labels whose logits exist at one time, at most."""
LOGITS = 1 << 25
"""Logits that exist at one time, at most (128 MiB in fp32), so that a vocabulary of 152,000 takes no more than one of
65,536."""

Loss = Callable[..., Tensor]
"""One of `bm.losses`, its settings given."""


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

    def of(self, products: Tensor) -> Tensor:
        """Logits from products with the weight."""
        logits = products if self.scale == 1.0 else self.scale * products
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@dataclass(frozen=True)
class Told:
    """What a teacher says at the positions that predict a label."""

    hidden: Tensor
    """[S, width of the teacher]"""
    head: Head
    vocabulary: int | None = None
    """Tokens that there are, if that is known; what the head has beyond them is padding."""

    def said(self, start: int, end: int, dtype: torch.dtype) -> Tensor:
        """Logits [end − start, V] of the tokens that there are."""
        weight = self.head.weight[: self.vocabulary].to(self.hidden.dtype)
        return self.head.of((self.hidden[start:end] @ weight.t()).to(dtype))


@dataclass(frozen=True)
class Several:
    """What several teachers say, each at the labels of its own domains."""

    parts: Sequence[tuple[Tensor, Told]]
    """For each teacher the places among the S labels that are its own, ascending, and what it says there."""

    def said(self, start: int, end: int, dtype: torch.dtype) -> Tensor:
        """Logits [end − start, V]. Entries that not all teachers have are padding, and left out."""
        within = [(torch.searchsorted(rows, torch.tensor([start, end], device=rows.device)).tolist(), rows, told)
                  for rows, told in self.parts]  # fmt: skip
        said = [(rows[a:b] - start, told.said(a, b, dtype)) for (a, b), rows, told in within if b > a]
        out = said[0][1].new_empty(end - start, min(logits.shape[1] for _, logits in said))
        for rows, logits in said:
            out[rows] = logits[:, : out.shape[1]]
        return out


@dataclass(frozen=True)
class Kept:
    """What was stored of one or several teachers: their likeliest tokens at all S labels."""

    likeliest: Likeliest

    def said(self, start: int, end: int, dtype: torch.dtype) -> Likeliest:
        """That of some labels. Rounding on the disk has moved the sum of the probabilities, which is 1 again here."""
        log_p = torch.log_softmax(self.likeliest.log_p[start:end].to(dtype), -1)
        return Likeliest(self.likeliest.entries[start:end].long(), log_p, self.likeliest.vocabulary)


Said = Told | Several | Kept
"""What teachers say at the labels of a micro-batch."""


def at_a_time(entries: int) -> int:
    """Labels whose logits exist at one time, by the entries of the vocabulary."""
    return max(1, min(CHUNK, LOGITS // entries))


class _ChunkedLoss(torch.autograd.Function):
    """Gradients of hidden states and weight are made with the loss, while a chunk's logits are there.

    Nothing as large as the logits or the weight is made twice: chunks share their memory where the products are wide
    already, and the gradients go back as they are, for autograd to keep or add to in place.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, denominator: float, head: Head, loss: Loss,
        told: Said | None, rows: Mapping[str, Tensor],
    ) -> Tensor:  # fmt: skip
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        labels, hidden, matrix = len(hidden), evened(hidden, 0), weight.to(hidden.dtype)
        size = min(at_a_time(len(weight)), len(hidden))
        room = hidden.new_empty(size, len(weight))
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        total = hidden.new_zeros((), dtype=wide)
        for start in range(0, labels, max(1, size)):
            part, end = hidden[start : start + size], min(start + size, labels)
            taught = None if told is None else told.said(start, end, wide)
            more = {name: values[start:end] for name, values in rows.items()}
            products = torch.mm(part, matrix.t(), out=room[: len(part)])
            of_labels = products[: end - start]  # the rest are of zeros
            if loss is sft and head.plain:
                total += cross_entropy(of_labels, targets[start:end])
            else:
                asked = partial(loss, **more) if more else loss
                value, error = _differentiated(of_labels.to(wide), targets[start:end], head, asked, taught)
                of_labels.copy_(error)
                total += value
            torch.mm(products, matrix, out=hidden_gradient[start : start + size])
            if weight_gradient is not None:  # else the head is frozen
                _add_product(products.t(), part, weight_gradient, 1 / denominator)
        of_weight = None if weight_gradient is None else weight_gradient.to(weight.dtype)
        ctx.save_for_backward(hidden_gradient[:labels].div_(denominator), of_weight)
        ctx.scale = 1.0
        return total / denominator

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale, ctx.scale = gradients[0] / ctx.scale, gradients[0]  # in place, so by what is new of it
        for gradient in (hidden_gradient, weight_gradient):
            if gradient is not None:
                gradient.data.mul_(scale)
        return hidden_gradient, weight_gradient, *[None] * 6


def _add_product(left: Tensor, right: Tensor, wide: Tensor, factor: float) -> None:
    """wide += factor · left·right, [V, S] by [S, H]; where left and right are narrower, what fits a cache at a time."""
    if left.dtype == wide.dtype:
        wide.addmm_(left, right, alpha=factor)
        return
    rows = near(wide)
    for i in range(0, len(wide), rows):
        wide[i : i + rows].add_(left[i : i + rows] @ right, alpha=factor)


def _differentiated(
    products: Tensor, targets: Tensor, head: Head, loss: Loss, taught: Tensor | Likeliest | None
) -> tuple[Tensor, Tensor]:
    """A chunk's loss and its gradient with respect to the products [S, V] of hidden states and weight."""
    with torch.enable_grad():
        logits = head.of(products.requires_grad_())
        if taught is None:
            value = loss(logits, targets)
        elif isinstance(taught, Likeliest):
            value = loss(logits[:, : taught.vocabulary], targets, taught)
        else:  # rows that pad one of the two vocabularies are no tokens
            entries = min(logits.shape[1], taught.shape[1])
            value = loss(logits[:, :entries], targets, taught[:, :entries])
        (error,) = torch.autograd.grad(value, products)
    return value.detach(), error


def chunked_loss(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    denominator: float,
    loss: Loss = sft,
    told: Said | None = None,
    rows: Mapping[str, Tensor] = NOTHING,
) -> Tensor:
    """The loss of head(hidden) over `denominator`, the supervised tokens of the whole step, chunk by chunk.

    hidden [S, H] at the positions that predict a label; targets [S], int64. Logits, softmax and sum in fp32 (float64
    for float64 input); gradients exact. rows: what the loss asks for at each label besides, [S] by name. Peak memory:
    one chunk of logits, of the teacher's too if it is `told`, and one gradient of the head's weight. On CUDA with
    liger-kernel installed its fused kernel does the same for `sft`.
    """
    device, weight = hidden.device.type, head.weight
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        if device == "cuda" and loss is sft and head.plain and len(targets) and find_spec("liger_kernel"):
            return fused(hidden, weight.to(hidden.dtype), targets) / denominator
        total: Tensor = _ChunkedLoss.apply(hidden, weight, targets, denominator, head, loss, told, rows)  # type: ignore[no-untyped-call]
        return total


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The summed cross entropy by liger-kernel, which needs at least one label."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

    loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)(weight, hidden, targets)
    return loss
