"""Statistics against exact cases, against slower definitions, and against simulated truth."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bm.statistics import compare, holm, interval, majority, pass_at_k, retention

SETTINGS = {"resamples": 10_000, "confidence": 0.95, "seed": 0}


def bernoulli(accepted, questions):
    return np.repeat([1.0, 0.0], [accepted, questions - accepted])


@pytest.mark.parametrize(("accepted", "questions"), [(50, 100), (30, 100), (130, 150), (12, 60), (400, 1000)])
def test_interval_is_near_the_exact_binomial_ones(accepted, questions):
    """Between Wilson's and Clopper and Pearson's, give or take one question."""
    got = interval(bernoulli(accepted, questions), **SETTINGS)
    test = stats.binomtest(accepted, questions)
    wilson, exact = test.proportion_ci(method="wilson"), test.proportion_ci(method="exact")
    assert got.mean == accepted / questions
    assert min(wilson.low, exact.low) - 1 / questions <= got.low <= max(wilson.low, exact.low) + 1 / questions
    assert min(wilson.high, exact.high) - 1 / questions <= got.high <= max(wilson.high, exact.high) + 1 / questions


@pytest.mark.parametrize("questions", [1, 30, 150])
@pytest.mark.parametrize("right", [0, 1])
def test_all_right_or_all_wrong_is_exactly_clopper_pearson(right, questions):
    got = interval(bernoulli(right * questions, questions), **SETTINGS)
    exact = stats.binomtest(right * questions, questions).proportion_ci(method="exact")
    assert (got.low, got.high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("questions", "p", "samples"), [(100, 0.3, 1), (150, 0.9, 1), (60, 0.2, 4), (30, 0.75, 16)])
def test_intervals_cover_the_truth_93_to_97_percent_of_the_time(questions, p, samples):
    """Questions differ in difficulty (beta), samples of one question are alike: what pass@1 really is."""
    random, runs, hits = np.random.default_rng(1), 2000, 0
    for seed in range(runs):
        difficulty = random.beta(2 * p, 2 - 2 * p, questions)
        got = interval(random.binomial(samples, difficulty) / samples, 1000, 0.95, seed)
        hits += got.low <= p <= got.high
    assert 0.93 <= hits / runs <= 0.975


def test_interval_equals_resampling_questions_one_by_one():
    """The multinomial shortcut against the definition, with BCa left to scipy."""
    random = np.random.default_rng(0)
    scores = random.binomial(4, random.beta(1, 3, 80)) / 4
    got = interval(scores, 40_000, 0.95, 0)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(1))
    assert (got.low, got.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)


def test_samples_matrix_counts_as_its_row_means_and_seeds_decide():
    scores = np.random.default_rng(0).integers(0, 2, (50, 4)).astype(float)
    assert interval(scores, **SETTINGS) == interval(scores.mean(1), **SETTINGS)
    turned = interval(scores[::-1], **SETTINGS)
    assert (turned.low, turned.high) == pytest.approx(
        (interval(scores, **SETTINGS).low, interval(scores, **SETTINGS).high)
    )
    assert interval(scores, 50, 0.95, 0) != interval(scores, 50, 0.95, 1)


def test_paired_comparison_sees_what_unpaired_intervals_hide():
    """Two models that agree but for 12 of 200 questions, all to one's advantage."""
    second = bernoulli(100, 200)
    first = bernoulli(112, 200)
    got = compare({"t": first}, {"t": second}, **SETTINGS)
    assert got.difference == pytest.approx(0.06)
    assert (got.verdict, got.questions, got.questions_needed) == ("better", 200, None)
    assert got.p < 0.01
    assert interval(first, **SETTINGS).low < interval(second, **SETTINGS).high
    turned = compare({"t": second}, {"t": first}, **SETTINGS)
    assert (turned.verdict, turned.difference) == ("worse", pytest.approx(-0.06))


def test_false_verdicts_come_at_the_stated_rate():
    random, runs, false, small = np.random.default_rng(2), 1500, 0, 0
    for seed in range(runs):
        difficulty = random.beta(1, 1, 100)
        first, second = (random.binomial(4, difficulty) / 4 for _ in range(2))
        got = compare({"t": first}, {"t": second}, 1000, 0.95, seed)
        false += got.verdict != "undecided"
        small += got.p < 0.05
        assert (got.p < 0.05) == (got.verdict != "undecided") or abs(got.p - 0.05) < 0.01
    assert 0.03 <= false / runs <= 0.07


def test_questions_needed_decide_it_as_often_as_promised():
    """80 % of the time, by simulation with as many questions as the first comparison asked for."""
    random = np.random.default_rng(3)
    difference = np.repeat([1.0, 0.0, -1.0], [14, 78, 8])
    base = np.full(100, 0.0)
    got = compare({"t": base + difference}, {"t": base}, **SETTINGS)
    assert got.verdict == "undecided"
    assert got.questions_needed > 300
    decided = 0
    for seed in range(400):
        drawn = random.choice(difference, got.questions_needed)
        decided += compare({"t": drawn}, {"t": np.zeros_like(drawn)}, 1000, 0.95, seed).verdict == "better"
    assert 0.74 <= decided / 400 <= 0.86


def test_samples_needed_only_where_samples_can_help():
    """Two questions of 60 answered better once in four: all spread is within questions, so samples would decide it."""
    second = np.tile([1.0, 1.0, 0.0, 0.0], (60, 1))
    first = second.copy()
    first[:2, 2] = 1
    got = compare({"t": first}, {"t": second}, **SETTINGS)
    assert got.verdict == "undecided"
    within = (first.var(1, ddof=1).mean() + second.var(1, ddof=1).mean()) / 60
    wanted = got.difference / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    assert got.samples_needed == pytest.approx(within / wanted**2, abs=1)
    always = np.repeat(np.repeat([1.0, 0.0, -1.0], [14, 78, 8])[:, None], 4, 1)
    between = compare({"t": np.clip(always, 0, 1)}, {"t": np.clip(-always, 0, 1)}, **SETTINGS)
    assert (between.verdict, between.samples_needed) == ("undecided", None)
    assert between.questions_needed > 100


def test_mean_over_tasks_counts_each_task_alike():
    small, large = bernoulli(32, 40), bernoulli(100, 1000)
    got = compare({"a": small, "b": large}, {"a": np.zeros(40), "b": np.zeros(1000)}, **SETTINGS)
    assert got.difference == pytest.approx((0.8 + 0.1) / 2)
    random = np.random.default_rng(0)
    slow = [(random.choice(small, 40).mean() + random.choice(large, 1000).mean()) / 2 for _ in range(5000)]
    assert (got.high - got.low) == pytest.approx(np.diff(np.quantile(slow, [0.025, 0.975]))[0], rel=0.1)


def test_equal_models_are_undecided_with_honest_bounds():
    scores = bernoulli(70, 100)
    got = compare({"t": scores}, {"t": scores}, **SETTINGS)
    assert (got.difference, got.verdict, got.p, got.questions_needed) == (0, "undecided", 1, None)
    assert got.low == pytest.approx(-got.high)
    assert 0.03 < got.high < 0.04


def test_one_model_always_right_and_the_other_never():
    for questions in (2, 40):
        got = compare({"t": np.ones(questions)}, {"t": np.zeros(questions)}, **SETTINGS)
        assert got.p == pytest.approx(min(1, 2 * 0.5**questions))
        assert (got.verdict == "better") == (got.p < 0.05)


def test_retention_of_a_known_share():
    random = np.random.default_rng(5)
    student = random.random((200, 1)) * 0.3
    expert, merged = student + 0.4, student + 0.3
    got = retention(student, expert, merged, **SETTINGS)
    assert got.mean == pytest.approx(0.75)
    assert (got.low, got.high) == pytest.approx((0.75, 0.75))
    noisy = np.clip(merged + random.normal(0, 0.3, merged.shape), -1, 2)
    wide = retention(student, expert, noisy, **SETTINGS)
    assert wide.low < wide.mean < wide.high
    assert retention(student, student + random.normal(0, 1, student.shape) * 0.01, merged, **SETTINGS) is None


def test_holm_published_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))))
def test_pass_at_k_counts_all_ways_to_choose(case):
    accepted, samples, k = case
    outcomes = [1] * accepted + [0] * (samples - accepted)
    ways = [any(chosen) for chosen in combinations(outcomes, k)]
    assert pass_at_k(accepted, samples, k) == pytest.approx(sum(ways) / len(ways))


def test_pass_at_k_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(1, 4, 5)


def test_majority():
    assert majority(["4", "4", "5"], [True, True, False]) == 1
    assert majority(["5", "4", "5"], [False, True, False]) == 0
    assert majority(["4", "5"], [True, False]) == 0.5
    assert majority(["", "", "4"], [False, False, True]) == 1
    assert majority(["", ""], [False, False]) == 0
