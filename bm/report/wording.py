"""Numbers as people read them, and a run's finding in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bm.ledger import Cost
from bm.report.results import MEAN, Results, Row, Verdict

if TYPE_CHECKING:
    from bm.report.claims import Claim

MARKS = {"better": "↑", "worse": "↓", "undecided": "≈"}
TRUTHS = {"supported": "✓", "refuted": "✗", "undecided": "≈", "not tested at this scale": "–"}
SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""


def percent(share: float) -> str:
    return f"{100 * share:.1f}{SPACE}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed, with a true minus."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def measure(test: str, value: float) -> str:
    """What a claim is about: points of a difference or an order, a ratio in percent, or a cosine."""
    if test == "ratio":
        return share(value)
    return f"{value:+.3f}".replace("-", "−") if test == "cosine" else points(value)


def span(low: float, high: float, digits: int = 1) -> str:
    """An interval of percentages: `57.1–65.2`."""
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}"


def duration(seconds: float) -> str:
    """Three significant digits at most, in the unit that suits."""
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g}{SPACE}{unit}"
    return f"{1000 * seconds:.0f}{SPACE}ms" if seconds else f"0{SPACE}s"


def share(ratio: float) -> str:
    """A ratio as a percentage with two significant digits: `0.54 %`, `103 %`."""
    return f"{100 * ratio:.2g}{SPACE}%" if ratio < 0.1 else f"{100 * ratio:.0f}{SPACE}%"


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def about(number: int) -> str:
    """To two significant digits: `3,700`."""
    return f"{float(f'{number:.2g}'):,.0f}"


def compared(verdict: Verdict) -> str:
    """How one model stands against another: `9.8 points above student (+6.1 to +13.2)`."""
    where = f"({points(verdict.low)} to {points(verdict.high)})"
    if verdict.verdict == "undecided":
        alone = verdict.low > 0 or verdict.high < 0  # by itself it would be told apart
        many = f" among so many verdicts (Holm, p = {probability(verdict.p)})" if alone else ""
        return f"not told apart from {verdict.against}{many}: {points(verdict.difference)} {where}"
    side = "above" if verdict.verdict == "better" else "below"
    return f"{100 * abs(verdict.difference):.1f} points {side} {verdict.against} {where}"


def allowed(claim: "Claim") -> str | None:
    """Why a claim is undecided beside an interval that would decide it; None where it is otherwise."""
    if claim.verdict == claim.alone or claim.p is None:
        return None
    why = f"Undecided among so many claims (Holm, p = {probability(claim.p)}), alone {claim.alone}"
    return f"{why}: {claim.claim}."


def sentence(verdict: Verdict) -> str:
    """A verdict in one line, for the terminal."""
    task = "on the mean" if verdict.task == MEAN else f"on {verdict.task}"
    against_mixture = verdict.claim == "merge over mixture" and verdict.cost_ratio is not None
    cost = f", at {share(verdict.cost_ratio or 0)} of its time" if against_mixture else ""
    return f"{verdict.name} is {compared(verdict)} {task}{cost}{_needed(verdict)}"


def _needed(verdict: Verdict) -> str:
    if verdict.questions_needed is None:
        return ""
    samples = f", or {verdict.samples_needed:,} samples of each" if verdict.samples_needed else ""
    questions = about(verdict.questions_needed)
    return f"; {verdict.questions:,} questions were asked, about {questions} would decide{samples}"


def tokens(length: float) -> str:
    """Mean tokens of a response, as the paper's Table 1 has them: `9.6k`, `85`; nothing where nothing was generated."""
    if not length:
        return ""
    return f"{length / 1000:.1f}k" if length >= 1000 else f"{length:.0f}"


def out(questions: int) -> str:
    return f"out of the race after {count(questions, 'question')} of each task"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def to_decide(verdict: Verdict) -> str:
    """What would decide, for a table cell: `1,500 or 12×`."""
    if verdict.questions_needed is None:
        return "–"
    return about(verdict.questions_needed) + (f" or {verdict.samples_needed:,}×" if verdict.samples_needed else "")


def headline(results: Results) -> str:
    """The run's finding in one sentence, on its best merge if it has merges, else on its experts."""
    best = results.best("merge")
    if best is None:
        return _experts(results)
    opponents = [results.verdict(claim, best.name) for claim in ("merge over student", "merge over mixture")]
    found = [_stands(verdict) for verdict in opponents if verdict]
    mean = f"The best merge answers {percent(results.mean(best) or 0)} of the questions right"
    return mean + (f": {' and '.join(found)}." if found else ".")


def _stands(verdict: Verdict) -> str:
    against = "the student" if verdict.claim == "merge over student" else "the data mixture"
    if verdict.verdict == "undecided":
        return f"level with {against}, as far as {verdict.questions:,} questions can tell"
    return f"{100 * abs(verdict.difference):.1f} points {'above' if verdict.verdict == 'better' else 'below'} {against}"


def _experts(results: Results) -> str:
    own = [v for v in results.verdicts if v.claim == "expert over student"]
    if not own:
        return f"{count(len(results.rows), 'model')} on {count(len(results.tasks), 'task')}."
    won = sum(v.verdict == "better" for v in own)
    return f"On its own task, {won} of {count(len(own), 'expert')} beat{'s' * (won == 1)} the student."


def remarks(results: Results, totals: Mapping[str, float]) -> list[str]:
    """What must be known beside the headline: how the best merge was picked, what it cost, what the experts gained.

    `totals`: seconds of a row with everything it was made from, by name.
    """
    lines = []
    left = sum(row.out_after is not None for row in results.rows)
    if left:
        lines.append(f"{count(left, 'merge')} left the race early; their scores rest on fewer questions.")
    best, mixture = results.best("merge"), results.best("mixture")
    if best is not None:
        merges = sum(row.kind == "merge" for row in results.rows)
        picked = f", picked by this score among {merges} merges, which flatters it a little" if merges > 1 else ""
        lines.append(f"The best merge is {best.name}{picked}.")
    if best is not None and mixture is not None and mixture.cost.seconds > 0:
        lines.append(_price(best, mixture, totals))
    if best is not None and any(v.claim == "expert over student" for v in results.verdicts):
        lines.append(_experts(results))
    return lines


def _price(best: Row, mixture: Row, totals: Mapping[str, float]) -> str:
    own, ratio = duration(best.cost.seconds), share(best.cost.seconds / mixture.cost.seconds)
    all_of = f"{duration(totals[best.name])} against {duration(totals[mixture.name])}"
    return f"Merging took {own}, {ratio} of the mixture's training; with all that each was made from it is {all_of}."


def spent(cost: Cost) -> str:
    """What a run took, each artefact once."""
    money = "" if cost.money is None else f", {cost.money:.2g} USD"
    hours = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours else ""
    return f"{duration(cost.seconds)}{hours}, {cost.flops:.2g} FLOPs, {cost.tokens:,} tokens{money}, each artefact once"
