"""Candidate intervals for a mean difference over questions, each for many simulated comparisons at once.

Every method takes differences [runs, questions], each of two means over `samples` answers, and by run how many
independent answers those are worth, and gives the low and the high end of its 95 % interval: two arrays [runs].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Method = Callable[[Array, Array, int], tuple[Array, Array]]
RESAMPLES = 800
TAILS = (0.025, 0.975)
UNBIASED = "weibull"
"""The k-th of n resamples has k / (n + 1) of the distribution below it; numpy's default would decide too often."""


def student(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Student's t over question means."""
    return _around(scores, _squares(scores))


def student_answer(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Student's t with one answer more, half of it at either end: equal scores are no certainty."""
    return _around(scores, _squares(scores) + 1 / samples)


def student_question(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Student's t with one question more, half of it at either end."""
    return _around(scores, _squares(scores) + 1)


def bootstrap(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Percentiles of the means of resampled questions (Efron 1979)."""
    low, high = np.quantile(scores @ _counts(scores.shape[1]), TAILS, axis=1, method=UNBIASED)
    return low, high


def bca(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """The same, corrected for bias and acceleration (Efron 1987)."""
    means, centre = np.sort(scores @ _counts(scores.shape[1]), axis=1), scores.mean(1, keepdims=True)
    below = ((means < centre).mean(1) + (means <= centre).mean(1)) / 2
    bias = stats.norm.ppf(np.clip(below, 0.5 / RESAMPLES, 1 - 0.5 / RESAMPLES))
    apart = scores - centre
    speed = (apart**3).sum(1) / np.maximum(6 * (apart**2).sum(1) ** 1.5, 1e-12)
    found = []
    for z in stats.norm.ppf(TAILS):
        share = stats.norm.cdf(bias + (bias + z) / (1 - speed * (bias + z)))
        place = np.clip((share * RESAMPLES).astype(int), 0, RESAMPLES - 1)
        found.append(np.take_along_axis(means, place[:, None], 1)[:, 0])
    return found[0], found[1]


def bootstrap_t(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Quantiles of resampled t statistics (Efron 1982)."""
    questions, weights = scores.shape[1], _counts(scores.shape[1])
    means, centre, error = scores @ weights, scores.mean(1, keepdims=True), _error(scores, _squares(scores))[:, None]
    spread = np.sqrt(np.maximum(scores**2 @ weights - means**2, 0) / (questions - 1))
    least = 0.1 * np.maximum(error, 1e-9)  # resamples of equal scores have no t
    low, high = np.quantile((means - centre) / np.maximum(spread, least), TAILS, axis=1, method=UNBIASED)
    return centre[:, 0] - high * error[:, 0], centre[:, 0] - low * error[:, 0]


def bayesian(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """Bayesian bootstrap (Rubin 1981) with half a question more at either end; with one sample that is Jeffreys'."""
    return _bayesian(scores, np.ones(len(scores)))


def bayesian_seen(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """The same, the halves no further out than the largest difference that was seen."""
    return _bayesian(scores, np.maximum(np.abs(scores).max(1), 1 / samples))


def bayesian_answer(scores: Array, worth: Array, samples: int) -> tuple[Array, Array]:
    """The same, the halves at 2.2 standard deviations, and at least an independent answer out: `bm.statistics`."""
    return _bayesian(scores, np.minimum(1, np.maximum(2.2 * scores.std(1), 1 / worth)))


CANDIDATES: dict[str, Method] = {
    "Bayesian, an independent answer out (chosen)": bayesian_answer,
    "Bayesian, half a question at ±1": bayesian,
    "Bayesian, the largest seen": bayesian_seen,
    "paired t": student,
    "paired t, one answer more": student_answer,
    "paired t, one question more": student_question,
    "percentile bootstrap": bootstrap,
    "BCa": bca,
    "bootstrap-t": bootstrap_t,
}


def _squares(scores: Array) -> Array:
    squares: Array = scores.var(1) * scores.shape[1]
    return squares


def _error(scores: Array, squares: Array) -> Array:
    error: Array = np.sqrt(squares / (scores.shape[1] * (scores.shape[1] - 1)))
    return error


def _around(scores: Array, squares: Array) -> tuple[Array, Array]:
    reach = stats.t.ppf(TAILS[1], scores.shape[1] - 1) * _error(scores, squares)
    return scores.mean(1) - reach, scores.mean(1) + reach


def _counts(questions: int) -> Array:
    """Shares of each question in a resample, [questions, resamples]."""
    return np.random.default_rng(0).multinomial(questions, [1 / questions] * questions, RESAMPLES).T / questions


def _bayesian(scores: Array, reach: Array) -> tuple[Array, Array]:
    questions = scores.shape[1]
    shapes = [1.0] * questions + [0.5] * 2
    weights = np.random.default_rng(0).standard_gamma(shapes, (RESAMPLES, questions + 2)).T
    weights /= weights.sum(0)
    means = scores @ weights[:-2] + reach[:, None] * (weights[-1] - weights[-2])
    low, high = np.quantile(means, TAILS, axis=1, method=UNBIASED)
    return np.minimum(low, scores.mean(1)), np.maximum(high, scores.mean(1))
