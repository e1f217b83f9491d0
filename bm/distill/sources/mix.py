"""Several sources as one."""

import random
from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from bm.config import SourceTarget
from bm.distill.sources import Stream


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Part:
    """A source, and how many of its questions the mix has at most."""

    source: SourceTarget
    count: Annotated[int, Field(gt=0)]


def stream(domain: str, seed: int, parts: Mapping[str, Part]) -> Stream:
    """The parts' questions, drawn in proportion to their counts until each has given its count or has no more.

    What a part has already given, or another part, counts for none: s1K is a part of data_ablation_full59K.
    """
    streams = {name: part.source(domain, seed=seed) for name, part in parts.items()}
    left = {name: part.count for name, part in parts.items()}
    draw, given = random.Random(seed), set[str]()
    while open_parts := [name for name in parts if left[name]]:
        (name,) = draw.choices(open_parts, [parts[name].count for name in open_parts])
        for question in streams[name]:
            yield question
            if question is not None and question.id not in given:
                given.add(question.id)
                left[name] -= 1
                break
        else:
            left[name] = 0
