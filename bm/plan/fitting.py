"""Whether a training fits its GPUs, and the smallest change with which it would."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from bm.branch.attention import ISOLATED
from bm.config import Adapter, Branch, Trainer
from bm.plan.architecture import heads
from bm.plan.memory import Memory, training_memory

NODES, NODE = 8, 8
"""Machines that are tried at most, and GPUs of one."""


@dataclass(frozen=True)
class Fit:
    memory: Memory
    """As it is configured."""
    fits: bool
    change: str | None
    """Settings with which it would fit; None if it does, or if none of those that were tried would."""


@dataclass(frozen=True)
class Change:
    """Settings, as they are written, and what they make of a training."""

    words: str
    branch: Branch
    trainer: Trainer


def fit(
    config: PreTrainedConfig, branch: Branch, trainer: Trainer, adapter: Adapter, free: float,
    attention: str = ISOLATED, held: float = 0.0,
) -> Fit:  # fmt: skip
    """free: bytes that tensors may take of a GPU, or of the memory of a process on CPUs; adapter: what may be trained
    instead of all weights; `attention` and `held` as in `training_memory`.
    """
    memory = training_memory(config, branch, trainer, attention, held)
    if taken(memory, trainer) <= free:
        return Fit(memory, True, None)
    for change in changes(config, branch, trainer, adapter):
        then = training_memory(config, change.branch, change.trainer, attention, held)
        if taken(then, change.trainer) <= free:
            return Fit(memory, False, change.words)
    return Fit(memory, False, None)


def taken(memory: Memory, trainer: Trainer) -> float:
    """Bytes that a training takes at the most of a GPU, or of RAM."""
    return memory.peak if trainer.accelerator == "gpu" else memory.in_ram


def changes(config: PreTrainedConfig, branch: Branch, trainer: Trainer, adapter: Adapter) -> Iterator[Change]:
    """What would take less memory, from what costs nothing but time to what trains something else; they add up."""
    words: list[str] = []

    def now() -> Change:
        return Change(" ".join(words), branch, trainer)

    if trainer.activation_checkpointing != "full":
        words, trainer = (
            [*words, "trainer.activation_checkpointing=full"],
            replace(trainer, activation_checkpointing="full"),
        )
        yield now()
    if branch.micro_batch > 1:
        words, branch = [*words, "branch.micro_batch=1"], replace(branch, micro_batch=1)
        yield now()
    ranks, gpu = trainer.devices * trainer.nodes, trainer.accelerator == "gpu"
    for sequence in (2, 4, 8):
        allowed = not ranks % sequence and not heads(config) % sequence
        if allowed and trainer.sequence_parallel < sequence <= trainer.devices:
            yield Change(
                " ".join([*words, f"trainer.sequence_parallel={sequence}"]),
                branch,
                replace(trainer, sequence_parallel=sequence),
            )
    for devices, nodes in _larger(trainer) if gpu else ():
        more = [f"trainer=fsdp trainer.devices={devices}"] if nodes == 1 else [f"trainer=slurm trainer.nodes={nodes}"]
        yield Change(" ".join([*words, *more]), branch, replace(trainer, devices=devices, nodes=nodes))
    if gpu and ranks > 1 and not trainer.weight_offload:
        yield Change(" ".join([*words, "trainer.weight_offload=true"]), branch, replace(trainer, weight_offload=True))
    if branch.adapter is None:
        yield Change(" ".join([*words, "adapter=lora"]), replace(branch, adapter=adapter), trainer)
    if gpu and ranks == 1:
        yield Change(
            " ".join([*words, "adapter=lora branch.adapter.quantize=nf4"]),
            replace(branch, adapter=replace(branch.adapter or adapter, quantize="nf4")), trainer,
        )  # fmt: skip


def _larger(trainer: Trainer) -> Iterator[tuple[int, int]]:
    """More GPUs of the node, then more nodes: twice as many each time."""
    devices, nodes = trainer.devices, trainer.nodes
    while devices < NODE:
        devices = min(NODE, 2 * devices)
        yield devices, nodes
    while nodes < NODES:
        nodes *= 2
        yield devices, nodes
