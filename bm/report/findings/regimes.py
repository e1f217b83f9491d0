"""The regime that a merge is made in, as far as it is known without a mixture; and where there is one, the gap to it.

All scores are pass@1 as shares, means over the domains' own tasks; losses are on the domains' held-out traces.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import log
from statistics import fmean

from bm.report.findings.published import PublishedRow, published
from bm.report.findings.results import Results, Row


@dataclass(frozen=True)
class Regime:
    """What is known of one merge. None: it was not measured."""

    method: str
    strength: float | None = None
    """The student's score."""
    gain: float | None = None
    """What experts gained over the student on their own tasks."""
    elsewhere: float | None = None
    """The same on the other experts' tasks: below zero where they forget."""
    deficit: float | None = None
    """The merge's score less that of the experts, each on its own task."""
    learned: float | None = None
    """log of the loss ratio student : expert on the expert's own domain."""
    forgotten: float | None = None
    """log of the loss ratio expert : student on the other domains."""
    lost: float | None = None
    """log of the loss ratio merge : expert on the expert's own domain."""
    distance: float | None = None
    """How far an expert went from the student θ0: ‖θ − θ0‖ / ‖θ0‖."""
    cosine: float | None = None
    """What is known of two experts' updates."""
    conflict: float | None = None
    """Share of the entries that two experts both change, and in opposite directions."""
    barrier: float | None = None
    """How far the loss rises above the line between two experts, in nats per token."""
    gap: float | None = None
    """The merge's score less the mixture's."""
    loss_gap: float | None = None
    """log of the loss ratio mixture : merge, mean over domains: above zero where the merge predicts better."""

    def known(self, *names: str) -> list[float] | None:
        """These measures, or None if one is missing."""
        values = [getattr(self, name) for name in names]
        return [float(value) for value in values] if None not in values else None


MEASURES = {
    "strength": "student's score",
    "gain": "experts' gain on their own task",
    "elsewhere": "experts' change on the other tasks",
    "deficit": "merge less experts, own tasks",
    "learned": "loss student : expert, own domain",
    "forgotten": "loss expert : student, other domains",
    "lost": "loss merge : expert, own domain",
    "distance": "length of the experts' updates",
    "cosine": "cosine of two updates",
    "conflict": "sign conflict of two updates",
    "barrier": "loss barrier between two experts",
}
"""What a regime is described by, in words; all of it is known before a mixture is trained."""
assert set(MEASURES) < {field.name for field in fields(Regime)}


def regimes(results: Results) -> Iterator[Regime]:
    """One for every merge of all of a run's experts."""
    students, mixtures = ([r for r in results.rows if r.kind == kind] for kind in ("student", "mixture"))
    experts = {str(row.domain): row for row in results.rows if row.kind == "expert" and row.domain in results.domains}
    whole = [row for row in results.rows if row.kind == "merge" and set(row.domains) == set(experts)]
    for merge in whole if len(students) == 1 and len(experts) > 1 else []:
        scores = _scores(results, students[0], experts, merge, mixtures[0] if mixtures else None)
        yield Regime(
            merge.method or merge.name, **scores, **_losses(students[0], experts, merge, mixtures), **_met(results),
            distance=_mean(row.distance for row in experts.values()),
        )  # fmt: skip


def of_the_paper() -> Regime:
    """What the paper reports of its student, experts, mixture and released merge (its Tables 1 and 2)."""
    students = [row for row in published("table1").rows if row.kind == "student"]
    table = published("table2")
    (mixture,), released = table.of("mixture"), table.of("merge")[-1]
    own = [(row, place) for row in table.of("expert") for place, value in enumerate(row.values) if value is not None]

    def less(row: PublishedRow, reference: PublishedRow, place: int) -> float:
        return ((row.values[place] or 0.0) - (reference.values[place] or 0.0)) / 100

    return Regime(
        released.method or released.name,
        strength=fmean((students[0].values[place] or 0.0) / 100 for _, place in own),
        gain=fmean(less(expert, students[0], place) for expert, place in own),
        deficit=fmean(less(released, expert, place) for expert, place in own),
        gap=fmean(less(released, mixture, place) for _, place in own),
    )


def _scores(
    results: Results, student: Row, experts: Mapping[str, Row], merge: Row, mixture: Row | None
) -> dict[str, float | None]:
    tasks = {domain: results.domains[domain] for domain in experts}

    def score(row: Row | None, domain: str) -> float | None:
        reached = row.scores.get(tasks[domain]) if row and row.out_after is None else None
        return None if reached is None else reached.mean

    def less(value: float | None, reference: float | None) -> float | None:
        return None if value is None or reference is None else value - reference

    return {
        "strength": _mean(score(student, d) for d in tasks),
        "gain": _mean(less(score(experts[d], d), score(student, d)) for d in tasks),
        "elsewhere": _mean(less(score(e, d), score(student, d)) for of, e in experts.items() for d in tasks if d != of),
        "deficit": _mean(less(score(merge, d), score(experts[d], d)) for d in tasks),
        "gap": _mean(less(score(merge, d), score(mixture, d)) for d in tasks),
    }


def _losses(student: Row, experts: Mapping[str, Row], merge: Row, mixtures: list[Row]) -> dict[str, float | None]:
    def ratio(row: Row | None, reference: Row, domain: str) -> float | None:
        if row is None or domain not in row.losses or domain not in reference.losses:
            return None
        return log(row.losses[domain] / reference.losses[domain])

    mixture = mixtures[0] if mixtures else None
    return {
        "learned": _mean(ratio(student, e, d) for d, e in experts.items()),
        "forgotten": _mean(ratio(e, student, d) for of, e in experts.items() for d in experts if d != of),
        "lost": _mean(ratio(merge, e, d) for d, e in experts.items()),
        "loss_gap": _mean(ratio(mixture, merge, d) for d in experts),
    }


def _met(results: Results) -> dict[str, float | None]:
    by_measure = {"cosine": results.cosines.get("updates", {}), **results.meetings}
    return {name: _mean(by_measure.get(name, {}).values()) for name in ("cosine", "conflict", "barrier")}


def _mean(values: Iterable[float | None]) -> float | None:
    """None where there is none, or one is missing."""
    given = list(values)
    known = [value for value in given if value is not None]
    return fmean(known) if known and len(known) == len(given) else None
