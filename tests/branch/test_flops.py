"""The count of operations against torch's own counter, and a peak that a matrix product can reach."""

import time
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bm.branch import Traces
from bm.branch.attention import ISOLATED
from bm.branch.flops import Flops, matmul_peak
from bm.branch.model import load
from tests.branch.conftest import branch, trainer
from tests.branch.test_data import prepared


def test_products_are_counted_as_torch_counts_them(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    data, model = prepared(student, traces, branch(), tmp_path), load(student, ISOLATED, 256, trainer(), None)
    packs, flops = data.plan[0].packs, Flops(model.model)
    unknown = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # to the counter: in place
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        for batch in data.batches(packs):
            model(batch, 1.0).backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    lengths = data.documents.lengths[[i for pack in packs for i in pack]]
    pairs, layers, width = (lengths.astype(float) ** 2 / 2).sum(), 2, 32
    attention = 3 * 2 * 2 * pairs * layers * width  # forward and twice backward; q·k and p·v; 2 a pair
    assert flops.step(data.documents, packs, isolate=True) == products + attention
    assert flops.step(data.documents, packs, isolate=False) > products + attention
    assert flops.forward(data.documents, packs, isolate=True) == (products + attention) / 3
    frozen = Flops(model.model.requires_grad_(False))
    assert frozen.step(data.documents, packs, isolate=True) == products * 2 / 3 + attention
    assert frozen.forward(data.documents, packs, isolate=True) == (products + attention) / 3


def test_the_peak_is_plausible_and_measured_once() -> None:
    peak = matmul_peak(torch.device("cpu"), mixed=False)
    assert 1e9 < peak < 1e14
    assert matmul_peak(torch.device("cpu"), mixed=False) == peak


def test_a_busy_machine_does_not_lower_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work of others takes wall time from a product, and none of the time that cores spend on it."""
    product = torch.Tensor.__matmul__

    def waiting(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        time.sleep(0.2)
        return product(a, b)

    undisturbed = matmul_peak.__wrapped__(torch.device("cpu"), mixed=False)
    monkeypatch.setattr(torch.Tensor, "__matmul__", waiting)
    assert matmul_peak.__wrapped__(torch.device("cpu"), mixed=False) > undisturbed / 4
