"""Inputs of the golden results, made from a seed with numpy alone, so that any environment makes the same ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SHAPE = (11, 13)
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 8, 8, 2, 1, 16
WORDS = ["<|endoftext|>", *(f"w{i}" for i in range(1, VOCABULARY))]
OTHER_WORDS = [WORDS[0], "new", *WORDS[2:14]]


def weights(seed: int, models: int, shape: tuple[int, ...] = SHAPE, update: float = 3e-3) -> list[np.ndarray]:
    """A base and `models` others near it, float32: normal weights of scale 0.05, normal updates of scale `update`."""
    random = np.random.default_rng(seed)
    base = random.normal(scale=0.05, size=shape)
    others = [base + random.normal(scale=update * (1 + k), size=shape) for k in range(models)]
    return [tensor.astype(np.float32) for tensor in (base, *others)]


def coarse(tensors: Sequence[Any]) -> list[Any]:
    """The tensors rounded to multiples of 1/1024: exact in bfloat16, and among their updates many magnitudes tie."""
    return [(tensor * 1024).round() / 1024 for tensor in tensors]


def uniform(seed: int, draw: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The numbers in [0, 1) behind the `draw`-th random mask, float32."""
    return np.random.default_rng([seed, draw]).random(size=shape, dtype=np.float32)


def tensor_shapes(layers: int, vocabulary: int = VOCABULARY, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Parameters of a Qwen2 model of `layers` layers."""
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(layers):
        block = {
            "input_layernorm.weight": (HIDDEN,),
            "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            "self_attn.q_proj.bias": (HIDDEN,),
            "self_attn.k_proj.weight": (KV_HEADS * head, HIDDEN),
            "self_attn.k_proj.bias": (KV_HEADS * head,),
            "self_attn.v_proj.weight": (KV_HEADS * head, HIDDEN),
            "self_attn.v_proj.bias": (KV_HEADS * head,),
            "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            "post_attention_layernorm.weight": (HIDDEN,),
            "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (HIDDEN,)
    return shapes if tied else shapes | {"lm_head.weight": (vocabulary, HIDDEN)}


def write_model(
    folder: Path, which: int, layers: int = 4, words: list[str] | None = None, tied: bool = False, seed: int = 0
) -> Path:
    """A pico Qwen2 model in float32 with a tokenizer of one token a word; `which` 0 is the base, others are near it."""
    words = WORDS if words is None else words
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for place, (name, shape) in enumerate(tensor_shapes(layers, len(words), tied).items()):
        random = np.random.default_rng([seed, place])
        base = random.normal(scale=0.05, size=shape)
        own = np.random.default_rng([seed, place, which]).normal(scale=3e-3 * which, size=shape)
        tensors[name] = (base + own).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": len(words),
        "tie_word_embeddings": tied,
        "max_position_embeddings": 64,
        "dtype": "float32",
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": words[0]},
    }
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": words[0], "model_max_length": 64}
    for file, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", about)):
        (folder / f"{file}.json").write_text(json.dumps(content, indent=1))
    return folder


def write_models(root: Path) -> dict[str, Path]:
    """A base A, B and C near it, and D near it as well but with another vocabulary."""
    near = {name: write_model(root / name, which) for which, name in enumerate("ABC")}
    return near | {"D": write_model(root / "D", 3, words=OTHER_WORDS)}
