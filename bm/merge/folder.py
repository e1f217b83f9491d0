"""What a merged model's folder holds beside its weights: configuration, tokenizer, a card with its lineage."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

COPIED = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json", "LICENSE", "NOTICE",
)  # fmt: skip

ADAPTER = "adapter_config.json"
"""What a folder of a LoRA adapter has, by peft."""


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def complete(folder: Path, base: Path, out_dtype: str, card: str) -> dict[str, str]:
    """Writes everything but weights; SHA-256 of each file by its name."""
    config = json.loads((base / "config.json").read_text())
    config.pop("torch_dtype", None)
    files = {name: (base / name).read_bytes() for name in COPIED if (base / name).is_file()}
    files["config.json"] = (json.dumps(config | {"dtype": out_dtype}, indent=2) + "\n").encode()
    files["README.md"] = card.encode()
    for name, data in files.items():
        write(folder / name, data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def write(path: Path, data: bytes) -> None:
    """The file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def card(
    method: str, order: str, inputs: Mapping[str, Path], dtype: str, out_dtype: str, kept_share: float | None
) -> str:
    """A model card in the hub's form."""
    origin = {name: _origin(path) for name, path in inputs.items()}
    lines = [
        "---", "library_name: transformers", "tags: [merge]", "base_model:",
        *[f"  - {json.dumps(name)}" for name in origin.values()],
        "---", "", "# A merged model", "",
        f"- method: `{method}`", f"- order: `{order}` (the last operand is the base unless one is marked with *)",
        f"- arithmetic in {dtype}, weights in {out_dtype}",
        *([] if kept_share is None else [f"- entries taken from the other models: {100 * kept_share:.2f} %"]),
        "", "| name | model | configuration sha256 |", "| --- | --- | --- |",
        *[f"| {name} | {origin[name]} | `{_digest(path)}` |" for name, path in inputs.items()], "",
    ]  # fmt: skip
    return "\n".join(lines)


def _origin(path: Path) -> str:
    """How a model is known: by its stage and key in a store, else by its folder's name."""
    manifest = path / "manifest.json"
    if manifest.is_file():
        facts = json.loads(manifest.read_text())
        return f"{facts['stage']}/{facts['key']}"
    return path.resolve().name


def _digest(path: Path) -> str:
    return hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16]
