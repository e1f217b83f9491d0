"""Tiny models of three architectures with a character tokenizer, made in memory."""

import string
from collections.abc import Iterator

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.generate.server import Server, serving

CHARACTERS = ["<pad>", "<eos>", *string.printable[:95], "\n"]
SIZES = {"vocab_size": len(CHARACTERS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
         "bos_token_id": None, "eos_token_id": 1, "initializer_range": 0.2}  # fmt: skip
ARCHITECTURES = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)),
}


def characters() -> PreTrainedTokenizerFast:
    """A tokenizer of characters with a chat template."""
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    made.chat_template = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}a:"
    return made


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return characters()


@pytest.fixture(scope="session", params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(3)
    return ARCHITECTURES[request.param]().eval()


@pytest.fixture(scope="session")
def qwen2() -> PreTrainedModel:
    torch.manual_seed(3)
    return ARCHITECTURES["qwen2"]().eval()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running
