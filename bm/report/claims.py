"""An experiment's claims, each tested over the seeds of its grid: a difference, an order, a ratio or a cosine.

The same statistic is taken of the paper's rows. At another scale than the paper's only its sign or its bound is
compared with ours, not its value.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from bm.report.grid import CONFIDENCE, Cell, Grid
from bm.report.published import RECIPE, AnyClaim, Cosine, Difference, Models, Order, Published, PublishedRow, Ratio
from bm.report.results import Kind, Row
from bm.statistics import Interval, over_seeds

Truth = Literal["supported", "refuted", "undecided", "not tested at this scale"]
ENDS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {"lowest": min, "highest": max}
CAUTION = "Another scale than the paper's: claims are compared (signs, orders, ratios), not values."


@dataclass(frozen=True)
class Claim:
    """What a grid says of a claim. `published`, `measured`, `low`, `high`: differences of pass@1 as shares, ratios, or
    cosines, by `test`. None: the paper does not report it; no run tested it; one seed tells no interval.
    """

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
    verdict: Truth


@dataclass(frozen=True)
class _Model:
    kind: Kind
    name: str
    scores: Mapping[str, float]
    """pass@1 by domain, or by task where it is no domain's."""
    tokens: Mapping[str, float]
    gpu_hours: float
    seconds: float


@dataclass(frozen=True)
class _Sheet:
    """A cell, or the paper's table as if it were one."""

    settings: Mapping[str, Any]
    domains: Sequence[str]
    models: Sequence[_Model]
    cosines: Mapping[str, Mapping[str, float]]


def claims(grid: Grid, published: Published) -> list[Claim]:
    """Every claim of an experiment, in its file's order, with an interval over seeds of each by itself."""
    seeds = [[_cell(cell) for cell in grid.cells if cell.seed == seed] for seed in grid.seeds]
    return [_tested(claim, seeds, [_paper(published)]) for claim in published.claims]


def caution(recipe: str) -> str | None:
    """What must be said beside claims that were tested at this scale; None at the paper's own."""
    return None if recipe == RECIPE else CAUTION


def _tested(claim: AnyClaim, seeds: Sequence[Sequence[_Sheet]], paper: Sequence[_Sheet]) -> Claim:
    if isinstance(claim, Order):
        steps = [_step(claim, *pair) for pair in pairwise(claim.of)]
        confidence = 1 - (1 - CONFIDENCE) / len(steps)  # Bonferroni: all of them at once
        return _weakest(claim, [_measured(step, seeds, paper, confidence) for step in steps])
    return _measured(claim, seeds, paper, CONFIDENCE)


def _step(order: Order, first: Models, second: Models) -> Difference:
    held = first.where if second.where is None else second.where
    against = replace(second, where=held)
    return Difference(
        id=order.id, claim=order.claim, above=0.0, test="difference", of=first, against=against, measure=order.measure
    )


def _weakest(order: Order, steps: Sequence[Claim]) -> Claim:
    """An order holds where each step does, and fails where one fails; its figures are those of its smallest step."""
    verdicts = [step.verdict for step in steps]
    ranks: tuple[Truth, ...] = ("not tested at this scale", "refuted", "undecided", "supported")
    verdict = next(rank for rank in ranks if rank in verdicts)
    known = [step for step in steps if step.measured is not None]
    shown = min(known, key=lambda step: step.measured or 0.0) if len(known) == len(steps) else steps[0]
    told = [step.published for step in steps if step.published is not None]
    smallest = min(told) if len(told) == len(steps) else None
    return replace(shown, test="order", published=smallest, verdict=verdict)


def _measured(
    claim: Difference | Ratio | Cosine, seeds: Sequence[Sequence[_Sheet]], paper: Sequence[_Sheet], confidence: float
) -> Claim:
    values = [value for sheets in seeds if (value := _statistic(claim, sheets)) is not None]
    interval = _interval(values, confidence, claim.test == "ratio") if len(values) > 1 else None
    single = values[0] if len(values) == 1 else None
    return Claim(
        id=claim.id, claim=claim.claim, test=claim.test, above=claim.above, below=claim.below,
        published=_statistic(claim, paper), measured=interval.mean if interval else single,
        low=interval.low if interval else None, high=interval.high if interval else None,
        seeds=len(values), verdict=_verdict(claim, interval) if values else "not tested at this scale",
    )  # fmt: skip


def _interval(values: Sequence[float], confidence: float, logarithms: bool) -> Interval:
    """Over seeds; of ratios in their logarithms, so that which of two is held against the other does not matter."""
    if not logarithms:
        return over_seeds(values, confidence)
    found = over_seeds([math.log(value) for value in values], confidence)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def _verdict(claim: AnyClaim, interval: Interval | None) -> Truth:
    """Supported where the whole interval is between the claim's bounds, refuted where all of it is outside of one."""
    if interval is None:
        return "undecided"
    above = -math.inf if claim.above is None else claim.above
    below = math.inf if claim.below is None else claim.below
    if above < interval.low and interval.high < below:
        return "supported"
    return "refuted" if interval.high < above or interval.low > below else "undecided"


def _statistic(claim: Difference | Ratio | Cosine, sheets: Sequence[_Sheet]) -> float | None:
    """Of one seed's cells; None where they lack what the claim is about."""
    match claim:
        case Difference():
            return _difference(claim, sheets)
        case Ratio():
            return _ratio(claim, sheets)
        case Cosine():
            return _mean(value for sheet in sheets for value in sheet.cosines.get(claim.of, {}).values())


def _difference(claim: Difference, sheets: Sequence[_Sheet]) -> float | None:
    """Mean (or best) over the models of their score less that of what they are held against, on the same tasks."""
    found = []
    for sheet, model in _chosen(claim.of, sheets):
        tasks = _tasks(claim.measure, model, sheet)
        rivals = [_score(rival, tasks) for _, rival in _chosen(claim.against, sheets, own=sheet)]
        own, other = _score(model, tasks), _one(claim.against, [r for r in rivals if r is not None])
        if own is not None and other is not None:
            found.append(own - other)
    return _one(claim.of, found)


def _ratio(claim: Ratio, sheets: Sequence[_Sheet]) -> float | None:
    ratios = []
    for sheet, model in _chosen(claim.of, sheets):
        for _, rival in _chosen(claim.against, sheets, own=sheet):
            pairs = [(_mean(model.tokens.values()), _mean(rival.tokens.values()))]
            if claim.measure == "cost":
                pairs = [(model.gpu_hours, rival.gpu_hours), (model.seconds, rival.seconds)]
            ratios += [math.log(a / b) for a, b in pairs if a and b][:1]
    mean = _mean(ratios)
    return None if mean is None else math.exp(mean)


def _chosen(which: Models, sheets: Sequence[_Sheet], own: _Sheet | None = None) -> list[tuple[_Sheet, _Model]]:
    """The models meant, each with its cell; those of the cell `own` where no settings are given."""
    cells = [own] if own and which.where is None else _holding(which.where or {}, sheets)
    return [
        (cell, m) for cell in cells for m in cell.models if m.kind == which.kind and fnmatchcase(m.name, which.name)
    ]


def _holding(where: Mapping[str, Any], sheets: Sequence[_Sheet]) -> list[_Sheet]:
    """The cells with these settings."""
    for name, wanted in where.items():
        sheets = [sheet for sheet in sheets if name in sheet.settings]
        if sheets and wanted in ENDS:
            wanted = ENDS[wanted](sheet.settings[name] for sheet in sheets)
        sheets = [sheet for sheet in sheets if sheet.settings[name] == wanted]
    return list(sheets)


def _one(which: Models, values: Sequence[float]) -> float | None:
    return max(values, default=None) if which.best else _mean(values)


def _tasks(measure: str | tuple[str, ...], model: _Model, sheet: _Sheet) -> list[str]:
    """Domains, or tasks that are no domain's, that a claim is about; none where the cell has no such."""
    named = [domain for domain in sheet.domains if domain in re.split(r"[^\w.-]+", model.name)]
    match measure:
        case "mean":
            return list(sheet.domains)
        case "own":
            return named
        case "others":
            return [domain for domain in sheet.domains if domain not in named] if named else []
    wanted = [measure] if isinstance(measure, str) else measure
    return [task for task in wanted if task in model.scores][:1]


def _score(model: _Model, tasks: Sequence[str]) -> float | None:
    """Mean over the tasks; None where the model was not asked one of them."""
    return _mean(model.scores[task] for task in tasks) if all(task in model.scores for task in tasks) else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def _cell(cell: Cell) -> _Sheet:
    """A cell with its scores by domain, as far as its verdicts on experts name the domains' tasks."""
    names = {v.task: v.name for v in cell.verdicts if v.claim == "expert over student"}
    models = [_model(row, names) for row in cell.rows if row.out_after is None]
    return _Sheet(cell.settings, list(names.values()), models, cell.cosines)


def _model(row: Row, names: Mapping[str, str]) -> _Model:
    scores = {names.get(task, task): score for task, score in row.scores.items()}
    means, tokens = ({n: getattr(s, of) for n, s in scores.items()} for of in ("mean", "response_tokens"))
    return _Model(row.kind, row.name, means, tokens, row.cost.gpu_hours, row.cost.seconds)


def _paper(published: Published) -> _Sheet:
    """The paper's rows of models that a run makes too."""
    columns = list(published.columns.values())

    def known(values: Sequence[float | None], unit: float) -> dict[str, float]:
        return {c: v / unit for c, v in zip(columns, values, strict=bool(values)) if v is not None}

    def model(row: PublishedRow, kind: Kind) -> _Model:
        return _Model(kind, row.row or "", known(row.values, 100), known(row.tokens, 1), row.gpu_hours or 0.0, 0.0)

    return _Sheet({}, columns, [model(row, row.kind) for row in published.rows if row.kind is not None], {})
