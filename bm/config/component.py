"""Functions named in YAML: a method, a teacher, a source or a tracker is a `_target_` and its parameters."""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, partial
from math import isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from bm.code import parameters
from bm.errors import nearest


@dataclasses.dataclass(frozen=True)
class Component:
    """A function named by `_target_` and the parameters given to it in YAML: what Hydra's instantiate would call.

    The parameters are held to the function's own annotations when the config is read, not when it is called.
    """

    target: str
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.target, json.dumps(self.parameters, sort_keys=True, default=str)))

    @property
    def entry(self) -> str:
        """The function as `bm.code` names it: `module:name`."""
        return ":".join(self.target.rpartition(".")[::2])

    @property
    def function(self) -> Callable[..., Any]:
        return _function(self.target)

    @cached_property
    def _checked(self) -> dict[str, Any]:
        return checked(self)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self.function(*arguments, **self._checked, **more)


TAKES = {
    "student": ("output",),
    "source": ("domain", "seed"),
    "teacher": ("questions", "seed"),
    "merge method": ("tensors",),
    "engine": ("model",),
    "judge": ("engine", "model"),
    "verifier": ("text", "reference", "metadata", "settings"),
    "tracker": ("about",),
    "loss": ("logits", "targets"),
    "relation": ("features",),
    "optimizer": ("module", "learning_rate"),
}
"""The parameters by which a function is known as one of a group's, since it is called with them."""


def _component(node: Any, kind: str | None = None) -> Component:
    if isinstance(node, Component):
        return node
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError("needs a `_target_`: the dotted name of a function")
    component = Component(str(node["_target_"]), {str(k): v for k, v in node.items() if k != "_target_"})
    if kind:
        _is_one(component, kind)
    checked(component)
    return component


def _is_one(component: Component, kind: str) -> None:
    """ValueError if a target is not of its group's kind, which is read in its source: importing it may do anything."""
    has, needs = parameters(component.entry), TAKES[kind]
    if has is None:
        raise ValueError(f"there is no function `{component.target}`, or it is not written in Python")
    if not set(needs) <= set(has):
        article = "an" if kind[0] in "aeiou" else "a"
        takes = " and ".join(f"`{name}`" for name in needs)
        raise ValueError(f"`{component.target}` is not {article} {kind}: such a function takes {takes}")


def checked(component: Component) -> dict[str, Any]:
    """The parameters as the types that the function's annotations ask for; ValueError names the first that is not."""
    known = declared(component.function)
    typed: dict[str, Any] = {}
    for name, value in component.parameters.items():
        if name not in known:
            raise ValueError(f"`{component.target}` has no parameter '{name}'{nearest(name, known)}")
        try:
            typed[name] = _adapter(component.function, name).validate_python(value)
        except ValidationError as problem:
            raise ValueError(f"{name}: {reason(problem.errors()[0])}") from problem
        for mistake in misread(value, typed[name], name):
            raise ValueError(mistake)
    return typed


@cache
def declared(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's parameters with their types; read once, as a sweep checks the same function in every cell."""
    return inspect.signature(function, eval_str=True).parameters


@cache
def _adapter(function: Callable[..., Any], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(declared(function)[name].annotation)


def misread(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """What Pydantic lets pass and no setting means: a boolean for a number or the reverse, infinity and NaN."""
    if isinstance(read, Component):  # its own parameters are checked
        return
    if dataclasses.is_dataclass(read):
        read = vars(read)
    if isinstance(given, Mapping) and isinstance(read, Mapping):
        for name in given.keys() & read.keys():
            yield from misread(given[name], read[name], f"{path}.{name}".lstrip("."))
    elif isinstance(given, list | tuple) and isinstance(read, list | tuple):
        for place, (before, after) in enumerate(zip(given, read, strict=False)):
            yield from misread(before, after, f"{path}.{place}".lstrip("."))
    elif isinstance(given, int | float) and isinstance(read, int | float):
        if isinstance(given, bool) != isinstance(read, bool):
            yield f"{path}: must be {'true or false' if isinstance(read, bool) else 'a number'}, not {given!r}"
        elif not isfinite(read):
            yield f"{path}: must be a finite number, not {given!r}"


def asks(component: Component | None) -> frozenset[str]:
    """The names of all that a function takes; nothing where there is none."""
    return frozenset(inspect.signature(component.function).parameters) if component else frozenset()


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ValueError(f"there is no function `{target}` ({problem})") from problem
    return function


_SHOWN = PlainSerializer(lambda c: {"_target_": c.target, **c.parameters})
Target = Annotated[Component, BeforeValidator(_component), _SHOWN]
"""A function of any kind."""
StudentTarget = Annotated[Component, BeforeValidator(partial(_component, kind="student")), _SHOWN]
SourceTarget = Annotated[Component, BeforeValidator(partial(_component, kind="source")), _SHOWN]
TeacherTarget = Annotated[Component, BeforeValidator(partial(_component, kind="teacher")), _SHOWN]
MethodTarget = Annotated[Component, BeforeValidator(partial(_component, kind="merge method")), _SHOWN]
EngineTarget = Annotated[Component, BeforeValidator(partial(_component, kind="engine")), _SHOWN]
JudgeTarget = Annotated[Component, BeforeValidator(partial(_component, kind="judge")), _SHOWN]
VerifierTarget = Annotated[Component, BeforeValidator(partial(_component, kind="verifier")), _SHOWN]
LossTarget = Annotated[Component, BeforeValidator(partial(_component, kind="loss")), _SHOWN]
RelationTarget = Annotated[Component, BeforeValidator(partial(_component, kind="relation")), _SHOWN]
OptimizerTarget = Annotated[Component, BeforeValidator(partial(_component, kind="optimizer")), _SHOWN]
TrackerTarget = Annotated[Component, BeforeValidator(partial(_component, kind="tracker")), _SHOWN]


def reason(error: Any) -> str:
    """Pydantic's message in the words of this project."""
    message = re.sub(r"^(Value error, |Input )", "", error["msg"])
    message = re.sub(r"^(String )?should (be|match)", r"must \2", message)
    if error["type"] in ("value_error", "missing"):
        return message
    return f"{message}, not {error['input']!r}".replace("\n", " ")
