"""What a claim is about, by seed: the models that it means, and their differences, ratios or cosines."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bm.report.findings.grid import Cell
from bm.report.findings.published import Cosine, Difference, Models, Ratio
from bm.report.findings.results import Row

ENDS: Mapping[Any, Callable[[Iterable[Any]], Any]] = {"lowest": min, "highest": max}

Placed = tuple[Cell, Row]


@dataclass(frozen=True)
class Value:
    """A claim's statistic in the cells of one seed."""

    seed: int
    value: float
    noise: float = 0.0
    """The least variance that so many questions leave of it."""


@dataclass(frozen=True)
class _Measurement:
    model: Placed
    rivals: Sequence[Placed]
    value: float
    noise: float


def by_seed(claim: Difference | Ratio, cells: Sequence[Cell]) -> list[Value]:
    """A value for each seed that has every model which any seed has; one with a failed run would be about others."""
    measurements: dict[int, list[_Measurement]] = defaultdict(list)
    for measurement in _measured(claim, cells):
        measurements[measurement.model[0].seed].append(measurement)
    models = {seed: {_identity(p) for m in of for p in (m.model, *m.rivals)} for seed, of in measurements.items()}
    whole = set().union(*models.values())
    return [
        _value(claim, seed, of)
        for seed, of in sorted(measurements.items())
        if models[seed] == whole and _orders(claim.of) <= {m.model[1].order for m in of}
    ]


def cosines_by_seed(claim: Cosine, cells: Sequence[Cell]) -> dict[str, list[Value]]:
    """A value for each pair of domains and each seed: the mean over its cells."""
    cosines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        for pair, cosine in cell.results.cosines.get(claim.of, {}).items():
            cosines[pair][cell.seed].append(cosine)
    return {pair: [Value(s, fmean(of)) for s, of in sorted(seeds.items())] for pair, seeds in sorted(cosines.items())}


def _value(claim: Difference | Ratio, seed: int, measurements: Sequence[_Measurement]) -> Value:
    if claim.of.best:
        best = max(measurements, key=lambda measurement: measurement.value)
        return Value(seed, best.value, best.noise)
    return Value(seed, fmean(m.value for m in measurements), fmean(m.noise for m in measurements))


def _measured(claim: Difference | Ratio, cells: Sequence[Cell]) -> Iterator[_Measurement]:
    """Each model that is meant, with what it is compared with in runs of the same seed."""
    rivals = _chosen(claim.against, cells)
    for cell, row in _chosen(claim.of, cells):
        near = [(c, r) for c, r in rivals if c.seed == cell.seed and _comparable(row, r)]
        against = [(c, r) for c, r in near if claim.against.where is not None or c is cell]
        measured = _difference(claim, cell, row, against) if isinstance(claim, Difference) else None
        measured = measured if isinstance(claim, Difference) else _ratio(claim, row, [r for _, r in against])
        if measured is not None:
            yield _Measurement((cell, row), against, *measured)


def _comparable(row: Row, rival: Row) -> bool:
    """Nothing with itself, and two experts only where they are of the same domain.

    A model under two names is two: a merge whose tuning ends at its defaults is level with them.
    """
    itself = (row.key, row.name) == (rival.key, rival.name)
    return not itself and (not row.kind == rival.kind == "expert" or row.domains == rival.domains)


def _difference(claim: Difference, cell: Cell, row: Row, against: Sequence[Placed]) -> tuple[float, float] | None:
    """The score less that of the mean or best rival, and the least variance of this that so many questions leave."""
    tasks = _tasks(claim.measure, row, cell)
    others = [r for _, r in against if tasks and r.scores.keys() >= set(tasks)]
    if not tasks or not others or not row.scores.keys() >= set(tasks):
        return None
    if claim.against.best:
        others = [max(others, key=lambda other: round(fmean(other.scores[task].mean for task in tasks), 12))]
    apart = {task: row.scores[task].mean - fmean(other.scores[task].mean for other in others) for task in tasks}
    noise = sum(_noise(apart[task], row.scores[task].questions) for task in tasks) / len(tasks) ** 2
    return fmean(apart.values()), noise


def _noise(difference: float, questions: int) -> float:
    """Variance of a mean difference if no more questions fell differently than must have, and one."""
    differ = min(abs(difference) + 1 / questions, 1 - 1 / questions)
    return differ * (1 - differ) / questions


def _ratio(claim: Ratio, row: Row, against: Sequence[Row]) -> tuple[float, float] | None:
    """The mean ratio of GPU-hours (seconds where there are no GPUs) or of mean response tokens."""
    ratios = []
    for rival in against:
        pairs = [(_tokens(row), _tokens(rival))]
        if claim.measure == "cost":
            pairs = [(row.cost.gpu_hours, rival.cost.gpu_hours), (row.cost.seconds, rival.cost.seconds)]
        ratios += [own / other for own, other in pairs if own and other][:1]
    return (fmean(ratios), 0.0) if ratios else None


def _tokens(row: Row) -> float:
    lengths = [score.response_tokens for score in row.scores.values()]
    return fmean(lengths) if lengths else 0.0


def _chosen(which: Models, cells: Sequence[Cell]) -> list[Placed]:
    """The models meant, each with its cell. `lowest` and `highest`: of the whole grid, whichever runs failed."""
    for name, wanted in (which.where or {}).items():
        cells = [cell for cell in cells if name in cell.settings]
        if cells and wanted in ENDS:
            wanted = ENDS[wanted](cell.settings[name] for cell in cells)
        cells = [cell for cell in cells if cell.settings[name] == wanted]
    rows = ((cell, row) for cell in cells for row in cell.results.rows)
    return [(cell, row) for cell, row in rows if row.out_after is None and _meant(which, row)]


def _meant(which: Models, row: Row) -> bool:
    alike = _fits(which.name, row.name) and _fits(which.method, row.method) and _fits(which.base, row.base)
    alike = alike and (which.order is None or row.order in _orders(which))
    return row.kind == which.kind and alike and (which.domain is None or which.domain in row.domains)


def _orders(which: Models) -> set[str | None]:
    if which.order is None:
        return set()
    return {which.order} if isinstance(which.order, str) else set(which.order)


def _fits(wanted: str | None, value: str | None) -> bool:
    """`!name` is any other than that name."""
    if wanted is None:
        return True
    return value is not None and ((value != wanted[1:]) if wanted.startswith("!") else value == wanted)


def _tasks(measure: str | tuple[str, ...], row: Row, cell: Cell) -> list[str]:
    """The tasks that a claim is about; none where the cell has no such."""
    domains = cell.results.domains
    match measure:
        case "mean":
            return list(domains.values())
        case "own":
            return [domains[domain] for domain in row.domains if domain in domains]
        case "base":
            return [domains[row.base]] if row.base and row.base in domains else []
        case "taken":
            return [domains[domain] for domain in row.domains if domain in domains and domain != row.base]
        case "others":
            return [task for domain, task in domains.items() if domain not in row.domains] if row.domains else []
    wanted = [domains.get(name, name) for name in ([measure] if isinstance(measure, str) else measure)]
    return [task for task in wanted if task in row.scores][:1]


def _identity(placed: Placed) -> tuple[Any, ...]:
    cell, row = placed
    return (row.kind, row.name, *sorted(map(repr, cell.settings.items())))
