"""Candidate intervals for a mean difference over questions, each for many simulated comparisons at once.

Every method takes the question means of two models over so many answers each, [runs, questions], and gives the low and
the high end of its 95 % interval: two arrays [runs].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Method = Callable[[Array, Array, int], tuple[Array, Array]]
RESAMPLES = 800
TAILS = (0.025, 0.975)
SURE = float(stats.norm.ppf(TAILS[1]))
UNBIASED = "weibull"
"""The k-th of n resamples has k / (n + 1) of the distribution below it; numpy's default would decide too often."""


def score(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """The score test, inverted: `bm.statistics.compare`."""
    return _score(first, second, samples, SURE)


def score_student(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """The same with the bound that makes its verdict Student's: with n questions t² is (n − 1) z² / (n − z²)."""
    n = first.shape[1]
    t = float(stats.t.ppf(TAILS[1], n - 1))
    return _score(first, second, samples, np.sqrt(n * t**2 / (n - 1 + t**2)))


def tango(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Tango's interval (1998) of the number of single answers that the scatter of questions is worth (Kish 1965)."""
    apart, unlike, spread, alone = _facts(first, second, samples)
    worth = np.clip(np.where(spread > 0, alone / np.maximum(spread, 1e-12), 1), 1, samples) * first.shape[1]
    return _inverted(apart, lambda at: worth * (apart - at) ** 2 > SURE**2 * _of_one_answer(apart, unlike, at))


def student(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Student's t over question means."""
    return _around(first - second, 0)


def student_answer(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Student's t with one answer more, half of it at either end: equal scores are no certainty."""
    return _around(first - second, 1 / samples)


def student_question(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Student's t with one question more, half of it at either end."""
    return _around(first - second, 1)


def flips(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """The test that turns the signs of questions, inverted: quantiles of the means of subsets (Hartigan 1969)."""
    chosen = np.random.default_rng(0).integers(0, 2, (first.shape[1], RESAMPLES)).astype(float)
    chosen[0, chosen.sum(0) == 0] = 1
    low, high = np.quantile((first - second) @ (chosen / chosen.sum(0)), TAILS, axis=1, method=UNBIASED)
    return low, high


def bootstrap(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Percentiles of the means of resampled questions (Efron 1979)."""
    low, high = np.quantile((first - second) @ _counts(first.shape[1]), TAILS, axis=1, method=UNBIASED)
    return low, high


def bca(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """The same, corrected for bias and acceleration (Efron 1987)."""
    scores = first - second
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


def bootstrap_t(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Quantiles of resampled t statistics (Efron 1982)."""
    scores = first - second
    questions, weights = scores.shape[1], _counts(scores.shape[1])
    means, centre, error = scores @ weights, scores.mean(1, keepdims=True), _error(scores, 0)[:, None]
    spread = np.sqrt(np.maximum(scores**2 @ weights - means**2, 0) / (questions - 1))
    least = 0.1 * np.maximum(error, 1e-9)  # resamples of equal scores have no t
    low, high = np.quantile((means - centre) / np.maximum(spread, least), TAILS, axis=1, method=UNBIASED)
    return centre[:, 0] - high * error[:, 0], centre[:, 0] - low * error[:, 0]


def bayesian(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """Bayesian bootstrap (Rubin 1981) with half a question more at either end; with one sample that is Jeffreys'."""
    return _bayesian(first - second, np.ones(len(first)))


def bayesian_answer(first: Array, second: Array, samples: int) -> tuple[Array, Array]:
    """The same, the halves at 2.2 standard deviations, and at least an independent answer out."""
    alone = sum(of.mean(1) * (1 - of.mean(1)) for of in (first, second))
    seen = first.var(1) + second.var(1)
    worth = np.clip(np.where(seen > 0, alone / np.maximum(seen, 1e-12), 1), 1, samples)
    apart = first - second
    return _bayesian(apart, np.minimum(1, np.maximum(2.2 * apart.std(1), 1 / worth)))


EXACTLY: dict[str, Method] = {
    "score test (chosen)": score,
    "score test, Student's bound": score_student,
    "Tango, answers by their worth": tango,
    "paired t": student,
    "paired t, one answer more": student_answer,
    "paired t, one question more": student_question,
    "Bayesian, an independent answer out": bayesian_answer,
}
"""Measured with all comparisons: what is cheap, and what was nearest to the chosen one."""
ROUGHLY: dict[str, Method] = {
    "signs turned, inverted": flips,
    "percentile bootstrap": bootstrap,
    "BCa": bca,
    "bootstrap-t": bootstrap_t,
    "Bayesian, half a question at ±1": bayesian,
}


def _facts(first: Array, second: Array, samples: int) -> tuple[Array, Array, Array, Array]:
    """By run: difference, chance that two answers differ, variance of a question's difference and of one answer's."""
    apart, unlike = (first - second).mean(1), (first * (1 - second) + second * (1 - first)).mean(1)
    alone = unlike - apart**2
    spread = np.minimum(alone, np.maximum((first - second).var(1), alone / (first.shape[1] * samples)))
    return apart, unlike, spread, alone


def _score(first: Array, second: Array, samples: int, sure: float) -> tuple[Array, Array]:
    apart, unlike, spread, alone = _facts(first, second, samples)

    def refutes(at: Array) -> Array:
        square = (apart - at) ** 2
        scatter = (spread + square) / np.maximum(alone + square, 1e-300)
        refuted: Array = first.shape[1] * square > sure**2 * _of_one_answer(apart, unlike, at) * scatter
        return refuted

    return _inverted(apart, refutes)


def _of_one_answer(apart: Array, unlike: Array, at: Array) -> Array:
    """Tango's variance: the likeliest chances of 1 and −1 that are `at` apart."""
    linear, constant = (2 - apart) * at - unlike, (unlike - apart) * at * (1 - at)
    root = np.sqrt(np.maximum(linear**2 + 4 * constant, 0))
    variance: Array = np.maximum((root - linear) / 2 + at * (1 - at), 0)
    return variance


def _inverted(apart: Array, refutes: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Where a test begins to refute on either side of what was measured, by halving."""
    found = []
    for end in (-1.0, 1.0):
        inside, outside = apart, np.full_like(apart, end)
        for _ in range(30):
            middle = (inside + outside) / 2
            beyond = refutes(middle)
            inside, outside = np.where(beyond, inside, middle), np.where(beyond, middle, outside)
        found.append((inside + outside) / 2)
    return found[0], found[1]


def _error(scores: Array, squares: float) -> Array:
    questions = scores.shape[1]
    error: Array = np.sqrt((scores.var(1) * questions + squares) / (questions * (questions - 1)))
    return error


def _around(scores: Array, squares: float) -> tuple[Array, Array]:
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
