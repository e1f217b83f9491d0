"""The peak of a process that trains on CPUs: planned within a tenth of what Linux counted in its training."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bm import compose
from bm.branch import ram
from bm.plan import line, plan, remedies
from tests.forked import Forked

LARGE = [
    "recipe=tiny", "domain=[math]", "domains.math.traces=60", "tracker.mode=disabled",
    *(f"student.domains.{domain}.traces=12" for domain in ("math", "coding", "science")),
    *(f"student.build.{name}={value}" for name, value in
      {"hidden": 768, "intermediate": 2304, "layers": 8, "heads": 12, "kv_heads": 12}.items()),
    "student.branch.epochs=0.5", "branch.epochs=1", "branch.held_out=4", "student.branch.held_out=4",
]  # fmt: skip
"""A student of 61 million parameters, whose training holds a gigabyte beside the libraries."""


def peak(forked: Forked, folder: Path, *words: str) -> tuple[float, float]:
    """GiB of the expert's training: as planned, and as it was."""
    before = set(folder.rglob("metrics.csv"))
    assert forked.run(["bm", "branch", *LARGE, *words], cwd=folder) == 0
    assert forked.run(["bm", "plan", *LARGE, *words, "output=PLAN.json"], cwd=folder) == 0
    stages = json.loads((folder / "PLAN.json").read_text())["stages"]
    (planned,) = (s["peak_gib_ram"] for s in stages if (s["stage"], s["label"]) == ("branch", "math"))
    made = max(set(folder.rglob("metrics.csv")) - before, key=lambda file: file.stat().st_mtime_ns)
    *_, last = csv.DictReader(made.open())
    return planned, float(last["memory_gb"]) * 1e9 / 2**30


@pytest.mark.slow
def test_a_training_holds_what_its_plan_says(forked: Forked, tmp_path: Path) -> None:
    """All weights, then an adapter of the same student in a process that trains nothing else."""
    planned, measured = peak(forked, tmp_path)
    assert planned == pytest.approx(measured, rel=0.1)
    adapted, less = peak(forked, tmp_path, "adapter=lora")
    assert adapted == pytest.approx(less, rel=0.1)
    assert less < 0.85 * measured


def test_a_process_counts_its_own_memory() -> None:
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert 64 << 20 < ram.most() < ram.physical()
    with_it = ram.most()
    del held
    assert ram.most() >= with_it - (1 << 20)  # Linux adds up what its cores count now and then


@pytest.mark.slow
def test_what_a_machine_cannot_hold_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bm.plan.estimate.LIBRARIES", 0.0)
    config = compose(*LARGE, "~mixture", "student.build.layers=2")
    parts = (whole := plan(config, []))["stages"]
    peaks = {s["label"]: s["peak_gib_ram"] for s in parts if s["stage"] == "branch"}
    assert peaks["math"] > 0 and all(s["fits"] for s in parts)
    adapted = replace(config, branch=replace(config.branch, adapter=config.plan.adapter))
    (least,) = {
        s["peak_gib_ram"] for s in plan(adapted, [])["stages"] if s["label"] == "math" and s["stage"] == "branch"
    }
    assert least < peaks["math"]
    assert "of RAM" not in line(plan(config, [], quick=True)) and "of RAM" in line(whole)
    monkeypatch.setattr("bm.plan.estimate.physical", lambda: int((least + peaks["math"]) / 2 * 2**30))
    (said,) = (r for r in remedies(plan(config, []), 0) if r.startswith("math (branch)"))
    assert "GiB of RAM, and this machine has" in said
    assert "it would with trainer.activation_checkpointing=full" in said
    assert not any(word in said for word in ("fsdp", "slurm", "nf4", "offload"))
