"""A key-value cache that grows by a quarter: appending one token mostly copies one token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 16
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


def selected(cache: DynamicCache, config: PreTrainedConfig, rows: Tensor) -> DynamicCache:
    """A new cache of some rows of another one, which stays as it is; both grow everywhere."""
    new = growing_cache(config)
    for layer, held in zip(_layers(new), _layers(cache), strict=True):
        layer.lazy_initialization(held.keys, held.values)
        layer._show((held.keys[rows], held.values[rows]), held.keys.shape[2])
    return new


Part = tuple[DynamicCache, Tensor, Tensor]
"""A cache, which of its rows to take, and the row that each becomes."""


def aligned(parts: Sequence[Part], config: PreTrainedConfig, shared: int) -> DynamicCache:
    """One cache of several that hold prompts of other lengths: tokens at the right end, a gap behind what all share.

    shared: tokens that all begin with. What stands in the gap must be masked.
    """
    rows = sum(len(to) for _, _, to in parts)
    width = max(cache.get_seq_length() for cache, _, _ in parts)
    whole = growing_cache(config)
    for place, layer in enumerate(_layers(whole)):
        first = _layers(parts[0][0])[place].keys
        shape = (rows, first.shape[1], width + ROOM, first.shape[3])
        layer.lazy_initialization(first, first)
        buffers = first.new_zeros(shape), first.new_zeros(shape)
        for cache, taken, to in parts:
            held = _layers(cache)[place]
            own = held.keys.shape[2] - shared
            for buffer, states in zip(buffers, (held.keys, held.values), strict=True):
                buffer[to, :, :shared] = states[taken, :, :shared]
                buffer[to, :, width - own : width] = states[taken, :, shared:]
            held._show((held.keys[:0], held.values[:0]), 0)  # its memory is free for the next layer's
        layer._show(buffers, width)
    return whole


def _layers(cache: DynamicCache) -> list[GrowingLayer]:
    """The layers of a cache that grows everywhere."""
    return [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]


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
