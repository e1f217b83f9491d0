"""Averages of weights along a training, and SAM: against the same by hand, and the same bytes after a kill."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bm.branch import Traces, checkpoint
from bm.branch.averaging import Averaging
from bm.branch.watch import rung
from bm.errors import UserError
from bm.optimizers import sam
from tests.branch.conftest import branch
from tests.branch.test_training import trained, weights
from tests.conftest import slow


def walk(model: nn.Linear, average: Averaging, steps: int) -> list[torch.Tensor]:
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.copy_(torch.full((2, 2), float(step**2)))
        average.update(step)
        seen.append(model.weight.detach().clone())
    return seen


def test_the_tail_is_the_mean_of_the_last_weights() -> None:
    model = nn.Linear(2, 2, bias=False)
    average = Averaging(branch(tail=0.3), model, 10)
    seen = walk(model, average, 10)
    average.finish(10)
    torch.testing.assert_close(model.weight.detach(), torch.stack(seen[7:]).mean(0))


def test_the_moving_average_forgets_by_its_decay() -> None:
    model = nn.Linear(2, 2, bias=False)
    average = Averaging(branch(ema=0.9), model, 6)
    seen = walk(model, average, 6)
    expected = seen[0]
    for own in seen[1:]:
        expected = 0.9 * expected + 0.1 * own
    with average.in_place(6):
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight.detach(), seen[-1])


def test_an_expert_is_the_mean_of_its_steps(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """The models that a ladder keeps after each step, averaged by hand."""
    plain = trained(student, traces, tmp_path / "plain", branch(epochs=1.0))
    steps = plain["steps"]
    keep = [(k + 0.5) / steps for k in range(steps - 1)]
    trained(student, traces, tmp_path / "kept", branch(epochs=1.0, keep=keep))
    models = [load_file(rung(tmp_path / "kept", e) / "model.safetensors") for e in keep] + [weights(tmp_path / "kept")]
    trained(student, traces, tmp_path / "mean", branch(epochs=1.0, tail=1.0))
    assert len(models) == steps
    for name, value in weights(tmp_path / "mean").items():
        exact = sum(model[name].double() for model in models) / steps
        torch.testing.assert_close(value.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{"ema": 0.8}, slow({"optimizer": "sam"})], ids=["ema", "sam"])
def test_killed_and_gone_on_is_bit_equal(
    settings: dict[str, object], student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(student, traces, tmp_path / "whole", branch(**settings, checkpoint_seconds=1e-9))
    saves, save = [], checkpoint.save

    def killed(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        trained(student, traces, tmp_path / "broken", branch(**settings, checkpoint_seconds=1e-9))
    trained(student, traces, tmp_path / "broken", branch(**settings, checkpoint_seconds=1e-9))
    whole, broken = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_two_averages_are_refused() -> None:
    with pytest.raises(UserError, match="one average at most"):
        branch(ema=0.9, tail=0.5)


def test_sam_steps_by_the_gradient_uphill() -> None:
    """AdamW's step with the gradient at w + ρ·g/‖g‖, computed by hand in float64."""
    torch.manual_seed(0)
    target = torch.randn(5, 3, dtype=torch.float64)
    ours, theirs = (nn.Linear(3, 5, bias=True).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    numbers = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}
    by_sam, by_hand = sam(ours, 1e-2, rho=0.3, **numbers), torch.optim.AdamW(theirs.parameters(), lr=1e-2, **numbers)

    def loss(layer: nn.Linear) -> torch.Tensor:
        return ((layer.weight - target) ** 4).sum() + (layer.bias**2).sum()

    for _ in range(4):
        loss(ours).backward()
        by_sam.step(lambda: loss(ours).backward())
        by_sam.zero_grad()
        w, b = theirs.weight.detach().clone(), theirs.bias.detach().clone()
        gw, gb = 4 * (w - target) ** 3, 2 * b
        norm = (gw.square().sum() + gb.square().sum()).sqrt()
        theirs.weight.grad = 4 * (w + 0.3 * gw / norm - target) ** 3
        theirs.bias.grad = 2 * (b + 0.3 * gb / norm)
        by_hand.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-9, atol=1e-12)
