"""Models kept on the way of one training, and what is measured of models beside each other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bm.branch import FACTS, Traces, barrier, rung
from bm.errors import UserError
from tests.branch.conftest import branch, trainer
from tests.branch.test_training import rows, trained, weights

CONSTANT = {"schedule": "constant", "warmup_ratio": 0.0}


def test_a_model_kept_on_the_way_is_that_of_a_shorter_training(
    student: Path, traces: list[Traces], tmp_path: Path
) -> None:
    """At a constant rate, to the bit: weights, facts and the rows of metrics.csv but their times."""
    whole = trained(student, traces, tmp_path / "whole", branch(epochs=2, keep=[0.5, 1], **CONSTANT))
    for epochs in (0.5, 1):
        alone = trained(student, traces, tmp_path / f"{epochs}", branch(epochs=epochs, **CONSTANT))
        kept = rung(tmp_path / "whole", epochs)
        assert all(torch.equal(tensor, weights(kept)[name]) for name, tensor in weights(tmp_path / f"{epochs}").items())
        facts = json.loads((kept / FACTS).read_text())
        for name in ("steps", "tokens", "supervised_tokens", "flops", "final_loss"):
            assert facts[name] == alone[name]
        assert [r["loss"] for r in rows(kept)] == [r["loss"] for r in rows(tmp_path / f"{epochs}")]
        AutoModelForCausalLM.from_pretrained(kept)
    undisturbed = trained(student, traces, tmp_path / "undisturbed", branch(epochs=2, **CONSTANT))
    assert all(torch.equal(t, weights(tmp_path / "whole")[n]) for n, t in weights(tmp_path / "undisturbed").items())
    assert whole["tokens"] == undisturbed["tokens"]


def test_only_what_is_kept_can_be_taken() -> None:
    with pytest.raises(UserError, match=r"no model is kept after 1\.5 epochs, but after 0\.5, 1, 2"):
        branch(epochs=2, keep=[0.5, 1], at=1.5)
    with pytest.raises(UserError, match="after 2 epochs nothing is left to train of 2"):
        branch(epochs=2, keep=[0.5, 2])
    assert branch(epochs=2, keep=[0.5], at=2).at == 2


def test_an_expert_and_a_mixture_hold_out_the_same_traces(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """So that what is measured there was seen by neither: the loss watched in training is that measured afterwards."""
    config = branch(epochs=1, held_out=4)
    expert, mixture = tmp_path / "expert", tmp_path / "mixture"
    trained(student, traces[1:], expert, config)
    trained(student, traces, mixture, config)
    models, work = {"science": expert, "mixture": mixture}, tmp_path / "work"
    work.mkdir()
    facts = barrier(models, student, [], traces, 3, config, trainer(), work)
    measured = json.loads((work / "losses.json").read_text())["models"]
    assert facts["held_out"] == 8
    for name, folder in models.items():
        watched = float(rows(folder)[-1]["held_out_science"])
        assert measured[name]["losses"]["science"] == pytest.approx(watched, rel=1e-5)


def test_losses_on_the_line_between_two_experts(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    """The middle of the line is the average of the weights; distances are relative to the student's length."""
    config = branch(epochs=4, held_out=4)
    experts = {name: tmp_path / name for name in ("math", "science")}
    for source, folder in zip(traces, experts.values(), strict=True):
        trained(student, [source], folder, config)
    (middle := tmp_path / "middle").mkdir()
    for file in experts["math"].iterdir():
        (middle / file.name).write_bytes(file.read_bytes())
    math, science = (load_file(folder / "model.safetensors") for folder in experts.values())
    save_file({n: (t + science[n]) / 2 for n, t in math.items()}, middle / "model.safetensors", {"format": "pt"})
    (work := tmp_path / "work").mkdir()
    barrier({**experts, "middle": middle}, student, list(experts), traces, 1, config, trainer(), work)
    measured = json.loads((work / "losses.json").read_text())
    (line,) = measured["lines"]
    assert line["experts"] == ["math", "science"]
    (point,) = line["losses"]
    assert point == pytest.approx(measured["models"]["middle"]["losses"], rel=1e-5)
    start = load_file(student / "model.safetensors")
    far = sum((math[n].double() - t.double()).square().sum() for n, t in start.items()) ** 0.5
    length = sum(t.double().square().sum() for t in start.values()) ** 0.5
    assert measured["models"]["math"]["distance"] == pytest.approx(float(far / length), rel=1e-6)
