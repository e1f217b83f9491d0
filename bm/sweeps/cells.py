"""The cells of a grid: every combination of what is swept, less those that make no sense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from bm.errors import UserError, nearest


@dataclass(frozen=True)
class Choice:
    """One value of a setting: as Hydra is told, and as it compares."""

    word: str
    value: Any


OPTIONAL = ("adapter", "feedback", "judge", "mixture", "tune")
"""Groups of which none need be chosen."""

Axes = Mapping[str, Sequence[Choice]]
"""The values of each setting by its name; one that is not swept has one."""

Cell = Mapping[str, Choice]
Condition = Mapping[str, Any]
"""By setting, a value that it must have or a list of those that it may have."""


def axes(overrides: Sequence[Override], parser: OverridesParser) -> dict[str, list[Choice]]:
    """What is chosen for each setting; of two overrides of one setting the later counts."""
    swept = {}
    for override in overrides:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise UserError(
                f"{override.input_line}: an interval is for hydra/sweeper=optuna; a grid needs a list of values"
            )
        words = [str(override.input_line)]
        if override.is_sweep_override():
            words = [_word(override.get_key_element(), value) for value in override.sweep_string_iterator()]
        swept[override.key_or_group] = [Choice(word, parser.parse_override(word).value()) for word in words]
    return swept


def _word(name: str, value: str) -> str:
    """Hydra has no `=null` for a group: what chooses none of its files leaves it out."""
    return f"~{name}" if name in OPTIONAL and value == "null" else f"{name}={value}"


def cells(
    axes: Axes, together: Sequence[Sequence[str]], when: Mapping[str, Condition], skip: Sequence[Condition]
) -> list[Cell]:
    """The grid, each cell once, in the order of a product whose last setting changes fastest.

    together: groups of settings that advance as one, as `zip`. when: a setting that means something only where the
    condition holds; elsewhere its value is left out. skip: conditions on cells that are left out. UserError for a name
    that the grid has not, and for lists of different lengths that should advance together.
    """
    for name in [*(n for group in together for n in group), *when, *(n for c in [*when.values(), *skip] for n in c)]:
        if name not in axes:
            raise UserError(f"hydra.sweeper: the sweep has no setting '{name}'{nearest(name, axes)}")
    twice = [name for name in axes if sum(name in group for group in together) > 1]
    if twice:
        raise UserError(f"hydra.sweeper.zip: '{twice[0]}' is in two groups")
    groups = [next((g for g in together if name in g), [name]) for name in axes]
    groups = [group for i, group in enumerate(groups) if group not in groups[:i]]
    kept: dict[tuple[str, ...], Cell] = {}
    for places in product(*(range(_length(axes, group)) for group in groups)):
        whole = {n: axes[n][at] for group, at in zip(groups, places, strict=True) for n in group}
        cell = {n: choice for n, choice in whole.items() if n not in when or _holds(when[n], whole)}
        if not any(_holds(condition, cell) for condition in skip):
            kept.setdefault(tuple(choice.word for choice in cell.values()), cell)
    return list(kept.values())


def _length(axes: Axes, group: Sequence[str]) -> int:
    lengths = {name: len(axes[name]) for name in group}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UserError(f"hydra.sweeper.zip: lists that advance together must be equally long; {told}")
    return next(iter(lengths.values()))


def _holds(condition: Condition, cell: Cell) -> bool:
    return all(name in cell and _is(cell[name].value, wanted) for name, wanted in condition.items())


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value is one of those wanted; of options chosen together, `merge=[ties,linear]`, one is enough."""
    if value == wanted:
        return True
    values = value if isinstance(value, list) else [value]
    return any(option in wanted if isinstance(wanted, list) else option == wanted for option in values)
