"""What a run found: rows of scores and costs, verdicts on the claims, and results.json, which holds both."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from bm.errors import UserError
from bm.ledger import Cost as Cost
from bm.statistics import Outcome
from bm.store import write_json

Kind = Literal["student", "expert", "mixture", "merge", "consolidated", "ensemble"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")

Claim = Literal[
    "expert over student", "merge over student", "merge over mixture", "consolidated over student",
    "consolidated over mixture", "consolidated over merge", "ensemble over mixture", "ensemble over merge",
]  # fmt: skip

MEAN = "mean"
"""Stands where a task does for the mean over the domains' tasks."""


@dataclass(frozen=True)
class Score:
    """pass@1 of one model on one task, as a share in [0, 1], and its interval over questions."""

    mean: float
    low: float
    high: float
    questions: int
    samples: int
    """Samples per question."""
    response_tokens: float = 0.0
    """Mean length of a response; 0 where nothing was generated."""
    seen: int | None = None
    """Questions that are among the training traces; None: it is not known what the model was trained on."""
    unclosed: int = 0
    """Responses, counted as wrong, whose thought never ended."""


@dataclass(frozen=True)
class Row:
    """One model. A task it was not tested on is absent from `scores`."""

    name: str
    kind: Kind
    scores: Mapping[str, Score]
    cost: Cost
    """The cost of the last step alone: the training of an expert, the merging of a merge (as in Table 2)."""
    key: str
    out_after: int | None = None
    """Questions of each task after which the row left a race: its scores rest on these alone. None: all were asked."""
    total: Cost | None = None
    """The cost of the model and of everything it was made from, shared artefacts counted once; None: not asked."""
    round: int = 1
    method: str | None = None
    """The method of a merge; below are its order and the expert that is its base."""
    order: str | None = None
    base: str | None = None
    domains: tuple[str, ...] = ()
    """Those that an expert was trained on, or that a merge, a third arm or an ensemble has experts of; else none."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """By domain, nats per token on its held-out traces; empty where they were not measured."""
    distance: float | None = None
    """How far it went from the student: ‖θ − θ0‖ / ‖θ0‖."""

    @property
    def seconds_in_all(self) -> float:
        """Seconds of all that it was made from; of its own step alone where the rest was not asked."""
        return max(self.cost.seconds, self.total.seconds if self.total else 0.0)

    @property
    def domain(self) -> str | None:
        """The one that an expert was trained on."""
        return self.domains[0] if self.kind == "expert" and self.domains else None


@dataclass(frozen=True)
class Retained:
    """The share of an expert's gain over the student, on its own task, that a merge kept, and its interval."""

    name: str
    expert: str
    task: str
    share: float | None
    """None, with `low` and `high`, where the gain itself is not certain."""
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """`name` against `against` on one task or the mean over tasks: a paired comparison over the same questions."""

    claim: Claim
    name: str
    against: str
    task: str
    difference: float
    """Mean of `name` less mean of `against`, as a share in [-1, 1]; `low` and `high` are its interval."""
    low: float
    high: float
    p: float
    """Adjusted, as `verdict` is, for the number of verdicts in the run (Holm); the interval is of this one alone."""
    verdict: Outcome
    questions: int
    questions_needed: int | None
    """Questions that would decide a difference of this size; None: decided already, or no difference to see."""
    samples_needed: int | None
    """Samples per question that would do it with the same questions; None too if no number would."""
    cost_ratio: float | None
    """Seconds of `name` as a share of the seconds of `against`; None where `against` cost nothing."""


@dataclass(frozen=True)
class Run:
    """Where results come from."""

    experiment: str | None
    """The published table or figure, or the ablation, that the run is a cell of."""
    recipe: str
    seed: int
    overrides: tuple[str, ...]
    """As typed, or as the sweep gave them."""
    command: str
    """What makes this run again."""
    key: str
    """Hash of the resolved config."""
    config_dirs: tuple[str, ...] = ()
    """Folders of the user's own YAML (`--config-dir`)."""
    hardware: Mapping[str, str] = field(default_factory=dict)
    """`processor` and `GPUs` that made its artefacts; another make of processor may score a little differently."""


@dataclass(frozen=True)
class Results:
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    retention: tuple[Retained, ...] = ()
    run: Run | None = None
    """None: the file was written before runs said this of themselves."""
    cosines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """`updates` and `gradients` by pair of domains, as far as they were measured (paper, appendix C)."""
    meetings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """How pairs of experts meet, as far as it was measured: `conflict`, the share of entries that both change and in
    opposite directions; `barrier`, how far the loss rises above the straight line between them, in nats per token."""
    spent: Cost | None = None
    """The cost of the whole run, evaluations too, shared artefacts counted once; None: it was not asked."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """The task that is each domain's own."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that a row was tested on: first those that the mean is over, then by name."""
        others = {task for row in self.rows for task in row.scores}.difference(self._own)
        return (*self._own, *sorted(others))

    @property
    def compared(self) -> tuple[str, ...]:
        """The tasks that the mean is over: the domains' own; every task where no domain has one."""
        return self._own or self.tasks

    @property
    def _own(self) -> tuple[str, ...]:
        tested = {task for row in self.rows for task in row.scores}
        return tuple(sorted(tested.intersection(self.domains.values())))

    def mean(self, row: Row) -> float | None:
        """Mean over the compared tasks, each counting the same; None if the row lacks one or left a race early."""
        if row.out_after is not None:
            return None
        scores = [row.scores[task].mean for task in self.compared if task in row.scores]
        return fmean(scores) if scores and len(scores) == len(self.compared) else None

    def best(self, kind: Kind) -> Row | None:
        """The row of this kind with the highest mean; None if none has one. Ties go to the first name."""
        pairs = [(row, mean) for row in self.rows if row.kind == kind and (mean := self.mean(row)) is not None]
        return min(pairs, key=lambda pair: (-pair[1], pair[0].name))[0] if pairs else None

    @property
    def highest_mean(self) -> float | None:
        return max((mean for row in self.rows if (mean := self.mean(row)) is not None), default=None)

    def verdict(self, claim: Claim, name: str) -> Verdict | None:
        return next((v for v in self.verdicts if (v.claim, v.name) == (claim, name)), None)


def ordered(rows: list[Row]) -> tuple[Row, ...]:
    """Student, experts, mixture, merges; by name within a kind, so a result file does not depend on who came first."""
    return tuple(sorted(rows, key=lambda row: (KINDS.index(row.kind), row.name)))


def write(results: Results, path: Path) -> None:
    """results.json, atomically; the same results give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(results) | {"rows": [row_values(row) for row in results.rows]})


def read(path: Path) -> Results:
    """The results of a results.json; UserError if it is not one."""
    try:
        results: Results = _reader(Results).validate_python(json.loads(path.read_bytes()))
        return results
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror})") from problem
    except ValueError as problem:
        first = problem.errors()[0] if isinstance(problem, ValidationError) else None
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(problem)
        raise UserError(f"{path} is not a results.json ({why}); remove it and repeat its run") from problem


def row_values(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return {**asdict(row), "domain": row.domain}


def row_of(values: Mapping[str, Any]) -> Row:
    """The row that `row_values` wrote."""
    row: Row = _reader(Row).validate_python(values)
    return row


@cache
def _reader(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)
