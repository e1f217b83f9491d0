import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.errors import UserError
from bm.verify import Case, Verdict, verify
from tests.verify.conftest import verifying

SUM = json.dumps({"source_dataset": "chain_sum"})


def judged(response: str, answer: str = "42") -> Verdict:
    return verify(Case("reasoning_gym", response, answer, SUM), verifying())


def test_a_right_answer_after_the_reasoning_is_accepted():
    assert judged("<think>\n40 + 2 = 42\n</think>\n\n42") == Verdict(True, "", "42")


def test_a_plain_answer_and_a_thought_that_the_template_opened_are_judged_whole():
    assert judged("42").accepted
    assert judged("40 + 2\n</think>\n\n42").accepted


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no answer"),
        ("41", "wrong answer"),
        ("<think>\n40 + 2 = 42\n\n42", "unclosed reasoning"),
        ("<think>\n1\n</think>\n\n<think>\n42", "unclosed reasoning"),
        ("<think>\n40 + 2 = 42\n</think>\n\n", "no answer"),
        ("<think>\n40 + 2 = 42\n</think>\n\n41", "wrong answer"),
        ("<think>\n40 + 2 = 42\n</think>\n\n42 or 43", "wrong answer"),
    ],
)
def test_everything_else_is_refused_with_the_reason(response, reason):
    verdict = judged(response)
    assert (verdict.accepted, verdict.reason) == (False, reason)


def test_only_the_text_after_the_last_reasoning_counts():
    assert judged("<think>\n1\n</think>\n\n41\n<think>\n2\n</think>\n\n42").accepted
    assert not judged("<think>\n1\n</think>\n\n42\n<think>\n2\n</think>\n\n41").accepted


def test_a_near_miss_that_the_scorer_rewards_in_part_is_refused():
    word = json.dumps({"source_dataset": "spell_backward"})
    right, longer, half = (
        verify(Case("reasoning_gym", f"<think>\n</think>\n{a}", "olleh", word), verifying())
        for a in ("olleh", "ollehh", "ollxx")
    )
    assert right.accepted
    assert not longer.accepted and not half.accepted


@given(st.text(), st.integers(), st.integers())
def test_whatever_the_reasoning_says_the_answer_decides(reasoning, answer, given_answer):
    reasoning = reasoning.replace("<think>", "").replace("</think>", "")
    verdict = judged(f"<think>{reasoning}</think>{given_answer}", str(answer))
    assert verdict.accepted == (answer == given_answer)
    assert verdict.answer == str(given_answer)


def test_an_unknown_verifier_is_named_with_its_neighbour():
    with pytest.raises(
        UserError, match=r"no verifier 'reasoning-gym'; did you mean 'reasoning_gym'.*; a function of y"
    ):
        verify(Case("reasoning-gym", "<think></think>1", "1", SUM), verifying())


def test_importing_the_verifiers_loads_nothing_slow():
    import subprocess
    import sys

    slow = {"reasoning_gym", "sympy", "math_verify", "torch", "transformers", "openai"}
    code = f"import sys, bm.verify; assert not {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
