"""Merge methods with their parameters tuned: as many trials for each, on questions apart from the test's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from bm.config import Component, Experiment, Range, Tune, identity
from bm.errors import UserError, nearest
from bm.generate import IN_MEMORY
from bm.measuring import measured
from bm.progress import say
from bm.stages import OF_OTHERS, QUESTIONS, Stages
from bm.store import Artefact, digest, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from torch import Tensor

    from bm.generate.transformers_engine import Loaded
    from bm.merge.order import Order
    from bm.report.findings.verdicts import Graded

TUNED = " tuned"


def check(config: Experiment) -> None:
    """That every chosen method can be tuned; UserError before anything is made."""
    if config.tune is None:
        return
    if find_spec("optuna") is None:
        raise UserError("tune needs Optuna: pip install 'bm[search]'")
    if config.evaluate.engine.target != IN_MEMORY:
        raise UserError(f"evaluate.engine: tuning merges in memory, which only {IN_MEMORY} can take models from")
    for name, domain in config.domains.items():
        if domain.questions is None:
            raise UserError(f"tune: domains.{name} has no questions of its own beside the test's to tune on")
    for name, method in config.merge.methods.items():
        space = config.tune.spaces.get(name)
        if space is None:
            raise UserError(
                f"tune.spaces: nothing about {name}; give its parameters' ranges, or {{}} to leave it as it is"
            )
        for parameter in space:
            if parameter not in method.parameters:
                raise UserError(
                    f"tune.spaces.{name}: no parameter '{parameter}'{nearest(parameter, method.parameters)}"
                )


def tuned(
    stages: Stages,
    merges: "Sequence[tuple[str, Component, Order]]",
    student: Artefact,
    experts: Mapping[str, Artefact],
    traces: Mapping[str, Artefact],
) -> "list[tuple[str, Component, Order]]":
    """Each merge again with the parameters that were best on the tuning questions; none without `tune`."""
    config = stages.config
    if config.tune is None:
        return []
    keys = {id(method): key for key, method in config.merge.methods.items()}
    searched = [(name, m, order, config.tune.spaces[keys[id(m)]]) for name, m, order in merges]
    questions = {n: stages.questions_of(domain, config.tune.questions) for n, domain in config.domains.items()}
    return [
        (name + TUNED, _tuned(stages, name, m, order, space, student, experts, traces, questions), order)
        for name, m, order, space in searched
        if space
    ]


def _tuned(
    stages: Stages, name: str, method: Component, order: "Order", space: Mapping[str, Range | Sequence[Any]],
    student: Artefact, experts: Mapping[str, Artefact], traces: Mapping[str, Artefact],
    questions: Mapping[str, Artefact],
) -> Component:  # fmt: skip
    config = stages.config
    assert config.tune is not None
    how = config.tune

    def build(work: Path) -> Mapping[str, Any]:
        def merged(component: Component) -> "tuple[Artefact, dict[str, Tensor]]":
            known = measured(stages, component, student, experts, traces)
            return stages.merge_in_memory(component, order, student, experts, known)

        search = Search(config, how, method, space, len(experts), merged, questions, work)
        trials = search.run()
        write_json(work / "trials.json", trials)
        best = max(trials, key=lambda trial: -1 if trial["value"] is None else trial["value"])
        return {"trials": len(trials), "settings": best["settings"], "value": best["value"],
                "default": trials[0]["value"]}  # fmt: skip

    asked = replace(config.evaluate, samples=how.samples, tasks=(), traces=(), race=None)
    numerics = {key: value for key, value in identity(config.merge).items() if key not in OF_OTHERS}
    settings = {"method": method, "order": str(order), "space": space, "seed": config.seed, "evaluate": asked,
                "verify": config.verify, **numerics, "examples": config.merge.examples,
                "how": {"trials": how.trials, "batch": how.batch, "race": how.race}}  # fmt: skip
    inputs = [student, *experts.values(), *traces.values(), *questions.values()]
    found = stages.make("tune", name, settings, inputs, build)
    return Component(method.target, {**method.parameters, **found.facts["settings"]})


@dataclass
class Entrant:
    """A merge on trial: in memory, its samples and scores in `folder`."""

    search: "Search"
    settings: Mapping[str, Any]
    folder: Path

    @property
    def questions(self) -> int:
        return self.search.how.questions

    @cached_property
    def _model(self) -> "tuple[Artefact, dict[str, Tensor]]":
        method = self.search.method
        made: tuple[Artefact, dict[str, Tensor]] = self.search.merged(
            Component(method.target, {**method.parameters, **self.settings})
        )
        return made

    def prepare(self) -> None:
        """Merges; UserError if its settings cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _ = self._model

    def ask(self, first: int | None) -> None:
        """Put it to the first questions of each task (None: all); what was asked before is not asked again."""
        from bm.evaluate import evaluate

        of, config = self.search, self.search.config
        model = loaded(*self._model, config)
        settings = replace(config.evaluate, samples=of.how.samples, tasks=(), limit=None)
        evaluate(model, settings, config.verify, sorted(of.own), of.own, self.folder, self.folder / "samples", first)

    @property
    def value(self) -> float:
        """The mean over tasks, once all questions were asked."""
        scores = json.loads((self.folder / "scores.json").read_text())
        return fmean(scores[task]["mean"] for task in sorted(self.search.own))


@dataclass
class Search:
    """The trials of one method: its defaults, then what Optuna draws. Its state is on disk: a killed one goes on."""

    config: Experiment
    how: Tune
    method: Component
    space: Mapping[str, Range | Sequence[Any]]
    experts: int
    merged: Any
    questions: Mapping[str, Artefact]
    work: Path
    own: dict[str, Path] = field(init=False)
    """The questions of each domain's task."""

    def __post_init__(self) -> None:
        domains = self.config.domains
        self.own = {str(domains[name].task): found.path / QUESTIONS for name, found in self.questions.items()}

    def run(self) -> list[dict[str, Any]]:
        """Every trial: what differs from the method's own settings, and the mean score; None: not asked all."""
        first = self._asked({}, "default")
        study = self._study()
        while ahead := self.how.trials - 1 - len(_told(study)):
            self._batch(study, min(ahead, self.how.batch), first)
        best = [{"settings": {}, "value": first.value}]
        for trial in _told(study):
            value = trial.value if trial.state.name == "COMPLETE" else None
            best.append({"settings": self._settings(trial.params), "value": value})
        return best

    def _asked(self, settings: Mapping[str, Any], name: str) -> Entrant:
        one = Entrant(self, settings, self.work / name)
        one.prepare()
        one.ask(None)
        return one

    def _study(self) -> "Study":
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.work / "optuna.log")))
        study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _batch(self, study: "Study", size: int, first: Entrant) -> None:
        """Draw, merge, race and tell some. The draw depends on the seed and on what was told before alone."""
        import optuna
        from optuna.trial import TrialState

        from bm.report.findings.verdicts import graded

        told = _told(study)
        seed = int(digest(f"{self.config.seed} {self.method.target} {len(told)}".encode())[:8], 16)
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=max(2, self.how.trials // 3)
        )
        made: dict[int, Entrant] = {}
        for trial in [study.ask(self._distributions()) for _ in range(size)]:
            one = Entrant(self, self._settings(trial.params), self.work / f"trial-{trial.number}")
            try:
                one.prepare()
                made[trial.number] = one
            except UserError as mistake:
                trial.set_user_attr("error", str(mistake))
                study.tell(trial, state=TrialState.FAIL)
        done = [t for t in told if t.state.name == "COMPLETE"]
        best = max(done, key=lambda t: t.value, default=None)
        before = [graded(first.folder), *([graded(self.work / f"trial-{best.number}")] if best else [])]
        evaluate, share = self.config.evaluate, (self.how.race or 0.0) / (3 * self.how.trials)
        left = raced(made, before, share, set(self.own), evaluate.resamples, self.config.seed)
        for number, one in made.items():
            if number in left:
                study.tell(number, state=TrialState.PRUNED)
            else:
                study.tell(number, one.value)

    def _distributions(self) -> "dict[str, BaseDistribution]":
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        found: dict[str, BaseDistribution] = {}
        for name, values in self.space.items():
            if not isinstance(values, Range):
                found[name] = CategoricalDistribution(list(values))
                continue
            drawn = FloatDistribution(values.low, values.high, log=values.log)
            found |= {f"{name}.{k}": drawn for k in range(self.experts)} if values.each else {name: drawn}
        return found

    def _settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's draws as parameters of the method: one number for each expert becomes a list."""
        each = {name for name, values in self.space.items() if isinstance(values, Range) and values.each}
        return {
            name: [drawn[f"{name}.{k}"] for k in range(self.experts)] if name in each else drawn[name]
            for name in self.space
        }


def _told(study: "Study") -> list[Any]:
    """Trials with an end of their own: asked all, left early, or failed by their settings."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or "error" in t.user_attrs]


class Racer(Protocol):
    """Who can be asked more and more questions."""

    @property
    def folder(self) -> Path: ...

    @property
    def questions(self) -> int: ...

    def ask(self, first: int | None) -> None: ...


def raced(
    made: Mapping[int, Racer], before: "Sequence[Graded]", risk: float, tasks: set[str], resamples: int, seed: int
) -> set[int]:
    """Ask the racers more and more questions; returns the numbers of those that left, the others got all.

    The rivals of a racer are the others that are left, and those `before`. risk: of one comparison; 0: no race.
    """
    from bm.evaluate.racing import ROUNDS
    from bm.report.findings.verdicts import graded

    left: set[int] = set()
    for share in [*(ROUNDS if risk else ()), 1.0]:
        now: dict[int, Graded] = {}
        for number, one in made.items():
            if number not in left:
                one.ask(ceil(share * one.questions) if share < 1 else None)
                now[number] = graded(one.folder)
        if share == 1:
            break
        for number, found in now.items():
            rivals = [*before, *(other for n, other in now.items() if n != number)]
            if any(loses(found, rival, tasks, resamples, risk, seed) for rival in rivals):
                left.add(number)
                say(f"candidate {number} leaves after {share:.0%} of the questions")
    return left


def loses(one: "Graded", rival: "Graded", tasks: set[str], resamples: int, error: float, seed: int) -> bool:
    """Whether a candidate is certainly worse than a rival on the mean, and ahead of it on no task.

    Each by task; the rival's questions are those of `one` and perhaps others.
    """
    from bm.statistics import compare

    mine, other = {}, {}
    for task in tasks:
        ids, mine[task] = one[task]
        places = {question: place for place, question in enumerate(rival[task][0])}
        other[task] = rival[task][1][[places[question] for question in ids]]
    if any(mine[task].mean() > other[task].mean() for task in tasks):
        return False
    return compare(mine, other, resamples, 1 - error, seed).verdict == "worse"


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
