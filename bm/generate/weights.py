"""A Hugging Face folder as a model whose every weight came from its files: the one loader of all that run a model."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from bm.errors import UserError

ADAPTER = "adapter"
"""The folder of an adapter inside the folder of the model that it was merged into."""
NAMED = 3
"""Tensors that a message names before it counts the rest."""


def load_model(folder: Path, dtype: str | torch.dtype, **settings: Any) -> PreTrainedModel:
    """The causal language model of `folder`, from safetensors alone: nothing is unpickled.

    transformers fills what a checkpoint lacks with random numbers, which would be scored and trained like weights.
    UserError names the tensors that are missing, that the architecture does not have, or that have another shape
    (tied weights count once), and says what else keeps the folder from being loaded.
    """
    loading: Any = AutoModelForCausalLM.from_pretrained  # typed as one model, but it gives a pair here
    try:
        with _quiet():
            model, info = loading(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, ignore_mismatched_sizes=True,
                output_loading_info=True, **settings,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError, SafetensorError) as problem:
        raise UserError(f"{folder} cannot be loaded: {_first_line(problem)}") from problem
    reshaped = [f"{name} (has {list(has)}, needs {list(needs)})" for name, has, needs in info["mismatched_keys"]]
    faults = {"without": info["missing_keys"], "with the wrong shape of": reshaped, "with": info["unexpected_keys"]}
    said = [f"{how} {named(names)}" for how, names in faults.items() if names]
    if said:
        raise UserError(f"{folder} is not a whole {model.config.model_type} model: its files come {'; '.join(said)}")
    whole: PreTrainedModel = model
    return whole


def with_adapter(folder: Path, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model of `folder` with the peft adapter of another folder merged into its weights."""
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(load_model(folder, dtype), str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as problem:
        raise UserError(f"{adapter} is not an adapter of {folder}: {_first_line(problem)}") from problem
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged


def check_whole(folder: Path) -> None:
    """The UserError of `load_model` where there is one, from the headers of the files alone."""
    load_model(folder, "auto", device_map="meta")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of what is missing: a UserError names it."""
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(said)


def named(names: Collection[str]) -> str:
    """The first tensors by name, and how many more there are."""
    first, rest = sorted(names)[:NAMED], len(names) - NAMED
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
