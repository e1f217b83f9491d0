"""Drawing tokens so that a sample depends on its own random stream alone."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CANDIDATES = 256
"""Tokens that a nucleus is looked for among at first: to sort a whole vocabulary takes longer than a small model."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream(seed: int, prompt: str, index: int) -> int:
    """The key of the random stream of a prompt's `index`-th sample: 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{index}\0{prompt}".encode(), digest_size=8).digest(), "little")


def uniforms(streams: NDArray[np.uint64], step: int) -> NDArray[np.float64]:
    """Number `step` of each stream, in [0, 1): the SplitMix64 generator (Steele, Lea and Flood 2014) read at any place.

    streams: [rows] keys; the result: [rows].
    """
    with np.errstate(over="ignore"):
        z = streams + np.uint64(step + 1) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row by the inverse of the cumulative distribution.

    logits: [rows, vocabulary]; uniform: [rows] float64 in [0, 1); the result: [rows] int64. The nucleus is the
    smallest set of tokens whose probability reaches `top_p`, with every token as probable as its last.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probability = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        probability = probability.where(probability >= _last(probability, top_p, CANDIDATES), 0)
    cumulative = probability.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)


def _last(probability: Tensor, top_p: float, candidates: int) -> Tensor:
    """The least probability within each row's nucleus, [rows, 1], by ranking more tokens only where so many are few."""
    candidates = min(candidates, probability.shape[-1])
    ranked = probability.topk(candidates).values
    inside = (ranked.cumsum(-1) - ranked < top_p).sum(-1, keepdim=True)
    last = ranked.gather(-1, inside - 1)
    wider = (inside == candidates).squeeze(-1)
    if candidates < probability.shape[-1] and wider.any():
        last[wider] = _last(probability[wider], top_p, probability.shape[-1])
    return last


class Repetition:
    """The penalty on what a row has had, its prompt and its response (Keskar et al. 2019, arXiv:1909.05858, section
    4.1; for logits of both signs as Hugging Face has it: l / p where l > 0, else l · p)."""

    def __init__(self, penalty: float, rows: Sequence[Sequence[int]], logits: Tensor) -> None:
        """rows: the tokens of each row so far; logits: [rows, vocabulary], for their size and place."""
        self._penalty = penalty
        self._had = torch.zeros_like(logits, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            self._had[row, list(tokens)] = True

    def __call__(self, logits: Tensor) -> Tensor:
        """[rows, vocabulary] → the same shape."""
        penalised = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
        return torch.where(self._had, penalised, logits)

    def add(self, drawn: Tensor) -> None:
        """drawn: [rows] int64, the next token of each row."""
        self._had[torch.arange(len(drawn), device=drawn.device), drawn] = True

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._had = self._had[list(rows)]
