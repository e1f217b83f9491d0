"""A grid as Hydra's launchers run it: cells to jobs, finished jobs skipped, and a last table."""

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from bm.errors import UserError, nearest
from bm.overrides import explain, opened
from bm.progress import say
from bm.store import digest
from bm.sweeps import jobs
from bm.sweeps.cells import Axes, Cell, axes, cells
from bm.sweeps.jobs import JOB, STOPPED, TRACEBACK, JobOutcome

LONGEST = 100
"""Characters of a job's name before its key."""


@dataclass(frozen=True)
class Job:
    """A cell of the grid: what Hydra is told, and its folder below the sweep's."""

    name: str
    words: Sequence[str]
    folder: Path
    config: Any = None
    """Its settings; None where they are wrong, which its folder tells."""


class Sweep(Sweeper):
    """What grids and searches have in common: the words of the sweep, its folder, and how a cell is composed."""

    def __init__(self, params: Mapping[str, Any] | None) -> None:
        self.params = _plain(params) or {}
        self._files: dict[tuple[str, ...], DictConfig] = {}
        self._overrides: dict[str, Override] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.composed, self.stage = hydra_context, config, task_function.__name__
        self.words = opened(self.stage, [f"{name}={value}" for name, value in self.params.items()])
        self.words += map(str, config.hydra.overrides.task)
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        name = config.get("experiment") or config.get("recipe") or self.stage
        with open_dict(config):
            config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir) / f"{name}-{self.key()[:8]}")
        self.home = Path(config.hydra.sweep.dir)

    def key(self) -> str:
        """Hash of all that decides what is run: the same command finds its sweep again."""
        return digest(json.dumps([self.stage, self.words]).encode())

    def compose(self, words: Sequence[str]) -> Any:
        """The typed settings of one cell; UserError for what is wrong in them."""
        try:
            composed = self._composed(words)
        except (HydraException, OmegaConfBaseException) as problem:
            sources = [(s.provider, s.path) for s in self.composed.hydra.runtime.config_sources]
            (conf,) = (path for provider, path in sources if provider == "main")
            yours = [path for provider, path in sources if provider == "command-line"]
            raise UserError(explain(problem, self.stage, Path(conf), words, yours)) from problem
        return jobs.settings(self.stage, composed)

    def _composed(self, words: Sequence[str]) -> DictConfig:
        """A cell as Hydra composes it. What chooses files is composed once: that takes nearly all of the time."""
        loader, overrides = self.context.config_loader, [self._parsed(word) for word in words]
        groups = [bool(loader.get_group_options(override.key_or_group)) for override in overrides]
        files = tuple(word for word, group in zip(words, groups, strict=True) if group)
        if files not in self._files:
            composed = loader.load_sweep_config(self.composed, list(files))
            with open_dict(composed):
                del composed["hydra"]
            self._files[files] = composed
        cell = copy.deepcopy(self._files[files])
        values = [override for override, group in zip(overrides, groups, strict=True) if not group]
        ConfigLoaderImpl._apply_overrides_to_config(values, cell)
        return cell

    def _parsed(self, word: str) -> Override:
        if word not in self._overrides:
            self._overrides[word] = self.parser.parse_override(word)
        return self._overrides[word]


class GridSweep(Sweep):
    """Every combination, as Hydra's basic sweeper has it, with lists that advance together and cells left out."""

    def __init__(
        self,
        params: Mapping[str, Any] | None,
        zip: Sequence[Sequence[str]],  # noqa: A002  # the setting's name
        when: Mapping[str, Mapping[str, Any]] | None,
        skip: Sequence[Mapping[str, Any]],
        on_error: Literal["continue", "stop"],
        max_batch_size: int | None,
    ) -> None:
        super().__init__(params)
        if on_error not in ("continue", "stop"):
            raise UserError(
                f"hydra.sweeper.on_error: no such choice '{on_error}'{nearest(on_error, ['continue', 'stop'])}"
            )
        self.together, self.when, self.skip = _plain(zip), _plain(when) or {}, _plain(skip)
        self.stops, self.at_once = on_error == "stop", max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def key(self) -> str:
        return digest(json.dumps([self.stage, self.words, self.together, self.when, self.skip]).encode())

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run what is not done yet; SystemExit with status 1 if a job failed."""
        swept = axes(self.parser.parse_overrides(self.words), self.parser)
        planned = self._jobs(swept, cells(swept, self.together, self.when, self.skip))
        (self.home / STOPPED).unlink(missing_ok=True)
        ahead = [job for job in planned if job.config is not None and not self._kept(job)]
        if self.stops and any(job.config is None for job in planned):
            for job in ahead:
                jobs.record(job.folder, JobOutcome("stopped", 0.0, str(job.folder)))
            ahead = []
        say(f"sweep  {len(planned)} jobs, {len(ahead)} to run  {self.home}")
        size = self.at_once or max(1, len(ahead))
        for first in range(0, len(ahead), size):
            self._launch(ahead[first : first + size], first)
        outcomes = {job.name: jobs.outcome(job.folder) for job in planned}
        Console().print(table(outcomes))
        wrong = {name: outcome for name, outcome in outcomes.items() if outcome.state not in ("done", "kept")}
        for name, outcome in wrong.items():
            said = (
                f"{outcome.error} ({Path(outcome.folder) / TRACEBACK})" if outcome.state == "failed" else outcome.state
            )
            say(escape(f"bm: {name}: {said}"))
        if wrong:
            stopped = sum(outcome.state == "stopped" for outcome in wrong.values())
            said = f"{len(wrong) - stopped} of {len(outcomes)} jobs did not succeed"
            said += f", and {stopped} did not begin" if stopped else ""
            say(f"bm: {said}; rerun the command to try them again")
            raise SystemExit(1)

    def _jobs(self, swept: Axes, chosen: Iterable[Cell]) -> list[Job]:
        """A job per cell, each in a folder named by what it varies and its key; of equal runs the first alone.

        UserError if no cell can be composed: then it is the command that is wrong.
        """
        short = _short([name for name, choices in swept.items() if len(choices) > 1])
        planned: dict[Path, Job] = {}
        mistakes: list[UserError] = []
        for cell in chosen:
            words = [choice.word for choice in cell.values()]
            said = (f"{of}={cell[n].word.partition('=')[2] or 'none'}" for n, of in short.items() if n in cell)
            name = ", ".join(said) or self.stage
            try:
                config, mistake = self.compose(words), None
            except UserError as problem:
                config, mistake = None, problem
            folder = self.home / f"{_file_name(name)}-{self._key_of(config, words)}"
            if folder not in planned and mistake:
                jobs.failed(folder, mistake)
                mistakes.append(mistake)
            planned.setdefault(folder, Job(name, words, folder, config))
        if mistakes and len(mistakes) == len(planned):
            raise mistakes[0]
        return list(planned.values())

    def _key_of(self, config: Any, words: Sequence[str]) -> str:
        from bm.runs import key_of

        return key_of(config) if config is not None and self.stage == "run" else digest(json.dumps(words).encode())[:8]

    def _kept(self, job: Job) -> bool:
        """Whether the job's run was done before, by the same code from the same files; it is noted then."""
        from bm.runs import done, folder_of

        before = done(job.config) if self.stage == "run" and not job.config.fresh else None
        if before is None:
            for name in (JOB, TRACEBACK):  # of an attempt that did not succeed
                (job.folder / name).unlink(missing_ok=True)
            return False
        jobs.record(job.folder, JobOutcome("kept", 0.0, str(folder_of(job.config)), before["mean"]))
        say(escape(f"kept   {job.name}  {folder_of(job.config)}"))
        return True

    def _launch(self, batch: Sequence[Job], first: int) -> None:
        """One call of the launcher; if it breaks down, as joblib does when a worker is killed, the folders tell."""
        placed = [
            [*job.words, f"hydra.sweep.dir={_quoted(self.home)}", f"hydra.sweep.subdir={_quoted(job.folder.name)}"]
            for job in batch
        ]
        try:
            self.launcher.launch(placed, initial_job_idx=first)
        except Exception as problem:
            say(escape(f"bm: the launcher broke down ({type(problem).__name__}: {problem})"))


def table(outcomes: Mapping[str, JobOutcome]) -> Table:
    """The sweep at a glance; best: the mean score of the best merge."""
    shown = Table("job", "state", "best", "seconds", Column("folder", overflow="fold"), box=None)
    colours = {"done": "green", "kept": "green", "failed": "red", "lost": "red", "stopped": "yellow"}
    for name, outcome in outcomes.items():
        mean = "" if outcome.mean is None else f"{outcome.mean:.1%}"
        shown.add_row(
            escape(name),
            f"[{colours[outcome.state]}]{outcome.state}[/]",
            mean,
            f"{outcome.seconds:.1f}",
            os.path.relpath(outcome.folder),
        )
    return shown


def _short(names: Sequence[str]) -> dict[str, str]:
    """The last parts of dotted names, as many as tell them apart."""

    def ends(name: str, parts: int) -> str:
        return ".".join(name.split(".")[-parts:])

    lengths = range(1, 1 + max((name.count(".") + 1 for name in names), default=1))
    return {n: next(ends(n, k) for k in lengths if sum(ends(m, k) == ends(n, k) for m in names) == 1) for n in names}


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=,&()-]+", "", name)[:LONGEST]


def _quoted(text: object) -> str:
    """A value as Hydra's grammar reads it back."""
    escaped = str(text).replace("'", r"\'")
    return f"'{escaped}'"


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
