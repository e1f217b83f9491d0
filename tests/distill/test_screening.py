"""What must not be trained on: invariants of near duplicates and of decontamination."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bm.distill.screening import CONTAMINATED, NEAR_DUPLICATE, Screen
from bm.distill.selection import Question, select
from bm.distill.words import ngrams, words
from tests.distill.conftest import distilling

VOCABULARY = [f"w{k}" for k in range(12)]
SENTENCE = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=14).map(" ".join)
NEAR = {"threshold": 0.6, "permutations": 64, "ngram": 2}


def asked(prompt: str) -> Question:
    return Question("d", "s", "", prompt, "1", "math", "{}")


def clean(n: int, tasks: dict[str, list[str]]) -> Screen:
    return Screen(distilling(near_duplicates=None, decontamination={"ngram": n, "strict": False}), tasks)


def apart(**near) -> Screen:
    return Screen(distilling(near_duplicates=NEAR | near, decontamination=None), {})


def similarity(text: str, other: str, n: int) -> float:
    first, second = set(ngrams(text, n)), set(ngrams(other, n))
    return len(first & second) / len(first | second)


@given(st.lists(SENTENCE, max_size=30))
@settings(deadline=None)
def test_a_refused_question_is_near_one_that_was_kept_before(prompts):
    screen, kept = apart(), []
    for prompt in prompts:
        reason = screen(asked(prompt))
        near = [other for other in kept if similarity(prompt, other, NEAR["ngram"]) >= NEAR["threshold"]]
        assert reason in ("", NEAR_DUPLICATE)
        if reason:
            assert near
        else:
            kept.append(prompt)


@given(st.lists(SENTENCE, min_size=1, max_size=15))
@settings(deadline=None)
def test_the_same_words_otherwise_written_are_always_found(prompts):
    screen = apart()
    for prompt in prompts:
        screen(asked(prompt))
    for prompt in prompts:
        assert screen(asked(f"  {prompt.upper().replace(' ', ',  ')}?!")) == NEAR_DUPLICATE


def test_most_neighbours_above_the_threshold_are_found():
    """MinHash is a lottery near the threshold; well above it a miss is rare."""
    texts = [" ".join(f"n{k}x{i}" for i in range(40)) for k in range(200)]
    screen = apart(threshold=0.7)
    assert not any(screen(asked(text)) for text in texts)
    reasons = [screen(asked(f"{text} and one more")) for text in texts]
    assert reasons.count(NEAR_DUPLICATE) >= 195


@given(SENTENCE, SENTENCE, st.integers(2, 6))
@example("w1 w2 w3", "w1 w2 w3", 10)
def test_contaminated_is_exactly_what_shares_a_run_of_words(prompt, question, n):
    task_words, question_words = words(prompt), words(question)
    runs = {tuple(task_words[i : i + n]) for i in range(len(task_words) - n + 1)} or {tuple(task_words)}
    mine = {tuple(question_words[i : i + n]) for i in range(len(question_words) - n + 1)} or {tuple(question_words)}
    expected = CONTAMINATED + "aime24" if runs & mine else ""
    assert clean(n, {"aime24": [prompt]})(asked(question)) == expected


@given(st.lists(SENTENCE, min_size=1, max_size=2), SENTENCE, SENTENCE)
def test_a_question_of_a_task_is_found_whatever_stands_around_it(prompts, before, after):
    screen = clean(4, {"a": prompts})
    for prompt in prompts:
        if len(words(prompt)) >= 4:
            assert screen(asked(f"{before} {prompt} {after}")) == CONTAMINATED + "a"


def test_what_several_prompts_of_a_task_say_is_its_wording_and_contaminates_nothing():
    wording = "answer the following question and give the letter of the right choice"
    prompts = [f"{wording}: what is {' '.join(f'n{k}{i}' for i in range(10))}" for k in range(3)]
    screen = clean(10, {"quiz": prompts})
    assert screen(asked(f"{wording}: which planet is the largest")) == ""
    assert screen(asked(prompts[2])) == CONTAMINATED + "quiz"


@given(st.lists(SENTENCE, min_size=1, max_size=30), st.integers(1, 6))
def test_a_question_that_a_task_asks_is_always_found(prompts, n):
    screen = clean(n, {"a": prompts})
    assert {screen(asked(prompt.title() + "?")) for prompt in prompts} == {CONTAMINATED + "a"}


def test_the_count_is_reached_with_clean_questions_and_the_rest_is_counted():
    stream = [
        *(f"the task asks for number {k} here" for k in range(5)),
        *(f"w{k} a{k} b{k} c{k} d{k}" for k in range(20)),
    ]
    screen = Screen(
        distilling(near_duplicates=NEAR, decontamination={"ngram": 5, "strict": False}),
        {"task": ["the task asks for number"]},
    )
    selection = select(iter([asked(s) for s in [*stream, *stream]]), None, 20, "", screen)
    assert len(selection.questions) == 20
    assert selection.refused == {CONTAMINATED + "task": 5}
    again = select(iter([asked(s) for s in [*stream, *stream]]), None, None, "", screen, short=True)
    assert again.refused[NEAR_DUPLICATE] == 20
    assert again.duplicates == 25, "an equal prompt is screened once"


def test_words_need_no_spaces_where_a_script_has_none():
    assert words("Let x_1 = 3.5, 求和。") == ["let", "x_1", "3", "5", "求", "和"]


@pytest.mark.parametrize("text", ["", "?!", "  "])
def test_a_text_without_words_has_no_ngrams(text):
    assert ngrams(text, 3) == []
    assert clean(3, {"a": [text]})(asked(text)) == ""
