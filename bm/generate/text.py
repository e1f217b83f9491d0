"""Between text and tokens, the same for every engine that decodes here."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bm.errors import UserError
from bm.generate.samples import Message, Sample, Thinking

REASONING = OPEN, CLOSE = "<think>", "</think>"
"""Tokens that are part of a response's text even where a tokenizer calls them special, as it does all others."""

TEMPLATE = 32
"""Tokens at the end of a prompt among which a chat template's `<think>` is looked for."""


class Text:
    """A tokenizer's prompts and responses."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, thinking: Thinking) -> None:
        self.tokenizer, self.thinking = tokenizer, thinking
        added = tokenizer.added_tokens_decoder.items()
        self._unseen = {token for token, text in added if text.special and str(text) not in REASONING}

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation through the chat template; UserError if there is none or it refuses."""
        name = self.tokenizer.name_or_path
        if not self.tokenizer.chat_template:
            raise UserError(f"{name} has no chat template; set evaluate.chat_template=false")
        begun = messages[-1]["role"] == "assistant"
        try:
            prompt = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tokenize=False,
                add_generation_prompt=not begun,
                continue_final_message=begun,
                **self.thinking.template(),
            )
        except TemplateError as problem:
            raise UserError(f"the chat template of {name} refuses: {problem}") from problem
        return str(prompt)

    def encode(self, prompt: str) -> list[int]:
        """Tokens of a prompt, with the tokenizer's own prefix unless a chat template wrote it (lm-eval's rule)."""
        bos = self.tokenizer.bos_token
        return list(self.tokenizer.encode(prompt, add_special_tokens=not (bos and prompt.startswith(bos))))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode([t for t in tokens if t not in self._unseen], skip_special_tokens=False))

    def sample(
        self, prompt: int, index: int, tokens: Sequence[int], finished: bool, stops: Sequence[str], left_out: int = 0
    ) -> Sample:
        """A response's tokens, the end of the text left out, as a sample that ends before the first stop string."""
        text = self.decode(tokens)
        cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
        return Sample(prompt, index, text[:cut], len(tokens), finished or cut is not None, left_out=left_out)

    def ending(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """The tokens that end a response's thought (`budget forcing`, Muennighoff et al. 2025, arXiv:2501.19393); none
        if it has ended or never begun. tokens: the response so far."""
        said = self.decode(tokens)
        begun = said.lstrip().startswith(OPEN) or self.decode(prompt[-TEMPLATE:]).rstrip().endswith(OPEN)
        if CLOSE in said or not begun:
            return []
        return list(self.tokenizer.encode(f"\n{CLOSE}\n\n", add_special_tokens=False))


def fitted(tokens: list[int], context: int, response: int) -> tuple[list[int], int]:
    """The end of a prompt that leaves room for a response of this many tokens, and how many tokens that leaves out.

    lm-eval's rule. Where a response alone may fill the context, which lm-eval refuses, the prompt has precedence and
    the response ends where the context does.
    """
    most = context - response if response < context else context - 1
    left_out = max(0, len(tokens) - most)
    return tokens[left_out:], left_out


def difference(theirs: Path, ours: Path) -> str:
    """In what two folders number their tokens differently: empty if in nothing."""
    one, other = (model_folder(folder).get_vocab() for folder in (theirs, ours))
    if one == other:
        return ""
    token = min(one.items() ^ other.items(), key=lambda entry: (entry[1], entry[0]))[0]
    where = f"{token!r} is {one.get(token, 'missing')} and {other.get(token, 'missing')}"
    return f"{len(one)} and {len(other)} tokens; {where}"


def model_folder(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face model folder; UserError if it is none."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a model: it has no config.json")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # a damaged tokenizer.json raises a bare Exception out of Rust
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise UserError(f"the tokenizer of {folder} cannot be loaded: {said}") from problem
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up where there are no files
        raise UserError(f"{folder} has no tokenizer; copy tokenizer.json and tokenizer_config.json of the model there")
    return tokenizer
