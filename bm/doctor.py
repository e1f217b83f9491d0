"""What this machine has and what an experiment needs of it, each thing in a line; and how to get what is missing."""

import fcntl
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rich.table import Table

from bm.config import Experiment
from bm.errors import UserError
from bm.preflight import VLLM, check_keys, named_engines
from bm.progress import quantity

PATIENCE = 5.0
"""Seconds that the hub has to answer."""


@dataclass(frozen=True)
class Finding:
    """One thing: what is there, whether the experiment cannot do without it, and how to get it."""

    name: str
    there: bool
    said: str
    needed: bool = True
    remedy: str = ""

    @property
    def state(self) -> str:
        return "ok" if self.there else ("missing" if self.needed else "optional")


def examine(config: Experiment, disk_gib: float, ram_gib: float = 0.0) -> Iterator[Finding]:
    """Everything that `config` may need; disk_gib: what it will write; ram_gib: what it holds that trains on CPUs."""
    yield Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0], remedy="install Python 3.11 or newer")
    yield from _processors(config)
    yield from _memory(ram_gib)
    yield from _packages(config)
    yield from _vllm(config)
    yield _sandbox(config)
    yield from _disk(config.paths.outputs, disk_gib)
    yield from _hub(config)
    yield from _accounts(config)


def _processors(config: Experiment) -> Iterator[Finding]:
    import torch
    import torch.distributed as dist

    trainer, gpu = config.trainer, config.trainer.accelerator == "gpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("torch", True, f"{torch.__version__}, {cores} cores")
    there = torch.cuda.device_count()
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
        for i in range(there)
    )
    yield Finding(
        "GPUs", there >= trainer.devices or not gpu, names or f"none (torch built for CUDA {torch.version.cuda})",
        needed=gpu and not trainer.launch,
        remedy=f"trainer.devices={trainer.devices} of each machine that trains; or trainer=cpu",
    )  # fmt: skip
    several = gpu and trainer.devices * trainer.nodes > 1
    nccl = dist.is_nccl_available()
    yield Finding("NCCL", nccl or not several, "there" if nccl else "not in this torch", several and not trainer.launch,
                  remedy="a torch built for CUDA on the machines that train")  # fmt: skip
    if trainer.launch:
        word = trainer.launch.split()[0]
        beside = Path(sys.executable).parent / word
        yield Finding(word, bool(shutil.which(word)) or beside.exists(), "starts the ranks (trainer.launch)",
                      remedy="run bm where that command is, or set trainer.launch")  # fmt: skip


def _memory(needed_gib: float) -> Iterator[Finding]:
    from bm.branch.ram import physical

    if needed_gib:
        there = physical() / 2**30
        said = f"{quantity(there, 'GiB')}, {quantity(needed_gib, 'GiB')} to be held by a training"
        yield Finding("memory", there >= needed_gib, said, remedy="what bm plan proposes, or a smaller student")


def _packages(config: Experiment) -> Iterator[Finding]:
    gpu, adapter = config.trainer.accelerator == "gpu", config.branch.adapter
    wanted = {
        "flash-attn": (False, "make gpu; without it PyTorch's SDPA attends, slower"),
        "liger-kernel": (False, "make gpu; without it the loss is made in chunks, in the same memory"),
        "bitsandbytes": (bool(adapter and adapter.quantize), "make gpu, or branch.adapter.quantize=null"),
    }  # fmt: skip
    for name, (needed, remedy) in wanted.items():
        if needed or (gpu and name in ("flash-attn", "liger-kernel")):
            module = name.replace("-", "_")
            there = find_spec(module) is not None
            yield Finding(name, there, importlib.metadata.version(name) if there else "not installed", needed, remedy)


def _vllm(config: Experiment) -> Iterator[Finding]:
    from bm.generate.vllm_engine import installed

    engines = [e for component in (config.teacher, config.evaluate.engine) for e in named_engines(component, VLLM)]
    for python in dict.fromkeys(Path(engine["python"]) for engine in engines):
        try:
            yield Finding("vLLM", True, f"{installed(python)}, by {python}")
        except UserError as problem:
            yield Finding("vLLM", False, str(problem), remedy="make vllm, or the endpoint of a server as the engine")


def _sandbox(config: Experiment) -> Finding:
    from bm.verify.sandbox import check

    try:
        check()
    except UserError as problem:
        return Finding("bubblewrap", False, str(problem), config.verify.sandbox == "bubblewrap",
                       "apt install bubblewrap; verify.sandbox=unsafe runs a model's code without it")  # fmt: skip
    return Finding("bubblewrap", True, "works")


def _disk(outputs: Path, needed_gib: float) -> Iterator[Finding]:
    there = next(place for place in (outputs.absolute(), *outputs.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free / 2**30
    said = f"{quantity(free, 'GiB')} free, {quantity(needed_gib, 'GiB')} to be written below {outputs}"
    yield Finding("disk", free >= needed_gib, said, remedy="free some, or paths.outputs=DIR on a larger disk")
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            said = _locks(file.fileno())
        yield Finding("file locks", True, said)
    except OSError as problem:
        yield Finding(
            "file locks", False, f"{there}: {problem.strerror}", remedy="paths.outputs=DIR that can be written"
        )


def _locks(file: int) -> str:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        return f"no flock ({problem.strerror}): lock files take its place, which a killed process leaves behind"
    return "flock"


def _hub(config: Experiment) -> Iterator[Finding]:
    """Whether the hub answers, where a student or traces come from there."""
    name = config.student.build.parameters.get("name")
    wants = [str(name)] if name and not Path(str(name)).is_dir() else []
    wants += [
        str(s["name"]) for d in config.domains.values() if (s := d.source.parameters).get("name") and not s.get("path")
    ]
    if not wants:
        return
    from huggingface_hub import constants

    try:
        urlopen(constants.ENDPOINT, timeout=PATIENCE).close()
        there, said = True, "answers"
    except (URLError, OSError, ValueError) as problem:
        there, said = False, f"does not answer: {getattr(problem, 'reason', problem)}"
    yield Finding("Hugging Face hub", there, f"{said}; for {', '.join(wants)}",
                  remedy="folders of yours instead: student.build.name=DIR, domains.NAME.source.path=DIR")  # fmt: skip


def _accounts(config: Experiment) -> Iterator[Finding]:
    if config.tracker.parameters.get("mode") == "online":
        logins = Path.home() / ".netrc"
        there = "WANDB_API_KEY" in os.environ or (logins.is_file() and "wandb" in logins.read_text())
        yield Finding("W&B login", there, "there" if there else "no key", remedy="wandb login, or tracker.mode=offline")
    for component in (config.teacher, config.verify.judge, config.evaluate.engine):
        try:
            check_keys(component)
        except UserError as problem:
            yield Finding("API key", False, str(problem), remedy="export it before the run")


def table(findings: list[Finding]) -> Table:
    shown = Table("", "", "here", "to do", title=None)
    colours = {"ok": "green", "missing": "red", "optional": "yellow"}
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        shown.add_row(finding.name, state, finding.said, "" if finding.there else finding.remedy)
    return shown
