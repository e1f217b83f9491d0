"""Claims over made-up grids: each verdict where it belongs, intervals as scipy has them, figures as the paper's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from bm.errors import UserError
from bm.report import Cost, Results, Row, Score
from bm.report.findings.claims import Claim, claims
from bm.report.findings.grid import Cell, Grid
from bm.report.findings.published import Cosine, Difference, Models, Order, Published, Ratio, published
from bm.report.pages.wording import allowed

TASKS = {"math": "t_math", "coding": "t_coding"}
Shares = Mapping[str, tuple[float, ...]]
MERGE, STUDENT, MIXTURE = Models(kind="merge", method="fusion"), Models(kind="student"), Models(kind="mixture")


def kind_of(name: str) -> Any:
    if name.startswith("arm"):
        return "consolidated"
    return {"student": "student", "mixture": "mixture"}.get(name, "expert" if name in TASKS else "merge")


def cell(seed: int, shares: Shares, settings: Mapping[str, Any] | None = None, **more: Any) -> Cell:
    """A run whose models scored so on each of TASKS; seconds: by model."""
    seconds, tokens, questions = more.pop("seconds", {}), more.pop("tokens", {}), more.pop("questions", 100_000)
    rows = tuple(
        Row(
            name,
            kind_of(name),
            {
                t: Score(s, 0, 1, questions, 1, tokens.get(name, 0.0))
                for t, s in zip(TASKS.values(), scores, strict=True)
            },
            Cost(seconds.get(name, 1.0), 0, 1),
            f"{name} {seed} {settings}",
            **made(name),
        )
        for name, scores in shares.items()
    )
    return Cell(None, seed, settings or {}, Results(rows, (), domains=TASKS, **more))


def made(name: str) -> dict[str, Any]:
    """The method, order, base and domains of a merge such as `fusion math & coding`; the domain of an expert."""
    method, _, order = name.partition(" ")
    domains = tuple(domain for domain in order.split(" & ") if domain) or ((name,) if name in TASKS else ())
    return {"method": method, "order": order or None, "base": domains[-1] if order else None, "domains": domains}


def of_grid(claim: Any, cells: Sequence[Cell], recipe: str = "tiny") -> Claim:
    (judged,) = claims(Grid("e", recipe, tuple(cells)), Published("e", None, {}, (), (claim,)))
    return judged


def difference(of: Models, against: Models, measure: str, **bounds: float) -> Difference:
    return Difference(id="c", claim="c", test="difference", of=of, against=against, measure=measure, **bounds)


def by_seed(*fusions: float, **more: Any) -> list[Cell]:
    return [cell(s, {"student": (0.2, 0.4), "fusion": (f, f)}, **more) for s, f in enumerate(fusions)]


def test_the_interval_is_students_of_paired_differences() -> None:
    fusions = (0.5, 0.53, 0.41, 0.62, 0.55)
    judged = of_grid(difference(MERGE, STUDENT, "mean", above=0), by_seed(*fusions))
    low, high = stats.t.interval(0.95, 4, 0.222, stats.sem(fusions))
    assert (judged.measured, judged.low, judged.high) == pytest.approx((0.222, low, high))
    assert (judged.seeds, judged.verdict) == (5, "supported")


@pytest.mark.parametrize(
    ("fusions", "bounds", "verdict"),
    [
        ((0.35, 0.36, 0.34), {"above": 0}, "supported"),
        ((0.25, 0.26, 0.24), {"above": 0}, "refuted"),
        ((0.25, 0.26, 0.24), {"below": 0}, "supported"),
        ((0.2, 0.5, 0.3), {"above": 0}, "undecided"),
        ((0.29, 0.295, 0.29), {"above": -0.02}, "supported"),
        ((0.29, 0.295, 0.29), {"above": 0}, "refuted"),
        ((0.3, 0.301, 0.299), {"above": -0.02, "below": 0.02}, "supported"),
        ((0.4, 0.401, 0.399), {"above": -0.02, "below": 0.02}, "refuted"),
        ((0.32, 0.34, 0.3), {"above": -0.02, "below": 0.02}, "undecided"),
        ((0.9,), {"above": 0}, "undecided"),
        ((), {"above": 0}, "not tested at this scale"),
    ],
)
def test_verdicts(fusions: tuple[float, ...], bounds: dict[str, float], verdict: str) -> None:
    assert of_grid(difference(MERGE, STUDENT, "mean", **bounds), by_seed(*fusions)).verdict == verdict


def test_seeds_that_agree_are_no_certainty() -> None:
    """Two equal seeds leave the noise of their questions: 1,000 a task and, at the very least, 201 that differ."""
    judged = of_grid(difference(MERGE, STUDENT, "math", above=0), by_seed(0.4, 0.4, questions=1000))
    reach = stats.t.ppf(0.975, 1) * math.sqrt(0.201 * 0.799 / 1000 / 2)
    assert (judged.measured, judged.low, judged.high) == pytest.approx((0.2, 0.2 - reach, 0.2 + reach))
    assert (
        of_grid(difference(MERGE, STUDENT, "math", above=0), by_seed(0.21, 0.21, questions=1000)).verdict == "undecided"
    )
    costs = Ratio(id="c", claim="c", test="ratio", of=MERGE, against=STUDENT, measure="cost", below=2)
    same = of_grid(costs, by_seed(0.4, 0.4))
    assert (same.measured, same.low, same.verdict) == (1, None, "undecided")


def test_a_failed_run_leaves_its_seed_out_and_moves_no_end_of_the_grid() -> None:
    """Without its λ of 0.5, seed 2 has no lowest: 1.5 is not held against the next one up."""
    scores = {0.5: 0.3, 1.5: 0.5, 10.0: 0.4}
    grid = [
        cell(s, {"fusion": (x + s / 1000, x)}, {"lam": lam})
        for s in range(3)
        for lam, x in scores.items()
        if (s, lam) != (2, 0.5)
    ]

    def merge(lam: Any) -> Models:
        return Models(kind="merge", where={"lam": lam})

    lowest = of_grid(difference(merge(1.5), merge("lowest"), "mean", above=0), grid)
    assert (lowest.seeds, lowest.measured) == (2, pytest.approx(0.2))
    every = Models(kind="merge", where={}, best=True)
    assert of_grid(difference(merge(1.5), every, "mean", above=0), grid).seeds == 2


def test_the_best_other_is_never_the_model_itself() -> None:
    grid = [cell(0, {"fusion": (x, x)}, {"lam": lam}) for lam, x in ((0.5, 0.3), (1.5, 0.5), (10.0, 0.4))]
    best = difference(
        Models(kind="merge", where={"lam": 1.5}), Models(kind="merge", where={}, best=True), "mean", above=0
    )
    assert of_grid(best, grid).measured == pytest.approx(0.1)


def test_a_model_under_two_names_is_level_with_itself() -> None:
    """As a tuned merge is that ends at its defaults; a seed in which it does so counts like the others."""
    runs = [cell(seed, {"fusion": (0.5, 0.5), "tuned": (0.5 + gain, 0.5 + gain)}) for seed, gain in enumerate((0, 0.3))]
    default, tuned = runs[0].results.rows
    same = replace(runs[0].results, rows=(default, replace(tuned, key=default.key)))
    grid = [replace(runs[0], results=same), runs[1]]
    judged = of_grid(difference(Models(kind="merge", method="tuned"), MERGE, "mean", above=0), grid)
    assert (judged.seeds, judged.measured) == (2, pytest.approx(0.15))


def test_verdicts_allow_for_the_number_of_claims() -> None:
    """Three seeds a little above 0: supported alone, not among twenty claims."""
    claim = difference(MERGE, STUDENT, "mean", above=0)
    grid, many = by_seed(0.33, 0.35, 0.36), tuple(replace(claim, id=f"c{i}") for i in range(20))
    alone = of_grid(claim, grid)
    together = claims(Grid("e", "tiny", tuple(grid)), Published("e", None, {}, (), many))
    assert (alone.verdict, together[0].verdict, together[0].alone) == ("supported", "undecided", "supported")
    assert together[0].p == pytest.approx(min(1, 20 * (alone.p or 0)))
    assert (together[0].low, together[0].high) == (alone.low, alone.high)
    assert "Holm" in (allowed(together[0]) or "") and allowed(alone) is None


def test_of_several_orders_every_one_must_have_been_run() -> None:
    both = Models(kind="merge", method="fusion", order=("math & coding", "coding & math"))
    shares = {"student": (0.2, 0.2), "fusion math & coding": (0.2, 0.6), "fusion coding & math": (0.5, 0.3)}
    whole = [cell(0, shares)]
    half = [cell(0, {name: of for name, of in shares.items() if name != "fusion coding & math"})]
    assert of_grid(difference(both, STUDENT, "mean", above=0), whole).measured == pytest.approx(0.2)
    assert of_grid(difference(both, STUDENT, "base", above=0), whole).measured == pytest.approx(0.35)
    assert of_grid(difference(both, STUDENT, "taken", above=0), whole).measured == pytest.approx(0.05)
    assert of_grid(difference(both, STUDENT, "mean", above=0), half).verdict == "not tested at this scale"


def test_own_and_other_domains_are_those_that_a_name_names() -> None:
    shares = {"student": (0.2, 0.4), "math": (0.5, 0.3), "coding": (0.1, 0.6), "fusion math & coding": (0.4, 0.4)}
    grid = [cell(0, shares)]
    experts = Models(kind="expert")
    assert of_grid(difference(experts, STUDENT, "own", above=0), grid).measured == pytest.approx(0.25)
    assert of_grid(difference(experts, STUDENT, "others", below=0), grid).measured == pytest.approx(-0.1)
    assert of_grid(difference(Models(kind="merge"), STUDENT, "others", below=0), grid).seeds == 0
    assert of_grid(difference(experts, STUDENT, "coding", above=0), grid).measured == pytest.approx(0.05)
    assert of_grid(difference(experts, STUDENT, "ifeval", below=0), grid).verdict == "not tested at this scale"


def test_a_model_may_be_chosen_by_its_name() -> None:
    grid = [cell(0, {"arm one": (0.5, 0.5), "arm two": (0.3, 0.3), "student": (0.2, 0.2)})]
    arm, every = Models(kind="consolidated", name="arm one"), Models(kind="consolidated")
    other = Models(kind="consolidated", name="!arm one")
    assert of_grid(difference(arm, STUDENT, "mean", above=0), grid).measured == pytest.approx(0.3)
    assert of_grid(difference(every, STUDENT, "mean", above=0), grid).measured == pytest.approx(0.2)
    assert of_grid(difference(arm, other, "mean", above=0), grid).measured == pytest.approx(0.2)


def test_experts_are_held_against_experts_of_their_own_domain() -> None:
    grid = [
        cell(0, {"student": (0.2, 0.2), "math": (m, 0.1), "coding": (0.3, c)}, {"branch.adapter": way})
        for way, m, c in ((None, 0.6, 0.8), ("lora", 0.5, 0.9))
    ]
    of, against = (Models(kind="expert", where={"branch.adapter": way}) for way in ("lora", None))
    assert of_grid(difference(of, against, "own", above=-0.02), grid).measured == pytest.approx((-0.1 + 0.1) / 2)
    math = replace(of, domain="math")
    assert of_grid(difference(math, against, "own", above=-0.02), grid).measured == pytest.approx(-0.1)
    assert of_grid(difference(math, against, "others", above=0), grid).measured == pytest.approx(0)


def test_settings_choose_cells_and_else_a_model_meets_those_of_its_own_cell() -> None:
    grid = [
        cell(0, {"student": (0.2, 0.2), "mixture": (m, m), "fusion": (f, f)}, {"lam": lam})
        for lam, m, f in ((0.5, 0.3, 0.4), (1.5, 0.5, 0.55), (10.0, 0.2, 0.1))
    ]

    def merge(**where: Any) -> Models:
        return Models(kind="merge", where=where)

    def measured(of: Models, against: Models) -> float | None:
        return of_grid(difference(of, against, "mean", above=0), grid).measured

    assert measured(merge(lam=1.5), MIXTURE) == pytest.approx(0.05)
    assert measured(merge(lam=1.5), merge(lam="lowest")) == pytest.approx(0.15)
    assert measured(merge(lam=1.5), merge(lam="highest")) == pytest.approx(0.45)
    assert measured(MERGE, MIXTURE) == pytest.approx((0.1 + 0.05 - 0.1) / 3)
    assert measured(MERGE, Models(kind="mixture", where={}, best=True)) == pytest.approx((0.4 + 0.55 + 0.1) / 3 - 0.5)
    assert measured(Models(kind="merge", best=True), STUDENT) == pytest.approx(0.35)
    assert measured(merge(lam=2.0), MIXTURE) is None
    assert measured(merge(beta=2.0), MIXTURE) is None


@pytest.mark.parametrize(
    ("middle", "last", "verdict"),
    [
        (0.4, 0.3, "supported"),
        (0.6, 0.3, "refuted"),
        (None, 0.3, "not tested at this scale"),
        (0.6, None, "refuted"),
        (0.5, 0.3, "undecided"),
    ],
)
def test_an_order_stands_and_falls_with_its_weakest_step(
    middle: float | None, last: float | None, verdict: str
) -> None:
    shares = {"a": 0.5, "b": middle, "c": last}
    names = [name for name, share in shares.items() if share is not None]
    grid = [
        cell(s, {n: (shares[n] + 0.001 * s * (-1) ** s * (n == "b"), 0.0) for n in names})  # type: ignore[operator]
        for s in range(4)
    ]
    of = tuple(Models(kind="merge", method=name) for name in shares)
    judged = of_grid(Order(id="c", claim="c", test="order", of=of, measure="math"), grid)
    assert judged.verdict == verdict
    if verdict == "supported":
        steps = [
            [a.results.rows[i].scores["t_math"].mean - a.results.rows[i + 1].scores["t_math"].mean for a in grid]
            for i in (0, 1)
        ]
        smallest = min(steps, key=lambda step: sum(step))
        assert judged.measured == pytest.approx(sum(smallest) / 4)
        assert [part.measured for part in judged.parts] == pytest.approx([sum(step) / 4 for step in steps])


def test_a_ratio_is_taken_in_logarithms() -> None:
    costs = (0.5, 1.0, 2.0)
    claim = Ratio(id="c", claim="c", test="ratio", of=MERGE, against=MIXTURE, measure="cost", below=0.05)
    shares = {"mixture": (0.5, 0.5), "fusion": (0.5, 0.5)}
    grid = [cell(s, shares, seconds={"mixture": 100.0, "fusion": cost}) for s, cost in enumerate(costs)]
    judged = of_grid(claim, grid)
    low, high = stats.t.interval(0.95, 2, math.log(0.01), stats.sem([math.log(c / 100) for c in costs]))
    assert (judged.measured, judged.low, judged.high) == pytest.approx((0.01, math.exp(low), math.exp(high)))
    longer = Ratio(id="c", claim="c", test="ratio", of=MERGE, against=MIXTURE, measure="tokens", above=1)
    assert of_grid(longer, [cell(0, shares, tokens={"mixture": 40.0, "fusion": 50.0})]).measured == pytest.approx(1.25)
    assert of_grid(longer, grid).verdict == "not tested at this scale"


def test_cosines_are_those_of_every_pair() -> None:
    """Pairs at +0.35 and −0.35 have a mean of 0 and are not orthogonal."""
    grid = [
        cell(s, {}, cosines={
            "gradients": {"a & b": -0.2 - s / 100, "a & c": -0.1 - s / 100},
            "updates": {"a & b": 0.35 + s / 100, "a & c": -0.35 - s / 100, "b & c": 0.01 + s / 100},
        })
        for s in range(3)
    ]  # fmt: skip
    judged = of_grid(Cosine(id="c", claim="c", test="cosine", of="gradients", below=0), grid)
    assert (judged.measured, judged.verdict) == (pytest.approx(-0.11), "supported")
    near = Cosine(id="c", claim="c", test="cosine", of="updates", above=-0.1, below=0.1)
    apart = of_grid(near, grid)
    assert (apart.verdict, len(apart.parts)) == ("refuted", 3)
    assert apart.p == pytest.approx(3 * min(part.p or 1 for part in apart.parts if not part.inside))
    assert of_grid(near, [cell(s, {}) for s in range(3)]).verdict == "not tested at this scale"


def test_the_papers_figures_are_taken_alike() -> None:
    def paper(name: str) -> dict[str, float | None]:
        return {claim.id: claim.published for claim in claims(Grid(name, "tiny", ()), published(name))}

    table1 = {"math": 0.055, "coding": 0.044, "science": 0.029, "longer": (11.8 + 12.4 + 8.6) / (9.6 + 10.1 + 5.3)}
    assert paper("table1") == pytest.approx(table1)
    table2 = paper("table2")
    assert [table2[c] for c in ("match", "cost", "order-math", "order-coding")] == pytest.approx(
        [0.009, 4 / 740, 0.008, -0.022]
    )
    assert paper("figure2")["soup-dare-linear-science"] == pytest.approx(0.0657)
    assert paper("table3")["experts-instructions"] == pytest.approx((63.1 + 60.4 + 62.2) / 300 - 0.755)
    assert set(paper("lambda").values()) == {None}


def test_an_unknown_experiment_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no experiment 'table22'; did you mean 'table2'"):
        published("table22")
