"""Whether a student's architecture can be trained, found out on a small copy of it before anything is made.

Lists of architectures go out of date, so none is kept. A copy with random weights and few layers computes a loss in the
ways that training could, and what transformers' own forward pass says decides.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from bm.branch import parallel
from bm.branch.adapter import check_adapter
from bm.branch.attention import ISOLATED, OWN
from bm.branch.compiling import check_compiler
from bm.branch.data import Ints, flat
from bm.branch.model import Student, head_of
from bm.config import Branch, Trainer
from bm.errors import UserError

VOCABULARY, INNER = 64, 64
"""Sizes of the copy: entries of its vocabulary, and units between the two products of a feed-forward block."""
ROUNDING = 1e-5
"""Relative difference up to which two losses in fp32 are the same."""
FIRST, SECOND = np.arange(1, 14, dtype=np.int32), np.arange(20, 44, dtype=np.int32)


def check_trainable(model: str | Path, settings: Branch, trainer: Trainer) -> None:
    """UserError unless this machine can train the architecture of `model` with these settings.

    `model` is a Hugging Face folder or a name on the hub, of which only the configuration is read; and that of the
    teacher, where the settings name one.
    """
    check_devices(trainer)
    check_compiler(trainer)
    check_adapter(settings.adapter, trainer.devices * trainer.nodes)
    for folder in (model, *([settings.teacher] if isinstance(settings.teacher, Path) else [])):
        attention_for(_config(folder), settings, trainer)


def _config(model: str | Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as problem:
        raise UserError(f"{model}: its config.json cannot be read: {_line(problem)}") from problem
    return config


def check_devices(trainer: Trainer) -> None:
    """UserError if the GPUs that this process is to train on are not there; ranks started elsewhere look themselves."""
    if trainer.launch and "LOCAL_RANK" not in os.environ:
        return
    if trainer.accelerator == "gpu" and (there := torch.accelerator.device_count()) < trainer.devices:
        raise UserError(
            f"trainer.accelerator=gpu: this machine has {there} of the {trainer.devices} GPUs; "
            "set trainer.devices, or choose trainer=cpu"
        )


def attention_for(config: PreTrainedConfig, settings: Branch, trainer: Trainer) -> str:
    """The attention to train an architecture with: ISOLATED, else OWN with one segment in each forward pass.

    UserError if neither gives the loss that transformers computes, or if the settings need isolated documents and the
    architecture's code does not allow it.
    """
    kind = config.model_type
    try:
        model = _small(config, OWN)
        expected = _expected(model)
    except Exception as problem:  # whatever its code objects to
        raise UserError(f"{kind}: cannot be trained as a causal language model: {_line(problem)}") from problem
    _check_shards(model, trainer)
    head_of(model)
    if not _same(_loss(Student(model, OWN)), expected):
        raise UserError(f"{kind}: what follows its last layer is not known here, so the loss would be wrong")
    fault = _fault(config, expected)
    if not fault:
        return ISOLATED
    if settings.packing == "neat":
        raise UserError(f"{kind}: {fault}, so it cannot be trained on packed documents; set branch.packing=none")
    if trainer.sequence_parallel > 1:
        raise UserError(f"{kind}: {fault}, so ranks cannot share a sequence; set trainer.sequence_parallel=1")
    return OWN


def _small(config: PreTrainedConfig, attention: str) -> PreTrainedModel:
    """One layer of each kind that a model has, in its own width, with large random weights: no effect is too small."""
    small, layers = copy.deepcopy(config), config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or [""] * layers
    kept = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    for name, value in vars(config).items():
        numbers = isinstance(value, list) and any(isinstance(entry, float) for entry in value)  # such as a range
        if isinstance(value, list) and len(value) == layers and not numbers:  # a setting of each layer
            setattr(small, name, [value[i] for i in kept])
    small.num_hidden_layers, small.vocab_size = len(kept), VOCABULARY
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    if isinstance(getattr(config, "intermediate_size", None), int):
        small.intermediate_size = INNER
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"dtype": torch.float32, "attn_implementation": attention}
        model: PreTrainedModel = AutoModelForCausalLM.from_config(small, **settings)  # type: ignore[no-untyped-call]
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim < 2 else 4 / parameter.shape[-1] ** 0.5
            parameter.data.mul_(parameter.ndim < 2).add_(torch.randn_like(parameter), alpha=scale)
    model.train(False)
    return model


def _check_shards(model: PreTrainedModel, trainer: Trainer) -> None:
    """UserError if several ranks are to share a model that cannot be divided among them."""
    if trainer.devices * trainer.nodes > 1:
        parallel.blocks(model)
        parallel.check_heads(model, trainer.sequence_parallel)


@torch.no_grad()
def _expected(model: PreTrainedModel) -> float:
    """The loss of one document from the logits that the model itself gives."""
    ids = torch.from_numpy(SECOND.astype(np.int64))
    return cross_entropy(model(ids[None], use_cache=False).logits[0, :-1].float(), ids[1:]).item()


@torch.no_grad()
def _loss(student: Student, neighbours: Sequence[Ints] = ()) -> float:
    """The same loss as training computes it, behind other documents of which nothing is learned."""
    documents, prompts = [*neighbours, SECOND], [len(n) for n in neighbours] + [1]
    loss: float = student(flat(documents, prompts, [len(d) for d in documents]), float(len(SECOND) - 1)).item()
    return loss


def _fault(config: PreTrainedConfig, expected: float) -> str:
    """Why documents cannot be isolated from each other in an architecture; empty if they can."""
    try:
        student = Student(_small(config, ISOLATED))
        alone, beside = _loss(student), _loss(student, [FIRST])
    except Exception:  # its code makes attention by itself, or does not hand on what tells documents apart
        return "its code takes no attention from outside"
    if not _same(alone, expected):
        return "its attention is more than a softmax over earlier tokens"
    return "" if _same(beside, alone) else "a document's loss depends on its neighbours in the pack"


def _same(loss: float, other: float) -> bool:
    return abs(loss - other) <= ROUNDING * abs(other)


def _line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
