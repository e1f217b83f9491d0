"""From composed YAML to frozen dataclasses, and from these to what manifests and keys hold."""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from bm.config.component import Component, checked, declared, misread, reason
from bm.errors import UserError, nearest
from bm.store import MANIFEST, file_digest

NoKey = "does not change the result"
Content = "counts by what is in it, wherever it is"
"""Marks the path of a file or folder, also a name that may be one (of a model on the hub)."""
Device = "counts by its kind"
"""Marks a device: a processor and a GPU add in other orders, so what they make differs in bits."""
UNIONS = (typing.Union, types.UnionType)
T = TypeVar("T")
ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""What checks and dumps values of a type: to make it takes longer than to use it."""


def load(root: type[T], composed: DictConfig) -> T:
    """The composed YAML as a frozen `root`; UserError names the first setting that is missing, unknown or bad."""
    try:
        for name in sorted(OmegaConf.missing_keys(composed)):
            raise UserError(f"{name}: must be given")
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as problem:
        raise UserError(str(problem).splitlines()[0]) from problem
    return typed(root, values)


def typed(root: type[T], values: Any, where: str = "") -> T:
    """`values` as a frozen `root`, or a UserError that names the setting by its path below `where`."""
    try:
        settings: T = _adapter(root).validate_python(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        path = ".".join([where] * bool(where) + [str(part) for part in first["loc"] if "function" not in str(part)])
        why = reason(first)
        if first["type"] == "unexpected_keyword_argument":
            why = "no such setting" + nearest(str(first["loc"][-1]), _fields(root, first["loc"][:-1]))
        raise UserError(f"{path}: {why}" if path else why) from problem
    for mistake in misread(values, settings, where):
        raise UserError(mistake)
    return settings


def overridden(settings: T, overrides: Mapping[str, Any], where: str) -> T:
    """`settings` with some fields replaced, checked like the rest."""
    return typed(type(settings), {**_adapter(type(settings)).dump_python(settings), **overrides}, where)


def resolved(settings: Any) -> Any:
    """A dataclass of this package as plain JSON values, for a manifest."""
    return _adapter(type(settings)).dump_python(settings, mode="json")


def identity(settings: Any) -> Any:
    """Settings as plain JSON values, as they count in a key.

    settings: a dataclass, a component, or a mapping of such. What is marked `NoKey` is left out; of a path that is
    marked `Content` what is there counts, wherever it is; of a `Device` its kind.
    """
    return _identity(settings, Any)


def _identity(value: Any, hint: Any) -> Any:
    marks = marks_of(hint)
    if Content in marks and value is not None and Path(value).exists():
        return content(Path(value))
    if Device in marks:
        return device_kind(value)
    if not isinstance(value, Mapping | list | tuple | Component) and not dataclasses.is_dataclass(value):
        return ANYTHING.dump_python(value, mode="json")
    inner = {name: _identity(part, of) for name, of, part in _inner(value, hint) if NoKey not in marks_of(of)}
    if isinstance(value, Component):
        return {"_target_": value.target, **inner}
    return list(inner.values()) if isinstance(value, list | tuple) else inner


def components(settings: Any) -> list[Component]:
    """The components in settings that count in a key, those within them too."""
    return [value for _, value, _ in _nodes(settings, Any) if isinstance(value, Component)]


def contents(settings: Any) -> list[Path]:
    """The files and folders of yours that count in a key by what is in them, as far as they exist."""
    return [Path(value) for _, value in _marked(settings) if Path(value).exists()]


def absent(settings: Any) -> list[tuple[str, Path]]:
    """The paths among those that lead nowhere, each behind the setting that names it."""
    return [(name, value) for name, value in _marked(settings) if isinstance(value, Path) and not value.exists()]


def _marked(settings: Any) -> list[tuple[str, Any]]:
    nodes = _nodes(settings, Any)
    return [(name, value) for name, value, hint in nodes if Content in marks_of(hint) and value is not None]


def _nodes(value: Any, hint: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """A value and all within it that count, each with the setting's name and its type."""
    yield where, value, hint
    for name, of, part in _inner(value, hint):
        if NoKey not in marks_of(of):
            inner = where if isinstance(value, list | tuple) else f"{where}.{name}".lstrip(".")
            yield from _nodes(part, of, inner)


def _inner(value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts of a value by name, with the type that they are declared with."""
    if isinstance(value, Component):
        known = declared(value.function)
        yield from ((name, known[name].annotation, part) for name, part in checked(value).items())
    elif dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value), include_extras=True)
        yield from ((name, hints[name], part) for name, part in vars(value).items() if name in hints)
    elif isinstance(value, Mapping):
        yield from ((str(name), element(hint), part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(place), element(hint), part) for place, part in enumerate(value))


def element(hint: Any) -> Any:
    """The type of what a mapping or a sequence holds."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in UNIONS:
        hint = next((choice for choice in typing.get_args(hint) if typing.get_args(choice)), Any)
    held = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
    return held[-1] if held else Any


def marks_of(hint: Any) -> tuple[Any, ...]:
    """What a type is annotated with, in an alternative of it too (`Annotated[Path, Content] | None`)."""
    if typing.get_origin(hint) is Annotated:
        return (*hint.__metadata__, *marks_of(typing.get_args(hint)[0]))
    if typing.get_origin(hint) in UNIONS:
        return tuple(mark for choice in typing.get_args(hint) for mark in marks_of(choice))
    return ()


def content(path: Path) -> Any:
    """What is in a file, with its name; or in a folder, by the names in it, without manifests of `bm`'s."""
    if path.is_file():
        return {path.name: file_digest(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {str(file.relative_to(path)): file_digest(file) for file in files}


def device_kind(device: str) -> str:
    """`cpu` or `cuda`: what `auto` takes, and whichever of several it is."""
    if device != "auto":
        return device.partition(":")[0]
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fields(root: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the settings below `path`."""
    for part in path:
        hint = typing.get_type_hints(root).get(str(part)) if dataclasses.is_dataclass(root) else None
        arguments = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        root = hint if dataclasses.is_dataclass(hint) else arguments[0] if arguments else root
    return [field.name for field in dataclasses.fields(root)] if dataclasses.is_dataclass(root) else []
