"""vLLM without a server: one process per replica of the model, each on its own GPUs, in vLLM's own environment.

vLLM pins another torch than training does, so its processes (`vllm_replica`) run by an interpreter of their own, and
rows go to them and come back as lines of JSON.
"""

import json
import os
import queue
import signal
import subprocess
import time
import weakref
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from threading import Thread
from typing import Any

from transformers import AutoConfig

from bm.code import code_version
from bm.errors import UserError
from bm.generate import vllm_replica
from bm.generate.draw import stream
from bm.generate.generation_config import repetition_penalty, saved
from bm.generate.likely import likely
from bm.generate.samples import PLAIN, Likely, Message, Sample, Sampling, Thinking
from bm.generate.text import Text, fitted, model_folder

Row = tuple[int, int, list[int], dict[str, Any]]
"""Prompt's position, sample's index, tokens, and what vLLM's SamplingParams takes."""
Answer = tuple[int, int, list[int], bool, Any]
"""The same row: prompt's position, sample's index, tokens, whether the response ended, and what was said of its own
tokens, if that was asked."""
LOGPROBS = 20
"""Tokens whose log-probabilities vLLM tells at most, unless its replicas are started with another number."""
CONTEXT_STEP = 4096
"""Tokens to which the longest sequence is rounded up, so that the next task finds its replicas long enough."""


class VLLMEngine:
    """A replica has up to `parallel` rows under way at a time and takes the next one when one of them ends.

    Replicas stay as long as the engine does, or until another one of this process starts its own. Nothing heard from
    any of them for `timeout` seconds, or the end of one, ends the run.
    """

    def __init__(
        self, folder: Path, dtype: str, tensor_parallel: int, data_parallel: int, memory: float, parallel: int,
        timeout: float, python: Path, thinking: Thinking = PLAIN,
    ) -> None:  # fmt: skip
        self.parallel, self.timeout, self.replicas = parallel, timeout, data_parallel
        self.tensor_parallel, self.python, self.version = tensor_parallel, python, installed(python)
        self._settings = {"model": str(folder), "dtype": dtype, "tensor_parallel_size": tensor_parallel,
                          "gpu_memory_utilization": memory, "enable_prefix_caching": True}  # fmt: skip
        self.thinking, self._penalty = thinking, repetition_penalty(saved(folder), str(folder))
        self._text = Text(model_folder(folder), thinking)
        self._context = int(getattr(AutoConfig.from_pretrained(folder), "max_position_embeddings", None) or 1 << 30)

    def facts(self) -> dict[str, Any]:
        return {"engine": "vllm", "version": self.version, "dtype": self._settings["dtype"], "device": "cuda",
                "parallelism": {"data": self.replicas, "tensor": self.tensor_parallel},
                "gpus": self.replicas * self.tensor_parallel, **self.thinking.facts()}  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {**self.facts(), "code": code_version(("bm.generate.engines:vllm",))}

    def render(self, messages: Sequence[Message]) -> str:
        return self._text.render(messages)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """See `Engine.generate`. vLLM's arithmetic depends on what shares a batch: equal seeds give near-equal runs."""
        most, penalty = sampling.max_new_tokens, sampling.repetition_penalty
        fits = [fitted(self._text.encode(prompt), self._context, most) for prompt in prompts]
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "stop": list(sampling.stop),
                 "repetition_penalty": self._penalty if penalty is None else penalty,
                 "max_tokens": min(self.thinking.budget or most, most)}  # fmt: skip
        rows = [(p, i, fits[p][0], {**drawn, "seed": stream(sampling.seed, prompts[p], i) >> 1})  # seeds of 63 bits
                for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known]  # fmt: skip
        if not rows:
            return
        longest = max(len(row[2]) for row in rows) + most
        replicas = self._running(min(self._context, ceil(longest / CONTEXT_STEP) * CONTEXT_STEP))
        try:
            for answers in self._answered(replicas, rows, most):
                yield [self._text.sample(p, i, tokens, ended, sampling.stop, fits[p][1])
                       for p, i, tokens, ended, _ in answers]  # fmt: skip
        except BaseException:  # what is under way in the replicas is nobody's any more
            replicas.end()
            raise

    def _answered(self, replicas: "_Replicas", rows: Sequence[Row], most: int) -> Iterator[list[Answer]]:
        """Every row's answer of `most` tokens; thoughts over their budget are ended, and those rows asked once more."""
        asked = {(row[0], row[1]): row for row in rows}
        begun: dict[tuple[int, int], list[int]] = {}
        for answers in replicas.answered(rows, self.parallel, self.timeout):
            for p, i, tokens, ended, _ in answers:
                if not ended and len(tokens) < most:
                    begun[p, i] = tokens + self._text.ending(asked[p, i][2], tokens)
            if whole := [answer for answer in answers if answer[:2] not in begun]:
                yield whole
        more = [(p, i, asked[p, i][2] + said, {**asked[p, i][3], "max_tokens": max(1, most - len(said)),
                                               "seed": asked[p, i][3]["seed"] ^ 1})
                for (p, i), said in begun.items()]  # fmt: skip
        for answers in replicas.answered(more, self.parallel, self.timeout) if more else ():
            yield [(p, i, begun[p, i] + tokens, ended, told) for p, i, tokens, ended, told in answers]

    def likeliest(self, texts: Sequence[tuple[list[int], int]], k: int) -> Iterator[list[Likely]]:
        """See `Telling.likeliest`; by vLLM's `prompt_logprobs`, for which it generates a token more."""
        longest = max(len(ids) for ids, _ in texts) + 1
        if longest > self._context:
            raise UserError(f"branch.teacher: a trace of {longest - 1} tokens exceeds its context of {self._context}")
        asked = {"temperature": 0.0, "top_p": 1.0, "stop": [], "repetition_penalty": 1.0, "max_tokens": 1, "seed": 0}
        rows = [(place, 0, ids, {**asked, "prompt_logprobs": k}) for place, (ids, _) in enumerate(texts)]
        most = min(self._context, ceil(longest / CONTEXT_STEP) * CONTEXT_STEP)
        replicas = self._running(most, k)
        try:
            for answers in replicas.answered(rows, self.parallel, self.timeout):
                yield [likely(place, *texts[place], told, k) for place, *_, told in answers]
        except BaseException:
            replicas.end()
            raise

    def _running(self, longest: int, logprobs: int = 0) -> "_Replicas":
        """The replicas that are there, if they are this engine's and take and tell as much; else new ones."""
        global _current
        if _current is None or _current.owner() is not self or not _current.fit(longest, logprobs):
            if _current is not None:
                _current.end()
            told = {"max_logprobs": logprobs} if logprobs > LOGPROBS else {}
            _current = _Replicas.start(self, {**self._settings, "max_model_len": longest, **told})
        return _current


@cache
def installed(python: Path) -> str:
    """The version of vLLM that an interpreter finds; UserError if it finds none."""
    ask = "from importlib.metadata import version; print(version('vllm'))"
    try:
        said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        raise UserError(
            f"the vllm engine finds no vLLM by {python}: `make vllm` installs it into .venv-vllm, or set engine.python "
            "to the interpreter of an environment that has it"
        ) from problem
    return said.stdout.strip()


@dataclass
class _Replicas:
    """Processes that serve one engine's model, and what they have said."""

    owner: "weakref.ref[VLLMEngine]"
    settings: Mapping[str, Any]
    workers: Sequence["subprocess.Popen[str]"]
    said: "queue.Queue[tuple[int, str]]" = field(default_factory=queue.Queue)
    """By replica, its lines; the empty one is its last."""

    @classmethod
    def start(cls, engine: VLLMEngine, settings: Mapping[str, Any]) -> "_Replicas":
        visible, gpus = os.environ.get("CUDA_VISIBLE_DEVICES"), engine.tensor_parallel
        devices = visible.split(",") if visible else [str(k) for k in range(engine.replicas * gpus)]
        workers = [
            subprocess.Popen(
                [engine.python, vllm_replica.__file__, json.dumps(settings)],
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(devices[rank * gpus : (rank + 1) * gpus])},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True,
            )
            for rank in range(engine.replicas)
        ]  # fmt: skip
        made = cls(weakref.ref(engine), settings, workers)
        for rank in range(engine.replicas):
            Thread(target=made._listen, args=(rank,), daemon=True).start()
        weakref.finalize(engine, made.end)
        return made

    def _listen(self, rank: int) -> None:
        for line in self.workers[rank].stdout or ():
            self.said.put((rank, line))
        self.said.put((rank, ""))

    def fit(self, longest: int, logprobs: int) -> bool:
        enough = longest <= self.settings["max_model_len"] and logprobs <= self.settings.get("max_logprobs", LOGPROBS)
        return bool(enough) and all(w.poll() is None for w in self.workers)

    def answered(self, rows: Sequence[Row], parallel: int, timeout: float) -> Iterator[list[Answer]]:
        """Every row's answer, as soon as it is there.

        A replica gets its next row when one of its own is answered. UserError if a replica failed or ended, or after
        `timeout` seconds of silence.
        """
        waiting, left = deque(rows), len(rows)
        share = min(parallel, ceil(len(rows) / len(self.workers)))  # else the first replicas would take everything
        for rank in [*range(len(self.workers))] * share:
            self._ask(rank, waiting)
        until = time.monotonic() + timeout
        while left:
            answers = []
            for rank, line in self._lines(until, timeout):
                answers.append(self._understood(rank, line))
                self._ask(rank, waiting)
            left, until = left - len(answers), time.monotonic() + timeout
            yield answers

    def _ask(self, rank: int, waiting: "deque[Row]") -> None:
        pipe = self.workers[rank].stdin
        if waiting and pipe is not None:
            with suppress(BrokenPipeError):  # it has ended, which its last line will tell
                pipe.write(json.dumps(waiting.popleft()) + "\n")

    def _lines(self, until: float, timeout: float) -> list[tuple[int, str]]:
        """What replicas have said since; at least one line."""
        try:
            lines = [self.said.get(timeout=max(0.0, until - time.monotonic()))]
        except queue.Empty:
            kept = "what was done is kept; rerun the command to resume"
            raise UserError(f"vLLM said nothing for {timeout:.0f} s though its replicas are alive; {kept}") from None
        with suppress(queue.Empty):
            while True:
                lines.append(self.said.get_nowait())
        return lines

    def _understood(self, rank: int, line: str) -> Answer:
        if not line:
            status = self.workers[rank].wait()
            kept = "what was done is kept; rerun the command to resume"
            raise UserError(f"vLLM: a replica has ended (exit status {status}); {kept}")
        answer: Any = json.loads(line)
        if isinstance(answer, str):
            raise UserError(f"vLLM: {answer}")
        prompt, sample, tokens, ended, told = answer
        return prompt, sample, tokens, ended, told

    def end(self) -> None:
        """End the replicas and the processes that vLLM made for each: they share its session."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


_current: _Replicas | None = None
"""The only replicas of this process: two models rarely fit the same GPUs."""
