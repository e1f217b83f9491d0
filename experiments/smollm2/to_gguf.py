"""A Hugging Face folder of the Llama or Qwen2 family as a GGUF file in fp32, for llama.cpp.

python -m experiments.smollm2.to_gguf MODEL FILE.gguf
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from bm.errors import UserError
from bm.student.gguf import SPLITTING

Array = np.ndarray[Any, np.dtype[np.float32]]


def export(folder: Path, file: Path) -> None:
    """UserError if the architecture, or the way its tokenizer splits text, is none that is known here."""
    config = AutoConfig.from_pretrained(folder)
    if config.model_type not in ("llama", "qwen2"):
        raise UserError(f"{folder}: models of type {config.model_type} are not exported to GGUF")
    writer = gguf.GGUFWriter(file, config.model_type)
    _write_shape(writer, config)
    _write_tokenizer(writer, folder, config)
    _write_weights(writer, folder, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: Any) -> None:
    """Byte-level BPE; a GGUF file holds the name of the rule that splits text, not the rule."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    rule = tokenizer.backend_tokenizer.pre_tokenizer.__getstate__()
    names = [name for name, known in SPLITTING.items() if known.__getstate__() == rule]
    if model["type"] != "BPE" or not names:
        raise UserError(f"{folder}: llama.cpp has no name for how its tokenizer splits text")
    vocabulary = {place: token for token, place in tokenizer.get_vocab().items()}
    tokens = [vocabulary.get(place, f"[PAD{place}]") for place in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(str(names[0]))
    writer.add_token_list(tokens)
    writer.add_token_types([_type_of(place, vocabulary, tokenizer) for place in range(config.vocab_size)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for add, place in ((writer.add_bos_token_id, tokenizer.bos_token_id),
                       (writer.add_unk_token_id, tokenizer.unk_token_id),
                       (writer.add_pad_token_id, tokenizer.pad_token_id)):  # fmt: skip
        if place is not None:
            add(place)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _type_of(place: int, vocabulary: dict[int, str], tokenizer: Any) -> gguf.TokenType:
    if place not in vocabulary:
        return gguf.TokenType.UNUSED
    added = tokenizer.added_tokens_decoder.get(place)
    if added is None:
        return gguf.TokenType.NORMAL
    return gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED


def _write_weights(writer: gguf.GGUFWriter, folder: Path, config: Any) -> None:
    architecture = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # it is no mapping
                if name == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                array = weights.get_tensor(name).to(torch.float32).numpy()
                turned = heads.get(name.split(".")[-2]) if config.model_type == "llama" else None
                theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
                writer.add_tensor(theirs, _interleaved(array, turned) if turned else array)


def _interleaved(array: Array, heads: int) -> Array:
    """Rows [outputs, …] of a projection: llama.cpp's Llama rotates neighbours, transformers' the halves of a head."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
