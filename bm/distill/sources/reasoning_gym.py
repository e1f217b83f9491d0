"""Procedural questions: reasoning-gym's generators, each an endless stream that its own scorer can verify."""

import json
import random
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bm.distill.selection import Question
from bm.errors import UserError, nearest


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Generator:
    """How often a generator is asked, relative to the others, and its own settings (reasoning-gym's names)."""

    weight: Annotated[float, Field(gt=0)]
    parameters: Mapping[str, Any]


def stream(domain: str, generators: Mapping[str, Generator], seed: int) -> Iterator[Question]:
    """Endless questions drawn from the generators by weight: the same ones for the same arguments.

    Repeats happen. UserError for a generator or one of its settings that reasoning-gym does not know.
    """
    names = list(generators)
    datasets = {name: _dataset(name, generators[name].parameters, seed) for name in names}
    drawn = dict.fromkeys(names, 0)
    draw = random.Random(f"{seed}:{domain}")
    while True:
        (name,) = draw.choices(names, [generators[n].weight for n in names])
        entry = datasets[name][drawn[name]]
        drawn[name] += 1
        yield Question(
            domain=domain,
            source=name,
            system="",
            prompt=entry["question"],
            answer=entry["answer"],
            verifier="reasoning_gym",
            metadata=json.dumps(entry["metadata"], ensure_ascii=False, default=str),
        )


def _dataset(name: str, parameters: Mapping[str, Any], seed: int) -> Any:
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(f"reasoning-gym has no generator '{name}'{nearest(name, DATASETS)}")
    try:
        return create_dataset(name, seed=seed, size=1 << 40, **parameters)
    except (AssertionError, TypeError, ValueError) as problem:
        raise UserError(f"reasoning-gym's {name} refuses its parameters: {problem}") from problem
