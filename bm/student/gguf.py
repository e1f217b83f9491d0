"""A student from a GGUF file, llama.cpp's format: weights dequantised, tokenizer and chat template kept."""

from pathlib import Path
from typing import Annotated, Any

import gguf
import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from bm.config import Content
from bm.errors import UserError
from bm.generate.weights import named
from bm.progress import say

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def build(output: Path, *, path: Annotated[Path, Content]) -> dict[str, Any]:
    """The model of a GGUF file in fp32, with its tokenizer and chat template, as a Hugging Face folder in `output`.

    Returns {"parameters": count, "file": its name}. UserError if it is no GGUF file, or of an unknown architecture.
    """
    if not path.is_file():
        raise UserError(f"student.build.path: there is no file {path}")
    loading: Any = AutoModelForCausalLM.from_pretrained  # typed as one model, but it gives a pair here
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it takes seconds
    try:
        fields = gguf.GGUFReader(path).fields
        model, info = loading(path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, KeyError, IndexError, NotImplementedError) as problem:
        raise UserError(
            f"{path} cannot be read as a GGUF model: {(str(problem) or 'broken').splitlines()[0]}"
        ) from problem
    if info["missing_keys"]:  # transformers filled them with random numbers
        raise UserError(f"{path} is not a whole model: it comes without {named(info['missing_keys'])}")
    model.hf_quantizer = None  # it is not quantised any more
    del model.config.quantization_config
    model.save_pretrained(output)
    splitting = str(fields["tokenizer.ggml.pre"].contents()) if "tokenizer.ggml.pre" in fields else None
    if splitting in SPLITTING:
        tokenizer.backend_tokenizer.pre_tokenizer = SPLITTING[splitting]
    elif splitting not in (None, "default"):
        say(f"{path.name}: the rule `{splitting}` for splitting text is unknown; its architecture's own is used")
    tokenizer.save_pretrained(output)
    return {"parameters": model.num_parameters(), "file": path.name}


def _words(digits: str) -> PreTokenizer:
    """Splits as GPT-4 does, with runs of digits as `digits` says."""
    parts = [Split(Regex(WORDS % digits), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    return Sequence(parts)


SPLITTING: dict[str | None, PreTokenizer] = {
    "smollm": Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
    "qwen2": _words(r"\p{N}"),
    "llama-bpe": _words(r"\p{N}{1,3}"),
}
"""How text is cut before its bytes are merged: a GGUF file only names the rule, and transformers ignores the name."""
