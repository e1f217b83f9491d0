"""Which comparison of two models to trust: coverage, false verdicts and power of each candidate, simulated.

    python -m experiments.statistics.simulate        # some minutes; writes docs/statistics.md

Two models answer the same questions. A question's ease is beta distributed around the model's skill; `spread` says how
much questions differ (0.2: somewhat, 4: each is nearly always or nearly never answered), `shared` how alike both models
find them (the correlation of a normal copula). The second model is as good as the first, one standard error away, or
two and a half.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from bm.statistics import compare
from experiments.statistics.methods import EXACTLY, RESAMPLES, ROUGHLY, Array

RUNS, FEWER = 10_000, 2_000
"""Comparisons of each setting and gap; fewer for what resamples and is far from the best."""
QUESTIONS, SAMPLES, SKILLS = (10, 30, 150), (1, 4, 16), (0.1, 0.5, 0.9)
SPREADS, SHARED = (0.2, 1.0, 4.0), (0.0, 0.9)
GAPS = (0.0, 1.0, 2.5)
"""Between the models' skills, in standard errors of equal ones."""
COVERAGE, FALSE = 0.93, 0.05
ERRORS = 3.0
"""Standard errors of RUNS by which the worst of many settings may miss a promise that is kept."""
TABLE = Path(__file__).parents[2] / "docs" / "statistics.md"


@dataclass(frozen=True)
class Setting:
    questions: int
    samples: int
    skill: float
    spread: float
    shared: float


@dataclass(frozen=True)
class Found:
    coverage: float
    """The lowest of the three gaps."""
    false: float
    power: float
    """The power at the largest gap."""


@dataclass(frozen=True)
class Line:
    """A method over the settings of a table."""

    coverage: float
    lowest: float
    false: float
    highest: float
    power: float
    keeps: bool
    """Both promises, within the simulation's error."""


def drawn(at: Setting, skills: tuple[float, float], runs: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Question means of both models, [runs, questions] each."""
    one, rest = random.standard_normal((2, runs, at.questions))
    other = at.shared * one + np.sqrt(1 - at.shared**2) * rest
    scores = []
    for skill, latent in zip(skills, (one, other), strict=True):
        place = np.minimum((stats.norm.cdf(latent) * 4000).astype(int), 3999)
        scores.append(random.binomial(at.samples, ease(skill, at.spread)[place]) / at.samples)
    return scores[0], scores[1]


def ease(skill: float, spread: float) -> Array:
    """4,000 equally likely chances that a question is answered."""
    chances: Array = stats.beta.ppf((np.arange(4000) + 0.5) / 4000, skill / spread, (1 - skill) / spread)
    return chances


def rival(at: Setting, error: float, gap: float) -> float:
    """The other model's skill: below, or above where there is no room."""
    below = at.skill - gap * error
    return below if below > 0.01 else min(at.skill + gap * error, 0.99)


def simulated(at: Setting, seed: int) -> dict[str, Found]:
    random = np.random.default_rng(seed)
    equal = drawn(at, (at.skill, at.skill), RUNS, random)
    error = float((equal[0] - equal[1]).std()) / np.sqrt(at.questions)
    held: dict[str, list[float]] = defaultdict(list)
    decided: dict[str, list[float]] = defaultdict(list)
    for gap in GAPS:
        skill = rival(at, error, gap)
        scores = drawn(at, (at.skill, skill), RUNS, random) if gap else equal
        truth = float(ease(at.skill, at.spread).mean() - ease(skill, at.spread).mean())
        for name, method in (EXACTLY | ROUGHLY).items():
            first, second = (of[: RUNS if name in EXACTLY else FEWER] for of in scores)
            low, high = method(first, second, at.samples)
            held[name].append(float(((low <= truth + 1e-9) & (high >= truth - 1e-9)).mean()))
            sides = (low > 0) | (high < 0) if truth == 0 else low > 0 if truth > 0 else high < 0
            decided[name].append(float(sides.mean()))
    return {name: Found(min(held[name]), decided[name][0], decided[name][-1]) for name in held}


def lines(found: Mapping[str, list[Found]]) -> dict[str, Line]:
    return {name: _line(of) for name, of in found.items()}


def _line(found: list[Found]) -> Line:
    covers, false, power = ([getattr(of, field) for of in found] for field in ("coverage", "false", "power"))
    short, much = (ERRORS * np.sqrt(share * (1 - share) / RUNS) for share in (COVERAGE, FALSE))
    keeps = bool(min(covers) >= COVERAGE - short and max(false) <= FALSE + much)
    means = [float(np.mean(of)) for of in (covers, false, power)]
    return Line(means[0], min(covers), means[1], max(false), means[2], keeps)


def best(table: Mapping[str, Line]) -> Line:
    """The most powerful of those that keep their promises."""
    return max((line for line in table.values() if line.keeps), key=lambda line: line.power)


def main() -> None:
    found: dict[tuple[int, int], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    settings = [Setting(*values) for values in product(QUESTIONS, SAMPLES, SKILLS, SPREADS, SHARED)]
    with ProcessPoolExecutor() as pool:
        for at, methods in zip(settings, pool.map(simulated, settings, range(len(settings))), strict=True):
            for name, of in methods.items():
                found[at.questions, at.samples][name].append(of)
    tables = {size: lines(methods) for size, methods in found.items()}
    text = [INTRODUCTION, _chosen(tables), NEEDED, *needed(), ""]
    for (questions, samples), table in tables.items():
        text.append(f"## {questions} questions, {samples} sample{'s' * (samples > 1)} each\n\n{HEAD}")
        text += [_row(name, line, best(table).power) for name, line in table.items()]
        text.append("")
    TABLE.write_text("\n".join(text))


def _chosen(tables: Mapping[tuple[int, int], Mapping[str, Line]]) -> str:
    """What the tables say of the method that was chosen, the first one."""
    of = [(next(iter(table.values())), best(table).power) for table in tables.values()]
    covers, false = min(line.lowest for line, _ in of), max(line.highest for line, _ in of)
    means, share = max(line.false for line, _ in of), min(line.power / most for line, most in of)
    return f"""Over all tables, the chosen test covers the truth in {100 * covers:.1f} % of comparisons in its worst
setting; it gives {100 * false:.1f} % false verdicts in its worst setting and at most {100 * means:.1f} % on a table's
average; and it has at least {100 * share:.1f} % of the power of the best method that keeps both promises.
"""


def _row(name: str, line: Line, most: float) -> str:
    shares = (line.coverage, line.lowest, line.false, line.highest, line.power, line.power / most)
    return f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} | {'yes' if line.keeps else 'no'} |"


def needed() -> Iterator[str]:
    """How often what is said to be needed decides, where the first comparison saw about the true difference."""
    for questions, samples, gap in ((30, 16, 0.04), (60, 4, 0.05), (150, 4, 0.03), (10, 16, 0.08)):
        decided, asked = {"samples": 0, "questions": 0}, {"samples": 0, "questions": 0}
        random = np.random.default_rng(questions)
        for _ in range(3000):
            chances = 0.1 + 0.8 * random.beta(2.5, 2.5, questions)
            first = compare(*answered(random, chances, samples, gap), 0.95)
            if first.verdict != "undecided" or not 0.9 < first.difference / gap < 1.1:
                continue
            if first.samples_needed is not None:
                again = compare(*answered(random, chances, first.samples_needed, gap), 0.95)
                decided["samples"] += again.verdict == "better"
                asked["samples"] += 1
            others = 0.1 + 0.8 * random.beta(2.5, 2.5, int(first.questions_needed or 0))
            again = compare(*answered(random, others, samples, gap), 0.95)
            decided["questions"] += again.verdict == "better"
            asked["questions"] += 1
        shares = [f"{100 * decided[of] / asked[of]:.0f} of {asked[of]}" for of in ("samples", "questions")]
        yield f"| {questions} | {samples} | {100 * gap:.0f} | {' | '.join(shares)} |"


def answered(
    random: np.random.Generator, chances: Array, samples: int, gap: float
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Answers of a model with these chances and of one that is `gap` worse at each question."""
    sides = (chances, chances - gap)
    first, second = ((random.random((len(of), samples)) < of[:, None]).astype(float) for of in sides)
    return {"": first}, {"": second}


HEAD = """| method | coverage | worst | false verdicts | worst | power | of the best | keeps |
| --- | --- | --- | --- | --- | --- | --- | --- |"""
EACH = len(SKILLS) * len(SPREADS) * len(SHARED)
NEEDED = """## How many more are needed

`questions_needed` and `samples_needed` promise a verdict with a probability of 80 %. To check that, comparisons that
measured the true difference to within a tenth, and were still undecided, were made again with what they asked for.
The table says how many percent of how many comparisons were then decided. Samples keep more than they promise,
because a comparison tends to stay undecided where it has overestimated the spread; questions fall a little short,
because few questions tell their own spread only roughly.

| questions | samples each | gap in points | by samples | by questions |
| --- | --- | --- | --- | --- |"""
INTRODUCTION = f"""# How two models are compared

`bm.statistics.compare` inverts a score test. A difference δ is in the interval if the measured difference is no
further from δ than so many of the standard errors that it would have if δ were true, and the verdict is *undecided*
where 0 is in the interval. With one sample per question this is Tango's interval (1998) and McNemar's test. With
several samples, Tango's variance of a single answer is scaled by the ratio of two scatters about δ: that of the
questions' means, and that which single answers would have. So many samples of questions that differ much from each
other count as few. The p-value of n questions is never below 2^(1 − n), which no test that may turn the sign of each
question gets below.

`python -m experiments.statistics.simulate` makes the tables, and says how models and questions are drawn. Each table
covers {EACH} settings: how skilled the models are, how much questions differ, and how alike both models find them.
All numbers are in percent.

- **Coverage** of a setting is the lowest of three: for equal models, for models one standard error apart, and for
  models two and a half standard errors apart. **False verdicts** are those about equal models; **power** is the share
  of verdicts about models two and a half standard errors apart. A column *worst* has the worst of the {EACH}
  settings, the column before it their mean.
- **Keeps** says whether a method keeps two promises in every setting: {100 * COVERAGE:.0f} % coverage, and
  {100 * FALSE:.0f} % false verdicts. With {RUNS:,} comparisons per setting and gap, a measured share has a standard
  error of about 0.26 and 0.22; the worst setting may miss a promise by {ERRORS:.0f} of these. Methods that resample
  ({RESAMPLES} resamples) are held to the same allowance with {FEWER:,} comparisons, whose errors are about twice as
  large; the nearest rivals have all {RUNS:,}.
- **Of the best** is the power relative to that of the most powerful method in the table that keeps both promises.

Student's paired t-test is about as powerful, but with 10 or 30 questions its intervals are far too short where a few
questions decide. The score test with Student's bound mends that and is more powerful with few questions of several
samples, but there its false verdicts are more frequent than those of the chosen test. With one sample per question,
every test that is as powerful decides as McNemar's test does, whose false verdicts jump with the number of questions
(5.3 % at most with ten, counted exactly). The percentile bootstrap, BCa and the bootstrap-t mostly decide more often
because they are wrong more often. One question more, half of it at either end, makes the t-test valid everywhere, and
costs it much of its power with few questions.
"""


if __name__ == "__main__":
    main()
