"""Many processes as one: which part of a step a rank computes, sequence parallel attention, sharded weights.

Ranks form a mesh (data, sequence). Those along `sequence` share the same packs, cut into equal stretches of tokens, and
trade heads for tokens around each attention (Ulysses, arXiv 2309.14509). Weights, gradients and optimiser state are
sharded over all ranks (FSDP2, arXiv 2304.11277).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from bm.config import Trainer
from bm.errors import UserError


@dataclass(frozen=True)
class Place:
    """One process among all: its coordinates, and the group that shares its packs."""

    data_rank: int = 0
    data_size: int = 1
    sequence_rank: int = 0
    sequence_size: int = 1
    sequence_group: dist.ProcessGroup | None = None

    @classmethod
    def on(cls, mesh: DeviceMesh) -> "Place":
        data, sequence = mesh["data_parallel"], mesh["tensor_parallel"]  # the names that Lightning gives them
        return cls(data.get_local_rank(), data.size(), sequence.get_local_rank(), sequence.size(), sequence.get_group())


class _Exchange(torch.autograd.Function):
    """Part i of the first dimension goes to rank i of the group, whose part for us takes its place; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        received = torch.empty_like(parts, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, parts.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradients[0], ctx.group), None  # type: ignore[no-untyped-call]


def heads_for_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[1, heads, T / n, D] of every rank to [1, heads / n, T, D]: all tokens of a share of the heads."""
    n, (_, heads, tokens, width) = group.size(), x.shape
    parts = x.reshape(n, heads // n, tokens, width)
    received: Tensor = _Exchange.apply(parts, group)  # type: ignore[no-untyped-call]
    return received.transpose(0, 1).reshape(1, heads // n, n * tokens, width)


def tokens_for_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back, from [1, heads / n, T, D] to [1, heads, T / n, D]."""
    n, (_, heads, tokens, width) = group.size(), x.shape
    parts = x.reshape(heads, n, tokens // n, width).transpose(0, 1)
    received: Tensor = _Exchange.apply(parts, group)  # type: ignore[no-untyped-call]
    return received.reshape(1, n * heads, tokens // n, width)


def shard(module: nn.Module, mesh: DeviceMesh, trainer: Trainer) -> None:
    """FSDP2 of the parameters of `module` that are not sharded yet, over all ranks, in the trainer's precision.

    Weights stay fp32, and gradients are summed over ranks in fp32: each rank's loss is already its share of the mean.
    """
    mixed = trainer.precision == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy()
    pinned = mesh.device_type == "cuda"  # memory that a GPU reads and writes while it computes
    offload = CPUOffloadPolicy(pin_memory=pinned) if trainer.weight_offload else OffloadPolicy()
    sharded = fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=offload)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)  # a sum that every backend knows, without a factor


def held(module: nn.Module, every_name: bool = False) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters as the optimiser has them, tied ones once or by `every_name`.

    FSDP leaves the root's weights whole after a forward pass that no backward pass follows, and so not the optimiser's.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return list(module.named_parameters(remove_duplicate=not every_name))


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights are, or for offloaded ones where they are gathered."""
    weight = next(module.parameters())
    return torch.device(weight.device_mesh.device_type) if isinstance(weight, DTensor) else weight.device


def blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """The decoder layers with the prefix of their parameters' names."""
    prefix = f"{model.base_model_prefix}.layers."
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"{type(model).__name__}: no decoder layers at {prefix[:-1]}, so it cannot be sharded by blocks"
        )
    return [(f"{prefix}{index}.", layer) for index, layer in enumerate(layers)]


def check_heads(model: PreTrainedModel, sequence_size: int) -> None:
    heads = getattr(model.config, "num_attention_heads", 0)  # none in a model that keeps a state
    if heads % sequence_size:
        raise UserError(f"trainer.sequence_parallel={sequence_size} does not divide the student's {heads} heads")


def summed(value: Tensor) -> Tensor:
    """The sum over all ranks."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value
