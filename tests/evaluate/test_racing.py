"""Races on simulated grids: the winner of the full evaluation stays, and questions are spared."""

from statistics import fmean

import numpy as np
import pytest

from bm.evaluate.racing import race


def grid(random, skills, sizes, samples):
    """Scores of every candidate, by task: questions differ in difficulty, candidates in skill."""
    ease = {task: random.normal(0, 0.25, questions) for task, questions in sizes.items()}
    return {
        f"c{k}": {
            task: random.binomial(samples, np.clip(skill + ease[task], 0, 1)[:, None], (len(ease[task]), samples)) / 1.0
            / samples
            for task in sizes
        }
        for k, skill in enumerate(skills)
    }  # fmt: skip


def raced(scores, questions, error):
    asked = []

    def ask(name, first):
        asked.append((name, first))
        return {task: values[:first] for task, values in scores[name].items()}

    return race(list(scores), questions, ask, error), asked


def mean(tasks):
    return fmean(values.mean() for values in tasks.values())


@pytest.mark.parametrize(
    "skills",
    [
        [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75],
        [0.5] * 11 + [0.52],
        [0.4] * 6 + [0.6] * 6,
    ],
)
def test_the_winner_stays_with_the_stated_probability(skills):
    """Whoever scores highest on all questions is still there, in at least the promised share of 60 grids."""
    random, kept, spared = np.random.default_rng(0), 0, []
    for _ in range(60):
        scores = grid(random, skills, {"a": 200, "b": 80}, 2)
        out, _ = raced(scores, 200, 0.05)
        best = max(scores, key=lambda name: mean(scores[name]))
        kept += best not in out
        spared.append(sum(1 - after / 200 for after in out.values()) / len(scores))
    assert kept / 60 >= 0.95
    assert fmean(spared) > 0.3 if max(skills) - min(skills) > 0.1 else fmean(spared) < 0.05


def test_rounds_halve_and_those_out_are_asked_no_more():
    scores = grid(np.random.default_rng(1), [0.1, 0.5, 0.9], {"a": 160}, 4)
    out, asked = raced(scores, 160, 0.05)
    assert {first for _, first in asked} == {20, 40, 80}
    assert "c2" not in out
    for name, after in out.items():
        assert max(first for other, first in asked if other == name) == after
    assert out["c0"] == 20


def test_equals_all_stay():
    scores = grid(np.random.default_rng(2), [0.5], {"a": 100}, 1)
    same = {f"c{k}": scores["c0"] for k in range(8)}
    assert raced(same, 100, 0.05)[0] == {}


def test_a_smaller_risk_lets_fewer_leave():
    counts = []
    for error in (0.5, 0.0001):
        random, left = np.random.default_rng(3), 0
        for _ in range(20):
            left += len(raced(grid(random, [0.4, 0.5, 0.6, 0.65], {"a": 120}, 1), 120, error)[0])
        counts.append(left)
    assert counts[0] > counts[1]
