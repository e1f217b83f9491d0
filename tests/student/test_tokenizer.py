import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config

from bm.student.scratch import ROLES, SPECIAL, learned_tokenizer

TEXTS = [
    text
    for i in range(1000)
    for text in (f"State the final answer, please: {i} + {7 * i % 1000} =", f"<think>\n{i} + 1\n</think>\n\n{i + 1}")
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As a model's folder gives it back, which is not always what was put into it."""
    folder = tmp_path_factory.mktemp("student")
    Qwen2Config().save_pretrained(folder)
    learned_tokenizer([*TEXTS, "An ocelot, once."], vocabulary=400, positions=128).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_word_inside_another_is_not_taken_for_it(tokenizer):
    assert pieces(tokenizer, "pleased") == list("pleased")


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]


@given(st.text())
def test_any_text_is_read_back_as_it_was(tokenizer, text):
    text = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_recurring_phrase_is_one_token_and_every_digit_is_its_own(tokenizer):
    expected = ["State the final answer", ",", " ", "please", ":", " 1", "2", "3", " +", " 4", " ="]
    assert pieces(tokenizer, "State the final answer, please: 123 + 4 =") == expected


def test_a_phrase_ends_where_its_last_word_does(tokenizer):
    assert pieces(tokenizer, "State the final answers")[0] != "State the final answer"


def test_what_is_rare_is_spelled(tokenizer):
    assert pieces(tokenizer, "ocelot") == list("ocelot")


def test_tags_and_roles_are_one_token_each(tokenizer):
    for word in (*SPECIAL, *ROLES):
        assert len(tokenizer(word)["input_ids"]) == 1


def test_the_vocabulary_is_no_larger_than_allowed_and_the_same_each_time(tokenizer):
    small = learned_tokenizer(TEXTS, vocabulary=270, positions=128)
    assert len(small) == 270 < len(tokenizer) <= 400
    assert learned_tokenizer(TEXTS, vocabulary=270, positions=128).get_vocab() == small.get_vocab()
