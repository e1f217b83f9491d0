"""Which good responses are kept: faults of a response, and the policies over a question's responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.distill.funnel import histogram
from bm.distill.policy import Answered, kept
from bm.distill.quality import fault, foreign, repetition
from tests.distill.conftest import distilling

GOOD = "<think>\nSix times seven.\n</think>\n\n42"
RESPONSES = st.lists(
    st.builds(Answered, st.booleans(), st.sampled_from([None, "1", "2", "3"]), st.integers(1, 9)), max_size=8
)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (GOOD, ""),
        ("<think>\n</think>\n\n42", "empty thought"),
        ("<think>\nSix times seven.\n</think>\n\n", "no answer"),
        ("<think>\na\n</think>\n<think>\nb\n</think>\n\n42", "not one closed thought"),
        ("Well. <think>\na\n</think>\n\n42", "not one closed thought"),
        ("<think>\na </think> b\n</think>\n\n42", "not one closed thought"),
    ],
)
def test_a_trace_is_one_closed_thought_and_an_answer(response, reason):
    assert fault(response, "6 * 7", 0, distilling()) == reason
    assert fault(response, "6 * 7", 0, distilling(format=False)) == ""


@pytest.mark.parametrize(
    ("settings", "tokens", "reason"),
    [
        ({"min_characters": len(GOOD)}, 0, ""),
        ({"min_characters": len(GOOD) + 1}, 0, "too short"),
        ({"max_characters": len(GOOD)}, 0, ""),
        ({"max_characters": len(GOOD) - 1}, 0, "too long"),
        ({"max_tokens": 10}, 10, ""),
        ({"max_tokens": 10}, 11, "too many tokens"),
        ({"repetition": {"ngram": 2, "most": 0.0}}, 0, ""),
        ({"foreign_script": 0.0}, 0, ""),
    ],
)
def test_limits_are_inclusive(settings, tokens, reason):
    assert fault(GOOD, "6 * 7", tokens, distilling(**settings)) == reason


def test_a_loop_repeats_itself_and_a_list_does_not():
    loop = f"<think>\n{'wait, let me check that again. ' * 40}\n</think>\n\n42"
    listed = f"<think>\n{' '.join(f'case {k} gives {k * k}.' for k in range(60))}\n</think>\n\n42"
    limit = distilling(repetition={"ngram": 5, "most": 0.3})
    assert fault(loop, "?", 0, limit) == "repeats itself"
    assert fault(listed, "?", 0, limit) == ""


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40).map(" ".join), st.integers(1, 4))
def test_repetition_is_a_share_that_doubling_a_text_raises(text, n):
    assert 0 <= repetition(text, n) < 1
    assert repetition(f"{text} {text}", n) >= repetition(text, n)


def test_only_scripts_that_the_question_does_not_use_are_foreign():
    assert foreign("ab 数学", "an English question") == 0.5
    assert foreign("ab 数学", "数 in the question") == 0
    assert foreign("α + β = 𝑥, naïve", "plain") == 0
    assert foreign("1 + 1", "") == 0


@given(RESPONSES, st.sampled_from(["first_correct", "shortest_correct", "all_correct", "agreement"]), st.integers(1, 3))
def test_every_policy_keeps_good_responses_in_order_and_no_more_than_it_may(responses, policy, keep):
    places = kept(responses, distilling(policy=policy, keep=keep))
    good = [place for place, response in enumerate(responses) if response.good]
    assert places == sorted(set(places) & set(good))
    assert len(places) <= (keep if policy == "all_correct" else 1)
    if policy != "agreement":
        assert bool(places) == bool(good)
    if policy == "first_correct":
        assert places == good[:1]
    if policy == "shortest_correct" and good:
        assert responses[places[0]].length == min(responses[place].length for place in good)


@given(RESPONSES)
def test_agreement_needs_more_votes_than_any_other_answer(responses):
    places = kept(responses, distilling(policy="agreement"))
    votes = [response.vote for response in responses if response.vote is not None]
    for place in places:
        mine = responses[place].vote
        assert all(votes.count(mine) > votes.count(other) for other in set(votes) - {mine})


def test_agreement_refuses_a_right_answer_that_the_others_do_not_share():
    right, wrong = Answered(True, "accepted", 5), Answered(False, "7", 5)
    unsaid = Answered(False, None, 5)
    policy = distilling(policy="agreement")
    assert kept([wrong, right, right], policy) == [1]
    assert kept([right, wrong], policy) == []
    assert kept([right, wrong, wrong], policy) == []
    assert kept([unsaid, unsaid, right], policy) == [2]


@given(st.lists(st.integers(0, 10**6)), st.lists(st.integers(0, 10**6)))
def test_a_histogram_counts_every_length_once(good, bad):
    counts = histogram(good, bad)
    assert (sum(counts["kept"]), sum(counts["rejected"])) == (len(good), len(bad))
    for low, number in zip(counts["from"], counts["kept"], strict=True):
        assert number == sum(low <= max(1, length) < 2 * low for length in good)
