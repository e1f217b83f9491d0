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

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from bm.sweeps.candidates import Candidate

CODE = "bm.sweeps.candidates:candidate"
"""What decides what a candidate reaches: a search does not go on with what other code has found."""


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
            raise UserError("hydra/sweeper=optuna keeps its candidates in one process: it has no use for a launcher")
        from bm.sweeps.candidates import DIRECTIONS

        for name in self.objectives or [""]:
            if name not in DIRECTIONS:
                raise UserError(f"hydra.sweeper.objectives: there is no objective '{name}'{nearest(name, DIRECTIONS)}")
        self.directions = [DIRECTIONS[name] for name in self.objectives]

    def key(self) -> str:
        return digest(json.dumps(["search", self.words, self.objectives, self.error, code_version((CODE,))]).encode())

    def sweep(self, arguments: Sequence[str]) -> None:
        """Try what is left of `n_trials` candidates; then the front, as a table and as search.json."""
        overrides = self.parser.parse_overrides(self.words)
        space = {one.get_key_element(): distribution(one) for one in overrides if one.is_sweep_override()}
        if not space:
            raise UserError("nothing to search for: give a setting an interval, merge.methods.ties.lam=interval(0.5,2)")
        fixed = [str(one.input_line) for one in overrides if not one.is_sweep_override()]
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
        with lock:
            study = self._study()
            say(f"search  {len(_told(study))} of {self.trials} candidates tried before  {self.home}")
            while (ahead := self.trials - len(_told(study))) > 0:
                self._batch(study, space, fixed, mixture, min(ahead, self.batch))
            self._finish(study, space, fixed)

    def _study(self) -> "Study":
        """The study of this folder; candidates that were on trial when it was interrupted are drawn again."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.home / "optuna.log")))
        study = optuna.create_study(
            study_name=self.home.name, storage=storage, directions=self.directions, load_if_exists=True
        )
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _batch(
        self, study: "Study", space: "Mapping[str, BaseDistribution]", fixed: Sequence[str], mixture: bool, size: int
    ) -> None:
        """Draw, make, race and tell some candidates. The draw depends on the seed and on what was told before alone."""
        from optuna.trial import TrialState

        told = len(_told(study))
        seed = int(digest(f"{self.composed.seed} {told}".encode())[:8], 16)
        study.sampler = instantiate(self.sampler)(seed=seed)
        drawn = [study.ask(dict(space)) for _ in range(size)]
        made: dict[int, Candidate] = {}
        for trial in drawn:
            words = [f"{name}={value}" for name, value in trial.params.items()]
            say(escape(f"\ncandidate {trial.number}  {', '.join(words)}"))
            try:
                made[trial.number] = one = self._candidate([*fixed, *words], mixture)
                trial.set_user_attr("folder", str(one.folder.relative_to(self.home)))
            except UserError as mistake:
                self._fail(study, trial, mistake)
        if not made and not told:
            raise UserError(str(study.trials[-1].user_attrs["error"]))
        left = self._race(study, made)
        for number, one in made.items():
            if number in left:
                study.tell(number, state=TrialState.PRUNED)
            else:
                study.tell(number, one.values(self.objectives))

    def _candidate(self, words: Sequence[str], mixture: bool) -> "Candidate":
        from bm.sweeps.candidates import candidate

        return candidate(self.compose(words), words, self.home, mixture)

    def _fail(self, study: "Study", trial: "Trial", mistake: UserError) -> None:
        from optuna.trial import TrialState

        say(escape(f"failed: {mistake}"))
        trial.set_user_attr("error", str(mistake))
        study.tell(trial, state=TrialState.FAIL)

    def _race(self, study: "Study", made: "Mapping[int, Candidate]") -> set[int]:
        """Ask the candidates more and more questions; returns the numbers of those that left, the others got all.

        The rivals of a candidate are those of its batch and all before it on the front. Every comparison that the
        search can come to has an equal share of the risk (Bonferroni).
        """
        from bm.evaluate.racing import ROUNDS
        from bm.report.findings.verdicts import graded
        from bm.tuning import raced

        if not made:
            return set()
        one = next(iter(made.values()))
        config = one.stages.config
        before = [graded(self.home / trial.user_attrs["folder"]) for trial in study.best_trials] if self.error else []
        risk = (self.error or 0.0) / (len(ROUNDS) * max(1, self.trials - 1))
        return raced(made, before, risk, one.tasks, config.evaluate.resamples, config.seed)

    def _finish(self, study: "Study", space: "Mapping[str, BaseDistribution]", fixed: Sequence[str]) -> None:
        """The Pareto front, best first by the first objective, on the terminal and in search.json."""
        sign = 1 if self.directions[0] == "minimize" else -1
        front = sorted(study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))
        told = [trial.state.name for trial in _told(study)]
        ends = {"COMPLETE": "asked_all", "PRUNED": "left_early", "FAIL": "failed"}
        result = {
            "objectives": dict(zip(self.objectives, self.directions, strict=True)),
            "candidates": {end: told.count(state) for state, end in ends.items()},
            "front": [self._described(trial, fixed) for trial in front],
        }
        write_json(self.home / "search.json", result)
        Console().print(table(front, list(space), self.objectives))
        say(f"search  {self.home / 'search.json'}")

    def _described(self, trial: "FrozenTrial", fixed: Sequence[str]) -> dict[str, Any]:
        folder = self.home / trial.user_attrs["folder"]
        words = [*fixed, *(f"{name}={value}" for name, value in trial.params.items())]
        return {
            "candidate": trial.number,
            "settings": trial.params,
            "values": dict(zip(self.objectives, trial.values, strict=True)),
            "scores": json.loads((folder / "scores.json").read_text()),
            "command": shlex.join(["bm", "run", *words]),
        }


def _told(study: "Study") -> "list[FrozenTrial]":
    """Trials with an end of their own: asked all, left early, or failed by their settings."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or "error" in t.user_attrs]


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
