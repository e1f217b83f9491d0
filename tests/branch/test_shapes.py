"""Zeros behind what a CPU multiplies in bf16, so that lengths are few: that they are there, and change nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

from bm.branch import model
from bm.branch.attention import ISOLATED, Segments, isolated
from bm.branch.data import MicroBatch, flat
from bm.branch.loss import Head, chunked_loss
from bm.branch.packing import best_fit_decreasing
from bm.branch.shapes import ROWS, evened, lacking
from tests.branch.conftest import trainer
from tests.branch.test_attention import heads, reference


class Lengths(TorchFunctionMode):
    """Notes the length of each query that is attended with, and the rows of each input of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.linear):
            self.seen.add(args[0].shape[-2])
        if function is torch.mm:
            self.seen.update(args[0].shape[:1])
        return function(*args, **kwargs or {})


def student() -> model.Student:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    made.set_attn_implementation(ISOLATED)
    return model.whole(made, ISOLATED, trainer(), None)


def batches() -> Iterator[MicroBatch]:
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 256, n).astype(np.int32) for n in draw.integers(5, 200, 24)]
    for pack in best_fit_decreasing(np.array([len(d) for d in documents]), 256):
        parts = [documents[i] for i in pack]
        yield flat(parts, [3] * len(parts), [len(p) for p in parts])


def shapes(precision: torch.dtype) -> tuple[set[int], list[float]]:
    """All lengths that a step of each pack multiplies, and its loss."""
    trained = student()
    with Lengths() as lengths, torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = [trained(batch, float(len(batch.targets))).item() for batch in batches()]
    return lengths.seen, losses


def test_few_lengths_in_bf16_and_the_documents_own_in_fp32() -> None:
    """Every length in bf16 is an even one, and the losses are those of fp32 up to bf16's rounding."""
    (even, losses), (own, exact) = shapes(torch.bfloat16), shapes(torch.float32)
    assert all(length % ROWS == 0 for length in even) and len(even) <= 4
    assert len(own) > 20 and not all(length % ROWS == 0 for length in own)
    assert losses == pytest.approx(exact, rel=1e-3)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 2 * ROWS + 3), min_size=1, max_size=4), st.sampled_from([None, 5, ROWS]))
def test_attention_is_that_without_zeros(lengths: list[int], window: int | None) -> None:
    """bf16 against the float64 softmax over an explicit mask, outputs and gradients: within bf16's 2⁻⁸."""
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in heads(sum(lengths)))
    ours, _ = isolated(nn.Identity(), q, k, v, None, segments=Segments.of(lengths), scaling=0.3, sliding_window=window)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = reference(wide[0], wide[1], wide[2], lengths, window)
    torch.testing.assert_close(ours.double(), expected, rtol=2e-2, atol=2e-2)
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weight).sum(), wide)
    for got, want in zip(torch.autograd.grad((ours * weight).sum(), (q, k, v)), theirs, strict=True):
        assert (got.double() - want).norm() <= 2e-2 * want.norm() + 1e-3


@pytest.mark.parametrize("labels", [0, 1, ROWS - 1, ROWS, 700])
def test_the_gradient_of_fp32_weights_stays_fp32(labels: int) -> None:
    """Under autocast the products are rounded; over chunks they are summed in fp32, and not rounded again."""
    torch.manual_seed(labels)
    hidden, weight = torch.randn(labels, 8, requires_grad=True), torch.randn(17, 8, requires_grad=True)
    targets = torch.randint(17, (labels,))
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_loss(hidden, Head(weight), targets, 3.0)
    ours = torch.autograd.grad(loss, (hidden, weight))
    logits = hidden.double() @ weight.double().t()
    exact = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / 3.0
    for got, want in zip(ours, torch.autograd.grad(exact, (hidden, weight)), strict=True):  # in fp32, as their leaves
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=3e-2, atol=3e-2)
    of_weight = ours[1]
    assert labels == 0 or not torch.equal(of_weight, of_weight.bfloat16().float())


def test_only_what_is_multiplied_in_half_precision_on_a_cpu_is_evened() -> None:
    values = torch.ones(2, 3, 5, 7)
    assert evened(values, 2) is values and lacking(values.to("meta", torch.bfloat16), 2) == 0
    assert evened(values.bfloat16(), 2).shape == (2, 3, ROWS, 7)
    with torch.autocast("cpu", torch.bfloat16):
        padded = evened(values, 2)
    assert padded.shape == (2, 3, ROWS, 7) and torch.equal(padded[:, :, :5], values) and not padded[:, :, 5:].any()
