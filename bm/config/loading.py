"""From composed YAML to frozen dataclasses, and from these to what manifests and keys hold."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from bm.config.component import Component, checked, reason
from bm.errors import UserError, nearest

NoKey = "does not change the result"
T = TypeVar("T")


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
        return TypeAdapter(root).validate_python(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        path = ".".join([where] * bool(where) + [str(part) for part in first["loc"] if "function" not in str(part)])
        why = reason(first)
        if first["type"] == "unexpected_keyword_argument":
            why = "no such setting" + nearest(str(first["loc"][-1]), _fields(root, first["loc"][:-1]))
        raise UserError(f"{path}: {why}" if path else why) from problem


def overridden(settings: T, overrides: Mapping[str, Any], where: str) -> T:
    """`settings` with some fields replaced, checked like the rest."""
    return typed(type(settings), {**TypeAdapter(type(settings)).dump_python(settings), **overrides}, where)


def resolved(settings: Any) -> Any:
    """A dataclass of this package as plain JSON values, for a manifest."""
    return TypeAdapter(type(settings)).dump_python(settings, mode="json")


def identity(settings: Any) -> Any:
    """A dataclass or component as plain JSON values, without what does not change the result: neither key nor hash."""
    if isinstance(settings, Component):
        known = inspect.signature(settings.function, eval_str=True).parameters
        neutral = {name for name, parameter in known.items() if _neutral(parameter.annotation)}
        inner = {n: identity(v) for n, v in checked(settings).items() if isinstance(v, Component)}
        values: dict[str, Any] = {"_target_": settings.target, **settings.parameters, **inner}
    else:
        hints = typing.get_type_hints(type(settings), include_extras=True)
        neutral = {name for name, hint in hints.items() if _neutral(hint)}
        components = {n: identity(v) for n, v in vars(settings).items() if isinstance(v, Component)}
        values = {**resolved(settings), **components}
    return {name: value for name, value in values.items() if name not in neutral}


def _neutral(hint: Any) -> bool:
    return NoKey in getattr(hint, "__metadata__", ())


def _fields(root: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the settings below `path`."""
    for part in path:
        hint = typing.get_type_hints(root).get(str(part)) if dataclasses.is_dataclass(root) else None
        arguments = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        root = hint if dataclasses.is_dataclass(hint) else arguments[0] if arguments else root
    return [field.name for field in dataclasses.fields(root)] if dataclasses.is_dataclass(root) else []
