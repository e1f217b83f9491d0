"""A student from nothing: a small Qwen2-architecture model with random weights and a tokenizer of its own."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
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
ROLES = ("system", "user", "assistant")
PIECE = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
"""A word, a digit, punctuation, or white space."""
PHRASE = re.compile(r" ?\b[^\W\d_]+(?: [^\W\d_]+)+\b")
"""Two words or more."""
RECURRING_PHRASE, RECURRING_WORD = 0.005, 0.0015
"""Shares of all texts, prompts and responses, in which something occurs that deserves a token of its own."""


def build(
    output: Path, *, traces: Sequence[Path], vocabulary: Positive, hidden: Positive, intermediate: Positive,
    layers: Positive, heads: Positive, kv_heads: Positive, positions: Positive, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """A model folder in `output`: tokens learned from the text of `traces`, weights drawn from `seed`.

    `vocabulary` is the most tokens, `positions` the context length in tokens. Small and short, so it starts from
    activations of unit variance, and its rotary wavelengths end where the context does; with the family's own 0.02 and
    10,000 it needs about twice the tokens to the same loss. Returns {"parameters": count, "vocabulary": entries}.
    """
    tokenizer = learned_tokenizer(_texts(traces), vocabulary, positions)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=positions,
        tie_word_embeddings=True, bos_token_id=None, dtype="float32", initializer_range=hidden**-0.5,
        rope_parameters={"rope_type": "default", "rope_theta": float(positions)}, **ends,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def learned_tokenizer(texts: Iterable[str], vocabulary: int, positions: int) -> PreTrainedTokenizerFast:
    """Words and whole phrases that recur in `texts` are one token each; whatever else is written is spelled.

    So the fixed wording of a prompt is short, while every digit, and every letter of a rare word, can be worked on.
    Any text can be written with it and read back: what is spelled is spelled in bytes. Deterministic.
    """
    texts = list(texts)
    phrases = _common((match for match in map(PHRASE.findall, texts)), len(texts), RECURRING_PHRASE)
    pieces = "|".join([*(rf"{re.escape(p)}(?!\p{{L}})" for p in sorted(phrases, key=len, reverse=True)), PIECE])
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words = _common(
        ([piece for piece, _ in split.pre_tokenize_str(text)] for text in texts), len(texts), RECURRING_WORD
    )
    spelling = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = dict.fromkeys([*SPECIAL, *spelling, *ROLES, *words])
    numbers = {piece: number for number, piece in zip(range(vocabulary), entries, strict=False)}
    bpe = Tokenizer(models.BPE(numbers, [], ignore_merges=True))
    bpe.pre_tokenizer, bpe.decoder = split, decoders.ByteLevel()
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": positions}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **ends)  # type: ignore[no-untyped-call]
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _common(found: Iterable[Sequence[str]], texts: int, share: float) -> list[str]:
    """What is found in at least this share of the texts, the commonest first."""
    counts = Counter(piece for pieces in found for piece in set(pieces))
    return sorted((piece for piece, count in counts.items() if count >= share * texts), key=lambda p: (-counts[p], p))


def _texts(traces: Sequence[Path]) -> Iterator[str]:
    """Prompts and responses of Parquet trace files, in their order."""
    for path in traces:
        for row in pq.read_table(path, columns=["prompt", "response"]).to_pylist():
            yield row["prompt"]
            yield row["response"]
