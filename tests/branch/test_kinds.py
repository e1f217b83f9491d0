"""Every kind of run on two and on four ranks: it ends with the expert that one process trains."""

import json
import os
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bm.branch import Traces, train
from bm.branch.launch import FACTS, Job
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_training import rows
from tests.forked import Forked, request

EACH = """
import sys
from pathlib import Path
from bm.branch.__main__ import rank

for job in sys.argv[1:]:
    rank(Path(job))
"""
"""Whole trainings one after the other, each with a mesh and a model of its own; the ranks meet once."""
TOLERANCE = {"32-true": (1e-5, 1e-4), "bf16-mixed": (1e-2, 0.1)}
"""Relative error of what a step measures, and of the change of the weights: Adam makes a whole step of a tiny gradient
whose sign is rounding, which bf16 has many of."""
KINDS = list(product((1, 2), TOLERANCE, (0, 16)))
"""Domains, precision and held-out traces of each: what FSDP leaves whole hangs on whether a step's last loss has a
gradient, which held-out losses of one domain have not."""


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "sequence"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_ranks_train_every_kind_as_one_process(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, ranks: int, sequence: int
) -> None:
    alone, together = (
        [job(student, traces, tmp_path, *several, *kind) for kind in KINDS] for several in ((1, 1), (ranks, sequence))
    )
    for of in alone:
        train(of.student, of.traces, of.config, of.trainer, of.tracker, of.name, of.key, of.work)
    words = ["-c", EACH, *(str(of.write()) for of in together)]
    with (log := tmp_path / "log").open("w") as said:
        process = request(str(forked.path), ranks, words, None, os.environ | {"CI": "1"}, [said.fileno()] * 2)
    assert process.wait() == 0, log.read_text()
    for ours, theirs in zip(together, alone, strict=True):
        same(ours.work, theirs.work, student, *TOLERANCE[ours.trainer.precision])


def job(
    student: Path, traces: list[Traces], folder: Path, ranks: int, sequence: int,
    domains: int, precision: str, held_out: int,
) -> Job:  # fmt: skip
    several = {"devices": ranks, "sequence_parallel": sequence, "launch": "forked"} if ranks > 1 else {}
    (work := folder / "-".join(map(str, (ranks, sequence, domains, precision, held_out)))).mkdir()
    resources = trainer(precision=precision, **several)
    config = branch(epochs=1, held_out=held_out)
    return Job(student, tuple(traces[:domains]), config, resources, tracker(), "math", "0123456789abcdef", work)


def same(work: Path, other: Path, student: Path, measured: float, changed: float) -> None:
    """Metrics of every step, and what was learned."""
    facts = json.loads((work / FACTS).read_text())
    assert facts["steps"] == len(rows(work)) and facts["final_loss"] == float(rows(work)[-1]["loss"])
    for ours, theirs in zip(rows(work), rows(other), strict=True):
        assert ours["tokens"] == theirs["tokens"] and ours.keys() == theirs.keys()
        for column in ours:
            if column.startswith(("loss", "gradient_norm", "held_out", "cosine")) and theirs[column]:
                assert float(ours[column]) == pytest.approx(float(theirs[column]), rel=measured), (work.name, column)
    start, ours_, theirs_ = (weights(folder) for folder in (student, work, other))
    error = torch.linalg.vector_norm(ours_ - theirs_) / torch.linalg.vector_norm(theirs_ - start)
    assert error < changed, (work.name, error)


def weights(folder: Path) -> torch.Tensor:
    """All weights of a model, as transformers loads it."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
