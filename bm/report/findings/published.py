"""What the paper reports of an experiment and the claims that its runs test, from experiments/NAME/published.yaml.

The figures of the paper are there and nowhere else; ablations that it left out have claims alone.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic.dataclasses import dataclass

from bm.config import STRICT, Name, typed
from bm.errors import UserError, nearest
from bm.report.findings.results import Kind
from bm.yaml import read_yaml

SOURCE = "Branch-Merge distillation, arXiv 2503.04872v3"
SCALE = "DeepSeek-R1-Distill-Qwen-32B, experts trained on 58k, 20k and 8.6k traces of DeepSeek-R1, on 32 H800 GPUs"
RECIPE = "tinyr1"
"""The paper's scale. At any other, claims are compared (signs, orders, ratios), not values."""

OneLine = Annotated[str, StringConstraints(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class PublishedRow:
    name: OneLine
    """As the paper calls it."""
    values: tuple[float | None, ...]
    """Scores in percent, one per column; None: not reported."""
    kind: Kind | None = None
    """None: nothing that a run makes."""
    domain: str | None = None
    """An expert's."""
    method: str | None = None
    """A merge's, and its order; None: the paper does not say it."""
    order: str | None = None
    gpu_hours: float | None = None
    tokens: tuple[float | None, ...] = ()
    """Mean tokens of a response, one a column."""


@dataclass(frozen=True, config=STRICT)
class Models:
    """Which rows of a grid, and from the cells with which settings. `!name` is any other than that name."""

    kind: Kind
    name: OneLine | None = None
    """As the run calls the model; here and below None: any."""
    domain: OneLine | None = None
    """One that the model was made for, as an expert or from its expert."""
    method: OneLine | None = None
    order: OneLine | tuple[OneLine, ...] | None = None
    """Where there are several, every one must have been run."""
    base: OneLine | None = None
    """The expert whose weights a merge keeps where it takes nothing."""
    where: Mapping[str, str | float | bool | None] | None = None
    """Settings by dotted name, `lowest` and `highest` among a seed's cells; None: any cell, and for what a model is
    held against: that model's own cell.
    """
    best: bool = False
    """The highest of a seed's, which favours this side by chance, instead of their mean."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Stated:
    """A claim: it is true where its statistic is above one bound and below another."""

    id: Name
    claim: OneLine
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Difference(Stated):
    """A difference of pass@1, as a share, paired by seed; of two experts, where both are of the same domain."""

    test: Literal["difference"]
    of: Models
    against: Models
    measure: str | tuple[str, ...]
    """`mean` over the domains; `own` or `others`: those that the model was made for, or the rest; `base` or `taken`: a
    merge's base's, or those of the experts merged into it; a domain; or tasks, of which the first asked counts."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Order(Stated):
    """Each is above the next: every step must hold."""

    test: Literal["order"]
    of: Annotated[tuple[Models, ...], Field(min_length=2)]
    measure: str | tuple[str, ...]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Ratio(Stated):
    """A ratio of costs (GPU-hours, or seconds where there are no GPUs) or of mean response tokens."""

    test: Literal["ratio"]
    of: Models
    against: Models
    measure: Literal["cost", "tokens"]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Cosine(Stated):
    """The cosine of every pair of domains (appendix C)."""

    test: Literal["cosine"]
    of: Literal["updates", "gradients"]


AnyClaim = Annotated[Difference | Order | Ratio | Cosine, Field(discriminator="test")]


@dataclass(frozen=True, config=STRICT)
class Published:
    title: OneLine
    number: str | None
    """The title of the table or figure; None: the paper has none of this."""
    columns: Mapping[str, str]
    """The paper's columns and the domain, or the task, that each is about."""
    rows: tuple[PublishedRow, ...]
    claims: tuple[AnyClaim, ...]

    @property
    def priced(self) -> bool:
        return any(row.gpu_hours is not None for row in self.rows)

    def of(self, kind: Kind) -> list[PublishedRow]:
        return [row for row in self.rows if row.kind == kind]


def experiments_dir() -> Path:
    """The folder of the experiments: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def names() -> list[str]:
    """Every experiment that has a published.yaml: the paper's tables, its figures, then what it left out."""

    def place(name: str) -> tuple[bool, bool, str]:
        number = published(name).number
        return number is None, not (number or "").startswith("Table"), number or name

    return sorted((path.parent.name for path in experiments_dir().glob("*/published.yaml")), key=place)


@cache
def published(experiment: str) -> Published:
    """UserError where there is no such experiment or its file is not one."""
    path = experiments_dir() / experiment / "published.yaml"
    if not path.is_file():
        known = [file.parent.name for file in experiments_dir().glob("*/published.yaml")]
        raise UserError(f"there is no experiment '{experiment}'{nearest(experiment, known)}")
    table = typed(Published, read_yaml(path), str(path))
    for row in table.rows:
        if len(row.values) != len(table.columns) or len(row.tokens) not in (0, len(table.columns)):
            raise UserError(f"{path}: '{row.name}' needs a value for each of the {len(table.columns)} columns")
    return table


def tables() -> list[Published]:
    """The tables and figures of which the paper has figures."""
    return [table for table in map(published, names()) if table.rows]
