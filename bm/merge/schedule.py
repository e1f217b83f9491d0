"""Parameters that differ between tensors: by module through filters, by layer through gradients.

A setting is a value; a gradient, whose values are spread evenly over the depth of the model and interpolated; or rules,
of which the first whose `filter` is part of the tensor's name gives the value. These are mergekit's rules.

    t: 0.5
    t: [0, 0.5, 1]
    t: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bm.config import Component
from bm.errors import UserError

Scalar: TypeAlias = bool | int | float | str
Values: TypeAlias = Scalar | tuple[Scalar, ...]


class Rule(BaseModel):
    """`value` for the tensors whose name contains `filter`; for all of them without one, or with `*`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: Values
    filter: str | None = None

    def applies(self, tensor: str) -> bool:
        return self.filter is None or self.filter == "*" or self.filter in tensor


Setting: TypeAlias = Scalar | Rule | tuple[Rule, ...] | tuple[Scalar, ...]


def value_at(setting: Setting, tensor: str, depth: float, kind: type) -> Any:
    """The setting's value as a `kind` for a tensor at `depth` (0: first layer, 1: last); None where no rule applies.

    Numbers of a gradient are interpolated; truth values and words are taken from the nearest place at or before it.
    """
    if isinstance(setting, Rule):
        return value_at((setting,), tensor, depth, kind)
    if not isinstance(setting, tuple):
        return _typed(setting, kind, tensor)
    rules = [rule for rule in setting if isinstance(rule, Rule)]
    if rules:
        return next((value_at(rule.value, tensor, depth, kind) for rule in rules if rule.applies(tensor)), None)
    if not setting:
        return None
    return _gradient([_typed(value, kind, tensor) for value in setting], depth, kind, tensor)


def _gradient(values: Sequence[Any], depth: float, kind: type, tensor: str) -> Any:
    place = depth * (len(values) - 1)
    if kind not in (int, float):
        return values[int(place)]
    left, part = int(place), place - int(place)
    right = min(left + 1, len(values) - 1)
    return _typed((1 - part) * values[left] + part * values[right], kind, tensor)


def _typed(value: Any, kind: type, tensor: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as problem:
        raise UserError(f"{value!r} for {tensor} is not of type {kind.__name__}") from problem


def scheduled(method: Component, schedule: Mapping[str, Setting], tensor: str, depth: float) -> Component:
    """The method with the parameters that `schedule` gives this tensor in place of its own; checked when called."""
    values = {name: value_at(setting, tensor, depth, float) for name, setting in schedule.items()}
    return replace(method, parameters={**method.parameters, **{k: v for k, v in values.items() if v is not None}})
