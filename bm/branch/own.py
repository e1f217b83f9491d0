"""The student's own responses in place of traces (on-policy), written a few steps before they are learned from.

Every `own.every` steps the student answers the prompts of the steps that follow. What it wrote is on disk before
anything is learned from it, so a run that is killed resumes with the same responses, to the same bytes.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from bm.branch.data import Step, TraceData, packed
from bm.branch.documents import Documents
from bm.branch.model import Student, export, gathered, parameters_on_meta, stored_dtype
from bm.branch.parallel import device_of
from bm.config import Own
from bm.errors import UserError
from bm.generate import IN_MEMORY, Engine, Sample, Sampling
from bm.store import write_text

FOLDER, ACTOR = "own", ".own_model"


@dataclass
class Spent:
    """What the responses so far came to."""

    tokens: int = 0
    seconds: float = 0.0
    unfinished: int = 0


class OwnSamples:
    """Puts the student's own responses into a run's documents and plan, block by block of `every` steps."""

    def __init__(self, own: Own, data: TraceData, student: Student) -> None:
        self.own, self.data, self.student = own, data, student
        self.tokenizer = AutoTokenizer.from_pretrained(data.student)
        self.spent = Spent()
        self._traces = 0
        self._entered = 0
        """Blocks whose responses are in the plan."""

    @property
    def documents(self) -> range:
        """The student's own among the run's documents."""
        return range(self._traces, len(self.data.documents.lengths))

    def before(self, step: int) -> None:
        """All blocks up to the one of `step`: written by the first rank if they are not on disk, and read by all."""
        if not self._traces:
            self._traces, self._entered = len(self.data.documents.lengths), self.data.start // self.own.every
        while self._entered <= step // self.own.every:
            file = self.data.work / FOLDER / f"{self._entered}.json"
            if not file.exists():
                self._write(self._entered, file)
            self._enter(self._entered, json.loads(file.read_text()))
            self._entered += 1

    def _steps(self, block: int) -> range:
        """A block's steps, as far as they are in this part of the training."""
        return range(max(block * self.own.every, self.data.start), min((block + 1) * self.own.every, self.data.last))

    def _asked(self, block: int) -> list[tuple[int, int]]:
        """(step, document) of each response that the student writes itself: drawn from (seed, step) alone."""
        asked = []
        for step in self._steps(block):
            members = [i for pack in self.data.plan[step].packs for i in pack]
            draw = np.random.default_rng([self.data.config.seed, 2, step])
            asked += [(step, i) for i, u in zip(members, draw.random(len(members)), strict=True) if u < self.own.share]
        return asked

    def _write(self, block: int, file: Path) -> None:
        began = time.monotonic()
        asked = [document for _, document in self._asked(block)]
        engine = self._engine()  # all ranks give their weights
        if engine is not None:
            prompts = [self._prompt(document) for document in asked]
            sampling = Sampling(
                1, self.own.temperature, self.own.top_p, self.own.max_new_tokens, self.data.config.seed + block
            )
            samples = responses(engine, prompts, sampling)
            written = [self.tokenizer.encode(s.response, add_special_tokens=False) for s in samples]
            ends = [[self.tokenizer.eos_token_id] * s.finished for s in samples]
            file.parent.mkdir(parents=True, exist_ok=True)
            ids = [ids + end for ids, end in zip(written, ends, strict=True)]
            write_text(file, json.dumps({"responses": ids, "seconds": time.monotonic() - began}))
            shutil.rmtree(self.data.work / ACTOR, ignore_errors=True)
        if dist.is_initialized():
            dist.barrier()

    def _engine(self) -> Engine | None:
        """What generates with the weights of this moment; on the first rank alone."""
        folder, first = self.data.student, not dist.is_initialized() or dist.get_rank() == 0
        adapter = self.data.config.adapter
        if self.own.engine.target != IN_MEMORY or adapter:
            export(self.student, folder, self.data.work / ACTOR, adapter)
            return self.own.engine(self.data.work / ACTOR) if first else None
        asked = self.own.engine.parameters["dtype"]
        dtype = stored_dtype(folder) if asked == "auto" else getattr(torch, asked)
        state = gathered(self.student, dtype)
        device = device_of(self.student)
        return self.own.engine((_actor(folder, state, dtype, device), self.tokenizer)) if first else None

    def _prompt(self, document: int) -> str:
        """A document's prompt as text, which must become the same tokens again."""
        documents = self.data.documents
        start = documents.starts[document]
        ids = documents.tokens[start : start + documents.prompts[document]].tolist()
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        if self.tokenizer.encode(text, add_special_tokens=False) != ids:
            raise UserError(
                f"{documents.ids[document]}: its prompt changes between tokens and text, so the student cannot be asked"
            )
        return text

    def _enter(self, block: int, written: dict[str, Any]) -> None:
        """The block's responses become documents behind all others, and take the places of the traces in the plan."""
        asked, ids = self._asked(block), written["responses"]
        documents = self.data.documents
        self.data.documents, first = with_responses(
            documents, [i for _, i in asked], ids, self.data.config.sequence_length
        )
        own = {place: first + k for k, place in enumerate(asked)}
        for index in self._steps(block):
            step = self.data.plan[index]
            members = np.array([own.get((index, i), i) for pack in step.packs for i in pack], dtype=np.int64)
            packs = packed(self.data.documents, members, self.data.config, self.data.apart)
            self.data.plan[index] = Step(step.epoch, packs)
        ends = [bool(response) and response[-1] == self.tokenizer.eos_token_id for response in ids]
        self.spent.tokens += sum(map(len, ids))
        self.spent.unfinished += ends.count(False)
        self.spent.seconds += written["seconds"]

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        spent = self.spent
        return {"own": {"tokens": spent.tokens, "seconds": round(spent.seconds, 3), "unfinished": spent.unfinished}}


def responses(engine: Engine, prompts: Sequence[str], sampling: Sampling) -> list[Sample]:
    """One response to each prompt, other ones where a prompt stands several times."""
    counts = Counter(prompts)
    places = {prompt: place for place, prompt in enumerate(counts)}
    drawn = replace(sampling, n=max(counts.values(), default=1))
    surplus = {(places[p], i): Sample(places[p], i, "", 0, True) for p, n in counts.items() for i in range(n, drawn.n)}
    said = {(s.prompt, s.index): s for batch in engine.generate(list(counts), drawn, surplus) for s in batch}
    seen: Counter[str] = Counter()
    drawn_for = []
    for prompt in prompts:
        drawn_for.append(said[places[prompt], seen[prompt]])
        seen[prompt] += 1
    return drawn_for


def with_responses(
    documents: Documents, prompts: Sequence[int], responses: Sequence[Sequence[int]], limit: int
) -> tuple[Documents, int]:
    """Documents with more behind them: the prompts of some of them, each before a response, cut to `limit` tokens.

    Also the index of the first of them.
    """
    texts = []
    for prompt, response in zip(prompts, responses, strict=True):
        start = documents.starts[prompt]
        head = documents.tokens[start : start + documents.prompts[prompt]]
        texts.append(np.concatenate([head, np.array(response, dtype=np.int32)])[:limit])
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    members = np.array(prompts, dtype=np.int64)
    behind = len(documents.tokens) + np.cumsum(lengths) - lengths
    more: dict[str, NDArray[Any]] = {
        "tokens": np.concatenate([np.zeros(0, np.int32), *texts]),
        "starts": behind,
        "lengths": lengths,
        "prompts": documents.prompts[members],
        "domain": documents.domain[members],
        "held_out": np.zeros(len(members), dtype=np.bool_),
        "cut": documents.prompts[members] + [len(r) for r in responses] - lengths if len(members) else lengths,
        "ids": documents.ids[members],
    }
    joined = {name: np.concatenate([getattr(documents, name), values]) for name, values in more.items()}
    return replace(documents, **joined), len(documents.lengths)


def _actor(folder: Path, state: dict[str, torch.Tensor], dtype: torch.dtype, device: torch.device) -> Any:
    """A model that generates with these weights, which are not copied where they are in place."""
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)  # type: ignore[no-untyped-call]
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    if (folder / GENERATION_CONFIG_NAME).exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(device)


def remove(work: Path) -> None:
    shutil.rmtree(work / FOLDER, ignore_errors=True)
