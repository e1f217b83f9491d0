"""Statistics against exact cases, against slower definitions, and against simulated truth."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from bm.statistics import compare, holm, interval, majority, over_seeds, pass_at_k, retention

SETTINGS = {"resamples": 10_000, "confidence": 0.95, "seed": 0}


def bernoulli(accepted, questions):
    return np.repeat([1.0, 0.0], [accepted, questions - accepted])


@pytest.mark.parametrize(
    ("accepted", "questions"), [(0, 1), (3, 5), (1, 30), (29, 30), (50, 100), (130, 150), (12, 60), (400, 1000)]
)
def test_one_sample_a_question_is_the_interval_of_jeffreys(accepted, questions):
    got = interval(bernoulli(accepted, questions), **SETTINGS)
    low, high = stats.beta.ppf([0.025, 0.975], accepted + 0.5, questions - accepted + 0.5)
    assert got.mean == accepted / questions
    error = 0.05 * (high - low)  # of 10,000 resamples
    assert (got.low, got.high) == pytest.approx((low if accepted else 0, high), abs=error)


@pytest.mark.parametrize("questions", [1, 30, 150])
def test_all_right_or_all_wrong_is_no_certainty(questions):
    """Next to Clopper and Pearson's bound, which is never too short."""
    right, wrong = interval(np.ones(questions), **SETTINGS), interval(np.zeros(questions), **SETTINGS)
    exact = stats.binomtest(questions, questions).proportion_ci(method="exact")
    assert (right.high, wrong.low) == (1, 0)
    assert exact.low < right.low < 1
    assert right.low - exact.low < 0.4 * (1 - exact.low)
    assert wrong.high == pytest.approx(1 - right.low, abs=0.2 * (1 - right.low))


@pytest.mark.parametrize("questions", [10, 30, 150])
def test_intervals_cover_exact_binomial_cases(questions):
    """Every outcome counted with its probability; coverage jumps with the share, so it is averaged over near ones."""
    intervals = [interval(bernoulli(k, questions), **SETTINGS) for k in range(questions + 1)]
    covered = []
    for share in np.linspace(0.02, 0.98, 49):
        near = 1 - (1 - share) * np.linspace(0.8, 1.2, 21) if share > 0.5 else share * np.linspace(0.8, 1.2, 21)
        hits = [
            [i.low <= p <= i.high for i in intervals] @ stats.binom.pmf(range(questions + 1), questions, p)
            for p in near
        ]
        covered.append(np.mean(hits))
    assert min(covered) >= 0.915
    assert 0.94 <= np.mean(covered) <= 0.97


CASES = [(100, 0.3, 1, 2), (150, 0.9, 1, 2), (60, 0.2, 4, 2), (30, 0.75, 16, 2), (10, 0.5, 16, 1), (10, 0.8, 16, 3),
         (30, 0.1, 16, 1), (30, 0.95, 16, 5), (20, 0.1, 4, 1), (198, 0.6, 4, 1), (60, 0.02, 4, 1)]  # fmt: skip


@pytest.mark.parametrize(("questions", "p", "samples", "alike"), CASES)
def test_intervals_cover_the_truth_93_to_97_percent_of_the_time(questions, p, samples, alike):
    """Questions differ in difficulty (beta; the smaller `alike`, the more), samples of one question are alike."""
    random, runs, hits = np.random.default_rng(1), 1500, 0
    for seed in range(runs):
        difficulty = random.beta(alike * p, alike * (1 - p), questions)
        got = interval(random.binomial(samples, difficulty)[:, None] / samples, 600, 0.95, seed)
        hits += got.low <= p <= got.high
    assert 0.93 <= hits / runs <= 0.975


@pytest.mark.parametrize(
    ("questions", "better", "worse"),
    [(10, 0.2, 0.2), (10, 0.6, 0.1), (30, 0.1, 0.05), (150, 0.05, 0.02), (60, 0.9, 0.02)],
)
def test_paired_differences_cover_the_truth_93_to_99_percent_of_the_time(questions, better, worse):
    random, runs, hits = np.random.default_rng(4), 1000, 0
    for _ in range(runs):
        first = random.choice([1.0, 0.0, 0.5], questions, p=[better, worse, 1 - better - worse])
        got = compare({"t": first}, {"t": 1 - first}, 0.95)
        hits += got.low - 1e-9 <= better - worse <= got.high + 1e-9
    assert 0.93 <= hits / runs <= 0.99


def test_interval_equals_weighing_questions_one_by_one():
    """Sharing weights among equal scores against the definition: a weight for each question."""
    random = np.random.default_rng(0)
    scores = random.binomial(4, random.beta(1, 3, 80)) / 4
    got = interval(scores, 40_000, 0.95, 0)
    weights = random.dirichlet([1] * 80 + [0.5] * 2, 40_000)
    slow = np.quantile(weights @ [*scores, 0, 1], [0.025, 0.975])
    assert (got.low, got.high) == pytest.approx(tuple(slow), abs=0.002)


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
    got = compare({"t": first}, {"t": second}, 0.95)
    assert got.difference == pytest.approx(0.06)
    assert (got.verdict, got.questions, got.questions_needed) == ("better", 200, None)
    assert got.p < 0.01
    assert interval(first, **SETTINGS).low < interval(second, **SETTINGS).high
    turned = compare({"t": second}, {"t": first}, 0.95)
    assert (turned.verdict, turned.difference) == ("worse", pytest.approx(-0.06))


def trinomial(better, worse, equal):
    """[questions] of both models, one sample each."""
    first = np.repeat([1.0, 0.0, 1.0], [better, worse, equal])
    return {"t": first}, {"t": np.where(np.arange(len(first)) < better + worse, 1 - first, first)}


CELLS = [(4, 0, 6), (7, 2, 1), (12, 0, 188), (3, 3, 24), (0, 5, 25), (1, 0, 9), (40, 61, 49), (10, 0, 0), (0, 0, 10)]


@pytest.mark.parametrize(("better", "worse", "equal"), CELLS)
def test_one_sample_a_question_is_tangos_interval_and_mcnemars_test(better, worse, equal):
    """Against the definition: at its ends the likeliest chances there could be put the test at its bound."""
    questions, normal = better + worse + equal, stats.norm.ppf(0.975)
    got = compare(*trinomial(better, worse, equal), 0.95)
    if better + worse:
        mcnemar = 2 * stats.norm.sf(abs(better - worse) / np.sqrt(better + worse))
        assert got.p == pytest.approx(max(mcnemar, 2.0 ** (1 - questions)))
    assert got.difference == pytest.approx((better - worse) / questions)

    def likeliest(truth):
        """Variance of one difference by the chance of −1 that is likeliest given `truth`, searched for."""

        def unlikely(chance):
            cells = np.array([chance + truth, chance, 1 - 2 * chance - truth])
            return -(np.array([better, worse, equal]) * np.log(np.maximum(cells, 1e-300))).sum()

        bounds = (max(0, -truth), (1 - truth) / 2)
        minimum = optimize.minimize_scalar(unlikely, bounds, bounds=bounds, method="bounded", options={"xatol": 1e-12})
        ends = min((*bounds, minimum.x), key=unlikely)
        return 2 * ends + truth - truth**2

    for end in (got.low, got.high):
        if abs(end) < 1:
            error = np.sqrt(likeliest(end) / questions)
            assert abs(got.difference - end) == pytest.approx(normal * error, rel=1e-4)


@pytest.mark.parametrize("questions", [10, 30])
def test_one_sample_a_question_counted_exactly(questions):
    """Every outcome with its probability: coverage, and false verdicts of equal models however often they differ."""
    cells = [(b, w, questions - b - w) for b in range(questions + 1) for w in range(questions + 1 - b)]
    comparisons = [compare(*trinomial(*of), 0.95) for of in cells]
    low, high, decided = (np.array([getattr(f, name) for f in comparisons]) for name in ("low", "high", "verdict"))
    for unlike in (0.1, 0.2, 0.3, 0.48):
        for better in (0.5, 0.7, 0.85, 1.0):
            chances = (unlike * better, unlike * (1 - better), 1 - unlike)
            truth, weights = chances[0] - chances[1], stats.multinomial.pmf(cells, questions, chances)
            assert weights[(low <= truth + 1e-9) & (high >= truth - 1e-9)].sum() >= 0.925
            if better == 0.5:
                assert weights[decided != "undecided"].sum() <= 0.054


def test_samples_that_always_agree_count_as_one():
    random = np.random.default_rng(3)
    first, second = random.integers(0, 2, (2, 40, 1)).astype(float)
    single = compare({"t": first}, {"t": second}, 0.95)
    many = compare({"t": first.repeat(16, 1)}, {"t": second.repeat(16, 1)}, 0.95)
    assert (many.low, many.high, many.p) == pytest.approx((single.low, single.high, single.p))


def test_no_agreement_is_certainty():
    """Every question alike, whatever the answers, has an interval of some width."""
    same = np.random.default_rng(3).integers(0, 2, (30, 4)).astype(float)
    partial = np.full(30, 0.4)
    for first, second in ((same, same), (partial, partial), (np.ones(30), np.zeros(30)), (partial + 0.2, partial)):
        got = compare({"t": first}, {"t": second}, 0.95)
        assert got.high - got.low > 0.02
        assert got.low <= got.difference <= got.high


@given(st.integers(2, 25), st.sampled_from([1, 2, 8]), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_verdict_is_that_of_the_interval(questions, samples, tasks, seed):
    random = np.random.default_rng(seed)
    skills = random.beta(0.5, 0.7, (2, tasks, questions, 1))
    first, second = (dict(enumerate((random.random((tasks, questions, samples)) < of).astype(float))) for of in skills)
    for confidence in (0.8, 0.95, 0.999):
        got = compare(first, second, confidence)
        assert (got.verdict == "undecided") == (got.low <= 0 <= got.high) == (got.p >= 1 - confidence)
        assert got.low <= got.difference <= got.high
    if 0.001 < got.p < 0.9 and got.p > 2.0 ** (1 - questions * tasks):  # at that level the interval ends at zero
        edge = compare(first, second, 1 - got.p)
        assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-6)


def test_false_verdicts_come_at_the_stated_rate():
    random, runs, false = np.random.default_rng(2), 1500, 0
    for _ in range(runs):
        difficulty = random.beta(1, 1, 100)
        first, second = (random.binomial(4, difficulty) / 4 for _ in range(2))
        false += compare({"t": first}, {"t": second}, 0.95).verdict != "undecided"
    assert 0.03 <= false / runs <= 0.065


def test_questions_needed_decide_it_as_often_as_promised():
    """80 % of the time, by simulation with as many questions as the first comparison asked for."""
    random = np.random.default_rng(3)
    difference = np.repeat([1.0, 0.0, -1.0], [14, 78, 8])
    got = compare({"t": (difference > 0) * 1.0}, {"t": (difference < 0) * 1.0}, 0.95)
    assert got.verdict == "undecided"
    assert got.questions_needed > 300
    decided = 0
    for _ in range(600):
        drawn = random.choice(difference, got.questions_needed)
        decided += compare({"t": (drawn > 0) * 1.0}, {"t": (drawn < 0) * 1.0}, 0.95).verdict == "better"
    assert 0.76 <= decided / 600 <= 0.84


def answers(random, chances, samples):
    return (random.random((len(chances), samples)) < chances[:, None]).astype(float)


def test_few_questions_with_many_samples_are_compared_about_as_sharply_as_by_a_paired_t():
    """Thirty questions, sixteen samples, four points apart: half a question at ±1 would hide nearly all of it."""
    random, runs = np.random.default_rng(7), 400
    ours = theirs = false = 0
    for _ in range(runs):
        chances = 0.05 + 0.9 * random.beta(2.5, 2.5, 30)
        better, worse = chances, np.clip(chances - 0.09, 0, 1)
        first, second, equal = (answers(random, of, 16) for of in (better, worse, better))
        ours += compare({"t": first}, {"t": second}, 0.95).verdict == "better"
        theirs += stats.ttest_rel(first.mean(1), second.mean(1)).pvalue < 0.05
        false += compare({"t": first}, {"t": equal}, 0.95).verdict != "undecided"
    assert theirs / runs > 0.6
    assert ours / theirs > 0.95
    assert false / runs <= 0.07


def test_the_simulated_method_is_the_one_that_compares():
    from experiments.statistics.methods import score

    random = np.random.default_rng(8)
    for questions, samples in ((10, 1), (10, 16), (40, 8), (150, 4)):
        first, second = (answers(random, np.linspace(0.2, low, questions), samples) for low in (0.8, 0.3))
        got = compare({"t": first}, {"t": second}, 0.95)
        low, high = score(first.mean(1)[None], second.mean(1)[None], samples)
        inside = got.verdict == "undecided"
        assert got.low == pytest.approx(min(low[0], 0) if inside else low[0], abs=1e-6)
        assert got.high == pytest.approx(max(high[0], 0) if inside else high[0], abs=1e-6)


@pytest.mark.parametrize(("questions", "samples", "spread"), [(10, 16, 4.0), (10, 4, 4.0), (10, 1, 4.0)])
def test_intervals_hold_where_a_few_questions_decide(questions, samples, spread):
    """Where Student's t does not: questions nearly always or nearly never answered, found alike by both."""
    from experiments.statistics.methods import score, student
    from experiments.statistics.simulate import Setting, drawn, ease

    at, random = Setting(questions, samples, 0.1, spread, 0.9), np.random.default_rng(5)
    first, second = drawn(at, (0.1, 0.3), 3000, random)
    truth = ease(0.1, spread).mean() - ease(0.3, spread).mean()
    low, high = score(first, second, samples)
    assert ((low <= truth) & (high >= truth)).mean() >= 0.93
    low, high = student(first, second, samples)
    assert ((low <= truth) & (high >= truth)).mean() < 0.91


@pytest.mark.parametrize(("questions", "samples", "gap"), [(30, 16, 0.04), (60, 4, 0.05)])
def test_samples_needed_decide_it_as_often_as_promised(questions, samples, gap):
    """Undecided comparisons that saw about the true difference are repeated with the samples that were asked for.

    That is more than enough: they were undecided because they saw too large a spread.
    """
    random, decided, asked = np.random.default_rng(9), 0, 0
    for _ in range(200):
        chances = 0.1 + 0.8 * random.beta(2.5, 2.5, questions)
        rival = chances - gap
        got = compare({"t": answers(random, chances, samples)}, {"t": answers(random, rival, samples)}, 0.95)
        if got.samples_needed is None or not 0.9 < got.difference / gap < 1.1:
            continue
        for _ in range(5):
            first, second = (answers(random, of, got.samples_needed) for of in (chances, rival))
            decided += compare({"t": first}, {"t": second}, 0.95).verdict == "better"
            asked += 1
    assert asked >= 50
    assert 0.74 <= decided / asked <= 0.96


def test_samples_cannot_help_where_questions_decide_alike_every_time():
    always = np.repeat(np.repeat([1.0, 0.0, -1.0], [14, 78, 8])[:, None], 4, 1)
    between = compare({"t": np.clip(always, 0, 1)}, {"t": np.clip(-always, 0, 1)}, 0.95)
    assert (between.verdict, between.samples_needed) == ("undecided", None)
    assert between.questions_needed > 100


def test_mean_over_tasks_counts_each_task_alike():
    small, large = bernoulli(32, 40), bernoulli(100, 1000)
    got = compare({"a": small, "b": large}, {"a": np.zeros(40), "b": np.zeros(1000)}, 0.95)
    assert got.difference == pytest.approx((0.8 + 0.1) / 2)
    random = np.random.default_rng(0)
    slow = [(random.choice(small, 40).mean() + random.choice(large, 1000).mean()) / 2 for _ in range(5000)]
    assert (got.high - got.low) == pytest.approx(np.diff(np.quantile(slow, [0.025, 0.975]))[0], rel=0.1)


def test_equal_models_are_undecided_with_honest_bounds():
    scores = bernoulli(70, 100)
    got = compare({"t": scores}, {"t": scores}, 0.95)
    assert (got.difference, got.verdict, got.questions_needed) == (0, "undecided", None)
    assert got.p > 0.9
    assert 0.01 < got.high < 0.04
    assert got.low == pytest.approx(-got.high, abs=0.005)


@pytest.mark.parametrize("questions", [1, 2, 5, 6, 40])
def test_one_model_always_right_and_the_other_never(questions):
    """Five questions decide nothing at 95 %, whatever the answers: a coin does the same in one case of 16."""
    got = compare({"t": np.ones(questions)}, {"t": np.zeros(questions)}, 0.95)
    assert got.p >= 2 * 0.5**questions
    assert got.verdict == ("better" if questions > 5 else "undecided")
    assert (got.low > 0) == (questions > 5)


def test_retention_of_a_known_share():
    random = np.random.default_rng(5)
    student = random.random((200, 1)) * 0.3
    expert, merged = student + 0.4, student + 0.3
    got = retention(student, expert, merged, **SETTINGS)
    assert got.mean == pytest.approx(0.75)
    assert (got.low, got.high) == pytest.approx((0.75, 0.75), abs=0.05)
    noisy = np.clip(merged + random.normal(0, 0.3, merged.shape), -1, 2)
    wide = retention(student, expert, noisy, **SETTINGS)
    assert wide.low < wide.mean < wide.high
    assert retention(student, student + random.normal(0, 1, student.shape) * 0.01, merged, **SETTINGS) is None


@pytest.mark.parametrize(("questions", "samples", "skills"), [(60, 2, (0.3, 0.8, 0.55)), (200, 1, (0.3, 0.8, 0.78))])
def test_retention_covers_the_truth_93_to_98_percent_of_the_time(questions, samples, skills):
    random, runs, hits = np.random.default_rng(6), 800, 0
    student, expert, merged = skills
    for seed in range(runs):
        ease = random.uniform(-0.2, 0.2, (questions, 1))
        got = retention(*(random.binomial(samples, p + ease) / samples for p in skills), 600, 0.95, seed)
        hits += got.low <= (merged - student) / (expert - student) <= got.high
    assert 0.93 <= hits / runs <= 0.98


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 31])
def test_interval_over_seeds_is_students(seeds, confidence):
    values = np.random.default_rng(seeds).normal(0.5, 0.1, seeds)
    got = over_seeds(list(values)).interval(confidence)
    want = stats.t.interval(confidence, seeds - 1, values.mean(), stats.sem(values))
    assert (got.low, got.high) == pytest.approx(want, rel=1e-9)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="two"):
        over_seeds([0.5])


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
