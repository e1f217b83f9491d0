"""A teacher's forward pass over a domain's traces, once for all trainings that learn from it (`bm.branch.stored`)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig

from bm.branch import documents as cache
from bm.branch.architecture import attention_for, check_devices
from bm.branch.data import micro_batch, packed
from bm.branch.documents import Documents, Traces
from bm.branch.flops import Flops
from bm.branch.loss import Told, at_a_time
from bm.branch.model import Student, head_of
from bm.branch.stored import HEAD, About, Rows, shard, write
from bm.branch.teacher import check_teacher, load_teacher, tokens
from bm.config import Branch, Trainer
from bm.errors import UserError
from bm.generate import Telling
from bm.ledger import parameters
from bm.progress import progress, quantity, say

SHARD = 256 << 20
"""Bytes of a file of records at most, but for a single trace that has more."""


FLOOR = 1e-7
"""Least probability of all other tokens together: rounding of the likeliest ones can leave less than none."""


@dataclass(frozen=True)
class _Teacher:
    """Who is asked, and what it took."""

    about: About
    rows: Callable[[NDArray[np.int64]], Rows]
    """The records of documents that follow each other."""
    facts: Mapping[str, Any]
    head: Tensor | None = None
    """Beside hidden states, the weight that makes logits of them."""


def tell(student: Path, teacher: Path, traces: Traces, config: Branch, trainer: Trainer, work: Path) -> dict[str, Any]:
    """Store in `work` what `teacher` says at each label of a domain's traces, as `config.stored` asks; returns facts.

    The texts are those that `student` would be trained on with the same settings. Shards that an interrupted run left
    are kept. One device computes it, whatever `trainer` has for training; or an engine, `config.stored_by`. UserError
    where the teacher numbers the student's tokens otherwise, or says what is not finite.
    """
    check_teacher(teacher, student)
    cache.tokenise(student, [traces], config, work)
    documents = cache.load(work)
    asked = (_engine if config.stored_by else _model)(student, teacher, documents, config, trainer)
    about, labels = asked.about, _labels(documents)
    size = quantity(about.labels * about.record.itemsize / 1e9, "GB")
    say(f"{traces.domain}: {about.record.itemsize:,} bytes at each of {about.labels:,} labels of its teacher, {size}")
    if asked.head is not None:
        write(work / HEAD, asked.head.float().cpu().numpy())
    with progress(f"{traces.domain}: teacher", about.labels, "labels") as bar:
        for number, members in enumerate(_groups(documents, max(1, SHARD // about.record.itemsize))):
            if not (file := shard(work, number)).exists():
                write(file, asked.rows(members))
            bar.advance(int(labels[members].sum()))
    about.write(work)
    facts = {"labels": about.labels, "bytes_per_label": about.record.itemsize, "tokens": int(documents.lengths.sum())}
    cache.remove(work)
    return {**facts, **asked.facts}


def _engine(student: Path, teacher: Path, documents: Documents, config: Branch, _: Trainer) -> _Teacher:
    """An engine that tells log-probabilities of texts: vLLM with the teacher's folder, or an endpoint of it."""
    assert config.stored_by is not None and isinstance(config.stored, int)
    engine = config.stored_by(teacher)
    if not isinstance(engine, Telling):
        raise UserError(f"branch.stored_by: the engine {engine.facts()['engine']} does not tell log-probabilities of a "
                        "text; choose vllm or openai, or null for a forward pass in this process")  # fmt: skip
    vocabulary = tokens(student)
    about = About(int(_labels(documents).sum()), vocabulary, min(config.stored, vocabulary))
    read, price = int(documents.lengths.sum()), getattr(engine, "price", None)
    facts: dict[str, Any] = {"engine": engine.facts(), "flops": 2.0 * parameters(teacher) * read}
    facts |= {"cost": price.of(read, len(documents.lengths))} if price else {}
    return _Teacher(about, partial(_told, engine, documents, about), facts)


def _told(engine: Telling, documents: Documents, about: About, members: NDArray[np.int64]) -> Rows:
    """The records of some documents by an engine."""
    texts = [(documents.tokens[documents.starts[i] :][: documents.lengths[i]].tolist(), int(documents.prompts[i]))
             for i in members]  # fmt: skip
    labels, k = _labels(documents)[members], about.likeliest or 0
    rows, ends = np.empty(int(labels.sum()), about.record), np.cumsum(labels)
    for batch in engine.likeliest(texts, k):
        for said in batch:
            own = rows[ends[said.text] - labels[said.text] : ends[said.text]]
            ids, start = texts[said.text]
            log_p = np.array(said.log_p, np.float64).reshape(len(own), k)
            others = np.log(np.maximum(1 - np.exp(log_p).sum(1, keepdims=True), FLOOR))
            own["token"], own["entries"] = ids[start:], np.array(said.entries).reshape(len(own), k)
            own["log_p"] = np.concatenate([log_p, others], 1)[:, : own["log_p"].shape[1]]
    return _finite(rows, "log_p")


def _model(student: Path, teacher: Path, documents: Documents, config: Branch, trainer: Trainer) -> _Teacher:
    """The teacher in this process, on one device."""
    check_devices(trainer)
    device = torch.device("cuda" if trainer.accelerator == "gpu" else "cpu")
    kind = attention_for(AutoConfig.from_pretrained(teacher), config, trainer)
    model = load_teacher(teacher, kind, int(documents.lengths.max()), trainer, None).to(device)
    head, labels, vocabulary = head_of(model.model), int(_labels(documents).sum()), tokens(student)
    texts = [range(len(documents.lengths))]
    facts = {"flops": Flops(model.model).forward(documents, texts, isolate=True), "gpus": int(device.type == "cuda")}
    if isinstance(config.stored, int):
        about, weight = About(labels, vocabulary, min(config.stored, vocabulary)), None
    else:
        about, weight = About(labels, vocabulary, None, head.weight.shape[1], head.scale, head.cap), head.weight
    mixed = trainer.precision == "bf16-mixed"
    return _Teacher(about, partial(_rows, model, documents, config, about, mixed), facts, weight)


def _labels(documents: Documents) -> NDArray[np.int64]:
    return documents.lengths - documents.prompts


def _groups(documents: Documents, most: int) -> Iterator[NDArray[np.int64]]:
    """Documents in order, in runs of at most so many labels."""
    run, held = list[int](), 0
    for document, labels in enumerate(_labels(documents).tolist()):
        if run and held + labels > most:
            yield np.array(run)
            run, held = [], 0
        run.append(document)
        held += labels
    yield np.array(run)


@torch.no_grad()
def _rows(
    model: Student, documents: Documents, config: Branch, about: About, mixed: bool, members: NDArray[np.int64]
) -> Rows:
    """The records of some documents by forward passes of a pack each; mixed: in bf16."""
    labels = _labels(documents)[members]
    rows, starts = np.empty(int(labels.sum()), about.record), np.cumsum(labels) - labels
    device = next(model.parameters()).device
    for pack in packed(documents, members, config):
        batch = micro_batch(documents, [pack], isolate=True)
        owner = np.array(pack)[batch.owner.numpy()]
        at = starts[owner - members[0]] + batch.places.numpy()
        rows["token"][at] = batch.targets.numpy()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            told = model.tell(batch.to(device))
        size = at_a_time(len(told.head.weight))
        for start in range(0, len(at), size):
            part = slice(start, min(start + size, len(at)))
            for name, values in _said(told, part, config, about).items():
                rows[name][at[part]] = values.cpu().numpy()
    return _finite(rows, "hidden" if about.likeliest is None else "log_p")


def _finite(rows: Rows, name: str) -> Rows:
    if not np.isfinite(rows[name]).all():
        raise UserError(
            "branch.teacher: what it says is not finite in fp16; ask it in each training, branch.stored=null"
        )
    return rows


def _said(told: Told, part: slice, config: Branch, about: About) -> dict[str, Tensor]:
    """The fields of some labels' records."""
    if about.likeliest is None:
        return {"hidden": told.hidden[part].float()}
    logits = told.said(part.start, part.stop, torch.float32)[:, : about.vocabulary]
    z = logits / float(config.loss.parameters.get("temperature", 1.0))
    top = z.topk(about.likeliest)
    log_p = top.values - z.logsumexp(-1, keepdim=True)
    if about.likeliest < about.vocabulary:
        others = z.scatter(1, top.indices, -torch.inf).logsumexp(-1, keepdim=True) - z.logsumexp(-1, keepdim=True)
        log_p = torch.cat([log_p, others], 1)
    return {"entries": top.indices, "log_p": log_p}
