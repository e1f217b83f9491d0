"""The engine that needs transformers alone: one prefill for all samples of a prompt, rows leave as they finish."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bm.code import code_version
from bm.errors import UserError
from bm.generate.cache import growing_cache, grows_everywhere
from bm.generate.draw import draw, stream, uniforms
from bm.generate.samples import Message, Sample, Sampling
from bm.generate.text import Text, model_folder
from bm.generate.weights import load_model

STOP_CHECK = 16
"""Steps between two looks for stop strings. What is written past one is cut off, so this changes time alone."""

CACHE = {"cpu": 2 << 30, "cuda": 16 << 30}
"""Bytes of keys and values that a batch may come to at most: rows are few where a model or its responses are long."""

COMPACT = 7 / 8
"""Rows that ended leave the batch when no more than this share goes on: leaving copies the cache of all others."""

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load(folder: Path, dtype: str, device: str) -> Loaded:
    """Model and tokenizer of a Hugging Face folder, on a device; UserError if there is none or it cannot be read."""
    tokenizer = model_folder(folder)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return load_model(folder, dtype).to(place), tokenizer  # type: ignore[arg-type]  # the library's `to` has no type


class TransformersEngine:
    """Holds the model in evaluation mode; `batch` is the number of rows decoded together at most, as far as `CACHE`."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        model.train(False)
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.ends = {*ends, tokenizer.eos_token_id} - {None}
        self._text = Text(tokenizer)
        self.context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)

    def facts(self) -> dict[str, Any]:
        return {"engine": "transformers", "version": transformers.__version__, "torch": torch.__version__,
                "dtype": str(self.model.dtype).removeprefix("torch."), "device": self.model.device.type,
                "parallelism": 1, "attention": self.model.config._attn_implementation,
                "gpus": int(self.model.device.type == "cuda")}  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {**self.facts(), "code": code_version(("bm.generate.engines:transformers",))}

    def render(self, messages: Sequence[Message]) -> str:
        return self._text.render(messages)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """Longest prompts first, so that what does not fit in memory fails at once. See `Engine.generate`."""
        tokens = [self._encoded(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda p: -len(tokens[p]))
        rows = [(p, i) for p in order for i in range(sampling.n) if (p, i) not in known]
        while rows:
            size = self._rows(len(tokens[rows[0][0]]) + sampling.max_new_tokens)
            asked, rows = rows[:size], rows[size:]
            yield self._batch(prompts, tokens, asked, sampling)

    def _rows(self, length: int) -> int:
        """Rows of a batch whose longest comes to `length` tokens."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize
        most = CACHE.get(self.model.device.type, CACHE["cpu"]) // (token * min(length, self.context))
        return int(max(1, min(self.batch, most)))

    def _encoded(self, prompt: str) -> list[int]:
        tokens = self._text.encode(prompt)
        if not 0 < len(tokens) < self.context:
            raise UserError(f"a prompt of {len(tokens)} tokens does not fit the model's context of {self.context}")
        return tokens

    def _batch(
        self, prompts: Sequence[str], tokens: Sequence[list[int]], asked: Sequence[tuple[int, int]], sampling: Sampling
    ) -> list[Sample]:
        """All of `asked` (prompt, index) decoded together."""
        streams = np.array([stream(sampling.seed, prompts[p], i) for p, i in asked], np.uint64)
        rooms = [min(sampling.max_new_tokens, self.context - len(tokens[p])) for p, _ in asked]
        written: list[list[int]] = [[] for _ in asked]
        finished = [False] * len(asked)
        held = list(range(len(asked)))  # rows that the decoding holds; those that ended leave it some at a time
        decoding = _Decoding(self.model, tokens, [p for p, _ in asked])
        for step in range(max(rooms)):
            uniform = torch.from_numpy(uniforms(streams[held], step)).to(self.model.device)
            drawn = draw(decoding.logits, uniform, sampling.temperature, sampling.top_p)
            live = []
            for place, (row, token) in enumerate(zip(held, drawn.tolist(), strict=True)):
                if finished[row] or len(written[row]) == rooms[row]:
                    continue
                if token in self.ends:
                    finished[row] = True
                    continue
                written[row].append(token)
                if sampling.stop and step % STOP_CHECK == 0:
                    finished[row] = any(stop in self._text.decode(written[row]) for stop in sampling.stop)
                if not finished[row] and len(written[row]) < rooms[row]:
                    live.append(place)
            if not live:
                break
            if len(live) <= COMPACT * len(held):
                held, drawn = [held[place] for place in live], drawn[live]
                decoding.keep(live)
            decoding.step(drawn)
        return [self._text.sample(p, i, written[row], finished[row], sampling.stop) for row, (p, i) in enumerate(asked)]


class _Decoding:
    """The model's state over a batch: left-padded prompts, cache, and the logits of each row's next token."""

    def __init__(self, model: PreTrainedModel, tokens: Sequence[list[int]], prompts: Sequence[int]) -> None:
        """Prefill each distinct prompt once, and what all begin with once; prompts: [rows], the prompt of each row."""
        distinct = list(dict.fromkeys(prompts))
        self._model, self._cache = model, growing_cache(model.config)
        start = _shared([tokens[p] for p in distinct]) if grows_everywhere(self._cache) else 0
        rest = [tokens[p][start:] for p in distinct]
        width = max(map(len, rest))
        ids = torch.tensor([[0] * (width - len(r)) + r for r in rest], device=model.device)
        lengths = torch.tensor([len(r) for r in rest], device=model.device)
        mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
        if start:
            shared = torch.tensor([tokens[distinct[0]][:start]], device=model.device)
            self._forward(shared, torch.ones_like(shared), torch.arange(start, device=model.device)[None])
            self._cache.batch_select_indices(torch.zeros(len(rest), dtype=torch.long, device=model.device))
            mask = torch.cat([mask.new_ones(len(rest), start), mask], 1)
        self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)[:, start:])
        self._positions, self._mask = lengths + start, mask
        place = {p: k for k, p in enumerate(distinct)}
        self._select(torch.tensor([place[p] for p in prompts], device=model.device))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._select(torch.tensor(rows, device=self._mask.device))

    def step(self, drawn: Tensor) -> None:
        """Append a token to each row; drawn: [rows] int64."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(drawn), 1)], 1)
        self._forward(drawn[:, None], self._mask, self._positions[:, None])
        self._positions = self._positions + 1

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> None:
        out = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache,
                          use_cache=True, logits_to_keep=1)  # fmt: skip
        self.logits = out.logits[:, -1]
        if not torch.isfinite(self.logits).all():
            raise UserError("the model's logits are not finite: its weights are damaged")

    def _select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._positions, self.logits = self._mask[rows], self._positions[rows], self.logits[rows]


def _shared(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with, a system prompt above all; every prompt keeps one of its own."""
    first, last = min(prompts), max(prompts)  # in their order these two share what all share
    return next((i for i, (a, b) in enumerate(zip(first[:-1], last, strict=False)) if a != b), len(first) - 1)
