"""Branch: a student and traces to an expert; experts, the mixture baseline and a student from scratch alike."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from bm.branch import checkpoint
from bm.branch.data import TraceData, Traces
from bm.branch.module import Sft
from bm.branch.tracking import Tracked
from bm.branch.watch import Watch
from bm.config import Branch, Tracker, Trainer, resolved
from bm.progress import progress


def train(
    student: Path, traces: Sequence[Traces], config: Branch, trainer: Trainer, tracker: Tracker, name: str, key: str, work: Path
) -> dict[str, Any]:
    """Fine-tune the Hugging Face folder `student` on `traces` into `work`: a model folder and metrics.csv.

    Goes on from `work/checkpoint` if an earlier run was interrupted, to bit-equal weights on CPU. Returns the facts for
    the manifest. `name` and `key` label the run for the tracker. UserError if the data or the model does not allow it.
    """
    state = checkpoint.reached(work)
    with quiet():
        data = TraceData(student, traces, config, first=state.step)
        module = Sft(student, config, data)
        tracked = Tracked(tracker, name, key, resolved(config))
        failed = True
        try:
            with progress(name, data.tokens(), "tokens", done=state.tokens) as bar:
                watch = Watch(work, state, tracked, bar)
                fit(module, data, trainer, watch)
            failed = False
        finally:
            tracked.finish(failed)
        module.student.model.save_pretrained(work)
        AutoTokenizer.from_pretrained(student).save_pretrained(work)
    checkpoint.remove(work)
    return {"tokens": watch.state.tokens, "supervised_tokens": watch.state.supervised_tokens, "steps": watch.state.step,
            "final_loss": module.last["loss"], "packing": data.certificate.facts()}  # fmt: skip


def fit(module: Sft, data: TraceData, trainer: Trainer, watch: Watch) -> None:
    """Lightning's loop over the steps; everything that it would do besides, `watch` does."""
    L.Trainer(
        accelerator=trainer.accelerator, devices=trainer.devices, num_nodes=trainer.nodes, precision=trainer.precision,
        max_epochs=1, callbacks=[watch], logger=False, use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(module, datamodule=data)  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' banners, tips and bars: what a user must know is said by `bm` itself."""
    loud = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loud]
    shown = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loud:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
            if shown:
                transformers_logging.enable_progress_bar()
