"""Which comparison of two models to trust: coverage, false verdicts and power of each candidate, simulated.

    python -m experiments.statistics.simulate        # about a minute of one core; writes docs/statistics.md

Two models answer the same questions. A question's ease is beta distributed around the model's skill; `spread` says how
much questions differ (0.2: somewhat, 4: each is nearly always or nearly never answered), `shared` how alike both models
find them (the correlation of a normal copula). Half of the comparisons are of models of equal skill, half of models
whose skills differ by 2.5 standard errors.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.statistics.methods import CANDIDATES, RESAMPLES, Array

RUNS = 1000
QUESTIONS, SAMPLES, SKILLS = (10, 30, 150), (1, 4, 16), (0.1, 0.5, 0.9)
SPREADS, SHARED = (0.2, 1.0, 4.0), (0.0, 0.9)
CREDIBLE = 0.065
"""False verdicts in RUNS that a method with 5 % may well have: two standard errors more."""
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
    """The lower of equal and unequal models'."""
    false: float
    power: float
    share: float
    """The share of the power of the best method whose false verdicts are credibly within 5 %."""


def drawn(at: Setting, skills: tuple[float, float], random: np.random.Generator) -> tuple[Array, Array, float]:
    """Question means of both models, [runs, questions] each, and the true difference."""
    one, rest = random.standard_normal((2, RUNS, at.questions))
    other = at.shared * one + np.sqrt(1 - at.shared**2) * rest
    grid, scores, truth = (np.arange(4000) + 0.5) / 4000, [], []
    for skill, latent in zip(skills, (one, other), strict=True):
        ease = stats.beta.ppf(grid, skill / at.spread, (1 - skill) / at.spread)
        truth.append(float(ease.mean()))
        place = np.minimum((stats.norm.cdf(latent) * 4000).astype(int), 3999)
        scores.append(random.binomial(at.samples, ease[place]) / at.samples)
    return scores[0], scores[1], truth[0] - truth[1]


def worth(first: Array, second: Array, samples: int) -> Array:
    """How many independent answers `samples` of one question are worth, from both models' scores: [runs]."""
    alone = sum(of.mean(1) * (1 - of.mean(1)) for of in (first, second))
    seen = first.var(1) + second.var(1)
    return np.clip(np.where(seen > 0, alone / np.maximum(seen, 1e-12), 1.0), 1.0, samples)


def compare(at: Setting, random: np.random.Generator) -> dict[str, Found]:
    first, second, _ = drawn(at, (at.skill, at.skill), random)
    equal, known = first - second, worth(first, second, at.samples)
    step = 2.5 * float(equal.std()) / np.sqrt(at.questions)
    worse = at.skill - step if at.skill - step > 0.01 else min(at.skill + step, 0.99)
    first, second, gap = drawn(at, (at.skill, worse), random)
    unequal, also = first - second, worth(first, second, at.samples)
    found: dict[str, tuple[float, float, float]] = {}
    for name, method in CANDIDATES.items():
        (low, high), (under, over) = method(equal, known, at.samples), method(unequal, also, at.samples)
        false = float(((low > 0) | (high < 0)).mean())
        held = float(((under <= gap + 1e-9) & (over >= gap - 1e-9)).mean())
        found[name] = (min(1 - false, held), false, float(((under > 0) if gap > 0 else (over < 0)).mean()))
    best = max((power for _, false, power in found.values() if false <= CREDIBLE), default=1.0)
    return {name: Found(*of, of[2] / best) for name, of in found.items()}


def main() -> None:
    rows: dict[tuple[int, int], dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for number, values in enumerate(product(QUESTIONS, SAMPLES, SKILLS, SPREADS, SHARED)):
        at = Setting(*values)
        for name, found in compare(at, np.random.default_rng(number)).items():
            rows[at.questions, at.samples][name].append(found)
    lines = [INTRODUCTION, _chosen(rows)]
    for (questions, samples), methods in rows.items():
        lines.append(f"## {questions} questions, {samples} sample{'s' * (samples > 1)} each\n\n{HEAD}")
        lines += [f"| {name} | {_said(found)} |" for name, found in methods.items()]
        lines.append("")
    TABLE.write_text("\n".join(lines))


def _chosen(rows: Mapping[tuple[int, int], Mapping[str, Sequence[Found]]]) -> str:
    """What the tables say of the method that was chosen, the first one."""
    of = {at: next(iter(methods.values())) for at, methods in rows.items()}
    few, more = ([found for (n, _), found in of.items() if (n == min(QUESTIONS)) == least] for least in (True, False))

    def span(groups: Sequence[Sequence[Found]], name: str) -> str:
        means = [100 * float(np.mean([getattr(one, name) for one in found])) for found in groups]
        return f"{min(means):.1f} to {max(means):.1f} %"

    def told(groups: Sequence[Sequence[Found]]) -> str:
        worst = 100 * min(one.coverage for found in groups for one in found)
        return (
            f"covers the truth in {span(groups, 'coverage')} of comparisons\n(in the worst setting in {worst:.1f}), "
            f"gives {span(groups, 'false')} of false verdicts,\nand has {span(groups, 'share')} of the best one's power"
        )

    return f"""From thirty questions on the chosen method {told(more)}.
With ten questions it {told(few)}:
no method of the table has both 93 % in every setting and nine tenths of the power with so few.
"""


def _said(found: Sequence[Found]) -> str:
    covers, false = [of.coverage for of in found], [of.false for of in found]
    power, share = [of.power for of in found], [of.share for of in found]
    cells = (np.mean(covers), min(covers), np.mean(false), max(false), np.mean(power), np.mean(share))
    return " | ".join(f"{100 * cell:.1f}" for cell in cells)


HEAD = """| method | coverage | worst | false verdicts | worst | power | of the best |
| --- | --- | --- | --- | --- | --- | --- |"""
WORST = len(SKILLS) * len(SPREADS) * len(SHARED)
INTRODUCTION = f"""# How two models are compared

Made by `python -m experiments.statistics.simulate`, which says how models and questions are drawn. Each table is
over {WORST} settings, {RUNS:,} comparisons of equal and as many of unequal models each; everything in percent.
Coverage is the lower of the two. A share of {RUNS:,} has a standard error of 0.7 itself, so the worst of {WORST}
settings is about 93.5 where all are 95, and false verdicts of 6.5 are what 5 look like; bootstraps have {RESAMPLES}
resamples here. Power is compared with the best method of each setting whose false verdicts are within that. "Chosen" is
what `bm.statistics.compare` does.

The percentile bootstrap, BCa and the bootstrap-t decide more because they are wrong more often. The paired t misses
rare large differences where questions are few and differ much. Half a question at ±1 is right and blunt: the more
samples, the more power it gives away.
"""


if __name__ == "__main__":
    main()
