"""A key-value cache that grows by a quarter: appending one token mostly copies one token."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of free space that a full buffer gains at least."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # the library's __init_subclass__ has no types
    """`keys` and `values`: [rows, heads, tokens, head size], views of buffers with room at their end."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._show((key_states[:, :, :0], value_states[:, :, :0]), 0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = _grown(self.keys, end), _grown(self.values, end)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self._show(self._buffers, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._show((self._buffers[0][indices], self._buffers[1][indices]), self.keys.shape[2])

    def _show(self, buffers: tuple[Tensor, Tensor], tokens: int) -> None:
        self._buffers = buffers
        self.keys, self.values = buffers[0][:, :, :tokens], buffers[1][:, :, :tokens]


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """The cache that transformers would make for this model, with layers of full attention that grow in place."""
    cache = DynamicCache(config=config)
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[place] = GrowingLayer()  # type: ignore[no-untyped-call]
    return cache


def grows_everywhere(cache: DynamicCache) -> bool:
    """Whether every layer sees all tokens: a sliding window counts places in the cache, so no gap may lie in it."""
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers)


def _grown(held: Tensor, tokens: int) -> Tensor:
    rows, heads, used, size = held.shape
    buffer = torch.empty(rows, heads, max(tokens + ROOM, tokens * 5 // 4), size, dtype=held.dtype, device=held.device)
    buffer[:, :, :used] = held
    return buffer
