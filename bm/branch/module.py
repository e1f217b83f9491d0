"""The Lightning module: one optimiser step over all of its micro-batches, with one denominator."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from bm.branch.attention import ISOLATED
from bm.branch.data import MicroBatch, TraceData
from bm.branch.loss import label_loss
from bm.branch.schedules import rate
from bm.config import Branch
from bm.errors import UserError


class Student(nn.Module):
    """A causal language model whose forward pass ends in its share of the step's loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch, denominator: float) -> Tensor:
        """Sum of the micro-batch's token losses over the supervised tokens of the whole step: a scalar, fp32."""
        hidden = self.model.base_model(
            input_ids=batch.ids, position_ids=batch.positions, segments=batch.segments, use_cache=False
        ).last_hidden_state[0]
        weight = self.model.get_output_embeddings().weight
        return label_loss(hidden[batch.labelled], weight, batch.targets, denominator)


class Sft(L.LightningModule):
    """Supervised fine-tuning by AdamW; the loss is the mean over the supervised tokens of the optimiser step."""

    def __init__(self, folder: Path, config: Branch, data: TraceData) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config, self.data, self.done = config, data, 0
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=ISOLATED)
        self.student = Student(model).train()
        self.last: dict[str, float] = {}
        """Of the step that was just taken: loss, gradient_norm, learning_rate."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(self.student.parameters(), lr=config.learning_rate, betas=config.betas, eps=config.eps,
                                 weight_decay=config.weight_decay, fused=True)  # fmt: skip

    def training_step(self, batches: Sequence[MicroBatch], _: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        torch.manual_seed(self.config.seed + self.done)  # dropout, where a model has it, is a function of the step
        denominator = float(sum(len(batch.targets) for batch in batches))
        losses = []
        for batch in batches:
            loss = self.student(batch, denominator)
            self.manual_backward(loss)
            losses.append(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), self.config.gradient_clip)
        loss = torch.stack(losses).sum()
        self._check(batches, losses, norm)
        learning_rate = self.config.learning_rate * rate(
            self.done, len(self.data.plan), self.config.warmup_ratio, self.config.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
        self.done += 1
        self.last = {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": learning_rate}

    def _check(self, batches: Sequence[MicroBatch], losses: Sequence[Tensor], norm: Tensor) -> None:
        """UserError that names the documents if a loss or the gradient's norm is not finite."""
        if torch.isfinite(norm) and all(torch.isfinite(loss) for loss in losses):
            return
        guilty = [b for b, loss in zip(batches, losses, strict=True) if not torch.isfinite(loss)] or batches
        names = [self.data.documents.ids[i] for batch in guilty for i in batch.documents]
        what = f"loss {torch.stack(list(losses)).sum().item():.3g}, gradient norm {norm.item():.3g}"
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise UserError(
            f"step {self.done + 1} is not finite ({what}); its traces: {', '.join(names[:8])}{more}. "
            "Look at them, or lower branch.learning_rate"
        )
