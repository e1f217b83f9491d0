"""A trace as the student will see it: its own chat template, and a response that alone is learned."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from bm.errors import UserError

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Rendered:
    """A trace as text and as token ids; the response ends with the end-of-sequence token."""

    id: str
    prompt: str
    response: str
    prompt_ids: list[int]
    response_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the chat template; UserError if the tokenizer has none, or several."""
    if not isinstance(tokenizer.chat_template, str):
        kept = "several chat templates; leave one" if tokenizer.chat_template else "no chat template; put one"
        raise UserError(f"{tokenizer.name_or_path} has {kept} in chat_template.jinja")
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()


def check_template(tokenizer: PreTrainedTokenizerBase, pinned: str | None) -> str:
    """The template's hash; UserError if it does not begin with `pinned`, or if an answer does not end with EOS."""
    made_of = template_hash(tokenizer)
    if pinned is not None and not made_of.startswith(pinned):
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template is {made_of[:16]}, branch.chat_template is {pinned}"
        )
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "An answer."}]
    text = _templated(tokenizer, turn)
    if not text.rpartition("An answer.")[2].strip().startswith(str(tokenizer.eos_token)):
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template does not end an answer with the end-of-sequence token "
            f"{tokenizer.eos_token}, so the student would not learn to stop; set eos_token in tokenizer_config.json"
        )
    return made_of


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], asks: bool = False) -> str:
    """A conversation through the chat template, for a response to follow or not; UserError if it refuses."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except TemplateError as problem:
        raise UserError(f"the chat template of {tokenizer.name_or_path} refuses: {problem}") from problem


def render(tokenizer: PreTrainedTokenizerBase, traces: Sequence[Mapping[str, Any]]) -> list[Rendered]:
    """Traces (id, system, prompt, response) through the template; no special token is added that it does not write.

    A template whose generation prompt opens `<think>` itself has the response begin behind it, as in inference.
    """
    prompts, responses = [], []
    for trace in traces:
        messages = [{"role": "system", "content": trace["system"]}] * bool(trace["system"])
        text = _templated(tokenizer, [*messages, {"role": "user", "content": trace["prompt"]}], True)
        prompts.append(text)
        opened = text.endswith(f"{OPEN}\n")
        responses.append(trace["response"].removeprefix(f"{OPEN}\n") if opened else trace["response"])
    if not traces:
        return []
    plain = {"add_special_tokens": False, "verbose": False}
    first, second = (tokenizer(texts, **plain)["input_ids"] for texts in (prompts, responses))
    return [
        Rendered(trace["id"], p, r, p_ids, [*r_ids, tokenizer.eos_token_id])
        for trace, p, r, p_ids, r_ids in zip(traces, prompts, responses, first, second, strict=True)
    ]


def fault(tokenizer: PreTrainedTokenizerBase, sample: Rendered) -> str:
    """What is wrong with a rendered trace; empty if nothing is."""
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    opened = sample.prompt.endswith(f"{OPEN}\n")
    answer = OPEN * opened + sample.response
    if bos is not None and sample.prompt_ids[:2] == [bos, bos]:
        return "two beginning-of-sequence tokens"
    if answer.count(OPEN) != answer.count(CLOSE):
        return f"{OPEN} is not closed" if answer.count(OPEN) > answer.count(CLOSE) else f"stray {CLOSE}"
    if answer.count(OPEN) > 1 or answer.find(CLOSE) < answer.find(OPEN):
        return f"stray {OPEN} or {CLOSE}"
    if sample.prompt.count(OPEN) - opened != sample.prompt.count(CLOSE):
        return f"stray {OPEN} or {CLOSE} in the prompt"
    if sample.response_ids[-1] != eos or eos in sample.response_ids[:-1]:
        return "the response does not end with the one end-of-sequence token"
    if tokenizer.decode(sample.response_ids[:-1]) != sample.response:
        return "the tokens with a loss are not exactly the response"
    return ""


def lint(tokenizer: PreTrainedTokenizerBase, samples: Sequence[Rendered], where: str) -> None:
    """UserError that counts the malformed among `samples` and names the first."""
    faults = [(sample.id, what) for sample in samples if (what := fault(tokenizer, sample))]
    if faults:
        identity, what = faults[0]
        count = f"{len(faults)} of {len(samples)}"
        raise UserError(f"{where}: {count} rendered traces are malformed; the first, {identity}: {what}")


def coloured(sample: Rendered, eos: str) -> Text:
    """The sample for the terminal, green where there is a loss."""
    return Text.assemble((sample.prompt, "dim"), (sample.response + eos, "green"))
