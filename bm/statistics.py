"""What a number of samples can show: intervals, paired comparisons, and how many questions would decide one.

Questions are the independent draws, samples of one question are not; so every bootstrap here draws questions. Means of
n samples take few distinct values, and a bootstrap over questions is then a multinomial over those values: the same
distribution as drawing questions one by one, at a fraction of the time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, comb, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Outcome = Literal["better", "worse", "undecided"]
NORMAL = NormalDist()
POWER = 0.8
"""How likely a difference of the seen size would be decided by the questions or samples said to be needed."""


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
    """Mean over questions and its bootstrap interval (bias-corrected and accelerated: Efron 1987).

    scores: [questions] or [questions, samples], within `bounds`. Where all questions score the same, resampling says
    nothing and the exact binomial bound on the share of questions that would score otherwise takes its place
    (Clopper and Pearson 1934): 150 right out of 150 is [0.976, 1].
    """
    bootstrap = _Bootstrap([_per_question(scores)], resamples, seed, bounds)
    return Interval(bootstrap.mean, *bootstrap.interval(confidence))


def compare(
    first: Mapping[str, Array], second: Mapping[str, Array], resamples: int, confidence: float, seed: int
) -> Comparison:
    """Paired bootstrap of the difference of two models' means over tasks, every task counting the same.

    first, second: by task, [questions] or [questions, samples] in [0, 1]; the same questions in the same order.
    Questions are drawn within each task.
    """
    differences = [_per_question(first[task]) - _per_question(second[task]) for task in first]
    bootstrap = _Bootstrap(differences, resamples, seed, (-1, 1))
    low, high = bootstrap.interval(confidence)
    verdict: Outcome = "better" if low > 0 else "worse" if high < 0 else "undecided"
    questions = sum(len(d) for d in differences)
    more_questions = more_samples = None
    if verdict == "undecided" and bootstrap.mean:
        # standard error at which the interval excludes zero with probability POWER
        wanted = abs(bootstrap.mean) / (NORMAL.inv_cdf((1 + confidence) / 2) + NORMAL.inv_cdf(POWER))
        more_questions = max(questions + 1, ceil(questions * (bootstrap.error / wanted) ** 2))
        more_samples = _samples_needed(list(first.values()), list(second.values()), bootstrap.error, wanted)
    return Comparison(bootstrap.mean, low, high, bootstrap.p(), verdict, questions, more_questions, more_samples)


def retention(
    student: Array, expert: Array, merged: Array, resamples: int, confidence: float, seed: int
) -> Interval | None:
    """Share of an expert's gain over the student that a merge kept: (merged − student) / (expert − student).

    Each [questions] or [questions, samples] on the expert's own task, same questions; percentile bootstrap of the
    ratio. None where the gain itself is not certain: a share of nothing.
    """
    gain = compare({"": expert}, {"": student}, resamples, confidence, seed)
    if gain.verdict != "better":
        return None
    s, e, m = (_per_question(scores) for scores in (student, expert, merged))
    means = _multinomial_means(np.stack([m - s, e - s], 1), resamples, np.random.default_rng(seed))
    kept = means[means[:, 1] > 0]
    ratio = kept[:, 0] / kept[:, 1]
    low, high = np.quantile(ratio, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float((m - s).mean() / (e - s).mean()), float(low), float(high))


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

    def __init__(self, strata: Sequence[Array], resamples: int, seed: int, bounds: tuple[float, float]) -> None:
        self._bounds, self._fewest = bounds, min(map(len, strata))
        self.mean = float(np.mean([s.mean() for s in strata]))
        self.error = sqrt(sum(s.var(ddof=len(s) > 1) / len(s) for s in strata)) / len(strata)
        self._constant = all(s.min() == s.max() for s in strata)
        random = np.random.default_rng(seed)
        means = sum(_multinomial_means(s[:, None], resamples, random)[:, 0] for s in strata) / len(strata)
        self._means = np.sort(np.asarray(means))
        # bias: where the estimate stands among the resamples; acceleration: skewness of the questions' influence
        self._bias = self._z(self.mean)
        pull = np.concatenate([(s - s.mean()) / len(s) for s in strata])
        spread = float((pull**2).sum())
        self._acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread else 0.0

    def interval(self, confidence: float) -> tuple[float, float]:
        if self._constant:
            # at most this share of further questions scores otherwise, and then no further than the bounds
            share = 1 - ((1 - confidence) / 2) ** (1 / self._fewest)
            low, high = self._bounds
            return self.mean - share * (self.mean - low), self.mean + share * (high - self.mean)
        tails = [NORMAL.inv_cdf((1 - confidence) / 2), NORMAL.inv_cdf((1 + confidence) / 2)]
        levels = [
            NORMAL.cdf(self._bias + (self._bias + z) / (1 - self._acceleration * (self._bias + z))) for z in tails
        ]
        low, high = np.quantile(self._means, levels)
        return float(low), float(high)

    def p(self) -> float:
        """Level of the interval that ends at zero: `interval` solved for its confidence."""
        if self._constant:
            return min(1.0, 2 * (1 + abs(self.mean)) ** -self._fewest)
        shifted = self._z(0.0) - self._bias
        z = shifted / (1 + self._acceleration * shifted) - self._bias
        return min(1.0, 2 * min(NORMAL.cdf(z), NORMAL.cdf(-z)))

    def _z(self, value: float) -> float:
        """Normal quantile of the share of resamples below `value`, ties counting half; never infinite."""
        below, upto = np.searchsorted(self._means, [value - 1e-12, value + 1e-12])
        n = len(self._means)
        return NORMAL.inv_cdf(float(np.clip((below + upto) / 2, 0.5, n - 0.5)) / n)


def _per_question(scores: Array) -> Array:
    return scores.mean(1) if scores.ndim == 2 else scores


def _multinomial_means(rows: Array, resamples: int, random: np.random.Generator) -> Array:
    """Means of `resamples` draws of the rows with replacement; rows: [questions, k], the result: [resamples, k]."""
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    means: Array = random.multinomial(len(rows), counts / len(rows), resamples) @ distinct / len(rows)
    return means


def _samples_needed(first: Sequence[Array], second: Sequence[Array], error: float, wanted: float) -> int | None:
    """Samples per question at which the standard error `error` falls to `wanted` with the same questions."""
    sides = [*first, *second]
    if any(s.ndim == 1 or s.shape[1] < 2 for s in sides):
        return None
    # variance of a difference of means = between questions + within them, and only the second falls with samples
    within: float = sum(float(s.var(1, ddof=1).mean()) / s.shape[1] / len(s) for s in sides) / len(first) ** 2
    between = max(0.0, error * error - within)
    if between >= wanted * wanted:
        return None
    most = max(int(s.shape[1]) for s in sides)
    return max(most + 1, ceil(most * within / (wanted * wanted - between)))
