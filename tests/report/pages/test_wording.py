import pytest

from bm.report import Cost, Results, Row, Score, Verdict
from bm.report.figures import numbers as n
from bm.report.pages import wording as w

DURATIONS = [
    (0, "0 s"),
    (0.4, "400 ms"),
    (1, "1 s"),
    (59.94, "59.9 s"),
    (90, "1.5 min"),
    (7200, "2 h"),
    (2.664e6, "740 h"),
]
SHARES = [(0.0054, "0.54 %"), (0.05, "5 %"), (0.123, "12 %"), (1.031, "103 %"), (25.4, "2540 %")]


@pytest.mark.parametrize(("seconds", "said"), DURATIONS)
def test_duration(seconds: float, said: str) -> None:
    assert n.duration(seconds).replace("\u00a0", " ") == said


@pytest.mark.parametrize(("ratio", "said"), SHARES)
def test_share(ratio: float, said: str) -> None:
    assert n.share(ratio).replace("\u00a0", " ") == said


@pytest.mark.parametrize(("number", "said"), [(7, "7"), (121, "120"), (3673, "3,700"), (99999, "100,000")])
def test_about(number: int, said: str) -> None:
    assert n.about(number) == said


def test_headline_follows_the_verdicts() -> None:
    student, mixture, merge = (
        _row("student", "student", 0.4),
        _row("mixture", "mixture", 0.6),
        _row("soup", "merge", 0.5),
    )
    better = _verdict("merge over student", "student", 0.1, 0.05, "better")
    worse = _verdict("merge over mixture", "mixture", -0.1, -0.15, "worse")
    open_ = _verdict("merge over mixture", "mixture", -0.1, -0.35, "undecided")
    said = [w.headline(Results((student, mixture, merge), (better, v))).replace("\u00a0", " ") for v in (worse, open_)]
    start = "The best merge answers 50.0 % of the questions right: 10.0 points above the student and "
    assert said == [
        f"{start}10.0 points below the data mixture.",
        f"{start}level with the data mixture, as far as 300 questions can tell.",
    ]


def test_sentence_says_what_would_decide() -> None:
    said = w.sentence(_verdict("merge over mixture", "mixture", -0.01, -0.06, "undecided")).replace("\u00a0", " ")
    assert said == (
        "soup is not distinguishable from mixture: −1.0 (−6.0 to +4.0) on the mean, at 0.5 % of its time;"
        " 300 questions were asked, about 3,700 would decide, or 21 samples of each"
    )


def test_an_interval_without_zero_that_decides_nothing_says_why() -> None:
    said = w.sentence(_verdict("merge over student", "student", 0.03, 0.002, "undecided"))
    assert "not distinguishable from student among so many verdicts (Holm, p = 0.01): +3.0 (+0.2 to +5.8)" in said
    assert "Holm" not in w.sentence(_verdict("merge over student", "student", 0.03, -0.002, "undecided"))


def test_without_merges_the_experts_are_the_finding() -> None:
    won = _verdict("expert over student", "student", 0.1, 0.05, "better")
    lost = _verdict("expert over student", "student", 0.1, -0.15, "undecided")
    assert w.headline(Results((), (won, lost))) == "On its own task, 1 of 2 experts beats the student."


def _row(name: str, kind: str, mean: float) -> Row:
    return Row(name, kind, {"t": Score(mean, mean, mean, 300, 1)}, Cost(10, 0, 10), name)  # type: ignore[arg-type]


def _verdict(claim: str, against: str, difference: float, low: float, outcome: str) -> Verdict:
    needed = (3673, 21) if outcome == "undecided" else (None, None)
    high = 2 * difference - low
    return Verdict(claim, "soup", against, "mean", difference, low, high, 0.01, outcome, 300, *needed, 0.005)  # type: ignore[arg-type]
