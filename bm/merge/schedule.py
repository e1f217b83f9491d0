"""Parameters that differ between tensors: by module through filters, by layer through gradients.

A setting is a value; a gradient, whose values are spread evenly over the depth of the model and interpolated; or rules,
of which the first whose `filter` is part of the tensor's name gives the value. These are mergekit's rules.

    t: 0.5
    t: [0, 0.5, 1]
    t: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bm.config import Component, Target, typed
from bm.errors import UserError, nearest
from bm.merge.tensors import Apply, Method, Tensors

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
Schedule: TypeAlias = Mapping[str, Setting | Mapping[str, Setting]]
"""A setting for each parameter named, or for a parameter with one value per model, one for each model by its name."""


def value_at(setting: Setting, tensor: str, depth: float, kind: type | None = None) -> Any:
    """The setting's value for a tensor at `depth` (0: first layer, 1: last), as a `kind`; None where no rule applies.

    Numbers of a gradient are interpolated; truth values and words are taken from the nearest place at or before it.
    """
    if isinstance(setting, Rule):
        return value_at((setting,), tensor, depth, kind)
    if not isinstance(setting, tuple):
        return _as(kind, setting, tensor)
    rules = [rule for rule in setting if isinstance(rule, Rule)]
    if rules:
        return next((value_at(rule.value, tensor, depth, kind) for rule in rules if rule.applies(tensor)), None)
    return _gradient([_as(kind, value, tensor) for value in setting], depth, kind, tensor) if setting else None


def _gradient(values: Sequence[Any], depth: float, kind: type | None, tensor: str) -> Any:
    place = depth * (len(values) - 1)
    if any(isinstance(value, bool | str) for value in values):
        return values[int(place)]
    left, part = int(place), place - int(place)
    right = min(left + 1, len(values) - 1)
    return _as(kind, (1 - part) * values[left] + part * values[right], tensor)


def _as(kind: type | None, value: Any, tensor: str) -> Any:
    if kind is None:
        return value
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as problem:
        raise UserError(f"{value!r} for {tensor} is not of type {kind.__name__}") from problem


@dataclass(frozen=True)
class Scheduled:
    """A merge method some of whose parameters change from tensor to tensor; `given` is the schedule as written."""

    method: Component
    schedule: Schedule
    given: Mapping[str, Any]

    @property
    def target(self) -> str:
        return self.method.target

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**self.method.parameters, **self.given}

    def __call__(self, tensors: Tensors) -> Apply:
        last = tensors.layers - 1
        depth = max(tensors.place.layer, 0) / last if last > 0 else float(tensors.place.layer >= 0)
        values = {name: _value(name, setting, tensors, depth) for name, setting in self.schedule.items()}
        own = {name: value for name, value in values.items() if value is not None}
        apply: Apply = replace(self.method, parameters={**self.method.parameters, **own})(tensors)
        return apply


def _value(name: str, setting: Any, tensors: Tensors, depth: float) -> Any:
    if not isinstance(setting, Mapping):
        return value_at(setting, tensors.name, depth)
    values = {model: value_at(own, tensors.name, depth) for model, own in setting.items()}
    missing = next((model for model in tensors.names if values.get(model) is None), None)
    if missing is not None:
        raise UserError(f"merge.schedule.{name}: no value for {tensors.name} of '{missing}'{nearest(missing, setting)}")
    return [values[model] for model in tensors.names]


def scheduled(method: Method, schedule: Mapping[str, Any]) -> Method:
    """The method with `merge.schedule` in force; UserError when it names no parameter or gives a wrong value."""
    if not schedule:
        return method
    if not isinstance(method, Component):
        raise UserError("merge.schedule: only for a method that the configuration chose")
    settings = typed(Schedule, schedule, "merge.schedule")  # type: ignore[type-abstract]
    for name, setting in settings.items():
        if name not in method.parameters:
            raise UserError(
                f"merge.schedule: `{method.target}` has no parameter '{name}'{nearest(name, method.parameters)}"
            )
        for value in _scalars(setting):
            own = [value] if isinstance(setting, Mapping) else value
            typed(Target, {"_target_": method.target, **method.parameters, name: own}, f"merge.schedule.{name}")
    return Scheduled(method, settings, schedule)


def _scalars(setting: Any) -> Iterator[Scalar]:
    """Every value that a setting holds."""
    if isinstance(setting, Rule):
        setting = setting.value
    if isinstance(setting, Mapping | tuple):
        for part in setting.values() if isinstance(setting, Mapping) else setting:
            yield from _scalars(part)
    else:
        yield setting
