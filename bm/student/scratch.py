"""A student from nothing: a small Qwen2-architecture model with random weights and a tokenizer of its own."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

Positive = Annotated[int, Field(gt=0)]

TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
"""The `qwen` chat format: a response begins with its own `<think>`."""

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")


def build(
    output: Path, *, traces: Sequence[Path], vocabulary: Positive, hidden: Positive, intermediate: Positive,
    layers: Positive, heads: Positive, kv_heads: Positive, positions: Positive, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """A model folder in `output`: tokens learned from the text of `traces`, weights drawn from `seed`.

    `vocabulary` is the most tokens, `positions` is the context length in tokens. Returns {"parameters": count, "vocabulary": entries}.
    """
    tokenizer = learned_tokenizer(_texts(traces), vocabulary, positions)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=positions,
        tie_word_embeddings=True, bos_token_id=None, dtype="float32", **ends,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def learned_tokenizer(texts: Iterable[str], vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit stands alone and no merge crosses a word, so that arithmetic stays readable.

    Any text can be written with it: bytes that `texts` lacks are in the alphabet. Deterministic.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+|\n| ?[^\s\p{L}\p{N}]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": positions}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **ends)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _texts(traces: Sequence[Path]) -> Iterator[str]:
    """Prompts and responses of Parquet trace files, in their order."""
    for path in traces:
        for row in pq.read_table(path, columns=["prompt", "response"]).to_pylist():
            yield row["prompt"]
            yield row["response"]
