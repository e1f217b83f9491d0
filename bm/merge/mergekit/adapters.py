"""mergekit's `model+adapter`: a LoRA adapter merged into its base before anything else reads either of them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from bm.generate.weights import with_adapter
from bm.merge import folder


def named(value: str) -> bool:
    """Whether a model's name is `model+adapter`, with the folders of both."""
    base, _, adapter = value.partition("+")
    return not Path(value).is_dir() and (Path(base) / "config.json").is_file() and folder.is_adapter(Path(adapter))


def inputs(models: Sequence[Path]) -> list[Path]:
    """The folders behind models' names, each once."""
    pairs = (str(m).split("+", 1) if named(str(m)) else [str(m)] for m in models)
    return list(dict.fromkeys(Path(part) for pair in pairs for part in pair))


def merged(models: Sequence[Path], place: Path) -> dict[str, str]:
    """By `model+adapter`, a folder below `place` with the two as one model in the base's own type."""
    made = {}
    for index, model in enumerate(m for m in models if named(str(m))):
        base, adapter = (Path(part) for part in str(model).split("+", 1))
        output = place / str(index)
        if not (output / "config.json").exists():
            _write(base, adapter, output)
        made[str(model)] = str(output)
    return made


def _write(base: Path, adapter: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    stored = AutoConfig.from_pretrained(base).dtype
    model: Any = with_adapter(base, adapter, torch.float32)
    model.to(stored if isinstance(stored, torch.dtype) else torch.float32).save_pretrained(output)
    for name in (*folder.COPIED, "config.json"):  # the last one written: the folder is whole then
        if (base / name).is_file():
            shutil.copyfile(base / name, output / name)


def replaced(values: Any, folders: Mapping[str, str]) -> Any:
    """A config's values with models' names replaced by folders."""
    values = joined(values)
    if isinstance(values, Mapping):
        return {name: replaced(value, folders) for name, value in values.items()}
    if isinstance(values, list):
        return [replaced(value, folders) for value in values]
    return folders.get(values, values) if isinstance(values, str) else values


def joined(model: Any) -> Any:
    """mergekit's other way to write it, a mapping with `lora`, as `model+adapter`."""
    if isinstance(model, Mapping) and model.get("lora"):
        base, adapter = (joined(part.get("path") if isinstance(part, Mapping) else part)
                         for part in (model.get("model"), model["lora"]))  # fmt: skip
        return f"{base}+{adapter}"
    return model
