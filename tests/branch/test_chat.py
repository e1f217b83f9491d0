"""Rendering through the student's own template, and the lint over it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bm.branch.chat import Rendered, check_template, coloured, fault, lint, render, template_hash
from bm.errors import UserError
from tests.branch.conftest import trace

GOOD = "<think>\n1 plus 1 is 2\n</think>\n\n2"
OPENING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture
def tokenizer(student: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(student)


def only(tokenizer: PreTrainedTokenizerBase, response: str, prompt: str = "1 plus 1", system: str = "") -> Rendered:
    return render(tokenizer, [trace(prompt, response, system)])[0]


def test_the_response_alone_is_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = only(tokenizer, GOOD, system="Be brief.")
    assert tokenizer.decode(sample.prompt_ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 plus 1<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(sample.response_ids) == GOOD + "<|im_end|>"
    assert fault(tokenizer, sample) == ""


def test_a_template_that_opens_the_thinking_is_not_doubled(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = OPENING
    sample = only(tokenizer, GOOD)
    assert (sample.prompt + sample.response).count("<think>") == 1
    assert sample.response == GOOD.removeprefix("<think>\n")
    assert fault(tokenizer, sample) == ""


@pytest.mark.parametrize(
    ("response", "what"),
    [
        ("<think>\nendless", "<think> is not closed"),
        ("no thought</think> 2", "stray </think>"),
        ("<think>a</think><think>b</think>2", "stray <think> or </think>"),
        ("</think>a<think>", "stray <think> or </think>"),
        ("<think>\na\n</think>\n\n2<|im_end|>", "one end-of-sequence token"),
    ],
)
def test_lint_finds(tokenizer: PreTrainedTokenizerBase, response: str, what: str) -> None:
    assert what in fault(tokenizer, only(tokenizer, response))


def test_lint_finds_a_missing_end(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = only(tokenizer, GOOD)
    sample.response_ids.pop()
    assert "end-of-sequence" in fault(tokenizer, sample)


def test_lint_finds_two_beginnings(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "<|endoftext|><|endoftext|>" + tokenizer.chat_template
    assert "two beginning-of-sequence" in fault(tokenizer, only(tokenizer, GOOD))


def test_lint_finds_prompt_tokens_in_the_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = only(tokenizer, GOOD)
    sample.response_ids.insert(0, sample.prompt_ids.pop())
    assert "not exactly the response" in fault(tokenizer, sample)


def test_lint_counts_and_names(tokenizer: PreTrainedTokenizerBase) -> None:
    samples = render(tokenizer, [trace("a", GOOD), trace("b", "<think>\n"), trace("c", "</think>")])
    with pytest.raises(
        UserError, match=rf"math: 2 of 3 rendered traces are malformed; the first, {samples[1].id}: <think>"
    ):
        lint(tokenizer, samples, "math")


def test_the_template_is_pinned(tokenizer: PreTrainedTokenizerBase) -> None:
    digest = template_hash(tokenizer)
    assert check_template(tokenizer, digest[:12]) == digest
    with pytest.raises(UserError, match=r"branch\.chat_template is 00000000"):
        check_template(tokenizer, "00000000")


def test_a_template_that_does_not_end_the_turn_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(UserError, match="would not learn to stop"):
        check_template(tokenizer, None)


def test_the_supervised_part_is_coloured(tokenizer: PreTrainedTokenizerBase) -> None:
    text = coloured(only(tokenizer, GOOD), "<|im_end|>")
    green = [text.plain[span.start : span.end] for span in text.spans if span.style == "green"]
    assert green == [GOOD + "<|im_end|>"]


@pytest.mark.parametrize(
    ("templates", "why"), [(None, "has no chat template"), ({"a": "{{ 1 }}", "b": "{{ 2 }}"}, "several chat templates")]
)
def test_a_tokenizer_without_one_template_is_told(
    tokenizer: PreTrainedTokenizerBase, templates: dict[str, str] | None, why: str
) -> None:
    tokenizer.chat_template = templates
    with pytest.raises(UserError, match=f"{why}.* in chat_template.jinja"):
        check_template(tokenizer, None)
