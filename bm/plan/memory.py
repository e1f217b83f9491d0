"""What a training step holds on one rank: the real module takes two steps with tensors that have shapes but no data."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PreTrainedConfig

from bm.branch.attention import ISOLATED
from bm.branch.data import MicroBatch, flat
from bm.branch.model import Student, divided, frozen_dtype, whole
from bm.branch.parallel import Place
from bm.config import Branch, Trainer
from bm.plan.architecture import shaped
from bm.plan.live import Live

NF4_BYTES = 0.516
"""Bytes of a weight in four bits, with its share of the doubly quantised constants of its block (arXiv 2305.14314)."""
HOLES = 0.5
"""What the heap of a CPU process leaves unused between tensors, as a share of what a forward pass makes: with SmolLM2
0.4 for all weights, 0.65 for LoRA at 256 and 512 tokens, and 0.73 at 1,024. glibc's aligned allocation cannot reuse the
room that a tensor of the same size left, and tensors made later keep that room from being joined."""
DEPTHS = 3, 5
"""Layers of the two shallow copies of a deep model: memory is linear in the number of equal layers."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank: what lies there between steps, the gradients, and the most in each part of a step."""

    parameters: float
    gradients: float
    optimizer: float
    forward: float
    backward: float
    step: float

    @property
    def peak(self) -> float:
        """The most at any moment."""
        return max(self.forward, self.backward, self.step)

    @property
    def in_ram(self) -> float:
        """The most of a process on CPUs, with what its heap leaves unused."""
        made = self.forward - self.parameters - self.optimizer
        return max(self.forward + HOLES * made, self.backward, self.step)

    @property
    def activations(self) -> float:
        """What the peak has beside them: activations, gathered blocks, logits, buffers."""
        return max(0.0, self.peak - self.parameters - self.gradients - self.optimizer)


def training_memory(
    config: PreTrainedConfig, branch: Branch, trainer: Trainer, attention: str = ISOLATED, held: float = 0.0
) -> Memory:
    """Memory of a full micro-batch in which every token is learned, at the trainer's number of ranks.

    attention: as `attention_for` has it; held: bytes of teachers, which ranks share. With `weight_offload` none
    of the parameters, gradients and optimiser state are on the GPU; a block's are gathered there while it computes.
    A deep model is simulated at two depths and continued to its own; its layers must be of one kind for that. Weights
    in four bits are simulated in bf16, as no such kernel runs here, and the known difference is taken off.
    """
    memory = _at_full_depth(config, _dequantised(branch), trainer, attention)
    beside = 0.0 if trainer.weight_offload else held / (trainer.devices * trainer.nodes)
    if branch.adapter is not None and branch.adapter.quantize:
        beside -= _saved(config)
    return replace(memory, parameters=memory.parameters + beside, forward=memory.forward + beside,
                   backward=memory.backward + beside, step=memory.step + beside)  # fmt: skip


def _dequantised(branch: Branch) -> Branch:
    return replace(branch, adapter=branch.adapter and replace(branch.adapter, quantize=None))


def _saved(config: PreTrainedConfig) -> float:
    """Bytes that four bits an entry of the products leave of sixteen."""
    model = shaped(config)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    entries = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    return entries * (2 - NF4_BYTES)


def _at_full_depth(config: PreTrainedConfig, branch: Branch, trainer: Trainer, attention: str) -> Memory:
    depth = config.num_hidden_layers
    if depth <= DEPTHS[1] or len(set(getattr(config, "layer_types", None) or [""])) > 1:
        return _simulated(config, branch, trainer, attention)
    low, high = (astuple(_simulated(_shallow(config, layers), branch, trainer, attention)) for layers in DEPTHS)
    further = (depth - DEPTHS[1]) / (DEPTHS[1] - DEPTHS[0])
    return Memory(*(b + (b - a) * further for a, b in zip(low, high, strict=True)))


def _shallow(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    shallow = copy.deepcopy(config)
    if getattr(config, "layer_types", None):
        shallow.layer_types = config.layer_types[:layers]
    shallow.num_hidden_layers = layers
    return shallow


def _simulated(config: PreTrainedConfig, branch: Branch, trainer: Trainer, attention: str) -> Memory:
    """Two steps of the real module on a rank of a group in which nobody else answers."""
    with _mesh(trainer) as mesh:
        batch = _batch(branch, Place.on(mesh) if mesh else Place(), attention)
        with FakeTensorMode(allow_non_fake_inputs=True), Live() as live:
            there = live.elsewhere if trainer.weight_offload else nullcontext
            with _staying(), there():
                student = _student(config, branch, trainer, mesh, attention)
            if trainer.weight_offload:
                for weight in student.parameters():
                    weight.register_post_accumulate_grad_hook(lambda w: live.leaves(w.grad))  # type: ignore[no-untyped-call]
            optimizer = branch.optimizer(student, branch.learning_rate)
            for _ in range(2):  # the optimiser's state is there from the second on
                live.restart()
                with _precision(trainer, mesh):
                    loss = student(batch, float(batch.targets.numel()))
                forward = live.restart()
                loss.backward()
                del loss
                backward = live.restart()
                with there():
                    optimizer.step()
                step = live.restart()
                gradients = _bytes([p.grad for p in student.parameters() if p.grad is not None])
                optimizer.zero_grad()
            state = [value for entries in optimizer.state.values() for value in entries.values()]
            held = _bytes(list(student.parameters())), gradients, _bytes(state)
            on_gpu = (0, 0, 0) if trainer.weight_offload else held
            return Memory(*on_gpu, forward, backward, step)


@contextmanager
def _mesh(trainer: Trainer) -> Iterator[DeviceMesh | None]:
    """Ranks along (data, sequence), of which this process is the first and the others do not exist."""
    ranks, sequence = trainer.devices * trainer.nodes, trainer.sequence_parallel
    if ranks == 1:
        yield None
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        names = ("data_parallel", "tensor_parallel")
        mesh = init_device_mesh("cpu", (ranks // sequence, sequence), mesh_dim_names=names)
        mesh._flatten("ranks")  # here, where its arithmetic has data
        yield mesh
    finally:
        dist.destroy_process_group()


def _batch(branch: Branch, place: Place, attention: str = ISOLATED) -> MicroBatch:
    """As many full packs as a forward pass has, each one document with a prompt of one token."""
    length, packs = branch.sequence_length, branch.micro_batch if attention == ISOLATED else 1
    documents = [np.zeros(length, dtype=np.int32)] * packs
    return flat(documents, [1] * packs, [length] * packs).stretch(place)


def _student(
    config: PreTrainedConfig, branch: Branch, trainer: Trainer, mesh: DeviceMesh | None, attention: str
) -> Student:
    dtype = frozen_dtype(branch.adapter, trainer) if mesh is None else torch.float32
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    model = AutoModelForCausalLM.from_config(config, **settings)  # type: ignore[no-untyped-call]
    if mesh is None:
        return whole(model, attention, trainer, branch.adapter)
    return divided(model, attention, trainer, mesh, branch.adapter, lambda module, prefix: None)


@contextmanager
def _staying() -> Iterator[None]:
    """peft moves what it has made to the device where it is already, which modules without data cannot follow."""
    move = nn.Module.to
    nn.Module.to = lambda module, *_, **__: module  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]


def _precision(trainer: Trainer, mesh: DeviceMesh | None) -> AbstractContextManager[Any]:
    """As Lightning has it for one process; FSDP2 has a policy of its own."""
    alone = mesh is None and trainer.precision == "bf16-mixed"
    return torch.autocast("cpu", torch.bfloat16) if alone else nullcontext()


def _bytes(tensors: Sequence[Any]) -> int:
    """Bytes of this rank's parts, each storage once: gradients of a block are views of what was scattered together."""
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors if isinstance(t, torch.Tensor)]
    storages = {part.untyped_storage()._cdata: part.untyped_storage().nbytes() for part in local}
    return sum(storages.values())
