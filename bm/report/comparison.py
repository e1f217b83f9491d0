"""What the paper reports and what runs found, claim by claim."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean

from bm.report import wording
from bm.report.results import Claim, Kind, Outcome, Results

OTHERWISE: dict[Outcome, str] = {"undecided": "undecided", "worse": "below"}
CAUTION = "Runs at another scale than the paper's: claims are compared (signs, orders, ratios), not values."


@dataclass(frozen=True)
class PublishedRow:
    name: str
    kind: Kind | None
    values: tuple[float | None, ...]
    """In percent, a value per column of the table; None: not reported."""
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Table:
    number: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def priced(self) -> bool:
        return any(row.gpu_hours is not None for row in self.rows)

    def of(self, kind: Kind) -> list[PublishedRow]:
        return [row for row in self.rows if row.kind == kind]


@dataclass(frozen=True)
class Paper:
    source: str
    scale: str
    tables: tuple[Table, ...]

    def table(self, number: str) -> Table:
        return next(table for table in self.tables if table.number == number)


@dataclass(frozen=True)
class Answer:
    """One claim: what the paper's figures say of it, and what each run's verdicts say, in words."""

    title: str
    paper: str
    runs: Mapping[str, str]


@cache
def published() -> Paper:
    """The paper's figures, from paper.yaml."""
    import yaml

    content = yaml.safe_load(files("bm.report").joinpath("paper.yaml").read_text())
    tables = [Table(t["number"], t["title"], tuple(t["columns"]), tuple(_row(**r) for r in t["rows"])) for t in content["tables"]]
    return Paper(content["source"], content["scale"], tuple(tables))


def _row(name: str, kind: Kind | None, values: Sequence[float | None], gpu_hours: float | None = None) -> PublishedRow:
    return PublishedRow(name, kind, tuple(values), gpu_hours)


def claims(paper: Paper, runs: Mapping[str, Results]) -> list[Answer]:
    """Every claim that runs and paper have in common."""
    student, ablation = paper.table("Table 1").of("student")[0], paper.table("Table 2")
    mixture = ablation.of("mixture")[0]
    over_student = [_difference(row, student) for row in ablation.of("expert")]
    merge_over_student = [_difference(row, student) for row in ablation.of("merge")]
    merge_over_mixture = [_difference(row, mixture) for row in ablation.of("merge")]
    means = {k: max(fmean(v for v in row.values if v is not None) for row in rows) for k, rows in _kinds(ablation, student).items()}
    return [
        Answer("Experts beat the student, each on its own task", _signs(over_student), _each(runs, _decided("expert over student"))),
        Answer("Merges beat the student on the mean", _signs(merge_over_student), _each(runs, _decided("merge over student"))),
        Answer("Merges match or beat the data mixture on the mean", _signs(merge_over_mixture), _each(runs, _decided("merge over mixture"))),
        Answer("Merging costs a small share of training the mixture", _ratio(ablation), _each(runs, _cheapness)),
        Answer("Order of the means, best of each kind", _ranking(means), _each(runs, _order)),
    ]


def _each(runs: Mapping[str, Results], answer: Callable[[Results], str]) -> dict[str, str]:
    return {name: answer(results) for name, results in runs.items()}


def _difference(row: PublishedRow, against: PublishedRow) -> float:
    """Mean difference, as a share, over the columns that both report."""
    pairs = [(a, b) for a, b in zip(row.values, against.values, strict=True) if a is not None and b is not None]
    return fmean(a - b for a, b in pairs) / 100


def _kinds(ablation: Table, student: PublishedRow) -> dict[Kind, list[PublishedRow]]:
    return {"merge": ablation.of("merge"), "mixture": ablation.of("mixture"), "student": [student]}


def _signs(differences: Sequence[float]) -> str:
    return f"{sum(d > 0 for d in differences)} of {len(differences)} above: {_listed(differences)}"


def _listed(differences: Iterable[float]) -> str:
    return ", ".join(wording.points(d) for d in differences)


def _decided(claim: Claim) -> Callable[[Results], str]:
    """How many verdicts of a claim fell which way, and the differences."""

    def answer(results: Results) -> str:
        found = [v for v in results.verdicts if v.claim == claim]
        if not found:
            return "–"
        fell = Counter(v.verdict for v in found)
        said = [f"{fell['better']} of {len(found)} above"]
        said += [f"{fell[o]} {word}" for o, word in OTHERWISE.items() if fell[o]]
        return f"{', '.join(said)}: {_listed(v.difference for v in found)}"

    return answer


def _ratio(ablation: Table) -> str:
    mixture, merge = ablation.of("mixture")[0].gpu_hours, ablation.of("merge")[0].gpu_hours
    assert mixture and merge
    return f"{wording.share(merge / mixture)} of its GPU-hours"


def _cheapness(results: Results) -> str:
    ratios = sorted(v.cost_ratio for v in results.verdicts if v.claim == "merge over mixture" and v.cost_ratio is not None)
    if not ratios:
        return "–"
    low, high = wording.share(ratios[0]), wording.share(ratios[-1])
    return f"{low} of its time" if low == high else f"{low} to {high} of its time"


def _order(results: Results) -> str:
    best = {kind: row for kind in ("merge", "mixture", "student") if (row := results.best(kind))}
    return _ranking({kind: 100 * (results.mean(row) or 0) for kind, row in best.items()})


def _ranking(means: Mapping[Kind, float]) -> str:
    return " > ".join(f"{kind} {mean:.1f}" for kind, mean in sorted(means.items(), key=lambda pair: -pair[1])) or "–"
