"""Candidates of a search by Optuna: drawn in batches, merged in memory, raced over questions, and told."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from rich.markup import escape

from bm.config import Experiment
from bm.errors import UserError
from bm.progress import say
from bm.stages import Stages
from bm.store import Artefact, digest

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial
    from torch import Tensor

    from bm.generate.transformers_engine import Loaded
    from bm.report.findings.verdicts import Graded

Direction = Literal["maximize", "minimize"]
DIRECTIONS: dict[str, Direction] = {
    "mean": "maximize",
    "worst": "maximize",
    "response_tokens": "minimize",
    "trained_tokens": "minimize",
}
"""What can be sought: the mean score over the domains' tasks, the score on the worst of them, the mean length of a
response, and the tokens that all training behind the model saw, each of its steps counted once."""


@dataclass(frozen=True)
class Candidate:
    """A model on trial. `folder` takes its samples and scores."""

    stages: Stages
    folder: Path
    questions: Mapping[str, Artefact]
    """What it is asked, by domain."""
    most: int
    """Questions of the task that has most of them."""
    model: "Artefact | tuple[Artefact, dict[str, Tensor]]"
    """One that was trained, or a merge: the expert whose configuration it has, and its tensors."""
    trained_tokens: int = 0
    """Those of all training behind it."""

    def ask(self, first: int | None) -> None:
        """Put it to the first questions of each task (None: all); what was asked before is not asked again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        model = self.model.path if isinstance(self.model, Artefact) else loaded(*self.model, self.stages.config)
        self.stages.ask(model, self.questions, self.folder / "samples", first, self.folder)

    @property
    def tasks(self) -> list[str]:
        """Those that scores are compared on: the domains' own."""
        return sorted({str(domain.task) for domain in self.stages.config.domains.values()})

    def values(self, objectives: Sequence[str]) -> list[float]:
        """What it reaches, once all questions were asked."""
        scores = json.loads((self.folder / "scores.json").read_text())
        means = [scores[task]["mean"] for task in self.tasks]
        values = {
            "mean": fmean(means),
            "worst": min(means),
            "response_tokens": fmean(scores[task]["response_tokens"] for task in self.tasks),
            "trained_tokens": float(self.trained_tokens),
        }
        return [values[name] for name in objectives]


@dataclass(frozen=True)
class Search:
    """So many candidates by a study whose state is in `home`: a search that was killed resumes."""

    home: Path
    objectives: Sequence[str]
    count: int
    race: float | None
    """The chance that leaving early drops the best; None: every candidate is asked all questions."""
    sampler: Callable[..., "BaseSampler"]
    seed: str

    def run(
        self,
        space: "Mapping[str, BaseDistribution]",
        make: "Callable[[Trial], Candidate]",
        batch: int,
        before: "Sequence[Graded]" = (),
    ) -> "Study":
        """The study with every candidate told. `make` merges one, or raises a UserError where its settings are wrong;
        `before`: rivals that are no candidates."""
        study = _study(self.home, [DIRECTIONS[name] for name in self.objectives])
        say(f"search  {len(told(study))} of {self.count} candidates tried before  {self.home}")
        while (ahead := self.count - len(told(study))) > 0:
            self._batch(study, space, make, min(ahead, batch), before)
        return study

    def _batch(
        self,
        study: "Study",
        space: "Mapping[str, BaseDistribution]",
        make: "Callable[[Trial], Candidate]",
        size: int,
        before: "Sequence[Graded]",
    ) -> None:
        """Draw, make, race and tell some. The draw depends on the seed and on what was told before alone."""
        from optuna.trial import TrialState

        known = len(told(study))
        study.sampler = self.sampler(seed=int(digest(f"{self.seed} {known}".encode())[:8], 16))
        made: dict[int, Candidate] = {}
        for trial in [study.ask(dict(space)) for _ in range(size)]:
            words = ", ".join(f"{name}={value}" for name, value in trial.params.items())
            say(escape(f"\ncandidate {trial.number}  {words}"))
            try:
                made[trial.number] = make(trial)
                trial.set_user_attr("folder", str(made[trial.number].folder.relative_to(self.home)))
            except UserError as mistake:
                say(escape(f"failed: {mistake}"))
                trial.set_user_attr("error", str(mistake))
                study.tell(trial, state=TrialState.FAIL)
        if not made and not known:
            raise UserError(str(study.trials[-1].user_attrs["error"]))
        left = self._raced(study, made, before)
        for number, candidate in made.items():
            if number in left:
                study.tell(number, state=TrialState.PRUNED)
            else:
                study.tell(number, candidate.values(self.objectives))

    def _raced(self, study: "Study", made: Mapping[int, Candidate], before: "Sequence[Graded]") -> set[int]:
        """Ask candidates more and more questions; returns the numbers of those that left, the others got all.

        The rivals of a candidate are those of its batch, all before it on the front, and those `before`. Every
        comparison that the search can come to has an equal share of the risk (Bonferroni).
        """
        from bm.evaluate.racing import ROUNDS
        from bm.report.findings.verdicts import graded

        rivals = [*before, *(graded(self.home / trial.user_attrs["folder"]) for trial in study.best_trials)]
        risk = (self.race or 0.0) / (len(ROUNDS) * max(1, self.count - 1 + len(before)))
        left: set[int] = set()
        for share in [*(ROUNDS if risk else ()), 1.0]:
            now: dict[int, Graded] = {}
            for number, candidate in made.items():
                if number not in left:
                    candidate.ask(ceil(share * candidate.most) if share < 1 else None)
                    now[number] = graded(candidate.folder)
            for number, own in now.items() if share < 1 else ():
                others = [*rivals, *(other for n, other in now.items() if n != number)]
                if any(loses(own, other, made[number].tasks, risk) for other in others):
                    left.add(number)
                    say(f"candidate {number} leaves after {share:.0%} of the questions")
        return left


def told(study: "Study") -> "list[FrozenTrial]":
    """Trials with an end of their own: asked all, left early, or failed by their settings."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or "error" in t.user_attrs]


def _study(home: Path, directions: Sequence[Direction]) -> "Study":
    """The study of a folder; candidates that were on trial when it was interrupted are drawn again."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(home / "optuna.log")))
    study = optuna.create_study(study_name="search", storage=storage, directions=directions, load_if_exists=True)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def loses(candidate: "Graded", rival: "Graded", tasks: Sequence[str], error: float) -> bool:
    """Whether a candidate is certainly worse than a rival on the mean, and ahead of it on no task.

    Each by task; the rival's questions are those of `candidate` and perhaps others.
    """
    from bm.statistics import compare

    mine, other = {}, {}
    for task in tasks:
        ids, mine[task] = candidate[task]
        places = {question: place for place, question in enumerate(rival[task][0])}
        other[task] = rival[task][1][[places[question] for question in ids]]
    if any(mine[task].mean() > other[task].mean() for task in tasks):
        return False
    return compare(mine, other, 1 - error).verdict == "worse"


def loaded(base: Artefact, tensors: "Mapping[str, Tensor]", config: Experiment) -> "Loaded":
    """The base's model with the tensors for weights."""
    parameters = config.evaluate.engine.parameters
    model, tokenizer = _shell(base.path, parameters["dtype"], parameters["device"])
    model.load_state_dict(dict(tensors), strict=False)
    filled = {value.data_ptr() for name, value in model.state_dict().items() if name in tensors}
    left = [name for name, value in model.state_dict().items() if value.data_ptr() not in filled]
    if left or not tensors.keys() <= model.state_dict().keys():
        raise UserError(f"{base.path}: the merge and its model have different tensors ({', '.join(left[:3])}, …)")
    return model, tokenizer


@cache
def _shell(folder: Path, dtype: str, device: str) -> "Loaded":
    """A model that takes the weights of one candidate after the other."""
    from bm.generate.transformers_engine import load

    return load(folder, dtype, device)
