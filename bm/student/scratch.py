"""A student from nothing: a small Qwen2-architecture model with random weights and a tokenizer of its own."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from bm import parquet

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
PHRASE = r"\b[^\W\d_]+(?: [^\W\d_]+)+\b"
"""Two words or more."""
PIECE = r"[^\W\d_]+| ?\d| ?[^\s\w]+|\s+|_+"
"""A word, a digit, punctuation, or white space."""
RECURRING_PHRASE, RECURRING_PIECE = 0.007, 0.0015
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


def learned_tokenizer(texts: Iterable[str], vocabulary: int, positions: int) -> Qwen2Tokenizer:
    """Words and whole phrases that recur in `texts` are one token each; whatever else is written is spelled.

    So the fixed wording of a prompt is short, while every digit, and every letter of a rare word, can be worked on.
    Any text can be written with it, in bytes if need be, and read back (in Unicode's NFC). Deterministic. What it has
    learned are added tokens over an alphabet without merges: transformers gives a Qwen2 model the family's own
    pre-tokenizer whatever the folder says, and these do not depend on it.
    """
    texts = list(texts)
    phrases = _recurring(re.compile(PHRASE), texts, RECURRING_PHRASE)
    longest_first = sorted(phrases, key=len, reverse=True)
    known = "|".join(re.escape(tag) for tag in SPECIAL) + "".join(
        rf"|{re.escape(phrase)}\b" for phrase in longest_first
    )
    pieces = _recurring(re.compile(f"{known}|{PIECE}"), texts, RECURRING_PIECE)
    alphabet = {byte: number for number, byte in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=alphabet, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=positions
    )
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    learned = [piece for piece in dict.fromkeys([*ROLES, *pieces]) if len(piece) > 1 and piece not in SPECIAL]
    tokenizer.add_tokens(
        [
            AddedToken(piece, single_word=piece[-1].isalpha(), normalized=False)
            for piece in learned[: vocabulary - len(tokenizer)]
        ]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _recurring(pattern: re.Pattern[str], texts: Sequence[str], share: float) -> list[str]:
    """What the pattern finds in at least this share of the texts, the commonest first."""
    counts = Counter(phrase for text in texts for phrase in set(pattern.findall(text)))
    return sorted((phrase for phrase, n in counts.items() if n >= share * len(texts)), key=lambda f: (-counts[f], f))


def _texts(traces: Sequence[Path]) -> Iterator[str]:
    """Prompts and responses of Parquet trace files, in their order."""
    for path in traces:
        for row in parquet.read(path, columns=["prompt", "response"]).to_pylist():
            yield row["prompt"]
            yield row["response"]
