"""The student as training needs it: isolated attention, fp32 weights, checkpointed and sharded as the trainer asks."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from bm.branch import parallel
from bm.branch.adapter import adapt, quantised, written
from bm.branch.attention import ISOLATED
from bm.branch.data import MicroBatch, flat
from bm.branch.loss import NOTHING, Head, Loss, Said, Told, chunked_loss
from bm.branch.parallel import Place
from bm.branch.traces import Relation, averaged
from bm.config import Adapter, Trainer
from bm.errors import UserError
from bm.generate.weights import ADAPTER, load_model, with_adapter
from bm.losses import sft


class Student(nn.Module):
    """A causal language model whose forward pass ends in its share of the step's loss."""

    def __init__(self, model: PreTrainedModel, attention: str = ISOLATED, offload: bool = False) -> None:
        """`attention` is ISOLATED, or OWN for micro-batches that are one segment each."""
        super().__init__()
        self.model, self.isolated, self.offload = model, attention == ISOLATED, offload
        self.vocabulary: int | None = None
        """How many tokens a teacher's tokenizer has; rows of its head beyond them are padding."""

    def forward(
        self,
        batch: MicroBatch,
        denominator: float,
        loss: Loss = sft,
        told: Said | None = None,
        rows: Mapping[str, Tensor] = NOTHING,
        relation: Relation | None = None,
    ) -> Tensor:
        """The micro-batch's token losses over the supervised tokens of the whole step: a scalar, fp32.

        rows: what else the loss asks for at each label; relation: added to it, of the traces' features.
        """
        hidden = self._hidden(batch)
        total = chunked_loss(hidden, head_of(self.model), batch.targets, denominator, loss, told, rows)
        return total if relation is None else total + relation(averaged(hidden, batch))

    @torch.no_grad()
    def tell(self, batch: MicroBatch) -> Told:
        """What this model says where the micro-batch has labels, for another one to learn from."""
        return Told(self._hidden(batch), head_of(self.model), self.vocabulary)

    def _hidden(self, batch: MicroBatch) -> Tensor:
        """[S, H] at the positions that predict a label."""
        apart: dict[str, Any] = {}
        if self.isolated:
            batch = batch.evened()
            apart = {"position_ids": batch.positions, "segments": batch.segments}
        with self._saved(batch.ids.is_cuda):
            hidden = self.model.base_model(input_ids=batch.ids, use_cache=False, **apart).last_hidden_state[0]
        at_labels: Tensor = hidden[batch.labelled]
        return at_labels

    def _saved(self, cuda: bool) -> AbstractContextManager[Any]:
        """Where activations wait for the backward pass."""
        return torch.autograd.graph.save_on_cpu(pin_memory=cuda) if self.offload else nullcontext()


def head_of(model: PreTrainedModel) -> Head:
    """A model's last layer, with what its configuration does to the logits; UserError if it is not a plain product."""
    layer, config = model.get_output_embeddings(), model.config  # type: ignore[no-untyped-call]
    if not isinstance(layer, nn.Linear) or layer.bias is not None:
        raise UserError(
            f"{config.model_type}: its last layer is not a product with a matrix alone, which the loss needs"
        )
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, scale, getattr(config, "final_logit_softcapping", None))


def load(
    folder: Path,
    attention: str,
    longest: int,
    trainer: Trainer,
    mesh: DeviceMesh | None,
    adapter: Adapter | None = None,
) -> Student:
    """The Hugging Face folder as a Student in training mode, sharded over `mesh` if given.

    `attention` is how tokens attend to each other, `longest` the most that do. With an `adapter` nothing but that is
    trained. UserError if `longest` is more than the model's context, or if the folder's weights are not whole.
    """
    config = AutoConfig.from_pretrained(folder)
    limit = getattr(config, "max_position_embeddings", None)
    if limit and longest > limit:
        raise UserError(f"a segment of {longest} tokens exceeds the context of {folder}, {limit}")
    if mesh is not None:
        return _sharded(folder, config, attention, trainer, mesh, adapter)
    model = load_model(folder, frozen_dtype(adapter, trainer), attn_implementation=attention, **quantised(adapter))
    return whole(model, attention, trainer, adapter)


def frozen_dtype(adapter: Adapter | None, trainer: Trainer) -> torch.dtype:
    """The type of frozen weights in one process: what no step changes need not be fp32 where the arithmetic is bf16."""
    return torch.bfloat16 if adapter is not None and trainer.precision == "bf16-mixed" else torch.float32


def whole(model: PreTrainedModel, attention: str, trainer: Trainer, adapter: Adapter | None) -> Student:
    """A model of one process as a Student."""
    if adapter is not None:
        model.requires_grad_(False)
        for prefix, block in parallel.blocks(model):
            adapt(block, prefix, adapter)
    return _student(model, attention, trainer)


def _student(model: PreTrainedModel, attention: str, trainer: Trainer) -> Student:
    if trainer.activation_checkpointing != "none":
        selective = {"context_fn": partial(create_selective_checkpoint_contexts, keep_products)}
        more = selective if trainer.activation_checkpointing == "selective" else {}
        model.activation_checkpointing_enable({"use_reentrant": False, **more})
    return Student(model, attention, trainer.activation_offload).train()


def keep_products(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    """Selective checkpointing: what a matrix product or an attention gave is kept, everything cheaper is made again."""
    costly = any(part in str(operation) for part in ("mm.default", "attention", "flash_attn"))
    return CheckpointPolicy.MUST_SAVE if costly else CheckpointPolicy.PREFER_RECOMPUTE


def _sharded(
    folder: Path, config: PreTrainedConfig, attention: str, trainer: Trainer, mesh: DeviceMesh, adapter: Adapter | None
) -> Student:
    """Read block by block: no rank ever holds the whole model."""
    with parameters_on_meta():
        settings = {"dtype": torch.float32, "attn_implementation": attention}
        model = AutoModelForCausalLM.from_config(config, **settings)  # type: ignore[no-untyped-call]
    return divided(model, attention, trainer, mesh, adapter, Weights(folder).into)


def divided(
    model: PreTrainedModel, attention: str, trainer: Trainer, mesh: DeviceMesh, adapter: Adapter | None,
    fill: Callable[[nn.Module, str], None],
) -> Student:  # fmt: skip
    """FSDP2 of every block by itself and of the rest; `fill(module, prefix)` gives a module its weights just before."""
    parallel.check_heads(model, trainer.sequence_parallel)
    if adapter is not None:
        model.requires_grad_(False)
    student, ranks = _student(model, attention, trainer), mesh._flatten("ranks")
    for prefix, block in parallel.blocks(model):
        fill(block, prefix)
        if adapter is not None:
            adapt(block, prefix, adapter)
        parallel.shard(block, ranks, trainer)
    fill(model, "")
    model.tie_weights()
    parallel.shard(student, ranks, trainer)
    return student


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside have shapes for parameters and real buffers, which no checkpoint holds."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Weights:
    """The safetensors of a model folder, by parameter name."""

    def __init__(self, folder: Path) -> None:
        self._files = {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}

    def into(self, module: nn.Module, prefix: str) -> None:
        """Every parameter of `module` that has only a shape, in fp32; `prefix` is the module's name in the model."""
        for name, parameter in list(module.named_parameters()):
            if parameter.is_meta:
                if prefix + name not in self._files:
                    raise UserError(f"the student's weights lack {prefix + name}")
                with safe_open(self._files[prefix + name], framework="pt") as file:
                    tensor = file.get_tensor(prefix + name).to(torch.float32)
                if tensor.shape != parameter.shape:
                    shapes = f"has {list(tensor.shape)}, needs {list(parameter.shape)}"
                    raise UserError(f"the student's weights have the wrong shape of {prefix + name} ({shapes})")
                owner, _, last = name.rpartition(".")
                setattr(module.get_submodule(owner), last, nn.Parameter(tensor, parameter.requires_grad))


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as problem:
        raise UserError(f"{path} cannot be read as safetensors: {problem}") from problem


@torch.no_grad()
def prove_isolation(student: Student, place: Place, device: torch.device) -> None:
    """UserError unless a document has the same loss beside another document, beside a changed one, and alone."""
    if not student.isolated:
        return  # a forward pass is one segment: there are no neighbours
    first, second = np.arange(1, 6, dtype=np.int32), np.arange(6, 13, dtype=np.int32)
    losses = []
    student.eval()  # no dropout: losses must be comparable
    for neighbour in ([first], [first[::-1]], []):
        documents, prompts = [*neighbour, second], [len(n) for n in neighbour] + [1]
        batch = flat(documents, prompts, [len(d) for d in documents]).stretch(place).to(device)
        losses.append(parallel.summed(student(batch, 6.0 * place.data_size)).item())
    student.train()
    beside, changed, alone = losses
    if abs(beside - changed) > 1e-6 * abs(beside) or abs(beside - alone) > 2e-2 * abs(alone):
        raise UserError(
            f"{student.model.config.model_type}: a document's loss depends on its neighbours in the pack "
            f"({beside:.6g}, {changed:.6g}, {alone:.6g}), so this model cannot be trained on packed documents"
        )


@torch.no_grad()
def gathered(student: Student, dtype: torch.dtype, part: str = "") -> dict[str, Tensor]:
    """The weights whose names have `part` in them, on the CPU, tied ones once; gathered by all ranks for the first."""
    model, first = student.model, not dist.is_initialized() or dist.get_rank() == 0
    once, all_names = ({name for name, _ in parallel.held(model, every_name)} for every_name in (False, True))
    state = {}
    for name, value in model.state_dict().items():
        if part not in name or (name in all_names and name not in once):  # a second name of tied weights
            continue
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if first:
            state[name] = whole.to("cpu", dtype)
    return state


def stored_dtype(folder: Path) -> torch.dtype:
    """The numeric type that a model folder has its weights in."""
    stored = AutoConfig.from_pretrained(folder).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def export(student: Student, initial: Path, folder: Path, adapter: Adapter | None = None) -> None:
    """One Hugging Face folder like `initial`, in its dtype, gathered tensor by tensor and written by the first rank.

    An `adapter` is written into the folder of its name, in peft's format, and merged into the weights of `initial`.
    """
    dtype = stored_dtype(initial)
    # With an adapter, all other weights are as they were, and perhaps rounded or quantised: only its own are gathered.
    state = gathered(student, dtype) if adapter is None else gathered(student, torch.float32, "lora_")
    if state:
        if adapter is None:
            student.model.save_pretrained(folder, state_dict=state)
        else:
            written(state, adapter, initial, folder / ADAPTER)
            merged: Any = with_adapter(initial, folder / ADAPTER, torch.float32)
            merged.to(dtype).save_pretrained(folder)
        AutoTokenizer.from_pretrained(initial).save_pretrained(folder)
        for name in (CONFIG_NAME, GENERATION_CONFIG_NAME):  # as they were: transformers writes what it computed with
            if (initial / name).exists():
                shutil.copyfile(initial / name, folder / name)
