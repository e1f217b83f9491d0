"""What the paper reports and what runs found, claim by claim."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bm.report.figures import numbers
from bm.report.findings.published import PublishedRow, published
from bm.report.findings.results import KINDS, Claim, Results
from bm.statistics import Outcome

OTHERWISE: dict[Outcome, str] = {"undecided": "undecided", "worse": "below"}


@dataclass(frozen=True)
class Answer:
    """One claim: what the paper's figures say of it, and what each run's verdicts say, in words."""

    title: str
    paper: str
    runs: Mapping[str, str]


def claims(runs: Mapping[str, Results]) -> list[Answer]:
    """Every claim that runs and paper have in common."""
    student, ablation = published("table1").of("student")[0], published("table2")
    experts, merges, (mixture,) = ablation.of("expert"), ablation.of("merge"), ablation.of("mixture")
    best = dict([max(_means(merges).items(), key=lambda pair: pair[1])])

    def answer(title: str, paper: str, run: Callable[[Results], str]) -> Answer:
        return Answer(title, paper, {name: run(results) for name, results in runs.items()})

    return [
        answer(
            "Experts beat the student, each on its own task", _signs(experts, student), _decided("expert over student")
        ),
        answer("Merges beat the student on the mean", _signs(merges, student), _decided("merge over student")),
        answer(
            "Merges match or beat the data mixture on the mean", _signs(merges, mixture), _decided("merge over mixture")
        ),
        answer("Merging costs a small share of training the mixture", _ratio(merges[0], mixture), _cheapness),
        answer("Order of student, mixture and best merge", _ranking(best | _means([mixture, student])), _order),
    ]


def _difference(row: PublishedRow, against: PublishedRow) -> float:
    """Mean difference, as a share, over the columns that both report."""
    pairs = [(a, b) for a, b in zip(row.values, against.values, strict=True) if a is not None and b is not None]
    return fmean(a - b for a, b in pairs) / 100


def _means(rows: Iterable[PublishedRow]) -> dict[str, float]:
    """Mean over the columns, of the rows that report all of them."""
    return {
        row.name: fmean(values)
        for row in rows
        if len(values := [v for v in row.values if v is not None]) == len(row.values)
    }


def _signs(rows: Sequence[PublishedRow], against: PublishedRow) -> str:
    differences = [_difference(row, against) for row in rows]
    return f"{sum(d > 0 for d in differences)} of {len(differences)} above: {_listed(differences)}"


def _listed(differences: Iterable[float]) -> str:
    return ", ".join(numbers.points(d) for d in differences)


def _decided(claim: Claim) -> Callable[[Results], str]:
    """How many verdicts of a claim fell which way, and the differences."""

    def answer(results: Results) -> str:
        verdicts = [v for v in results.verdicts if v.claim == claim]
        if not verdicts:
            return "–"
        fell = Counter(v.verdict for v in verdicts)
        said = [f"{fell['better']} of {len(verdicts)} above"]
        said += [f"{fell[o]} {word}" for o, word in OTHERWISE.items() if fell[o]]
        return f"{', '.join(said)}: {_listed(v.difference for v in verdicts)}"

    return answer


def _ratio(merge: PublishedRow, mixture: PublishedRow) -> str:
    if merge.gpu_hours is None or mixture.gpu_hours is None:
        return "–"
    return f"{numbers.share(merge.gpu_hours / mixture.gpu_hours)} of its GPU-hours"


def _cheapness(results: Results) -> str:
    ratios = sorted(
        v.cost_ratio for v in results.verdicts if v.claim == "merge over mixture" and v.cost_ratio is not None
    )
    if not ratios:
        return "–"
    low, high = numbers.share(ratios[0]), numbers.share(ratios[-1])
    return f"{low} of its time" if low == high else f"{low} to {high} of its time"


def _order(results: Results) -> str:
    best = [row for kind in KINDS if kind != "expert" and (row := results.best(kind))]
    return _ranking({row.name: 100 * (results.mean(row) or 0) for row in best})


def _ranking(means: Mapping[str, float]) -> str:
    return " > ".join(f"{name} {mean:.1f}" for name, mean in sorted(means.items(), key=lambda pair: -pair[1])) or "–"
