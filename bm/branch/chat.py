"""A trace as the student will see it: its own chat template, and a response that alone is learned."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from bm.errors import UserError


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the chat template; UserError if the tokenizer has none, or several."""
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"{tokenizer.name_or_path}: the student's tokenizer has no chat template; add chat_template.jinja to its folder")
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()


def prompt_text(tokenizer: PreTrainedTokenizerBase, system: str, prompt: str) -> str:
    """The rendered conversation up to where the response begins."""
    messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def response_text(rendered_prompt: str, response: str) -> str:
    """The response without the `<think>` that the template's generation prompt has already opened."""
    opened = "<think>\n"
    return response.removeprefix(opened) if rendered_prompt.endswith(opened) else response


def render(tokenizer: PreTrainedTokenizerBase, traces: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """Token ids of the prompt and of the response with its end-of-sequence token, per trace."""
    prompts = [prompt_text(tokenizer, trace["system"], trace["prompt"]) for trace in traces]
    responses = [response_text(p, trace["response"]) for p, trace in zip(prompts, traces, strict=True)]
    first, second = (tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (prompts, responses))
    return [(p, [*r, tokenizer.eos_token_id]) for p, r in zip(first, second, strict=True)]
