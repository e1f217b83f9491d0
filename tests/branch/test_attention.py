"""Isolated attention against each document alone under an explicit mask."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bm.branch import Traces, attention, train
from bm.branch.attention import Segments, flash_varlen, isolated, sdpa_varlen
from bm.branch.launch import FACTS, Job
from tests.branch import flash_attn
from tests.branch.conftest import branch, tracker, trainer
from tests.forked import Forked

ROOT = Path(__file__).parents[2]


def heads(total: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(total)
    return tuple(torch.randn(1, n, total, 8, dtype=dtype, requires_grad=True) for n in (4, 2, 2))  # type: ignore[return-value]


def reference(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], window: int | None) -> Tensor:
    """Softmax over an explicit block mask: [1, T, heads, D]."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    behind = place[:, None] - place
    allowed = (document[:, None] == document) & (behind >= 0) & (behind < (window or sum(lengths)))
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3) * 0.3).masked_fill(~allowed, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 23), min_size=1, max_size=6), st.sampled_from([None, 1, 4, 7, 50]))
def test_equals_the_masked_softmax(lengths: list[int], window: int | None) -> None:
    q, k, v = heads(sum(lengths))
    ours, nothing = isolated(
        nn.Identity(), q, k, v, None, segments=Segments.of(lengths), scaling=0.3, sliding_window=window
    )
    expected = reference(q, k, v, lengths, window)
    assert nothing is None
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)
    weight = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_a_token_of_another_document_changes_nothing() -> None:
    q, k, v = heads(20, torch.float32)
    segments = Segments.of([8, 12])
    before = isolated(nn.Identity(), q, k, v, None, segments=segments)[0]
    with torch.no_grad():
        k[:, :, :8], v[:, :, :8] = 100.0, 100.0
    assert torch.equal(before[:, 8:], isolated(nn.Identity(), q, k, v, None, segments=segments)[0][:, 8:])


def test_no_mask_over_the_pack_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long pack of short documents: no tensor with the square of its tokens exists."""
    seen: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **more: object) -> Tensor:
        seen.append(0 if attn_mask is None else attn_mask.numel())
        return plain(q, k, v, attn_mask=attn_mask, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("bm.branch.attention.scaled_dot_product_attention", spy)
    q, k, v = heads(4000, torch.float32)
    sdpa_varlen(q, k, v, Segments.of([1000] * 4), 0.3, 0.0, 64)
    assert max(seen) <= 64 * 127
    sdpa_varlen(q, k, v, Segments.of([1000] * 4), 0.3, 0.0, None)
    assert seen[-4:] == [0] * 4


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine seems to have flash-attn: its stand-in refuses what the kernel refuses.

    What can be trained is found out on the CPU, where the kernel is not.
    """
    monkeypatch.setattr("bm.branch.module.attention_for", lambda *_: attention.ISOLATED)
    monkeypatch.setitem(sys.modules, "flash_attn", flash_attn)
    monkeypatch.setattr(attention, "kernel", lambda device: attention.FLASH)
    monkeypatch.setattr(attention, "version", lambda package: "2.8.3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_flash_attention_gives_back_the_dtype_that_it_got(flash: None, dtype: torch.dtype) -> None:
    q, k, v = heads(52, dtype)
    segments = Segments.of([9, 30, 13])
    ours, _ = isolated(nn.Identity(), q, k, v, None, segments=segments, scaling=0.3)
    assert ours.dtype == dtype
    expected = sdpa_varlen(q, k, v, segments, 0.3, 0.0, None).transpose(1, 2)
    torch.testing.assert_close(ours, expected, rtol=3e-2, atol=3e-2)
    assert all(x.dtype == dtype for x in torch.autograd.grad(ours.float().sum(), (q, k, v)))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_process_trains_with_flash_attention(
    flash: None, student: Path, traces: list[Traces], tmp_path: Path, precision: str
) -> None:
    """The proof of isolation runs outside autocast, where queries are fp32."""
    for name in ("flash", "sdpa"):
        (tmp_path / name).mkdir()
    settings = branch(epochs=1), trainer(precision=precision), tracker(), "math", "k"
    facts = train(student, traces, *settings, tmp_path / "flash")
    assert facts["attention"] == "isolated segments by FlashAttention 2.8.3"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "kernel", lambda device: attention.SDPA)
        expected = train(student, traces, *settings, tmp_path / "sdpa")
    assert facts["final_loss"] == pytest.approx(expected["final_loss"], rel=2e-2)


FLASH_RANK = """import sys
from pathlib import Path
from bm.branch import attention, module
from bm.branch.__main__ import rank
from tests.branch import flash_attn

sys.modules["flash_attn"] = flash_attn
module.attention_for = lambda *_: attention.ISOLATED
attention.kernel, attention.version = lambda device: attention.FLASH, lambda package: "2.8.3"
rank(Path(sys.argv[1]))
"""
"""A rank on a machine that seems to have flash-attn, as the fixture makes it of one process."""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "sequence"), [("32-true", 1), ("bf16-mixed", 1), ("bf16-mixed", 2)])
def test_ranks_train_with_flash_attention(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, precision: str, sequence: int
) -> None:
    (work := tmp_path / "flash").mkdir()
    (alone := tmp_path / "sdpa").mkdir()
    resources = trainer(precision=precision, devices=2, sequence_parallel=sequence, launch="forked")
    job = Job(student, tuple(traces), branch(epochs=1), resources, tracker(), "math", "k", work)
    command = [*forked.launch(2).split(), "-c", FLASH_RANK, str(job.write())]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((work / FACTS).read_text())
    assert facts["attention"] == "isolated segments by FlashAttention 2.8.3"
    expected = train(student, traces, branch(epochs=1), trainer(precision=precision), tracker(), "math", "k", alone)
    assert facts["final_loss"] == pytest.approx(expected["final_loss"], rel=3e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and flash-attn")
@pytest.mark.parametrize("window", [None, 16])
def test_flash_attention_agrees(window: int | None) -> None:
    pytest.importorskip("flash_attn")
    lengths = [5, 64, 31]
    q, k, v = (x.detach().cuda().bfloat16() for x in heads(100))
    segments = Segments.of(lengths).to(q.device)
    flash = flash_varlen(q, k, v, segments, 0.3, 0.0, window)
    torch.testing.assert_close(flash, sdpa_varlen(q, k, v, segments, 0.3, 0.0, window), rtol=2e-2, atol=2e-2)
