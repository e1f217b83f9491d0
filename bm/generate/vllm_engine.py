"""vLLM without a server: one process per replica of the model, each on its own GPUs, all fed from one queue."""

import multiprocessing as mp
import os
import queue
import signal
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

from bm.code import code_version
from bm.errors import UserError
from bm.generate.draw import stream
from bm.generate.samples import Message, Sample, Sampling
from bm.generate.text import Text, model_folder

Chunk = list[tuple[int, int, list[int], int]]
"""Rows asked together: prompt's position, sample's index, tokens, seed."""
Answers = list[tuple[int, int, list[int], bool]]
"""The same rows: prompt's position, sample's index, tokens, whether the response ended."""


class VLLMEngine:
    """`chunk` rows go to a replica at a time; prefix caching makes one prefill of a prompt's samples.

    Nothing heard from any replica for `timeout` seconds ends the run.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        tensor_parallel: int,
        data_parallel: int,
        memory: float,
        chunk: int,
        timeout: float,
    ) -> None:
        self.chunk, self.timeout, self.replicas = chunk, timeout, data_parallel
        self.tensor_parallel = tensor_parallel
        self._settings = {"model": str(folder), "dtype": dtype, "tensor_parallel_size": tensor_parallel,
                          "gpu_memory_utilization": memory, "enable_prefix_caching": True}  # fmt: skip
        self._text = Text(model_folder(folder))

    def facts(self) -> dict[str, Any]:
        return {"engine": "vllm", "version": version("vllm"), "dtype": self._settings["dtype"], "device": "cuda",
                "parallelism": {"data": self.replicas, "tensor": self.tensor_parallel},
                "gpus": self.replicas * self.tensor_parallel}  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {**self.facts(), "code": code_version(("bm.generate.engines:vllm",))}

    def render(self, messages: Sequence[Message]) -> str:
        return self._text.render(messages)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, known: Container[tuple[int, int]] = ()
    ) -> Iterator[list[Sample]]:
        """See `Engine.generate`. vLLM's arithmetic depends on what shares a batch: equal seeds give near-equal runs."""
        tokens = [self._text.encode(prompt) for prompt in prompts]
        rows = [(p, i, tokens[p], stream(sampling.seed, prompts[p], i) >> 1)  # vLLM's seeds have 63 bits
                for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known]  # fmt: skip
        chunks = [rows[start : start + self.chunk] for start in range(0, len(rows), self.chunk)]
        context = mp.get_context("spawn")
        todo, done = context.Queue(), context.Queue()
        replicas = min(self.replicas, len(chunks))
        for piece in [*chunks, *[None] * replicas]:
            todo.put(piece)
        work = (self.tensor_parallel, self._settings, sampling, todo, done)
        workers = [context.Process(target=_serve, args=(rank, *work)) for rank in range(replicas)]
        try:
            for worker in workers:
                worker.start()
            for _ in chunks:
                answers = self._next(done, workers)
                yield [self._text.sample(*answer, sampling.stop) for answer in answers]
        finally:
            todo.cancel_join_thread()
            for worker in workers:
                _end(worker)

    def _next(self, done: Any, workers: Sequence[BaseProcess]) -> Answers:
        try:
            answer: Answers | str = done.get(timeout=self.timeout)
        except queue.Empty:
            alive = sum(worker.is_alive() for worker in workers)
            said = f"vLLM said nothing for {self.timeout:.0f} s; {alive} of {len(workers)} replicas are alive"
            raise UserError(f"{said}; what was done is kept, and the same command goes on") from None
        if isinstance(answer, str):
            raise UserError(f"vLLM: {answer}")
        return answer


def _end(worker: BaseProcess) -> None:
    """End a replica and the processes that vLLM made for it: they share its session."""
    if worker.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.kill()  # it may not have come so far as to begin its session
        worker.join()


def _serve(rank: int, gpus: int, settings: Mapping[str, Any], sampling: Sampling, todo: Any, done: Any) -> None:
    """A replica: answers chunks until there is None; a failure is handed over as its first line."""
    os.setsid()
    Thread(target=_follow, daemon=True).start()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(k) for k in range((rank + 1) * gpus)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[rank * gpus : (rank + 1) * gpus])
    try:
        vllm = import_module("vllm")  # only now that the process sees its own GPUs alone
        model = vllm.LLM(**settings)
        while (chunk := todo.get()) is not None:
            done.put(_answers(vllm, model, chunk, sampling))
    except Exception as problem:
        done.put((str(problem).strip().splitlines() or [type(problem).__name__])[0])


def _follow() -> None:
    """End with the parent, however it ended: an orphan would hold its GPUs for ever."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _answers(vllm: Any, model: Any, chunk: Chunk, sampling: Sampling) -> Answers:
    asked = [
        vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            stop=list(sampling.stop),
        )
        for _, _, _, seed in chunk
    ]
    outputs = model.generate([{"prompt_token_ids": tokens} for _, _, tokens, _ in chunk], asked, use_tqdm=False)
    answers = []
    for (p, i, _, _), output in zip(chunk, outputs, strict=True):
        ended = output.outputs[0].finish_reason == "stop"
        tokens = list(output.outputs[0].token_ids)
        # a response that met its end-of-text token has it as its last; one that met a stop string gives the reason
        at_token = ended and not isinstance(output.outputs[0].stop_reason, str)
        answers.append((p, i, tokens[:-1] if at_token else tokens, ended))
    return answers
