"""Merge methods with their parameters tuned: as many trials for each, on questions apart from the test's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bm.config import Component, Experiment, Range, identity
from bm.errors import UserError, nearest
from bm.generate import IN_MEMORY
from bm.measuring import measured
from bm.stages import OF_OTHERS, Stages
from bm.store import Artefact, write_json
from bm.trials import Candidate, Search, told

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial
    from torch import Tensor

    from bm.merge.order import Order

    InMemory = tuple[Artefact, dict[str, Tensor]]

TUNED = " tuned"


def check(config: Experiment) -> None:
    """Check that every chosen method can be tuned; UserError before anything is made."""
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


def searched(
    config: Experiment, merges: "Sequence[tuple[str, Component, Order]]"
) -> "Iterator[tuple[str, Component, Order, Mapping[str, Range | Sequence[Any]]]]":
    """The merges whose methods have something to tune, each with what that is drawn from; none without `tune`."""
    keys = {id(method): key for key, method in config.merge.methods.items()}
    for name, method, order in merges if config.tune else ():
        assert config.tune is not None
        if space := config.tune.spaces[keys[id(method)]]:
            yield name, method, order, space


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
    questions = {n: stages.questions_of(domain, config.tune.questions) for n, domain in config.domains.items()}
    return [
        (name + TUNED, _tuned(stages, name, m, order, space, student, experts, traces, questions), order)
        for name, m, order, space in searched(config, merges)
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
        def merged(settings: Mapping[str, Any]) -> "InMemory":
            component = Component(method.target, {**method.parameters, **settings})
            known = measured(stages, component, student, experts, traces)
            return stages.merge_in_memory(component, order, student, experts, known)

        trials = _trials(stages, f"{config.seed} {method.target}", space, len(experts), merged, questions, work)
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
    searched = stages.make("tune", name, settings, inputs, build)
    return Component(method.target, {**method.parameters, **searched.facts["settings"]})


def _trials(
    stages: Stages, seed: str, space: Mapping[str, Range | Sequence[Any]], experts: int,
    merged: "Callable[[Mapping[str, Any]], InMemory]", questions: Mapping[str, Artefact], work: Path,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every trial, the defaults first: what differs from the method's own settings, and the mean score; None: it left
    the race."""
    from optuna.samplers import TPESampler

    from bm.report.findings.verdicts import graded

    how = stages.config.tune
    assert how is not None
    asking = replace(stages.config.evaluate, samples=how.samples, tasks=(), limit=None)
    apart = Stages(stages.store, replace(stages.config, evaluate=asking))

    def candidate(settings: Mapping[str, Any], name: str) -> Candidate:
        return Candidate(apart, work / name, questions, how.questions, merged(settings))

    def drawn(trial: "Trial") -> Candidate:
        return candidate(settings_of(trial.params, space, experts), f"trial-{trial.number}")

    default = candidate({}, "default")
    default.ask(None)
    trials = [{"settings": {}, "value": default.values(["mean"])[0]}]
    sampler = partial(TPESampler, multivariate=True, constant_liar=True, n_startup_trials=max(2, how.trials // 3))
    search = Search(work, ["mean"], how.trials - 1, how.race, sampler, seed)
    study = search.run(distributions(space, experts), drawn, how.batch, [graded(default.folder)])
    for trial in told(study):
        value = trial.value if trial.state.name == "COMPLETE" else None
        trials.append({"settings": settings_of(trial.params, space, experts), "value": value})
    return trials


def distributions(space: Mapping[str, Range | Sequence[Any]], experts: int) -> "dict[str, BaseDistribution]":
    """What Optuna draws from; a range for each expert is as many distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    made: dict[str, BaseDistribution] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            made[name] = CategoricalDistribution(list(values))
            continue
        drawn = FloatDistribution(values.low, values.high, log=values.log)
        made |= {f"{name}.{k}": drawn for k in range(experts)} if values.each else {name: drawn}
    return made


def settings_of(drawn: Mapping[str, Any], space: Mapping[str, Range | Sequence[Any]], experts: int) -> dict[str, Any]:
    """A trial's draws as parameters of the method: one number for each expert becomes a list."""
    each = {name for name, values in space.items() if isinstance(values, Range) and values.each}
    return {name: [drawn[f"{name}.{k}"] for k in range(experts)] if name in each else drawn[name] for name in space}
