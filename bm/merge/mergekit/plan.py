"""A mergekit config as the engine's items: each output tensor, what it is merged from, and its own parameters."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bm.errors import UserError
from bm.merge.dtypes import Dtype, promote
from bm.merge.lazy import torch
from bm.merge.mergekit.methods import REQUIRED, Entry, Parameter, entry_of
from bm.merge.mergekit.schema import Config
from bm.merge.mergekit.vocabulary import INDEXED, Checkpoints
from bm.merge.schedule import Setting, value_at
from bm.merge.sources import Cast, Source
from bm.merge.steps import Item, Node
from bm.progress import say

LAYER = re.compile(r"((?:^|\.)(?:layers?|h|blocks?)\.)(\d+)(?=\.)")
BEFORE_LAYERS = re.compile(r"embed_tokens|word_embeddings|position_embeddings|(^|\.)(wte|wpe)\.")
"""Tensors before the first layer, which are the first slice's; all others outside layers are the last slice's."""

Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Origin:
    """One model of a part; `first` is the layer of it that is the part's layer 0."""

    folder: Path
    first: int
    parameters: Settings


@dataclass(frozen=True)
class Part:
    """A run of output layers merged from the same models; `layers` None: all that they have."""

    origins: tuple[Origin, ...]
    base: Path | None
    layers: int | None
    parameters: Settings

    @property
    def leader(self) -> Origin:
        """The base, or the first model: its tensors are the ones merged."""
        return next((origin for origin in self.origins if origin.folder == self.base), self.origins[0])


@dataclass(frozen=True)
class Output:
    """One output tensor: `inputs[i]` is its name in the part's i-th model, `depth` its layer's place there, 0 to 1."""

    name: str
    part: Part
    inputs: tuple[str, ...]
    depth: float


def parts(config: Config) -> list[Part]:
    """The config's slices; `models` are one slice of all layers, to which a base that is not among them is added."""
    if config.slices:
        return [
            Part(
                tuple(Origin(source.model, source.layer_range[0], source.parameters) for source in part.sources),
                part.base_model or config.base_model,
                part.layers,
                part.parameters,
            )
            for part in config.slices
        ]
    origins = [Origin(model.model, 0, model.parameters) for model in config.models or ()]
    if config.base_model and config.base_model not in [origin.folder for origin in origins]:
        origins.append(Origin(config.base_model, 0, {}))
    return [Part(tuple(origins), config.base_model, None, {})]


def plan(config: Config, checkpoints: Checkpoints, variant: str = "exact") -> list[Item]:
    """One item a tensor; UserError when models do not fit each other or the config does not fit them.

    `variant` is Arcee Fusion's.
    """
    entry = entry_of(config.merge_method, variant)
    whole = parts(config)
    for part in whole:
        _check_inputs(part, entry, config.merge_method)
    _say_unused(config, entry)
    return [_item(output, entry, config, checkpoints) for output in outputs(whole, checkpoints)]


def _check_inputs(part: Part, entry: Entry, method: str) -> None:
    folders = [origin.folder for origin in part.origins]
    if entry.base == "required" and part.base is None:
        raise UserError(f"{method} needs a `base_model`")
    if entry.base != "none" and part.base is not None and part.base not in folders:
        raise UserError(f"the base model '{part.base}' is not among a slice's sources")
    if entry.base != "none" and folders == [part.base]:
        raise UserError(f"{method} merges models with the base; name one beside '{part.base}'")
    least, most = entry.inputs
    if not least <= len(folders) <= (most or len(folders)):
        wanted = f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"{method} merges {wanted} models, base included, not {len(folders)}")


def _say_unused(config: Config, entry: Entry) -> None:
    """mergekit passes over settings that it or its method does not have; so do we, but not in silence."""
    for name in config.unknown():
        say(f"mergekit config: passed over, as it has no effect: {name}")
    used = {parameter.name for parameter in entry.parameters}
    given = [config.parameters, *(m.parameters for m in config.models or ())]
    given += [
        scope for part in config.slices or () for scope in (part.parameters, *(s.parameters for s in part.sources))
    ]
    for name in sorted({name for scope in given for name in scope} - used):
        say(f"mergekit config: `{name}` has no effect on {config.merge_method}")


def outputs(whole: Sequence[Part], checkpoints: Checkpoints) -> Iterator[Output]:
    """Every output tensor: those outside layers once, then the layers of each part in turn, numbered through."""
    for name in _loose(whole[0], checkpoints):
        if BEFORE_LAYERS.search(name):
            yield Output(name, whole[0], (name,) * len(whole[0].origins), 0.0)
    for stack in _stacks(whole, checkpoints):
        done = 0
        for part in whole:
            count = _layers(part, stack, checkpoints)
            for layer in range(count):
                depth = layer / (count - 1) if count > 1 else 1.0
                for name in _layer(part, part.leader, stack, layer, checkpoints):
                    inputs = tuple(at_layer(name, origin.first + layer) for origin in part.origins)
                    yield Output(at_layer(name, done + layer), part, inputs, depth)
            done += count
    for name in _loose(whole[-1], checkpoints):
        if not BEFORE_LAYERS.search(name):
            yield Output(name, whole[-1], (name,) * len(whole[-1].origins), 0.0)


def at_layer(name: str, layer: int) -> str:
    """The same tensor's name in another layer."""
    return LAYER.sub(lambda match: f"{match[1]}{layer}", name, count=1)


def _loose(part: Part, checkpoints: Checkpoints) -> list[str]:
    """Names outside layers, the same in every model of the part."""
    return _agreed(part, lambda folder: [name for name in checkpoints[folder] if not LAYER.search(name)])


def _stacks(whole: Sequence[Part], checkpoints: Checkpoints) -> list[str]:
    """What precedes the layer's number in its tensors' names, once for each stack of layers."""
    names = checkpoints[whole[0].leader.folder]
    stacks = list(dict.fromkeys(name[: match.end(1)] for name in names if (match := LAYER.search(name))))
    if len(stacks) > 1 and whole[0].layers is not None:
        raise UserError(f"`slices` of a model with several stacks of layers ({', '.join(stacks)}) are not supported")
    return stacks


def _layers(part: Part, stack: str, checkpoints: Checkpoints) -> int:
    count = part.layers or _count(checkpoints[part.leader.folder], stack)
    for origin in part.origins:
        held = _count(checkpoints[origin.folder], stack)
        if origin.first + count > held:
            raise UserError(f"layers {origin.first} to {origin.first + count} of {origin.folder}: it has {held} layers")
    return count


def _count(names: Mapping[str, Source], stack: str) -> int:
    layers = [int(match[2]) for name in names if name.startswith(stack) and (match := LAYER.search(name))]
    return 1 + max(layers, default=-1)


def _layer(part: Part, leader: Origin, stack: str, layer: int, checkpoints: Checkpoints) -> list[str]:
    """Names of the tensors of one layer in the leader, the same in the layer's counterparts."""
    prefix = {origin.folder: f"{stack}{origin.first + layer}." for origin in part.origins}
    rest = _agreed(
        part,
        lambda folder: [n.removeprefix(prefix[folder]) for n in checkpoints[folder] if n.startswith(prefix[folder])],
    )
    return [prefix[leader.folder] + name for name in rest]


def _agreed(part: Part, names: Callable[[Path], list[str]]) -> list[str]:
    """The leader's names; UserError when another model of the part has others."""
    chosen = names(part.leader.folder)
    for origin in part.origins:
        different = sorted(set(chosen).symmetric_difference(names(origin.folder)))
        if different:
            raise UserError(
                f"{different[0]} is in only one of {part.leader.folder} and {origin.folder}; they cannot be merged"
            )
    return chosen


def _item(output: Output, entry: Entry, config: Config, checkpoints: Checkpoints) -> Item:
    part = output.part
    sources = [checkpoints[o.folder][name] for o, name in zip(part.origins, output.inputs, strict=True)]
    shape = sources[0].shape
    for origin, source in zip(part.origins, sources, strict=True):
        if source.shape != shape:
            first, second = f"{list(shape)} in {part.origins[0].folder}", f"{list(source.shape)} in {origin.folder}"
            hint = "; `tokenizer_source: base` aligns vocabularies" if INDEXED.search(output.name) else ""
            raise UserError(f"{output.name}: shape {first}, {second}{hint}")
    if not all(source.dtype.is_floating_point for source in sources) or not math.prod(shape):
        return Item(output.name, shape, sources[0].dtype, (_same(output.name, sources),))
    values = _values(output, entry, config)
    if entry.in_its_dtype:
        dtype = Dtype[config.dtype] if config.dtype else _promoted(sources)
        sources = [Cast(source, dtype) for source in sources]
    return Item(output.name, shape, out_dtype(config, sources), (_node(part, sources, entry, values),))


def out_dtype(config: Config, sources: Sequence[Source]) -> Dtype:
    """`out_dtype`, else `dtype`, else the type that holds all inputs; Arcee Fusion's masks make float32 of narrower."""
    if config.out_dtype:
        return Dtype[config.out_dtype]
    own = Dtype[config.dtype] if config.dtype else _promoted(sources)
    return promote(own, Dtype.float32) if config.merge_method == "arcee_fusion" else own


def _promoted(sources: Sequence[Source]) -> Dtype:
    promoted = sources[0].dtype
    for source in sources[1:]:
        promoted = promote(promoted, source.dtype)
    return promoted


def _same(name: str, sources: Sequence[Source]) -> Source:
    """A buffer of integers or truth values, which all models must share."""
    whole = [source.read(0, math.prod(source.shape)) for source in sources]
    if any(not torch.equal(buffer, whole[0]) for buffer in whole[1:]):
        raise UserError(f"{name}: it holds {whole[0].dtype} and differs between models; it cannot be merged")
    return sources[0]


def _node(part: Part, sources: Sequence[Source], entry: Entry, values: Mapping[str, Any]) -> Node:
    kept = None if entry.base == "none" else part.base
    inputs = {origin.folder: source for origin, source in zip(part.origins, sources, strict=True)}
    base = inputs.pop(kept) if kept else None
    names = [folder.name for folder in inputs]
    distinct = tuple(name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names, 1))
    return Node(entry.bound(values), base, tuple(inputs.values()), part.leader.folder.name, distinct)


def _values(output: Output, entry: Entry, config: Config) -> dict[str, Any]:
    """Every parameter's value for this tensor; a list, in the order of the node's models, where it is one an input."""
    part, shared = output.part, [output.part.parameters, config.parameters]

    def resolved(parameter: Parameter, scopes: Sequence[Settings], tensor: str, where: str) -> Any:
        for scope in scopes:
            if parameter.name in scope:
                value = value_at(scope[parameter.name], tensor, output.depth, parameter.kind)
                if value is not None:
                    return value
        if parameter.default is REQUIRED:
            raise UserError(f"{config.merge_method}: `{parameter.name}` is missing for {tensor}{where}")
        return parameter.default

    values: dict[str, Any] = {}
    for parameter in entry.parameters:
        if parameter.per == "merge":
            values[parameter.name] = resolved(parameter, shared, output.name, "")
            continue
        values[parameter.name] = [
            resolved(parameter, [origin.parameters, *shared], name, f" of {origin.folder}")
            for origin, name in zip(part.origins, output.inputs, strict=True)
            if entry.base == "none" or origin.folder != part.base
        ]
    return values
