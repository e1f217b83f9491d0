"""The engine that needs transformers alone: one prefill for all samples of a prompt, rows leave as they finish."""

from collections.abc import Container, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bm.code import code_version
from bm.errors import UserError
from bm.generate.cache import Part, aligned, growing_cache, grows_everywhere, selected
from bm.generate.draw import Repetition, draw, stream, uniforms
from bm.generate.ensemble import load_ensemble
from bm.generate.generation_config import repetition_penalty
from bm.generate.members import members
from bm.generate.samples import PLAIN, Message, Sample, Sampling, Thinking
from bm.generate.text import Text, fitted, model_folder
from bm.generate.weights import load_model

STOP_CHECK = 16
"""Steps between two looks for stop strings. What is written past one is cut off, so this changes time alone."""

CACHE = {"cpu": 2 << 30, "cuda": 16 << 30}
"""Bytes of keys and values that a batch may come to at most: rows are few where a model or its responses are long."""

COMPACT = 7 / 8
"""Rows that ended leave the batch when no more than this share goes on: leaving copies the cache of all others."""

PADDING = 256
"""Tokens of padding that one forward pass of prompts has at most: about what a pass costs beside its tokens."""

LOGITS = 1 << 28
"""Logits of continuations made at a time: 1 GiB in float32."""

SCORED = {"cpu": 64}
"""Continuations scored together at most, where more of them would only leave the processor's cache."""

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def check_device(device: str) -> None:
    """UserError where this machine has no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device=cuda: this machine has no such device; take engine.device=auto")


def load(folder: Path, dtype: str, device: str) -> Loaded:
    """Model and tokenizer of a Hugging Face folder or of an ensemble, on a device; UserError if it cannot be read."""
    check_device(device)
    tokenizer = model_folder(folder)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if members(folder):
        return load_ensemble(folder, dtype, place), tokenizer
    return load_model(folder, dtype).to(place), tokenizer  # type: ignore[arg-type]  # the library's `to` has no type


class TransformersEngine:
    """Holds the model in evaluation mode; `batch` is the number of rows decoded together at most, as far as `CACHE`."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int, thinking: Thinking = PLAIN
    ) -> None:
        if "past_key_values" not in signature(model.forward).parameters:  # and others swallow it: each token alone
            raise UserError(
                f"{model.config.model_type}: keeps a state where others keep keys and values, which the engine "
                "transformers cannot decode with; take the engine vllm or a server"
            )
        self.model, self.tokenizer, self.batch, self.thinking = model, tokenizer, batch, thinking
        model.train(False)
        self.penalty = repetition_penalty(model.generation_config, tokenizer.name_or_path or "the model")
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.ends = {*ends, tokenizer.eos_token_id} - {None}
        self._text = Text(tokenizer, thinking)
        self.context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)

        self.shares = grows_everywhere(growing_cache(model.config))
        """Whether every layer sees all tokens, so that a prompt's cache serves whatever follows it."""
        self._try()

    @torch.inference_mode()
    def _try(self) -> None:
        """UserError unless the model can be decoded with here, which one token tells."""
        try:
            self._rows(1)
            _Decoding(self.model, [[0]], [0])
        except UserError:
            raise
        except Exception as problem:  # whatever its code or its cache objects to
            said = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise UserError(
                f"{self.model.config.model_type}: the engine transformers cannot decode with it ({said}); "
                "take the engine vllm or a server"
            ) from problem

    def facts(self) -> dict[str, Any]:
        return {"engine": "transformers", "version": transformers.__version__, "torch": torch.__version__,
                "dtype": str(self.model.dtype).removeprefix("torch."), "device": self.model.device.type,
                "parallelism": 1, "attention": self.model.config._attn_implementation,
                "gpus": int(self.model.device.type == "cuda"), **self.thinking.facts()}  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {**self.facts(), "code": code_version(("bm.generate.engines:transformers",))}

    def render(self, messages: Sequence[Message]) -> str:
        return self._text.render(messages)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """Longest prompts first, so that what does not fit in memory fails at once. See `Engine.generate`."""
        fits = [self._fitted(prompt, sampling) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda p: -len(fits[p][0]))
        rows = [(p, i) for p in order for i in range(sampling.n) if (p, i) not in known]
        while rows:
            size = self._rows(len(fits[rows[0][0]][0]) + sampling.max_new_tokens)
            asked, rows = rows[:size], rows[size:]
            yield self._batch(prompts, fits, asked, sampling)

    @torch.inference_mode()
    def likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score (prompt, continuation) in tokens: log p(continuation | prompt), and whether greedy decoding writes it.

        Neither may be empty. A prompt is computed once for all its continuations. Of what exceeds the context the
        beginning is left out.
        """
        whole = [(*prompt, *rest) for prompt, rest in pairs]
        begins = [each[-(self.context + 1) : -len(rest)] for each, (_, rest) in zip(whole, pairs, strict=True)]
        order = sorted(range(len(pairs)), key=lambda k: (-len(begins[k]), begins[k]))
        scores: dict[int, tuple[float, bool]] = {}
        while order:
            longest = max(len(pairs[k][1]) for k in order)
            most = LOGITS // (longest * self.model.config.get_text_config().vocab_size)
            most = min(most, SCORED.get(self.model.device.type, self.batch))
            size = max(1, min(most, self._rows(len(begins[order[0]]) + longest)))
            asked, order = order[:size], order[size:]
            scored = self._likelihoods([list(begins[k]) for k in asked], [pairs[k][1] for k in asked])
            scores.update(zip(asked, scored, strict=True))
        return [scores[k] for k in range(len(pairs))]

    def _likelihoods(self, begins: Sequence[list[int]], ends: Sequence[list[int]]) -> list[tuple[float, bool]]:
        """The same of one batch: a prefill gives the logits of first tokens, one more pass those of all others."""
        row = {prompt: k for k, prompt in enumerate(dict.fromkeys(map(tuple, begins)))}
        rows = [row[tuple(begin)] for begin in begins]
        decoding, device = _Decoding(self.model, [list(prompt) for prompt in row], range(len(row))), self.model.device
        heads = torch.tensor([end[:1] for end in ends], device=device)
        chosen, greedy = (x[:, 0].tolist() for x in _told(decoding.logits[rows][:, None], heads))
        further = [k for k, end in enumerate(ends) if len(end) > 1]
        if further:
            width = max(map(len, ends))
            padded = torch.tensor([ends[k] + [0] * (width - len(ends[k])) for k in further], device=device)
            decoding.keep([rows[k] for k in further])
            more, same = (x.tolist() for x in _told(decoding.extend(padded[:, :-1]), padded[:, 1:]))
            for place, k in enumerate(further):
                own = len(ends[k]) - 1
                chosen[k] += sum(more[place][:own])
                greedy[k] = greedy[k] and all(same[place][:own])
        return list(zip(chosen, greedy, strict=True))

    def _rows(self, length: int) -> int:
        """Rows of a batch whose longest comes to `length` tokens."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize
        most = CACHE.get(self.model.device.type, CACHE["cpu"]) // (token * min(length, self.context))
        return int(max(1, min(self.batch, most)))

    def _fitted(self, prompt: str, sampling: Sampling) -> tuple[list[int], int]:
        """A prompt's tokens as far as they fit, and how many were left out; UserError for an empty prompt."""
        tokens, left_out = fitted(self._text.encode(prompt), self.context, sampling.max_new_tokens)
        if not tokens:
            raise UserError("a prompt of 0 tokens cannot be answered")
        return tokens, left_out

    def _batch(
        self,
        prompts: Sequence[str],
        fits: Sequence[tuple[list[int], int]],
        asked: Sequence[tuple[int, int]],
        sampling: Sampling,
    ) -> list[Sample]:
        """All of `asked` (prompt, index) decoded together; fits: each prompt's tokens, and how many are left out."""
        tokens = [kept for kept, _ in fits]
        streams = np.array([stream(sampling.seed, prompts[p], i) for p, i in asked], np.uint64)
        rooms = [min(sampling.max_new_tokens, self.context - len(tokens[p])) for p, _ in asked]
        written: list[list[int]] = [[] for _ in asked]
        finished = [False] * len(asked)
        held = list(range(len(asked)))  # rows that the decoding holds; those that ended leave it some at a time
        forced: dict[int, list[int]] = {}  # tokens that a row must have next: the end of a thought over its budget
        decoding = _Decoding(self.model, tokens, [p for p, _ in asked])
        penalty = self.penalty if sampling.repetition_penalty is None else sampling.repetition_penalty
        repetition = Repetition(penalty, [tokens[p] for p, _ in asked], decoding.logits) if penalty != 1 else None
        for step in range(max(rooms)):
            uniform = torch.from_numpy(uniforms(streams[held], step)).to(self.model.device)
            logits = repetition(decoding.logits) if repetition else decoding.logits
            drawn = draw(logits, uniform, sampling.temperature, sampling.top_p)
            if step == self.thinking.budget:
                forced = {row: self._text.ending(tokens[asked[row][0]], written[row]) for row in held}
            drawn = _dictated(drawn, [forced.get(row, []) for row in held])
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
                if repetition:
                    repetition.keep(live)
            if repetition:
                repetition.add(drawn)
            decoding.step(drawn)
        return [self._text.sample(p, i, written[row], finished[row], sampling.stop, fits[p][1])
                for row, (p, i) in enumerate(asked)]  # fmt: skip


class _Decoding:
    """The model's state over a batch: left-padded prompts, cache, and the logits of each row's next token."""

    logits: Tensor
    """[rows, V]"""

    def __init__(self, model: PreTrainedModel, tokens: Sequence[list[int]], prompts: Sequence[int]) -> None:
        """Prefill each distinct prompt once, those of like length together, and what all begin with once.

        prompts: [rows], the prompt of each row.
        """
        distinct = list(dict.fromkeys(prompts))
        self._model, self._cache, device = model, growing_cache(model.config), model.device
        growing = grows_everywhere(self._cache)
        start = _shared([tokens[p] for p in distinct]) if growing else 0
        if start:
            shared = torch.tensor([tokens[distinct[0]][:start]], device=device)
            self._forward(shared, torch.ones_like(shared), torch.arange(start, device=device)[None])
        rest = {p: tokens[p][start:] for p in distinct}
        groups = _alike(rest) if growing else [distinct]
        prefix, parts, width = self._cache, list[Part](), max(map(len, rest.values()))
        self._mask = torch.zeros(len(prompts), start + width, dtype=torch.long, device=device)
        self._mask[:, :start] = 1
        self._positions = torch.tensor([len(tokens[p]) for p in prompts], device=device)
        logits: list[Tensor] = []
        for group in groups:
            if start:
                self._cache = selected(prefix, model.config, torch.zeros(len(group), dtype=torch.long, device=device))
            elif len(groups) > 1:
                self._cache = growing_cache(model.config)
            self._prefill([rest[p] for p in group], start)
            place = {p: k for k, p in enumerate(group)}
            to = torch.tensor([row for row, p in enumerate(prompts) if p in place], device=device)
            taken = torch.tensor([place[p] for p in prompts if p in place], device=device)
            parts.append((self._cache, taken, to))
            logits.append(self.logits[taken])
        for row, p in enumerate(prompts):
            self._mask[row, start + width - len(rest[p]) :] = 1
        if len(parts) == 1:
            self._cache.batch_select_indices(parts[0][1])
        else:
            self._cache = aligned(parts, model.config, start)
        self.logits = torch.cat(logits)[torch.cat([to for _, _, to in parts]).argsort()]

    def _prefill(self, rest: Sequence[list[int]], start: int) -> None:
        """One forward pass of prompts, without the `start` tokens that the cache holds."""
        width = max(map(len, rest))
        ids = torch.tensor([[0] * (width - len(r)) + r for r in rest], device=self._model.device)
        lengths = torch.tensor([len(r) for r in rest], device=self._model.device)
        mask = (torch.arange(width, device=self._model.device) >= width - lengths[:, None]).long()
        mask = torch.cat([mask.new_ones(len(rest), start), mask], 1)
        self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)[:, start:])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._select(torch.tensor(rows, device=self._mask.device))

    def step(self, drawn: Tensor) -> None:
        """Append a token to each row; drawn: [rows] int64."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(drawn), 1)], 1)
        self._forward(drawn[:, None], self._mask, self._positions[:, None])
        self._positions = self._positions + 1

    def extend(self, ids: Tensor) -> Tensor:
        """Append the same number of tokens to each row, [rows, n]; the logits behind each of them, [rows, n, V]."""
        mask = torch.cat([self._mask, self._mask.new_ones(ids.shape)], 1)
        positions = self._positions[:, None] + torch.arange(ids.shape[1], device=ids.device)
        return self._forward(ids, mask, positions, ids.shape[1])

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, keep: int = 1) -> Tensor:
        out = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache,
                          use_cache=True, logits_to_keep=keep)  # fmt: skip
        logits: Tensor = out.logits
        self.logits = logits[:, -1]
        if not torch.isfinite(logits).all():
            raise UserError("the model's logits are not finite: its weights are damaged")
        return logits

    def _select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask, self._positions, self.logits = self._mask[rows], self._positions[rows], self.logits[rows]


def _told(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's log-probability, [rows, n], by logits [rows, n, V], and whether it is the likeliest."""
    chosen = logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen, logits.argmax(-1) == tokens


def _alike(prompts: Mapping[int, list[int]]) -> list[list[int]]:
    """Prompts in groups of like length, longest first: padding within one costs less than another forward pass."""
    groups: list[list[int]] = []
    padding = longest = 0
    for p in sorted(prompts, key=lambda p: -len(prompts[p])):
        padding += longest - len(prompts[p])
        if not groups or padding > PADDING:
            groups.append([])
            padding, longest = 0, len(prompts[p])
        groups[-1].append(p)
    return groups


def _dictated(drawn: Tensor, forced: Sequence[list[int]]) -> Tensor:
    """drawn: [rows], with the first of the tokens that a row must have in place of its own; it is taken off."""
    if not any(forced):
        return drawn
    told = torch.tensor([tokens.pop(0) if tokens else -1 for tokens in forced], device=drawn.device)
    return torch.where(told < 0, drawn, told)


def _shared(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with, a system prompt above all; every prompt keeps one of its own."""
    first, last = min(prompts), max(prompts)  # in their order these two share what all share
    return next((i for i, (a, b) in enumerate(zip(first[:-1], last, strict=False)) if a != b), len(first) - 1)
