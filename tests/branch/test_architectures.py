"""Packed training equals training on each document alone, for every architecture; without isolation it would not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from bm.branch.attention import ISOLATED
from bm.branch.data import MicroBatch, flat
from bm.branch.model import load, prove_isolation
from bm.branch.parallel import Place
from bm.config import Trainer
from bm.errors import UserError
from tests.branch.conftest import trainer

SMALL = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "llama": LlamaConfig(**SMALL),
    "mistral": MistralConfig(**SMALL, head_dim=8, sliding_window=6),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "gemma3": Gemma3TextConfig(
        **SMALL, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
}
LENGTHS, PROMPTS = [9, 17, 4, 30], [3, 1, 2, 11]


def folder(config: PreTrainedConfig, path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def documents() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(1, 61, n).astype(np.int32) for n in LENGTHS]


def alone(path: Path) -> tuple[float, torch.Tensor]:
    """The oracle: transformers' own model and attention, one document at a time, loss on the responses."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").train()
    total = torch.zeros(())
    for ids, prompt in zip(documents(), PROMPTS, strict=True):
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        logits = model(tokens, use_cache=False).logits[0, prompt - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, tokens[0, prompt:], reduction="sum")
    loss = total / (sum(LENGTHS) - sum(PROMPTS))
    loss.backward()
    return loss.item(), gradient(model)


def gradient(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])


def packed(path: Path, batch: MicroBatch, resources: Trainer) -> tuple[float, torch.Tensor]:
    student = load(path, ISOLATED, max(LENGTHS), resources, None)
    loss = student(batch, float(sum(LENGTHS) - sum(PROMPTS)))
    loss.backward()
    return loss.item(), gradient(student.model)


def difference(a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor]) -> float:
    """The larger of the relative differences of loss and gradient."""
    return max(abs(a[0] - b[0]) / abs(b[0]), ((a[1] - b[1]).norm() / b[1].norm()).item())


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_equals_alone(name: str, tmp_path: Path) -> None:
    path = folder(CONFIGS[name], tmp_path)
    neat = flat(documents(), PROMPTS, LENGTHS)
    assert difference(packed(path, neat, trainer()), alone(path)) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_check_fails_without_isolation(name: str, tmp_path: Path) -> None:
    path = folder(CONFIGS[name], tmp_path)
    leaking = flat(documents(), PROMPTS, [sum(LENGTHS)])
    assert difference(packed(path, leaking, trainer()), alone(path)) > 1e-3


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
@pytest.mark.parametrize("offload", [False, True])
def test_saving_memory_changes_nothing(checkpointing: str, offload: bool, tmp_path: Path) -> None:
    path = folder(CONFIGS["qwen2"], tmp_path)
    batch = flat(documents(), PROMPTS, LENGTHS)
    frugal = trainer(activation_checkpointing=checkpointing, activation_offload=offload)
    plain, saved = packed(path, batch, trainer()), packed(path, batch, frugal)
    assert plain[0] == saved[0] and torch.equal(plain[1], saved[1])


def held(path: Path, checkpointing: str) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    student, kept = load(path, ISOLATED, 30, trainer(activation_checkpointing=checkpointing), None), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        student(flat(documents() * 8, PROMPTS * 8, LENGTHS * 8), 1.0)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_checkpointing_keeps_less(tmp_path: Path) -> None:
    path = folder(CONFIGS["qwen2"], tmp_path)
    everything, blocks = held(path, "none"), held(path, "full")
    assert blocks < 0.5 * everything


def test_documents_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    path = folder(CONFIGS["qwen2"], tmp_path)
    with pytest.raises(UserError, match=r"129 tokens exceeds the context of .*, 128"):
        load(path, ISOLATED, 129, trainer(), None)


@pytest.mark.parametrize("name", CONFIGS)
def test_isolation_is_proven_on_the_model_itself(name: str, tmp_path: Path) -> None:
    prove_isolation(load(folder(CONFIGS[name], tmp_path), ISOLATED, 30, trainer(), None), Place(), torch.device("cpu"))


def test_a_leak_is_caught_at_run_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = load(folder(CONFIGS["qwen2"], tmp_path), ISOLATED, 30, trainer(), None)
    monkeypatch.setattr("bm.branch.model.flat", lambda d, p, lengths: flat(d, p, [sum(lengths)]))
    with pytest.raises(UserError, match="depends on its neighbours"):
        prove_isolation(student, Place(), torch.device("cpu"))


def test_experts_of_a_mixture_model_are_isolated_too(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(**SMALL, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    path = folder(config, tmp_path)
    assert difference(packed(path, flat(documents(), PROMPTS, LENGTHS), trainer()), alone(path)) < 1e-5
