"""What a number of samples can show: intervals, paired comparisons, and how many questions would decide one.

Questions are the independent draws, samples of one question are not; so every bootstrap here is over questions. It is
the Bayesian bootstrap (Rubin 1981: each question gets a random weight, together Dirichlet distributed) with half a
question more at the lowest and half a one at the highest score there could be. With one sample a question that is
exactly the interval of Jeffreys, whose coverage is near its level for any share and any number of questions (Brown, Cai
and DasGupta 2001); with several samples it stays so where resampling whole questions falls short: few questions, and
scores near a bound. In a comparison of two models with several samples a question's difference cannot be as large as
that by chance, so the two halves lie nearer to zero (`_reach`); `docs/statistics.md` has the simulation that this was
chosen by. Equal scores share their weight, so a draw costs as many numbers as there are distinct ones.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb, sqrt
from statistics import NormalDist, fmean, variance
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcome = Literal["better", "worse", "undecided"]
NORMAL = NormalDist()
POWER = 0.8
"""How likely a difference of the seen size would be decided by the questions or samples said to be needed."""
MOST_SAMPLES = 1_000_000
"""Samples of a question that are worth naming as needed."""


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One model against another on the same questions."""

    difference: float
    """Mean of the first less mean of the second; `low` and `high` are its interval."""
    low: float
    high: float
    p: float
    """The error level at which the interval would end at zero."""
    verdict: Outcome
    questions: int
    questions_needed: int | None
    """Questions, in the same proportions, that would decide a difference of this size; None if decided or zero."""
    samples_needed: int | None
    """Samples of each of the same questions that would; None too if no number of samples could, or each has but one."""


def interval(
    scores: Array, resamples: int, confidence: float, seed: int, bounds: tuple[float, float] = (0, 1)
) -> Interval:
    """Mean over questions and its bootstrap interval.

    scores: [questions] or [questions, samples], within `bounds`. All right or all wrong is no certainty: 150 right out
    of 150 is [0.983, 1].
    """
    bootstrap = _Bootstrap([_per_question(scores)], resamples, seed, [bounds])
    return Interval(bootstrap.mean, *bootstrap.interval(confidence))


def compare(
    first: Mapping[str, Array], second: Mapping[str, Array], resamples: int, confidence: float, seed: int
) -> Comparison:
    """Paired bootstrap of the difference of two models' means over tasks, every task counting the same.

    first, second: by task, [questions] or [questions, samples] in [0, 1]; the same questions in the same order.
    Questions are drawn within each task.
    """
    strata = [_Paired.of(first[task], second[task]) for task in first]
    differences = [_per_question(first[task]) - _per_question(second[task]) for task in first]
    ends = [(-reach, reach) for reach in (stratum.reach(stratum.samples) for stratum in strata)]
    bootstrap = _Bootstrap(differences, resamples, seed, ends)
    low, high = bootstrap.interval(confidence)
    questions = sum(len(d) for d in differences)
    # no test that may turn each question's sign gets below this, so fewer questions decide nothing
    p, level = max(bootstrap.p(), 2.0 ** (1 - questions)), 1 - confidence
    if p >= level:
        low, high = min(low, 0.0), max(high, 0.0)
    verdict: Outcome = "undecided" if p >= level else "better" if bootstrap.mean > 0 else "worse"
    more_questions = more_samples = None
    if verdict == "undecided" and bootstrap.mean:
        # standard error at which the interval excludes zero with probability POWER
        wanted = abs(bootstrap.mean) / (NORMAL.inv_cdf((1 + confidence) / 2) + NORMAL.inv_cdf(POWER))
        more_questions = max(questions + 1, ceil(questions * (bootstrap.error / wanted) ** 2))
        more_samples = _samples_needed(strata, abs(bootstrap.mean), confidence)
    return Comparison(bootstrap.mean, low, high, p, verdict, questions, more_questions, more_samples)


def retention(
    student: Array, expert: Array, merged: Array, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Share of an expert's gain over the student that a merge kept: (merged − student) / (expert − student).

    Each [questions] or [questions, samples] on the expert's own task, same questions; bootstrap of the ratio. None
    where the gain itself is not certain: a share of nothing.
    """
    gain = compare({"": expert}, {"": student}, resamples, confidence, seed)
    if gain.verdict != "better":
        return None
    s, e, m = (_per_question(scores) for scores in (student, expert, merged))
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], float)
    means = _means(np.stack([m - s, e - s], 1), corners, resamples, np.random.default_rng(seed))
    gained = means[means[:, 1] > 0]
    low, high = np.quantile(gained[:, 0] / gained[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    share = float((m - s).mean() / (e - s).mean())
    return Interval(share, min(float(low), share), max(float(high), share))


@dataclass(frozen=True)
class OverSeeds:
    """The mean of one value a seed, which holds the noise of training and of questions alike (Student 1908)."""

    mean: float
    error: float
    """Its standard error."""
    seeds: int

    def interval(self, confidence: float) -> Interval:
        from scipy import stats  # takes half a second, which not every command should

        reach = float(stats.t.ppf((1 + confidence) / 2, self.seeds - 1)) * self.error
        return Interval(self.mean, self.mean - reach, self.mean + reach)

    def p(self, bound: float) -> float:
        """The error level at which the interval would end at `bound`."""
        from scipy import stats

        return float(2 * stats.t.sf(abs(self.mean - bound) / self.error, self.seeds - 1))


def over_seeds(values: Sequence[float], noise: float = 0.0) -> OverSeeds:
    """`noise`: the least variance of one seed's value, for seeds that agree more closely than they can have by skill.

    ValueError for fewer than two values: they do not tell how far seeds differ.
    """
    if len(values) < 2:
        raise ValueError("an interval over seeds needs two of them")
    return OverSeeds(fmean(values), sqrt(max(variance(values), noise) / len(values)), len(values))


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for being many (Holm 1979): the chance of any false verdict stays below the level."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def pass_at_k(accepted: int, samples: int, k: int) -> float:
    """Unbiased chance that one of k samples is accepted (Chen et al. 2021): 1 − C(n−c, k) / C(n, k)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} of the samples")
    return 1 - comb(samples - accepted, k) / comb(samples, k)


def majority(answers: Sequence[str], accepted: Sequence[bool]) -> float:
    """Whether the most frequent answer is accepted: 1 or 0, and the share of those accepted among tied answers.

    A sample without an answer ("") does not vote.
    """
    votes = Counter(answer for answer in answers if answer)
    if not votes:
        return 0.0
    most = max(votes.values())
    verdict = dict(zip(answers, accepted, strict=True))
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(verdict[answer] for answer in winners) / len(winners)


class _Bootstrap:
    """The mean over strata of the mean of each, and its bootstrap distribution."""

    def __init__(
        self, strata: Sequence[Array], resamples: int, seed: int, bounds: Sequence[tuple[float, float]]
    ) -> None:
        self.mean = float(np.mean([s.mean() for s in strata]))
        self.error = sqrt(sum(s.var(ddof=len(s) > 1) / len(s) for s in strata)) / len(strata)
        random = np.random.default_rng(seed)
        ends = [np.array(of, float)[:, None] for of in bounds]
        means = sum(_means(s[:, None], e, resamples, random)[:, 0] for s, e in zip(strata, ends, strict=True))
        self._means: Array = np.asarray(means) / len(strata)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Holds the mean always, which the half questions at the bounds could leave outside."""
        low, high = np.quantile(self._means, [(1 - confidence) / 2, (1 + confidence) / 2])
        return min(float(low), self.mean), max(float(high), self.mean)

    def p(self) -> float:
        """Level of the interval that ends at zero; by the normal tail where no resample lies beyond zero."""
        beyond = int(min((self._means < 0).sum(), (self._means > 0).sum()))
        tail = NORMAL.cdf(-abs(float(self._means.mean())) / float(self._means.std()))
        return min(1.0, 2 * (beyond if beyond else min(1.0, tail * len(self._means))) / len(self._means))


def _per_question(scores: Array) -> Array:
    return scores.mean(1) if scores.ndim == 2 else scores


def _means(rows: Array, ends: Array, resamples: int, random: np.random.Generator) -> Array:
    """Weighted means of rows [questions, k] and of `ends` [e, k], which share one question's weight: [resamples, k]."""
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    weights = random.standard_gamma([*counts, *[1 / len(ends)] * len(ends)], (resamples, len(counts) + len(ends)))
    means: Array = weights @ np.concatenate([distinct, ends]) / weights.sum(1, keepdims=True)
    return means


@dataclass(frozen=True)
class _Paired:
    """Where the spread of a task's differences comes from: variances of one answer and of one question."""

    questions: int
    samples: int
    alone: float
    """Variance of one answer of each model, whatever the question: the sum of both models' p(1 − p)."""
    within: float
    """Variance of one answer of each model to the same question, summed; 0 where each has but one."""
    ease: float
    """Variance of how easy questions are, summed over both models."""
    differing: float
    """Variance of the difference between both models' chances, over questions."""

    @classmethod
    def of(cls, first: Array, second: Array) -> "_Paired":
        sides, samples = (first, second), min(1 if s.ndim == 1 else s.shape[1] for s in (first, second))
        means = [_per_question(side) for side in sides]
        within = sum(float(side.var(1, ddof=1).mean()) for side in sides) if samples > 1 else 0.0
        alone = sum(float(of.mean() * (1 - of.mean())) for of in means)
        ease = max(0.0, sum(float(of.var()) for of in means) - within / samples)
        differing = max(0.0, float((means[0] - means[1]).var()) - within / samples)
        return cls(len(first), samples, alone, within, ease, differing)

    def spread(self, samples: int) -> float:
        """Variance of a question's difference."""
        return self.differing + self.within / samples

    def reach(self, samples: int) -> float:
        """How far from zero the halves of one question more are put.

        As far as a question may well lie, 2.2 standard deviations, which also makes up for what a bootstrap of few
        questions lacks beside Student's t; and at least as far as one independent answer can shift a question, of
        which `samples` are worth fewer the more questions differ in ease.
        """
        seen = self.ease + self.within / samples
        worth = min(float(samples), max(1.0, self.alone / seen)) if seen > 0 else 1.0
        return min(1.0, max(2.2 * sqrt(self.spread(samples)), 1 / worth))

    def error(self, samples: int) -> float:
        """Variance of the bootstrap's mean."""
        n = self.questions
        return (n * self.spread(samples) + self.reach(samples) ** 2) / ((n + 1) * (n + 2))


def _samples_needed(tasks: Sequence[_Paired], difference: float, confidence: float) -> int | None:
    """The fewest samples of each of the same questions that decide a difference of this size with probability POWER."""
    if any(task.samples < 2 for task in tasks):
        return None
    sure, likely = NORMAL.inv_cdf((1 + confidence) / 2), NORMAL.inv_cdf(POWER)

    def decides(samples: int) -> bool:
        """Whether the interval, shifted by the chance of these samples alone, still excludes zero."""
        error = sum(task.error(samples) for task in tasks)
        chance = sum(task.within / samples / task.questions for task in tasks)
        return (sure * sqrt(error) + likely * sqrt(chance)) / len(tasks) < difference

    low = max(task.samples for task in tasks)
    if not decides(MOST_SAMPLES):
        return None
    high = MOST_SAMPLES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
