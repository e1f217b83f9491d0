"""Adam's second moment is kept beside an expert: against the gradient that one plain step of descent shows."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bm.branch import MOMENTS, Traces
from bm.errors import UserError
from tests.branch.conftest import branch
from tests.branch.test_training import trained, weights


def test_the_second_moment_is_the_squared_gradient(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """After one step v = (1 − β₂)·g²; a step of SGD without momentum at rate 1 goes by −g, from the same gradient."""
    one_step = {"epochs": 1e-3, "warmup_ratio": 0.0, "schedule": "constant", "learning_rate": 1.0}
    trained(student, traces, tmp_path / "adam", branch(**one_step, second_moments=True))
    plain = branch(**one_step, optimizer="sgd")
    plain.optimizer.parameters["momentum"] = 0.0  # type: ignore[index]
    trained(student, traces, tmp_path / "sgd", plain)
    moments = load_file(tmp_path / "adam" / MOMENTS / "model.safetensors")
    before, after = weights(student), weights(tmp_path / "sgd")
    assert set(moments) == set(after) == set(before)
    for name, moment in moments.items():
        gradient = (before[name] - after[name]).double()
        torch.testing.assert_close(moment.double(), 0.05 * gradient.square(), rtol=1e-3, atol=1e-9)


def test_an_optimizer_without_moments_is_refused(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SGD keeps no second moments of the gradient; take optimizer=adamw"):
        trained(student, traces, tmp_path / "work", branch(optimizer="sgd", second_moments=True))
