"""The Lightning module: one optimiser step over all of its micro-batches, with one denominator."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import AutoConfig

from bm.branch import model
from bm.branch.architecture import attention_for
from bm.branch.attention import OWN
from bm.branch.compiling import compiled
from bm.branch.data import MicroBatch, TraceData
from bm.branch.moments import check_moments
from bm.branch.objective import Objective
from bm.branch.own import OwnSamples
from bm.branch.parallel import Place, summed
from bm.branch.schedules import rate
from bm.branch.teacher import load_teacher
from bm.config import Branch, Trainer
from bm.errors import UserError


class StudentTraining(L.LightningModule):
    """Training on traces; the loss is the mean over the supervised tokens of the optimiser step."""

    student: model.Student

    def __init__(self, folder: Path, config: Branch, trainer: Trainer, data: TraceData) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.folder, self.config, self.resources, self.data = folder, config, trainer, data
        self.done = 0
        """Optimiser steps so far, over interruptions."""
        self.objective = Objective(config, data.traces)
        self.own: OwnSamples | None = None
        self.last: dict[str, float] = {}
        """What the last step measured: loss, gradient_norm, learning_rate."""

    def configure_model(self) -> None:
        if not hasattr(self, "student"):
            self.data.place = Place.on(self.device_mesh) if self.device_mesh else Place()
            folders = [self.folder, *self.objective.folders]
            kinds = [attention_for(AutoConfig.from_pretrained(f), self.config, self.resources) for f in folders]
            self.attention, self.data.one_segment = kinds[0], OWN in kinds
            where = self.data.longest_segment(), self.resources, self.device_mesh
            self.student = model.load(self.folder, kinds[0], *where, self.config.adapter)
            if self.resources.compile:
                compiled(self.student)
            register_fsdp_forward_method(self.student, "tell")
            if self.config.own:
                self.own = OwnSamples(self.config.own, self.data, self.student)
                self.data.before = self.own.before
            theirs = zip(folders[1:], kinds[1:], strict=True)
            self.objective.read(self.data.traces, self.data.documents)
            self.objective.teachers = [load_teacher(folder, kind, *where) for folder, kind in theirs]

    def on_fit_start(self) -> None:
        if not self.resources.weight_offload:
            for teacher in self.objective.teachers:
                teacher.to(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What Lightning moves to the device: not offloaded weights, beside which FSDP has taken the buffers there."""
        return self if self.resources.weight_offload else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.config.optimizer(self.student, self.config.learning_rate)
        if self.config.second_moments:
            check_moments(optimizer)
        return optimizer

    def training_step(self, batches: Sequence[MicroBatch], _: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        seed(self.config.seed + self.done, self.device)  # dropout, where a model has it, is a function of the step
        loss, norm = self._gradient(batches)
        learning_rate = self.config.learning_rate * rate(
            self.done, len(self.data.plan), self.config.warmup_ratio, self.config.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if getattr(optimizer, "again", False):
            optimizer.step(lambda: self._gradient(batches)[0].item())
        else:
            optimizer.step()
        optimizer.zero_grad()
        self.done += 1
        self.last = {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": learning_rate}

    def _gradient(self, batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """The step's loss, and its gradient's norm before it was clipped; the gradient is added to what is there."""
        step = self.data.plan[self.done]
        tokens, traces = self.data.documents.supervised(step.packs), sum(map(len, step.packs))
        losses = []
        for share in self.objective.shares(self.student, batches, float(tokens), traces, len(step.packs), step.epoch):
            loss = share()
            self.manual_backward(loss)
            losses.append(loss.detach())
        loss, norm = summed(torch.stack(losses).sum()), clip(self.student, self.config.gradient_clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise UserError(self._blame(batches, losses, loss.item(), norm.item()))
        return loss, norm

    def _blame(self, batches: Sequence[MicroBatch], losses: Sequence[Tensor], loss: float, norm: float) -> str:
        """The traces of the micro-batches whose loss is not finite; of the whole step if only its gradient is not."""
        guilty = [list(b.documents) for b, part in zip(batches, losses, strict=True) if not torch.isfinite(part)]
        everywhere: list[list[list[int]]] = [guilty]
        if dist.is_initialized():
            everywhere = [[]] * dist.get_world_size()
            dist.all_gather_object(everywhere, guilty)
        documents = sorted({i for rank in everywhere for batch in rank for i in batch})
        documents = documents or [i for pack in self.data.plan[self.done].packs for i in pack]
        named = ", ".join(self.data.documents.ids[documents[:8]])
        more = f" and {len(documents) - 8} more" if len(documents) > 8 else ""
        return (
            f"step {self.done + 1}: loss {loss:.3g}, gradient norm {norm:.3g}; its traces: {named}{more}. "
            "Look at them, or lower branch.learning_rate"
        )


def seed(number: int, device: torch.device) -> None:
    """As `torch.manual_seed`, which on a machine without a GPU takes 4 ms to note the call for later, stack and all."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def clip(module: nn.Module, largest: float) -> Tensor:
    """Scale the gradient to a norm of at most `largest`, over all parameters and ranks; returns the norm before."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if norm > largest:
        nn.utils.clip_grads_with_norm_(module.parameters(), largest, norm)
    return norm
