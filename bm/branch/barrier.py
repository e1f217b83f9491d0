"""Held-out losses of whole models, and along the straight line between two: the barrier that an average has to pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from bm.branch import documents, model
from bm.branch.architecture import attention_for
from bm.branch.attention import OWN
from bm.branch.data import MicroBatch, TraceData
from bm.branch.documents import Traces
from bm.branch.held_out import HeldOut
from bm.config import Branch, Trainer
from bm.progress import progress
from bm.store import write_json

FILE = "losses.json"


def barrier(
    models: Mapping[str, Path], student: Path, experts: Sequence[str], traces: Sequence[Traces], points: int,
    config: Branch, trainer: Trainer, work: Path,
) -> dict[str, Any]:  # fmt: skip
    """Writes losses.json: how well models predict the traces that training with `config` holds out, in nats per token.

    `models`: by name each one's loss on every domain, and how far it went: ‖θ − θ0‖ / ‖θ0‖ from the student θ0.
    `lines`: of each pair of `experts`, the losses at `points` evenly spaced points on the straight line between them
    (Frankle et al. 2020, arXiv 1912.05671, the error barrier). One process measures, whatever trains.
    """
    trainer = replace(trainer, devices=1, nodes=1, sequence_parallel=1, weight_offload=False)
    measure = _Losses(student, traces, config, trainer, work)
    pairs = list(combinations(experts, 2))
    start = measure.tensors(student)
    length = _norm(start)
    told: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    with progress("losses", len(models) + points * len(pairs), "models") as bar:
        for name, folder in models.items():
            tensors = measure.tensors(folder)
            told[name] = {"losses": measure(tensors), "distance": _norm(tensors, start) / length}
            bar.advance(1)
        for first, second in pairs:
            ends = measure.tensors(models[first]), measure.tensors(models[second])
            losses = []
            for point in range(1, points + 1):
                losses.append(measure(_between(*ends, point / (points + 1))))
                bar.advance(1)
            lines.append({"experts": [first, second], "losses": losses})
    write_json(work / FILE, {"models": told, "lines": lines})
    documents.remove(work)
    return {"held_out": measure.count}


class _Losses:
    """The loss on each domain of whatever weights are put into a model of the student's shape."""

    def __init__(self, student: Path, traces: Sequence[Traces], config: Branch, trainer: Trainer, work: Path) -> None:
        data = TraceData(student, traces, config, work)
        data.prepare_data()
        data.setup("")
        kind = attention_for(AutoConfig.from_pretrained(student), config, trainer)
        data.one_segment = kind == OWN
        self.device = torch.device("cuda" if trainer.accelerator == "gpu" else "cpu")
        self._held_out = HeldOut(data)
        self._student = model.load(student, kind, data.longest_segment(), trainer, None).to(self.device).eval()
        self.count = int(data.documents.held_out.sum())

    def tensors(self, folder: Path) -> dict[str, Tensor]:
        """A model's weights by name, fp32."""
        files = sorted(folder.glob("*.safetensors"))
        return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}

    @torch.no_grad()
    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        self._student.model.load_state_dict(tensors, strict=False)  # tied weights have one name
        return {domain: self._loss(domain, batches) for domain, batches in self._held_out.batches.items()}

    def _loss(self, domain: str, batches: Sequence[MicroBatch]) -> float:
        labels = float(self._held_out.labels[domain])
        return float(sum(self._student(batch.to(self.device), labels).item() for batch in batches))


def _between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: torch.lerp(tensor, end[name], share) for name, tensor in start.items()}


def _norm(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor] | None = None) -> float:
    """‖θ‖, or ‖θ − start‖, over all tensors."""
    parts = (tensor if start is None else tensor - start[name] for name, tensor in tensors.items())
    return float(sum(part.double().square().sum().item() for part in parts) ** 0.5)
