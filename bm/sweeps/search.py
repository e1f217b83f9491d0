"""A search by Optuna: candidates drawn in batches, raced, and told; its state on disk, its front in a table."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bm.code import code_version
from bm.errors import UserError, nearest
from bm.progress import say
from bm.store import digest, write_json
from bm.sweeps.sweeper import Sweep
from bm.trials import DIRECTIONS, Search, told

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from bm.trials import Candidate

CODE = "bm.sweeps.candidates:candidate"
"""What decides what a candidate reaches: a search does not resume with results of other code."""


class SearchSweep(Sweep):
    """Settings given as intervals, ranges and lists are searched, all others hold for every candidate."""

    def __init__(
        self,
        params: Mapping[str, Any] | None,
        objectives: Sequence[str],
        n_trials: int,
        batch: int,
        race: float | None,
        sampler: DictConfig,
    ) -> None:
        super().__init__(params)
        self.objectives, self.trials, self.batch, self.error = list(objectives), n_trials, batch, race
        self.sampler = sampler

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if find_spec("optuna") is None:
            raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'bm[search]'")
        if self.stage != "run":
            raise UserError(f"hydra/sweeper=optuna searches with `bm run`, not with `bm {self.stage}`")
        if not config.hydra.launcher["_target_"].endswith("BasicLauncher"):
            raise UserError("hydra/sweeper=optuna keeps its candidates in one process: a launcher cannot be used")
        for name in self.objectives or [""]:
            if name not in DIRECTIONS:
                raise UserError(f"hydra.sweeper.objectives: there is no objective '{name}'{nearest(name, DIRECTIONS)}")
        self.directions = [DIRECTIONS[name] for name in self.objectives]

    def key(self) -> str:
        return digest(json.dumps(["search", self.words, self.objectives, self.error, code_version((CODE,))]).encode())

    def sweep(self, arguments: Sequence[str]) -> None:
        """Try what is left of `n_trials` candidates; then the front, as a table and as search.json."""
        overrides = self.parser.parse_overrides(self.words)
        space = {
            override.get_key_element(): distribution(override) for override in overrides if override.is_sweep_override()
        }
        if not space:
            raise UserError("nothing to search for: give a setting an interval, merge.methods.ties.lam=interval(0.5,2)")
        fixed = [str(override.input_line) for override in overrides if not override.is_sweep_override()]
        names = [name.lstrip("+").split(".")[0] for name in space]
        mixture = all(name == "mixture" for name in names)
        if "mixture" in names and not mixture:
            raise UserError("search either the mixture or what is merged: the mixture is a model of its own")
        self.home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.home / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as held:
            raise UserError(f"another process is searching in {self.home}") from held
        from bm.sweeps.candidates import candidate

        def drawn(trial: "Trial") -> "Candidate":
            return candidate(self.compose([*fixed, *_words(trial.params)]), self.home, mixture)

        with lock:
            sampler, seed = instantiate(self.sampler), str(self.composed.seed)
            search = Search(self.home, self.objectives, self.trials, self.error, sampler, seed)
            self._finish(search.run(space, drawn, self.batch), space, fixed)

    def _finish(self, study: "Study", space: "Mapping[str, BaseDistribution]", fixed: Sequence[str]) -> None:
        """The Pareto front, best first by the first objective, on the terminal and in search.json."""
        sign = 1 if self.directions[0] == "minimize" else -1
        front = sorted(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))
        states = [trial.state.name for trial in told(study)]
        ends = {"COMPLETE": "asked_all", "PRUNED": "left_early", "FAIL": "failed"}
        result = {
            "objectives": dict(zip(self.objectives, self.directions, strict=True)),
            "candidates": {end: states.count(state) for state, end in ends.items()},
            "front": [self._described(trial, fixed) for trial in front],
        }
        write_json(self.home / "search.json", result)
        Console().print(table(front, list(space), self.objectives))
        say(f"search  {self.home / 'search.json'}")

    def _described(self, trial: "FrozenTrial", fixed: Sequence[str]) -> dict[str, Any]:
        folder = self.home / trial.user_attrs["folder"]
        words = [*fixed, *_words(trial.params)]
        return {
            "candidate": trial.number,
            "settings": trial.params,
            "values": dict(zip(self.objectives, trial.values, strict=True)),
            "scores": json.loads((folder / "scores.json").read_text()),
            "command": shlex.join(["bm", "run", *words]),
        }


def _words(parameters: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in parameters.items()]


def distribution(override: Override) -> "BaseDistribution":
    """What Optuna draws from, for a setting with several values in Hydra's grammar."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.stop, int):
        values = range(value.start, value.stop, int(value.step))
        return IntDistribution(min(values), max(values), step=abs(values.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def table(front: "Sequence[FrozenTrial]", searched: Sequence[str], objectives: Sequence[str]) -> Table:
    """The front: a candidate a row, what was searched and what it reached."""
    shown = Table(*(name.lstrip("+") for name in searched), *objectives, title="Pareto front", box=None)
    for trial in front:
        settings = [f"{v:.4g}" if isinstance(v, float) else escape(str(v)) for v in (trial.params[n] for n in searched)]
        reached = zip(objectives, trial.values, strict=True)
        values = [f"{v:.1%}" if of in ("mean", "worst") else f"{v:,.1f}" for of, v in reached]
        shown.add_row(*settings, *values)
    return shown
