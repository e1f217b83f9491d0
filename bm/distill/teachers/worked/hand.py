"""The hand that works a solution out, and sometimes slips."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Hand:
    """Does one step at a time; each goes wrong with probability `slip`, and what follows builds on the mistake."""

    def __init__(self, draw: random.Random, slip: float) -> None:
        self._draw, self._slip = draw, slip

    def choose(self, right: T, wrong: Sequence[T]) -> T:
        """`right`, or after a slip one of `wrong`."""
        return self._draw.choice(wrong) if self._draw.random() < self._slip else right

    def reckon(self, result: int) -> int:
        """The result of some arithmetic, or after a slip one that is off by one or by ten."""
        return self.choose(result, [result - 10, result - 1, result + 1, result + 10])
