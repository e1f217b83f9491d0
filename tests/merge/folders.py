"""Small Hugging Face folders for the merge tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from bm.merge.methods import arcee_fusion, linear

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2}
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
    "added_tokens": [{"content": "<e>", "id": 2}],
}


FUSION = partial(arcee_fusion, lam=1.5, variant="exact", difference="absolute")
LINEAR = partial(linear, weights=1.0, normalize=True)


@dataclass(frozen=True)
class Settings:
    """The settings of a merge, as `bm.config.Merge` has them."""

    order: str = "all"
    statistics: Mapping[str, Path] = field(default_factory=dict)
    schedule: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    out_dtype: str = "bfloat16"
    device: str = "cpu"
    threads: int = 2
    interference: float | None = None
    max_shard_size: str = "5GB"
    seed: int = 0


def weights(seed=0, near=None, sigma=1e-3, dtype=torch.bfloat16, vocabulary=700):
    """A two-layer model's tensors, random, or those of `near` after a random update."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (vocabulary, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        for module, shape in (("self_attn.q_proj", (64, 64)), ("mlp.up_proj", (160, 64)), ("mlp.down_proj", (64, 160))):
            shapes[f"model.layers.{layer}.{module}.weight"] = shape
        shapes[f"model.layers.{layer}.self_attn.q_proj.bias"] = (64,)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if near is None:
        return {name: (value * 0.02).to(dtype) for name, value in drawn.items()}
    return {name: (near[name].float() + value * sigma).to(dtype) for name, value in drawn.items()}


def llama() -> PreTrainedModel:
    """A random Llama of two layers, for what needs a whole model."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def save(folder: Path, tensors, config=CONFIG, tokenizer=TOKENIZER, template="{{ messages }}"):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def load(folder: Path):
    """All tensors of a folder, sharded or not, read by the safetensors library."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def equal(tensors, others):
    return sorted(tensors) == sorted(others) and all(
        tensors[name].dtype == others[name].dtype and torch.equal(tensors[name], others[name]) for name in tensors
    )
