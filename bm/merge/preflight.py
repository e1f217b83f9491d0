"""What must agree before models are merged, compared from configurations, tokenizers and tensor headers alone.

Handled: tied beside untied embeddings, padded vocabularies of one size, buffers, mixed dtypes, scalars and vectors,
experts of a mixture, [in, out] layouts such as GPT-2's. Refused in one line: what would leave a damaged model.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bm.errors import UserError
from bm.merge.checkpoint import Stored
from bm.merge.dtypes import FLOATING
from bm.merge.folder import is_adapter

BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias", ".position_ids")
"""Ends of names that older libraries saved and a model computes itself."""
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SHAPING = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters", "num_experts",
    "num_local_experts", "num_experts_per_tok", "n_embd", "n_layer", "n_head", "activation_function",
)  # fmt: skip
"""Settings that two models with one set of weights must share to be one function."""


def is_buffer(name: str) -> bool:
    return name.endswith(BUFFERS)


def aligned(
    folders: Mapping[str, Path], opened: Mapping[str, Mapping[str, Stored]], base: str
) -> dict[str, dict[str, Stored]]:
    """The tensors of every model under the base's names; UserError names the first thing that cannot be merged."""
    configs = {name: _config(name, folder) for name, folder in folders.items()}
    tensors = {}
    for name in folders:
        _same_function(name, configs[name], base, configs[base])
        _same_tokenizer(name, folders[name], base, folders[base])
        tensors[name] = _same_tensors(name, configs[name], opened[name], base, opened[base])
    return tensors


def _config(name: str, folder: Path) -> dict[str, Any]:
    if is_adapter(folder):
        raise UserError(
            f"{name} ({folder}) is a LoRA adapter; merge it into its own base first, or adapters alone, without base"
        )
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{name} ({folder}) has no config.json: not a Hugging Face model folder") from None
    except ValueError as problem:
        raise UserError(f"{folder / 'config.json'} is not JSON ({problem})") from problem
    if config.get("quantization_config"):
        raise UserError(f"{name} ({folder}) is quantised; merge the weights it was made from")
    return config


def _same_function(name: str, config: Mapping[str, Any], base: str, kept: Mapping[str, Any]) -> None:
    for key in SHAPING:
        if config.get(key) != kept.get(key):
            ours, theirs = (json.dumps(value.get(key)) for value in (config, kept))
            raise UserError(
                f"config.json: {key} is {ours} in {name} and {theirs} in {base}; only models of one shape merge"
            )


def _same_tokenizer(name: str, folder: Path, base: str, kept: Path) -> None:
    """Vocabulary, added tokens, segmentation and chat template; what one of the folders lacks is not compared."""
    file, base_file = folder / "tokenizer.json", kept / "tokenizer.json"
    if file.is_file() and base_file.is_file() and file.read_bytes() != base_file.read_bytes():
        ours, theirs = json.loads(file.read_text()), json.loads(base_file.read_text())
        vocabulary, expected = _vocabulary(ours), _vocabulary(theirs)
        for token in vocabulary | expected:
            if vocabulary.get(token) != expected.get(token):
                raise UserError(
                    f"tokenizer.json: token {token!r} has id {vocabulary.get(token)} in {name} and "
                    f"{expected.get(token)} in {base}; give them one vocabulary first, "
                    "as tokenizer_source of a mergekit config does"
                )
        for part in ("model", "normalizer", "pre_tokenizer"):
            if ours.get(part) != theirs.get(part):
                raise UserError(
                    f"tokenizer.json: '{part}' differs between {name} and {base}: they cut text differently"
                )
    sentencepiece = folder / "tokenizer.model", kept / "tokenizer.model"
    if (
        all(file.is_file() for file in sentencepiece)
        and len({_digest(file.read_bytes()) for file in sentencepiece}) > 1
    ):
        raise UserError(f"tokenizer.model of {name} differs from that of {base}; give them one vocabulary first")
    ours_template, kept_template = _template(folder), _template(kept)
    if ours_template and kept_template and ours_template != kept_template:
        raise UserError(
            f"chat template: {name} has {_digest(ours_template.encode())}, "
            f"{base} has {_digest(kept_template.encode())}; the merged model has one: "
            "put the same in both folders"
        )


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram: (piece, score) in the order of the ids
        vocabulary = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}}


def _template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    if (folder / "tokenizer_config.json").is_file():
        template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
        return None if template is None else json.dumps(template) if not isinstance(template, str) else template
    return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _same_tensors(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Stored], base: str, kept: Mapping[str, Stored]
) -> dict[str, Stored]:
    tensors = dict(tensors)
    if HEAD in kept and HEAD not in tensors and EMBEDDING in tensors:
        tensors[HEAD] = tensors[EMBEDDING]  # tied here, untied in the base
    if HEAD in tensors and HEAD not in kept and config.get("tie_word_embeddings"):
        del tensors[HEAD]  # a tied head saved a second time
    for tensor in [*kept, *tensors]:
        if is_buffer(tensor):
            continue
        if tensor not in kept or tensor not in tensors:
            has, lacks = (name, base) if tensor in tensors else (base, name)
            advice = "; untie the embeddings of both first" if tensor == HEAD else ""
            raise UserError(
                f"{tensor}: in {has}, but not in {lacks}{advice or '; only models with the same tensors merge'}"
            )
        _same_tensor(tensor, name, tensors[tensor], base, kept[tensor])
    return {tensor: tensors.get(tensor, stored) for tensor, stored in kept.items()}


def _same_tensor(tensor: str, name: str, ours: Stored, base: str, kept: Stored) -> None:
    if ours.shape != kept.shape:
        where = f"{tensor}: {list(ours.shape)} in {name} and {list(kept.shape)} in {base}"
        if ours.shape[1:] == kept.shape[1:] and ("embed" in tensor or tensor == HEAD or "wte" in tensor):
            raise UserError(
                f"{where}: vocabularies padded or extended differently; resize the token embeddings of one first"
            )
        raise UserError(f"{where}; only models of one shape merge")
    for stored, owner in ((ours, name), (kept, base)):
        if stored.dtype.itemsize == 1 and stored.dtype.is_floating_point:
            raise UserError(
                f"{tensor}: {stored.dtype.name} in {owner} means nothing without its scales; merge unquantised weights"
            )
    if (ours.dtype in FLOATING) != (kept.dtype in FLOATING):
        raise UserError(f"{tensor}: {ours.dtype.name} in {name} and {kept.dtype.name} in {base}")
    if ours.dtype not in FLOATING and not np.array_equal(ours.stored(0, ours.elements), kept.stored(0, kept.elements)):
        raise UserError(f"{tensor}: {ours.dtype.name} entries differ between {name} and {base}; they cannot be merged")
