"""Right answers in any dress are accepted, wrong ones in the same dress are not."""

import itertools
import random
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.verify import AGREED, DISAGREED, Case, Verdict, disagreement, verify, verify_all
from bm.verify.quantities import last_in, parse, same
from tests.verify.conftest import verifying

SETTINGS = verifying(seconds=20)
THOUGHT = "<think>\nFirst \\boxed{13}, no. The answer is 17.\n</think>\n\n"


def judged(response: str, answer: str) -> Verdict:
    return verify(Case("math", THOUGHT + response, answer, ""), SETTINGS)


def boxed(answer: str, reference: str) -> bool:
    return judged(f"\\boxed{{{answer}}}", reference).accepted


SENTENCES = [
    "Thus \\boxed{%s}.", "So\n\\[\n\\boxed{%s}\n\\]", "$$\\boxed{%s}$$", "\\fbox{%s}", "The answer is $%s$.",
    "The final answer is \\(%s\\). I hope it is correct.", "Answer: %s", "**Answer:** %s",
    "**Final Answer**\n\n**%s**", "### Final answer:\n%s", "#### %s", "%s", "Adding, we get\n\n\\[ %s \\]",
    "The answer to this problem is therefore: $%s$", "The answer is $%s$ because $7 \\cdot 8 = 56$.",
    "Therefore, the answer is $\\boxed{%s}$, since $2 + 2 = 4$.",
]  # fmt: skip
REFERENCES = [
    ("7", "8"), ("-12", "12"), ("1,234", "1,235"), ("0.15", "0.16"), ("\\frac{14}{3}", "\\frac{3}{14}"),
    ("3\\sqrt{13}", "13\\sqrt{3}"), ("90^\\circ", "91^\\circ"), ("x^2 + 3x - 6", "x^2 + 3x + 6"),
    ("6 - 5i", "6 + 5i"), ("(3, \\frac{\\pi}{2})", "(\\frac{\\pi}{2}, 3)"), ("(3,4]", "[3,4]"),
    ("\\text{even}", "\\text{odd}"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}"), ("52_8", "52_9"),
    ("\\$32,\\!348", "\\$32,\\!349"), ("5.4 \\text{ cents}", "5.4 \\text{ dollars}"),
    ("1 \\pm \\sqrt{19}", "1 + \\sqrt{19}"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong"), REFERENCES)
def test_the_answer_decides_in_any_sentence(right, wrong):
    for sentence in SENTENCES:
        assert judged(sentence % right, right).accepted, sentence
        assert not judged(sentence % wrong, right).accepted, sentence


SAME = [
    ("10080", "10,\\!080"), ("10080", "10{,}080"), ("10080", "10\\,080"), ("10080", "10 080"),
    ("10080", "1.008 \\times 10^{4}"), ("10080", "10080.00"), ("1.5", "\\dfrac{3}{2}"), ("\\frac43", "4/3"),
    ("9/5", "1\\frac{4}{5}"), ("9/5", "1 4/5"), ("18 \\text{ miles}", "18 in total"), ("\\frac13", "0.333333"),
    ("50\\%", "0.5"), ("50\\%", "50"), ("0.5", "50\\%"), ("18", "\\$18"), ("18", "18 dollars"), ("\\$18.90", "18.9"),
    ("1,500,000", "1.5 million"), ("30", "30^\\circ"), ("30", "30."), ("5", "x = 5"), ("x=5", "5"),
    ("y = 2x + 3", "2x - y + 3 = 0"), ("(a+5)(b+2)", "ab + 2a + 5b + 10"), ("1,-2", "-2, 1"),
    ("1,-2", "x = 1 \\text{ or } x = -2"), ("\\{1,2\\}", "\\{2,1\\}"),
    ("1 \\pm \\sqrt{19}", "1+\\sqrt{19},\\ 1-\\sqrt{19}"), ("\\cot x", "\\frac{1}{\\tan x}"),
    ("x \\in [-2,7]", "[-2,7]"), ("[-2,7]", "-2 \\le x \\le 7"), ("52_8", "52_{8}"), ("52_8", "52"),
    ("\\text{(C)}", "C"), ("\\text{Evelyn}", "evelyn"), ("10\\sqrt2", "10\\sqrt{2}"), ("1000\\pi", "1,000\\pi"),
    ("\\sqrt{51}", "7.141428"), ("864 \\mbox{ inches}^2", "864 \\text{ square inches}"), ("(-\\infty, 2)", "x < 2"),
]  # fmt: skip
DIFFERENT = [
    (".0000672", ".0000674"), ("0.1", "0.10000001"), ("\\frac13", "0.33"), ("50", "0.5"), ("50\\%", "0.5\\%"),
    ("\\$50", "50\\%"), ("\\frac13", "\\frac{100000}{300001}"), ("1", "1 4/5"), ("\\text{east}", "\\text{seat}"),
    ("\\text{(C)}", "\\text{(D)}"), ("1,2", "1,2,2"), ("2", "2,2"), ("1,2,3", "1,2"), ("7", "7 \\text{ or } 8"),
    ("7", "7, 8"), ("(1,-2)", "(-2,1)"), ("(3,4)", "\\{3,4\\}"), ("(2,12) \\cup (12,102)", "(2,102)"), ("52_8", "42"),
    ("52", "52_8"), ("3t", "3"), ("24", "24t"), ("2k", "2n"), ("5", "\\pm 5"), ("\\pm 5", "5"), ("3", "3i"),
    ("12", "12!"), ("10", "1,0"), ("\\infty", "-\\infty"), ("15\\mbox{ cm}^2", "15\\mbox{ cm}^3"),
    ("5 \\text{ cm}", "5 \\text{ m}"), ("x=5", "y=5"), ("5x - 7y + 4 = 0", "5x - 7y - 4 = 0"),
    ("9^{9^{9}}", "9^{9^{9}} + 1"), ("123456789", "123456788"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_the_same_in_another_dress(reference, answer):
    assert boxed(answer, reference)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_alike_and_yet_different(reference, answer):
    assert not boxed(answer, reference)


def test_the_last_box_counts_with_those_beside_it():
    assert judged("\\boxed{6}, or rather \\boxed{7}", "7").accepted
    assert judged("$\\boxed{1}$ and $\\boxed{-2}$", "-2, 1").accepted
    assert not judged("\\boxed{7} or \\boxed{8}", "7").accepted
    assert not judged("\\boxed{7} or \\boxed{8}", "8").accepted
    assert not judged("Perhaps 7 apples or 8 apples in all", "8").accepted
    assert judged("\\boxed{7}\n\n$$\\boxed{7}$$", "7").accepted
    assert judged("\\boxed{\\frac{1}{2}", "7").reason == "wrong answer"


@pytest.mark.parametrize("number", [8, -3, 1000, 21_600, 0])
def test_prose_around_a_number(number):
    for text in (
        "Janet makes $%s every day.",
        "So the total is 3 + 4 = %s apples in all.",
        "She has **%s** left over.",
    ):
        assert judged(text % f"{number:,}", str(number)).accepted
        assert not judged(text % f"{number + 1:,}", str(number)).accepted


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("The area is 5\\sqrt{2} in all", ""),
        ("The area is 5π square metres", ""),
        ("Their product is 25x in the end", ""),
        ("There are 12 apples in total.", "12"),
        ("It takes 2.5e3 seconds or so", ""),
        ("It takes 2.5e3 seconds.", "2.5e3"),
        ("half of it, that is 1/2, remains", "1/2"),
    ],
)
def test_the_last_number_of_a_sentence(text, last):
    assert last_in(text) == last


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_our_numbers_are_exact(value, places):
    written = f"{value // 10**places}.{abs(value) % 10**places:0{places}}" if places and value >= 0 else str(value)
    scale = 10**places if places and value >= 0 else 1
    assert parse(written).value == parse(f"\\frac{{{value}}}{{{scale}}}").value
    assert parse(f"{value:,}").value == value
    assert not same(parse(str(value)), parse(str(value + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "5x",
        "3 or 4",
        "2\\pi",
        "1,2",
        "3 pi",
        "1/0",
        "5 plus 6",
        "5 squared",
        "3 halves",
        "1e999999999",
        "9" * 5000,
    ],
)
def test_what_is_no_plain_number_is_left_to_the_other_check(text):
    assert parse(text) is None


def test_disagreement_of_the_two_checks_is_counted_and_the_exact_one_decides():
    small = Case("math", "\\boxed{.0000674}", ".0000672", "")
    verdicts = verify_all(
        [small, Case("math", "7", "7", ""), Case("math", "7", "8", ""), Case("math", "x", "x", "")], SETTINGS
    )
    assert [(v.accepted, v.note) for v in verdicts] == [(False, DISAGREED), (True, AGREED), (False, AGREED), (True, "")]
    assert disagreement(verdicts) == (1, 3)


HOSTILE = [
    "10^{10^{10}}", "9999999^{9999999}", "(" * 5000, "{" * 400 + "}" * 400, "\\frac{" * 300 + "1", "x" * 1_000_000,
    "\\sqrt{" * 200 + "2" + "}" * 200, "\\int_0^1 " * 20 + "x", "1+" * 400 + "1", "\\sum_{n=1}^{10^9} \\frac{1}{n^2}",
    "\\boxed{" * 3000, "100!!!!", "\x00\ud800", "$" * 999, "\\begin{pmatrix} " * 60,
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_answer_is_refused_in_time_and_harms_no_other(answer):
    responses = (f"\\boxed{{{answer}}}", answer, f"The answer is ${answer}$")
    cases = [Case("math", response, "\\frac{\\pi}{2}", "") for response in responses]
    for verdict in verify_all(cases, verifying(seconds=1, parallel=3)):
        assert not verdict.accepted
        assert verdict.reason in ("wrong answer", "no answer", "time limit", "answer too long")
    assert verify(Case("math", "\\boxed{\\pi/2}", "\\frac{\\pi}{2}", ""), SETTINGS).accepted


def test_a_comparison_without_end_is_a_time_limit():
    verdict = verify(Case("math", "\\boxed{9999999^{9999999}}", "2", ""), verifying(seconds=1))
    assert verdict.reason == "time limit"


def test_many_at_a_time_from_any_thread_are_judged_as_one_by_one():
    rng = random.Random(0)
    pairs = rng.choices([*REFERENCES, *SAME, *DIFFERENT], k=60)
    cases = [Case("math", f"\\boxed{{{answer}}}", reference, "") for reference, answer in pairs]
    alone = [verify(case, SETTINGS) for case in cases]
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.extend(verify_all(cases, verifying(seconds=20, parallel=4))))
    thread.start()
    thread.join()
    assert verdicts == alone


def test_perturbed_answers_are_refused():
    rng = random.Random(1)
    for reference, _ in itertools.islice(itertools.cycle(REFERENCES), 60):
        digits = [m.start() for m in re.finditer(r"\d", reference)]
        if not digits:
            continue
        place = rng.choice(digits)
        other = rng.choice([d for d in "123456789" if d != reference[place]])
        changed = reference[:place] + other + reference[place + 1 :]
        assert not boxed(changed, reference), changed
