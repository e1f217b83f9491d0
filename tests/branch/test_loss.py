"""The label-only loss against the plain one."""

from functools import partial

import pytest
import torch
from torch import Tensor

from bm.branch import loss as module
from bm.branch.loss import Head, Loss, chunked_loss
from bm.losses import sft, tokens


def data(labels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(labels)
    hidden, weight = torch.randn(labels, 8, dtype=dtype), torch.randn(17, 8, dtype=dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(17, (labels,))


@pytest.mark.parametrize("labels", [0, 1, 4, 5, 13])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.5, None), (1.0, 3.0), (2.0, 3.0)])
def test_gradients_are_exact(monkeypatch: pytest.MonkeyPatch, labels: int, scale: float, cap: float | None) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    hidden, weight, targets = data(labels, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: chunked_loss(h, Head(w, scale, cap), targets, 7.0), (hidden, weight))


@pytest.mark.parametrize("labels", [5, 700])
def test_equals_cross_entropy(labels: int) -> None:
    hidden, weight, targets = data(labels, torch.float32)
    ours = chunked_loss(hidden, Head(weight), targets, 3.0)
    grads = torch.autograd.grad(2 * ours, (hidden, weight))
    plain = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().t(), targets, reduction="sum") / 3.0
    expected = torch.autograd.grad(2 * plain, (hidden, weight))
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=0)
    for ours_, expected_ in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours_, expected_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("near", [1, 40, 1 << 19])
@pytest.mark.parametrize("loss", [sft, partial(sft)])
def test_half_precision_is_widened_where_it_matters(monkeypatch: pytest.MonkeyPatch, near: int, loss: Loss) -> None:
    """bf16 products, softmax and sums in fp32, whichever way and however many rows at a time: near float64."""
    monkeypatch.setattr(tokens, "NEAR", near)
    monkeypatch.setattr(module, "CHUNK", 64)
    hidden, weight, targets = data(700, torch.bfloat16)
    ours = chunked_loss(hidden, Head(weight), targets, 3.0, loss)
    grads = torch.autograd.grad(ours, (hidden, weight))
    logits = (hidden @ weight.t()).double()  # rounded as ours are
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / 3.0
    expected = torch.autograd.grad(plain, (hidden, weight))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=0)
    for ours_, expected_ in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours_, expected_, rtol=2e-2, atol=2e-2)


def test_scaled_and_capped_logits() -> None:
    """z = cap · tanh(scale · W h / cap), as Gemma 2 caps and Cohere and Granite scale."""
    hidden, weight, targets = data(700, torch.float64)
    logits = 3.0 * torch.tanh(0.5 * hidden @ weight.t() / 3.0)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / 3.0
    torch.testing.assert_close(chunked_loss(hidden, Head(weight, 0.5, 3.0), targets, 3.0), plain, rtol=1e-12, atol=0)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = data(5, torch.float32)
    loss = chunked_loss(hidden * 1e4, Head(weight), targets, 1.0)
    assert torch.isfinite(loss)
    loss.backward()
    assert hidden.grad is not None and torch.isfinite(hidden.grad).all()


def test_half_precision_sums_in_fp32() -> None:
    hidden, weight, targets = data(2000, torch.bfloat16)
    loss = chunked_loss(hidden, Head(weight), targets, 2000.0)
    exact = torch.nn.functional.cross_entropy(hidden.double() @ weight.double().t(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=2e-3, atol=0)


def test_autocast_decides_the_products() -> None:
    hidden, weight, targets = data(300, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_loss(hidden, Head(weight), targets, 300.0)
    loss.backward()
    expected = chunked_loss(hidden.detach().bfloat16(), Head(weight.detach().bfloat16()), targets, 300.0)
    assert torch.equal(loss.detach(), expected) and hidden.grad is not None and hidden.grad.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu() -> None:
    """With liger-kernel installed this is its kernel."""
    hidden, weight, targets = data(700, torch.float32)
    on_gpu = chunked_loss(hidden.cuda(), Head(weight.cuda()), targets.cuda(), 700.0)
    torch.testing.assert_close(on_gpu.cpu(), chunked_loss(hidden, Head(weight), targets, 700.0), rtol=1e-4, atol=1e-5)
