"""Several models that answer as one, token by token: a reference to compare merged weights with.

An ensemble's folder has the tokenizer and the configuration of its first member, and `ensemble.json`: which folders the
members are, and how they are averaged. Each token costs a forward pass of every member.
"""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from bm.errors import UserError
from bm.generate.members import ENSEMBLE, members
from bm.generate.text import difference, model_folder
from bm.generate.weights import load_model
from bm.store import write_json

Average = Literal["logits", "probabilities"]


def write(average: Average, folders: Mapping[str, Path], digests: Mapping[str, str], ensemble: Path) -> None:
    """Make a folder the ensemble of model folders, which it names by the way to them; digests: what each of them is.

    UserError unless all give every token the same number.
    """
    (first, initial), *others = folders.items()
    for name, other in others:
        if apart := difference(other, initial):
            raise UserError(
                f"ensemble: {name} has another vocabulary than {first} ({apart}), so what they say cannot be averaged"
            )
    model_folder(initial).save_pretrained(ensemble)
    for name in (CONFIG_NAME, GENERATION_CONFIG_NAME):
        if (initial / name).exists():
            shutil.copyfile(initial / name, ensemble / name)
    places = {name: os.path.relpath(folder, ensemble) for name, folder in folders.items()}
    write_json(ensemble / ENSEMBLE, {"average": average, "members": places, "digests": dict(digests)})


def load_ensemble(folder: Path, dtype: str, place: str) -> PreTrainedModel:
    """The ensemble of a folder on a device; UserError names a member that cannot be loaded."""
    average = json.loads((folder / ENSEMBLE).read_text())["average"]
    models = [load_model(member, dtype).to(place) for member in members(folder).values()]  # type: ignore[arg-type]
    ensemble: Any = Ensemble(models, average)  # has of a model what decoding asks for
    loaded: PreTrainedModel = ensemble
    return loaded


class Ensemble(nn.Module):
    """To an engine one model, with one configuration and one cache, in which the members' layers follow each other."""

    def __init__(self, models: Sequence[PreTrainedModel], average: Average) -> None:
        super().__init__()
        self.models, self.average = nn.ModuleList(models), average
        self.config, self.generation_config = _together(models), models[0].generation_config
        heads = [model.get_output_embeddings().weight for model in models]  # type: ignore[no-untyped-call]
        self._entries = min(len(weight) for weight in heads)
        """Rows that all heads have; what some have beyond them is padding."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.models[0].device  # type: ignore[assignment]
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.models[0].dtype  # type: ignore[assignment]
        return dtype

    def forward(self, input_ids: Tensor, past_key_values: DynamicCache | None = None, **more: Any) -> SimpleNamespace:
        """`logits` [rows, tokens, V] in fp32, whose softmax is the members' average; input_ids [rows, tokens].

        `logits`: the mean of the members' logits, which is the geometric mean of their probabilities, normalised; the
        paper on model soups compares soups with it (arXiv 2203.05482, section 4). `probabilities`: log of the
        arithmetic mean of the probabilities. Both are the ensembles of Hinton et al., arXiv 1503.02531, section 1.
        """
        total, start = None, 0
        for model in self.models:
            layers = _layers(model.config)
            part = None if past_key_values is None else _part(past_key_values, start, start + layers, model.config)
            logits = model(input_ids=input_ids, past_key_values=part, **more).logits
            said = torch.log_softmax(logits[..., : self._entries].float(), -1)
            both = torch.add if self.average == "logits" else torch.logaddexp
            total, start = said if total is None else both(total, said), start + layers
        assert total is not None
        return SimpleNamespace(
            logits=total / len(self.models) if self.average == "logits" else total - log(len(self.models))
        )


def _layers(config: Any) -> int:
    return int(config.get_text_config().num_hidden_layers)


def _together(models: Sequence[PreTrainedModel]) -> PreTrainedConfig:
    """The first model's configuration, with as many layers as all have: what a cache is made by."""
    config = copy.deepcopy(models[0].config)
    of = [model.config.get_text_config() for model in models]
    text = config.get_text_config()
    if kinds := getattr(text, "layer_types", None):
        text.layer_types = [kind for each in of for kind in (each.layer_types or kinds)]
    text.num_hidden_layers = sum(map(_layers, of))
    whole: PreTrainedConfig = config
    return whole


def _part(cache: DynamicCache, start: int, end: int, config: Any) -> DynamicCache:
    """Some layers of a cache as a member's own: what it adds to them is in the whole."""
    part = DynamicCache(config=config)
    part.layers = cache.layers[start:end]
    return part
