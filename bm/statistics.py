"""What a number of samples can show: intervals, paired comparisons, and how many questions would decide one.

Questions are the independent draws, samples of one question are not.

**One model.** The Bayesian bootstrap over questions (Rubin 1981: each question gets a random weight, together Dirichlet
distributed) with half a question more at the lowest and half a one at the highest score there could be. With one sample
a question that is exactly the interval of Jeffreys, whose coverage is near its level for any share and any number of
questions (Brown, Cai and DasGupta 2001). Equal scores share their weight, so a draw costs as many numbers as there are
distinct ones.

**Two models.** A difference δ is in the interval if a score test does not refute it: if the measured difference is
within so many of the standard errors that it would have if δ were the truth. With one sample a question that is Tango's
interval (1998) and McNemar's test; with more, the variance of one answer is scaled by how much the questions' means
scatter about δ beside single answers. So nothing is drawn, the verdict is that of the interval, and questions that all
agree are no certainty. `docs/statistics.md` has the simulation that this was chosen by.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, comb, copysign, floor, log2, sqrt
from statistics import NormalDist, fmean, variance
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcome = Literal["better", "worse", "undecided"]
NORMAL = NormalDist()
POWER = 0.8
"""How likely a difference of the seen size would be decided by the questions or samples said to be needed."""
TINY = 1e-9
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
    values, ends = _per_question(scores)[:, None], np.array(bounds, float)[:, None]
    mean, means = float(values.mean()), _means(values, ends, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def compare(first: Mapping[str, Array], second: Mapping[str, Array], confidence: float) -> Comparison:
    """Paired score test of the difference of two models' means over tasks, every task counting the same.

    first, second: by task, [questions] or [questions, samples] in [0, 1]; the same questions in the same order. With
    several tasks, a hypothesis about their mean shifts each task's difference alike.
    """
    tasks = [_Paired.of(first[task], second[task]) for task in first]
    questions, difference = sum(task.questions for task in tasks), fmean(task.difference for task in tasks)
    sure, likely, level = NORMAL.inv_cdf((1 + confidence) / 2), NORMAL.inv_cdf(POWER), 1 - confidence
    at_zero = _error(tasks, -difference)
    p = 2 * NORMAL.cdf(-abs(difference) / at_zero) if difference else 1.0
    p = max(p, 2.0 ** (1 - questions))  # no test that may turn each question's sign gets below this
    low, high = (difference + _reach(tasks, end - difference, sure) for end in (-1.0, 1.0))
    if p >= level:
        low, high = min(low, 0.0), max(high, 0.0)
    verdict: Outcome = "undecided" if p >= level else "better" if difference > 0 else "worse"
    more_questions = more_samples = None
    if verdict == "undecided" and difference:
        times = ((sure * at_zero + likely * _error(tasks, 0.0)) / difference) ** 2
        more_questions = max(questions + 1, floor(2 - log2(level)), ceil(questions * times))
        more_samples = _samples_needed(tasks, abs(difference), sure, likely)
    return Comparison(difference, low, high, p, verdict, questions, more_questions, more_samples)


def retention(
    student: Array, expert: Array, merged: Array, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Share of an expert's gain over the student that a merge kept: (merged − student) / (expert − student).

    Each [questions] or [questions, samples] on the expert's own task, same questions; bootstrap of the ratio. None
    where the gain itself is not certain: a share of nothing.
    """
    gain = compare({"": expert}, {"": student}, confidence)
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
    """The differences of a task's questions, and where their spread comes from."""

    questions: int
    samples: int
    difference: float
    """Mean over questions."""
    unlike: float
    """The chance that one answer of each model to the same question differ."""
    spread: float
    """Variance of a question's difference, over questions; at least that of one answer of all that fell otherwise."""
    within: float
    """Variance of one answer of each model to the same question, summed; 0 where each has but one."""

    @classmethod
    def of(cls, first: Array, second: Array) -> "_Paired":
        sides, samples = (first, second), min(1 if s.ndim == 1 else s.shape[1] for s in (first, second))
        one, other = (_per_question(side) for side in sides)
        within = sum(float(side.var(1, ddof=1).mean()) for side in sides) if samples > 1 else 0.0
        difference, unlike = float((one - other).mean()), float((one * (1 - other) + other * (1 - one)).mean())
        alone = unlike - difference**2
        spread = min(alone, max(float((one - other).var()), alone / (len(one) * samples)))
        return cls(len(one), samples, difference, unlike, spread, within)

    def with_samples(self, samples: int) -> "_Paired":
        """As it would be expected with so many samples of each question."""
        differing = max(0.0, self.spread - self.within / self.samples)
        return replace(self, samples=samples, spread=differing + self.within / samples)

    def variance(self, truth: float) -> float:
        """Variance of the mean difference if its expectation were `truth`."""
        apart = (self.difference - truth) ** 2
        scatter, answers = self.spread + apart, self.unlike - self.difference**2 + apart
        if answers <= 0:  # all answers agree, and so does the truth
            return 0.0
        return _of_one_answer(self.difference, self.unlike, truth) * scatter / answers / self.questions


def _of_one_answer(difference: float, unlike: float, truth: float) -> float:
    """Variance of a difference of two answers, by the likeliest chances of 1 and −1 `truth` apart (Tango 1998)."""
    linear = (2 - difference) * truth - unlike
    constant = (unlike - difference) * truth * (1 - truth)
    return max(0.0, (sqrt(max(0.0, linear**2 + 4 * constant)) - linear) / 2 + truth * (1 - truth))


def _error(tasks: Sequence[_Paired], shift: float) -> float:
    """Standard error of the mean over tasks if the truth of each were so far from what was measured."""
    truths = (min(1.0, max(-1.0, task.difference + shift)) for task in tasks)
    return sqrt(sum(task.variance(truth) for task, truth in zip(tasks, truths, strict=True))) / len(tasks)


def _reach(tasks: Sequence[_Paired], furthest: float, sure: float) -> float:
    """The shift, from none to `furthest`, at which the score test begins to refute."""
    from scipy.optimize import brentq  # takes a while to import

    def refutes(shift: float) -> float:
        return abs(shift) - sure * _error(tasks, shift)

    nearest = copysign(TINY, furthest)
    if abs(furthest) <= TINY or refutes(furthest) <= 0:
        return furthest
    return float(brentq(refutes, nearest, furthest)) if refutes(nearest) < 0 else 0.0


def _samples_needed(tasks: Sequence[_Paired], difference: float, sure: float, likely: float) -> int | None:
    """The fewest samples of each of the same questions that decide a difference of this size with probability POWER."""
    if any(task.samples < 2 for task in tasks):
        return None

    def decides(samples: int) -> bool:
        """Whether the score test, the difference shifted by the chance of these samples alone, still refutes zero."""
        then = [task.with_samples(samples) for task in tasks]
        chance = sqrt(sum(task.within / samples / task.questions for task in tasks)) / len(tasks)
        mean = fmean(task.difference for task in tasks)
        return sure * _error(then, -mean) + likely * chance < difference

    low = max(task.samples for task in tasks)
    if not decides(MOST_SAMPLES):
        return None
    high = MOST_SAMPLES
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
