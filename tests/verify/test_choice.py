"""Choices by letter or text, numbers by tolerance."""

import json

import pytest

from bm.verify import Case, Verdict, verify
from tests.verify.conftest import verifying

SETTINGS = verifying()
CHOICES = ["a base pair is inserted", "A codon changes", "4", "None of the above, since B is wrong"]
DISGUISES = [
    "{l}", "({l})", "{l}.", "**{l}**", "{s}", "Answer: {l}", "The answer is ({l}).", "The correct answer is **{l}**.",
    "\\boxed{{{l}}}", "$\\boxed{{\\text{{({l})}}}}$", "{l}. {c}", "**Answer: {l}) {c}**",
    "Therefore, option {l} is correct.", "**Final Answer**\n\n{l}", "So the correct choice is {l}: {c}", "({s})",
    "The answer is {l} because the others are wrong.",
]  # fmt: skip
BY_TEXT = ["{c}", "The answer is {c}.", "\\boxed{{\\text{{{c}}}}}", "**{c}**", "{l}. {c}"]


def judged(response: str, answer: str, choices: list[str] | None = None) -> Verdict:
    metadata = json.dumps({"choices": choices}) if choices else ""
    return verify(Case("choice", f"<think>\nA? (B)?\n</think>\n\n{response}", answer, metadata), SETTINGS)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_letter_in_any_disguise(disguise):
    for place, letter in enumerate("ABCD"):
        for answer in "ABCD":
            given = disguise.format(l=letter, s=letter.lower(), c=CHOICES[place])
            assert judged(given, answer, CHOICES).accepted is (letter == answer), given
            if "{c}" not in disguise:
                assert judged(given, answer).accepted is (letter == answer), given


@pytest.mark.parametrize("disguise", BY_TEXT)
def test_the_text_of_a_choice(disguise):
    for place, letter in enumerate("ABCD"):
        for answer in "ABCD":
            given = disguise.format(l=letter, c=CHOICES[place])
            assert judged(given, answer, CHOICES).accepted is (letter == answer), given
            assert judged(given, CHOICES["ABCD".index(answer)], CHOICES).accepted is (letter == answer), given


@pytest.mark.parametrize(
    "response", ["B or C", "(B) or (C)", "\\boxed{B, C}", "B and D", "It depends.", "F", "A codon", "I think so", "B/C"]
)
def test_no_choice_or_several_are_none(response):
    for answer in "ABCD":
        assert judged(response, answer, CHOICES).reason == "no choice"


def test_a_question_whose_reference_is_no_choice_is_called_broken():
    assert judged("A", "E", CHOICES).reason.startswith("broken question: the reference")
    assert verify(Case("choice", "A", "A", "{"), SETTINGS).reason == "broken question: metadata must be JSON"
    assert verify(Case("choice", "A", "A", '{"choices": [1]}'), SETTINGS).reason.startswith("broken question")


@pytest.mark.parametrize(
    ("response", "answer", "accepted"),
    [
        ("The wavelength is 6.63e-34 m.", "6.62607e-34", True),
        ("$\\lambda = 6.63 \\times 10^{-34}\\text{ m}$", "6.62607e-34", True),
        ("6.7e-34", "6.62607e-34", False),
        ("\\boxed{1{,}005}", "1000", False),
        ("\\boxed{1{,}005}", "1000.1", True),
        ("1011", "1000", False),
        ("-1000", "1000", False),
        ("about 9.81 m/s", "9.81", True),
        ("9.81 cm", "9.81 m", False),
        ("50%", "0.5", True),
        ("0", "0", True),
        ("0.0001", "0", False),
        ("99 or 100", "100", False),
        ("many", "100", False),
    ],
)
def test_a_number_within_the_tolerance(response, answer, accepted):
    assert verify(Case("number", f"<think>5</think>{response}", answer, ""), SETTINGS).accepted is accepted


def test_the_tolerance_is_a_setting():
    case = Case("number", "101.101", "100.1", "")
    assert verify(case, verifying(tolerance=0.01)).accepted
    assert not verify(case, verifying(tolerance=0.0099)).accepted
    refused = verify(Case("number", "1", "x", ""), SETTINGS)
    assert refused.reason == "broken question: the reference answer is not a number"
