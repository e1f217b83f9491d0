"""An experiment's claims, each tested over the seeds of its grid: a difference, an order, a ratio or cosines.

A claim is true within its bounds. What is measured there supports it, and what is measured outside refutes it, where
Student's test against the bound says so after Holm's allowance for the number of the experiment's claims. An order and
the cosines of several pairs have parts: they hold where every part does and fail where one does. The same statistic is
taken of the paper's rows. At another scale than the paper's only its sign or its bound is compared with ours.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Literal

from bm.report.findings.grid import CONFIDENCE, Cell, Grid
from bm.report.findings.measures import Value, by_seed, cosines_by_seed
from bm.report.findings.published import (
    RECIPE,
    AnyClaim,
    Cosine,
    Difference,
    Models,
    Order,
    Published,
    PublishedRow,
    Ratio,
    Stated,
)
from bm.report.findings.results import Cost, Kind, Results, Row, Score
from bm.statistics import OverSeeds, holm, over_seeds

Truth = Literal["supported", "refuted", "undecided", "not tested at this scale"]
CAUTION = "Another scale than the paper's: claims are compared (signs, orders, ratios), not values."


@dataclass(frozen=True)
class Part:
    """What was measured of a claim, or of one of the steps or pairs that it is about. `measured`, `low`, `high`:
    differences of pass@1 as shares, ratios, or cosines. None: no run tested it; one seed tells no interval.
    """

    of: str
    published: float | None
    """What the paper reports; None: nothing."""
    measured: float | None
    low: float | None
    high: float | None
    seeds: int
    p: float | None
    """The p-value of Student's test against the bound that decides, for this part alone."""
    inside: bool | None
    """Whether the measured value is where the claim is true."""


@dataclass(frozen=True)
class Claim:
    """What a grid says of a claim, in the figures of the part that decides it."""

    id: str
    claim: str
    test: Literal["difference", "order", "ratio", "cosine"]
    above: float | None
    """Where the claim is true: above this bound, below that one."""
    below: float | None
    published: float | None
    measured: float | None
    low: float | None
    high: float | None
    seeds: int
    p: float | None
    """The p-value of the whole claim, adjusted for the number of claims tested (Holm); the interval is not."""
    verdict: Truth
    alone: Truth
    """The verdict if this were the only claim."""
    parts: tuple[Part, ...] = ()
    """Each step of an order and each pair of cosines."""


def claims(grid: Grid, published: Published) -> list[Claim]:
    """Every claim of an experiment, in its file's order: an interval of each by itself, verdicts that allow for all."""
    paper = [_paper(published)]
    return _allowed([_whole(claim, list(_parts(claim, grid.cells, paper))) for claim in published.claims])


def caution(recipe: str) -> str | None:
    """What must be said beside claims that were tested at this scale; None at the paper's own."""
    return None if recipe == RECIPE else CAUTION


def _allowed(found: Sequence[Claim]) -> list[Claim]:
    """Verdicts after Holm's allowance for every claim that was tested."""
    tested = [claim.p for claim in found if claim.p is not None]
    adjusted = iter(holm(tested))
    return [
        replace(claim, p=(p := next(adjusted)), verdict=claim.alone if p < 1 - CONFIDENCE else "undecided")
        if claim.p is not None
        else claim
        for claim in found
    ]


def _whole(claim: AnyClaim, parts: Sequence[Part]) -> Claim:
    """True where every part is (the largest p counts), false where any is (the smallest, times the number of parts)."""
    known = [part for part in parts if part.p is not None]
    outside = [part for part in known if not part.inside]
    against = min(outside, key=lambda part: part.p or 0.0, default=None)
    weakest = max(known, key=lambda part: (not part.inside, part.p or 0.0), default=None)
    p = None if against is None else min(1.0, len(parts) * (against.p or 0.0))
    alone: Truth = "undecided"
    if p is not None and p < 1 - CONFIDENCE:
        alone, shown = "refuted", against
    elif not all(part.seeds for part in parts) or not parts:
        alone, shown, p = "not tested at this scale", None, None
    elif len(known) < len(parts):
        shown, p = next(part for part in parts if part.p is None), None
    else:
        shown = weakest
        p = p if p is not None else weakest.p if weakest else None
        alone = "supported" if p is not None and not outside and p < 1 - CONFIDENCE else "undecided"
    about = shown or Part("", None, None, None, None, 0, None, None)
    told = [part.published for part in parts if part.published is not None]
    smallest = min(told) if told and len(told) == len(parts) else None
    return Claim(
        claim.id, claim.claim, claim.test, claim.above, claim.below, smallest, about.measured, about.low, about.high,
        about.seeds, p, alone, alone, tuple(parts) if len(parts) > 1 else (),
    )  # fmt: skip


def _parts(claim: AnyClaim, cells: Sequence[Cell], paper: Sequence[Cell]) -> Iterator[Part]:
    match claim:
        case Order():
            for step in (_step(claim, *pair) for pair in pairwise(claim.of)):
                yield _part(step, f"{_said(step.of)} over {_said(step.against)}", by_seed(step, cells), paper)
        case Cosine():
            for pair, values in cosines_by_seed(claim, cells).items():
                yield _part(claim, pair, values, [])
        case _:
            yield _part(claim, f"{_said(claim.of)} against {_said(claim.against)}", by_seed(claim, cells), paper)


def _step(order: Order, first: Models, second: Models) -> Difference:
    held = first.where if second.where is None else second.where
    against = replace(second, where=held)
    return Difference(
        id=order.id, claim=order.claim, above=0.0, test="difference", of=first, against=against, measure=order.measure
    )


def _said(which: Models) -> str:
    base = [f"with base {which.base}"] if which.base else []
    return " ".join([which.name or which.method or which.domain or which.kind, *base])


def _part(claim: Difference | Ratio | Cosine, of: str, values: Sequence[Value], paper: Sequence[Cell]) -> Part:
    told = None if isinstance(claim, Cosine) else next((value.value for value in by_seed(claim, paper)), None)
    if len(values) < 2:
        return Part(of, told, values[0].value if values else None, None, None, len(values), None, None)
    logarithms = claim.test == "ratio"  # then which of two is held against the other does not matter
    scale, back = (math.log, math.exp) if logarithms else (float, float)
    over = over_seeds([scale(v.value) for v in values], fmean(v.noise for v in values))
    if not over.error:  # seeds that agree to the last digit do not tell how far seeds differ
        return Part(of, told, back(over.mean), None, None, len(values), None, None)
    span, (inside, p) = over.interval(CONFIDENCE), _decided(claim, over, scale)
    return Part(of, told, back(over.mean), back(span.low), back(span.high), len(values), p, inside)


def _decided(claim: Stated, over: OverSeeds, scale: Callable[[float], float]) -> tuple[bool, float]:
    """Whether the mean is within the claim's bounds, and the p of the bound that it must be told from."""
    above, below = (None if bound is None else scale(bound) for bound in (claim.above, claim.below))
    if above is not None and over.mean <= above:
        return False, over.p(above)
    if below is not None and over.mean >= below:
        return False, over.p(below)
    return True, max((over.p(bound) for bound in (above, below) if bound is not None), default=1.0)


def _paper(published: Published) -> Cell:
    """The paper's rows of models that a run makes too, as if they were a run of one seed."""
    columns = list(published.columns.values())

    def row(told: PublishedRow, kind: Kind) -> Row:
        lengths = told.tokens or [None] * len(columns)
        scores = {
            column: Score(value / 100, 0.0, 1.0, 1, 1, length or 0.0)
            for column, value, length in zip(columns, told.values, lengths, strict=True)
            if value is not None
        }
        domains = (told.domain,) if told.domain else ()
        cost = Cost(0.0, told.gpu_hours or 0.0, 0)
        return Row(told.name, kind, scores, cost, told.name, method=told.method, order=told.order, domains=domains)

    rows = tuple(row(r, r.kind) for r in published.rows if r.kind)
    return Cell(None, 0, {}, Results(rows, (), domains={column: column for column in columns}))
