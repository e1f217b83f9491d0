"""Branch: a student and traces to an expert; experts, the mixture baseline and a student from scratch alike."""

import gc
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from bm.branch import checkpoint, documents, model, own
from bm.branch.adapter import check_adapter
from bm.branch.architecture import check_devices
from bm.branch.data import Part, TraceData
from bm.branch.launch import Job, alone, fewer_fragments, launch
from bm.branch.module import StudentTraining
from bm.branch.objective import Objective
from bm.branch.teacher import check_teacher
from bm.branch.tracking import about
from bm.branch.watch import Watch
from bm.config import Branch, Component, Trainer
from bm.garbage import set_aside
from bm.track import Reference, lineage, tracked


def train(
    student: Path, traces: Sequence[documents.Traces], config: Branch, trainer: Trainer, tracker: Component,
    name: str, key: str, work: Path, part: Part = Part(),  # noqa: B008  # frozen
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune the Hugging Face folder `student` on `traces` into `work`: a model folder and metrics.csv.

    Goes on from `work/checkpoint` if an earlier run was interrupted, to bit-equal weights on CPU. Returns the facts for
    the manifest. `name` and `key` label the run for the tracker. Several ranks are started by `trainer.launch`.
    `part`: only a part of the steps, from the optimiser state that the part before it left.
    UserError if the data or the model does not allow the training, or if a step is not finite.
    """
    check_adapter(config.adapter, trainer.devices * trainer.nodes)
    fewer_fragments()
    job = Job(student, tuple(traces), config, trainer, tracker, name, key, work, part)
    if not alone(trainer):
        return launch(job)
    with set_aside():
        try:
            return run(job)
        finally:
            gc.collect()  # Lightning's trainer, module and optimiser refer to each other: 16 bytes per parameter


def run(job: Job) -> dict[str, Any]:
    """The training itself, on every rank."""
    check_devices(job.trainer)
    for teacher in Objective(job.config, job.traces).folders:
        check_teacher(teacher, job.student)
    state = checkpoint.reached(job.work)
    data = TraceData(job.student, job.traces, job.config, job.work, state.step, job.part)
    module = StudentTraining(job.student, job.config, job.trainer, data)
    with checkpoint.room_on_disk(job.name, job.work), quiet(), ExitStack() as stack:
        run = stack.enter_context(tracked(job.tracker, about(job)))
        run.uses(lineage([job.student, *(traces.path.parent for traces in job.traces)]))
        watch = Watch(job.name, job.work, state, run, stack)
        fit(module, data, job.trainer, watch)
        model.export(module.student, job.student, job.work, job.config.adapter)
        tokenizer, packs = AutoTokenizer.from_pretrained(job.student), data.packs()
        facts = {**watch.facts(module), "tokens_per_domain": documents.realised(data.documents, data.traces, packs),
                 "packing": documents.certificate(data.documents, packs, job.config, tokenizer)}  # fmt: skip
        run.makes([Reference("branch", job.key, job.name)])
        if watch.first:
            checkpoint.remove(job.work)
            documents.remove(job.work)
            own.remove(job.work)
    return facts


def fit(module: StudentTraining, data: TraceData, trainer: Trainer, watch: Watch) -> None:
    """Lightning's loop over the steps; everything that it would do besides, `watch` does."""
    handler = signal.getsignal(signal.SIGINT)
    ranks, sequence = trainer.devices * trainer.nodes, trainer.sequence_parallel
    both = trainer.weight_offload and trainer.accelerator == "gpu"  # ranks exchange tensors of GPUs and of CPU memory
    sharded = ModelParallelStrategy(data_parallel_size=ranks // sequence, tensor_parallel_size=sequence,
                                    process_group_backend="cpu:gloo,cuda:nccl" if both else None)  # fmt: skip
    loop = L.Trainer(
        accelerator=trainer.accelerator, devices=trainer.devices, num_nodes=trainer.nodes,
        strategy=sharded if ranks > 1 else "auto",
        precision="32-true" if ranks > 1 else trainer.precision,  # of a sharded model its own policy takes care
        max_epochs=1, callbacks=[watch], logger=False, use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        loop.fit(module, datamodule=data)
    except SystemExit as end:  # what Lightning makes of Ctrl-C, after which it ignores further ones
        if isinstance(end.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' banners, tips and bars: what a user must know is said by `bm` itself."""
    loud = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loud]
    shown = transformers_logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        for logger in loud:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for logger, level in zip(loud, levels, strict=True):
                logger.setLevel(level)
            if shown:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
