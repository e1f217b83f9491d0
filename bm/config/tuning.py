"""What the parameters of merge methods are drawn from, and how they are chosen."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bm.config.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class Range:
    """What a parameter of a merge method is drawn from."""

    low: float
    high: float
    log: bool = False
    """Whether values are drawn evenly in the logarithm."""
    each: bool = False
    """Whether each expert has a number of its own, in the merge's order."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} and high {self.high:g} are not a range" + " of logarithms" * self.log)
        return self


@dataclass(frozen=True, config=STRICT)
class Tune:
    """Parameters of merge methods, chosen on questions that are neither the test's nor trained on."""

    trials: Positive
    """Settings tried for every method that has something to tune, its defaults among them."""
    questions: Positive
    """Questions of each domain to tune on: the next ones of its source behind the test's."""
    samples: Positive
    """Samples of each question to tune on."""
    batch: Positive
    """Candidates that are held in memory together."""
    race: Annotated[float, Field(gt=0, lt=1)] | None
    """Candidates that cannot win any more are asked no further: the chance that this drops the best. null: ask all."""
    spaces: Mapping[str, Mapping[str, Range | Sequence[bool | float | str]]]
    """By method, what each tuned parameter is drawn from: a range, or a list of values; {}: nothing is tuned."""
