"""A finding in words."""

from collections.abc import Mapping

from bm.ledger import Cost
from bm.report.figures.numbers import about, count, duration, percent, points, probability, share
from bm.report.findings.claims import Claim
from bm.report.findings.forecast import Forecast, forecast
from bm.report.findings.law import MARGIN
from bm.report.findings.regimes import regimes
from bm.report.findings.results import MEAN, Results, Row, Verdict

WITHIN = f"within {100 * MARGIN:.0f} points of"
TRUTHS = {"supported": "✓", "refuted": "✗", "undecided": "≈", "not tested at this scale": "–"}


def compared(verdict: Verdict) -> str:
    """How one model stands against another: `9.8 points above student (+6.1 to +13.2)`."""
    where = f"({points(verdict.low)} to {points(verdict.high)})"
    if verdict.verdict == "undecided":
        alone = verdict.low > 0 or verdict.high < 0  # alone it would be distinguishable
        many = f" among so many verdicts (Holm, p = {probability(verdict.p)})" if alone else ""
        return f"not distinguishable from {verdict.against}{many}: {points(verdict.difference)} {where}"
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
    dearer = verdict.claim in ("merge over mixture", "consolidated over mixture") and verdict.cost_ratio is not None
    cost = f", at {share(verdict.cost_ratio or 0)} of its time" if dearer else ""
    return f"{verdict.name} is {compared(verdict)} {task}{cost}{_needed(verdict)}"


def _needed(verdict: Verdict) -> str:
    if verdict.questions_needed is None:
        return ""
    samples = f", or {verdict.samples_needed:,} samples of each" if verdict.samples_needed else ""
    questions = about(verdict.questions_needed)
    return f"; {verdict.questions:,} questions were asked, about {questions} would decide{samples}"


def out(questions: int) -> str:
    return f"out of the race after {count(questions, 'question')} of each task"


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
    standings = [_stands(verdict) for verdict in opponents if verdict]
    mean = f"The best merge answers {percent(results.mean(best) or 0)} of the questions right"
    return mean + (f": {' and '.join(standings)}." if standings else ".")


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


def remarks(results: Results) -> list[str]:
    """What must be known beside the headline: how the best merge was picked, what it cost, what the experts gained."""
    lines = []
    left = sum(row.out_after is not None for row in results.rows)
    if left:
        lines.append(f"{count(left, 'merge')} left the race early; their scores rest on fewer questions.")
    best, mixture = results.best("merge"), results.best("mixture")
    if best is not None:
        merges = sum(row.kind == "merge" for row in results.rows)
        optimistic = f", picked by this score among {merges} merges, so its score is slightly optimistic"
        picked = optimistic if merges > 1 else ""
        lines.append(f"The best merge is {best.name}{picked}.")
    if best is not None and mixture is not None and mixture.cost.seconds > 0:
        lines.append(_price(best, mixture))
    if best is not None and any(v.claim == "expert over student" for v in results.verdicts):
        lines.append(_experts(results))
    lines += forecasts(results)
    return [*lines, *(made_on(results.run.hardware) if results.run else [])]


def _price(best: Row, mixture: Row) -> str:
    own, ratio = duration(best.cost.seconds), share(best.cost.seconds / mixture.cost.seconds)
    all_of = f"{duration(best.seconds_in_all)} against {duration(mixture.seconds_in_all)}"
    return f"Merging took {own}, {ratio} of the mixture's training; with all that each was made from it is {all_of}."


def forecasts(results: Results) -> list[str]:
    """What each merge's gap to a mixture would be, had none been trained; a line each."""
    told = [forecast(regime) for regime in regimes(results)]
    return [forecast_of(prediction) for prediction in told if prediction is not None]


def forecast_of(told: Forecast) -> str:
    """What a run or a merge says of itself, in one line."""
    if told.outside:
        why = f"outside the range that the law was fitted on ({', '.join(told.outside)})"
        return f"{told.method}: no forecast of its gap to a mixture, because it is {why}"
    truth = "" if told.measured is None else f"; measured {points(told.measured)}"
    how = f"{predicted(told)} by {told.kind}, fitted at the tiny scale{truth}"
    return f"{told.method}: {WITHIN} a mixture with a probability of {percent(told.within)}; {how}"


def predicted(told: Forecast) -> str:
    """A forecast in figures."""
    interval = f"{points(told.gap)} points predicted ({points(told.low)} to {points(told.high)})"
    return interval + (f", outside the range that was fitted ({', '.join(told.outside)})" if told.outside else "")


def made_on(hardware: Mapping[str, str]) -> list[str]:
    """Which machine made the results; nothing where that is not known."""
    if "processor" not in hardware:
        return []
    gpus = "" if hardware.get("GPUs", "none") == "none" else f" with {hardware['GPUs']}"
    return [f"Made on {hardware['processor']}{gpus}; another make of processor may score a little differently."]


def spent(cost: Cost) -> str:
    """What a run took; shared artefacts count once."""
    money = "" if cost.money is None else f", {cost.money:.2g} USD"
    hours = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours else ""
    spent = f"{duration(cost.seconds)}{hours}, {cost.flops:.2g} FLOPs, {cost.tokens:,} tokens{money}"
    return f"{spent}; shared artefacts counted once"
