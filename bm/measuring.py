"""What is measured of models: what merge methods weigh by, how updates meet, and held-out losses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bm.config import Component, identity
from bm.errors import UserError
from bm.ledger import gpus
from bm.stages import TRACES, Known, Stages
from bm.store import Artefact


def measured(
    stages: Stages,
    method: Component,
    student: Artefact,
    experts: Mapping[str, Artefact],
    traces: Mapping[str, Artefact],
) -> Known:
    """What a method weighs by, of each expert or of the student; UserError if an expert has not kept it."""
    from bm.merge import statistics_of

    kind = statistics_of(method)
    if kind is None or stages.config.merge.statistics:
        return Known({}, [])
    if kind == "second_moments":
        from bm.branch import MOMENTS

        for name, expert in experts.items():
            if not (expert.path / MOMENTS).is_dir():
                raise UserError(
                    f"{name}: no second moments beside {expert.path}; train it with branch.second_moments=true"
                )
        return Known({name: expert.path / MOMENTS for name, expert in experts.items()}, [])
    if kind == "regmean_plus_plus":
        together = _together(stages, float(method.parameters["alpha"]), experts, traces)
        return Known({name: together.path / name for name in experts}, [together])
    if kind == "activations":
        statistics = {"student": _alone(stages, kind, student, list(traces.values()))}
    else:
        statistics = {name: _alone(stages, kind, expert, [traces[name]]) for name, expert in experts.items()}
    return Known({name: artefact.path for name, artefact in statistics.items()}, list(statistics.values()))


def _alone(stages: Stages, kind: str, model: Artefact, traces: Sequence[Artefact]) -> Artefact:
    """The statistics of one model, on as many examples of each set of traces."""
    count, device = stages.config.merge.examples, stages.config.merge.device

    def build(work: Path) -> Mapping[str, Any]:
        from bm.branch import rendered
        from bm.merge import measure

        examples = [example for t in traces for example in rendered(model.path, t.path / TRACES, count)]
        return {**measure(kind, model.path, examples, device, work), "gpus": gpus(device)}

    settings = {"kind": kind, "examples": count, "device": identity(stages.config.merge)["device"]}
    return stages.make("statistics", f"{kind} of {model.label}", settings, [model, *traces], build)


def _together(
    stages: Stages, alpha: float, experts: Mapping[str, Artefact], traces: Mapping[str, Artefact]
) -> Artefact:
    """The statistics of all experts at once, whose layers see what is merged below them."""
    count, device = stages.config.merge.examples, stages.config.merge.device

    def build(work: Path) -> Mapping[str, Any]:
        from bm.branch import rendered
        from bm.merge import measure_together

        examples = {name: rendered(e.path, traces[name].path / TRACES, count) for name, e in experts.items()}
        folders = {name: expert.path for name, expert in experts.items()}
        return {**measure_together(folders, examples, alpha, work, device), "gpus": gpus(device)}

    settings = {
        "kind": "regmean_plus_plus",
        "alpha": alpha,
        "examples": count,
        "names": list(experts),
        "device": identity(stages.config.merge)["device"],
    }
    inputs = [*experts.values(), *(traces[name] for name in experts)]
    return stages.make("statistics", f"regmean++ of {' & '.join(experts)}", settings, inputs, build)


def interference(stages: Stages, student: Artefact, experts: Mapping[str, Artefact]) -> Artefact | None:
    """How the experts' updates meet, tensor by tensor (paper, appendix C); None where it is not to be measured."""
    config = stages.config.merge
    lam = config.interference
    if lam is None or len(experts) < 2:
        return None

    def build(work: Path) -> Mapping[str, Any]:
        from bm.merge import interference

        facts = interference({n: e.path for n, e in experts.items()}, student.path, lam, config, work)
        return {**facts, "gpus": gpus(config.device)}

    settings = {"lam": lam, "dtype": config.dtype, "device": identity(config)["device"]}
    return stages.make("interference", " & ".join(experts), settings, [student, *experts.values()], build)


def losses(
    stages: Stages,
    student: Artefact,
    experts: Mapping[str, Artefact],
    others: Mapping[str, Artefact],
    traces: Mapping[str, Artefact],
) -> Artefact | None:
    """The held-out losses of these models, and on the lines between experts; None where they are not asked for."""
    return None if stages.config.merge.barrier is None else _losses(stages, student, experts, others, traces)


def held_out_loss(stages: Stages, student: Artefact, merged: Artefact, traces: Mapping[str, Artefact]) -> float:
    """A merge's loss on held-out traces in nats per token, the mean over domains."""
    measurement = _losses(stages, student, {}, {merged.label: merged}, traces)
    told = json.loads((measurement.path / "losses.json").read_text())["models"][merged.label]["losses"]
    return fmean(told.values())


def _losses(
    stages: Stages,
    student: Artefact,
    experts: Mapping[str, Artefact],
    others: Mapping[str, Artefact],
    traces: Mapping[str, Artefact],
) -> Artefact:
    config = stages.config
    points, settings, trainer = config.merge.barrier or 1, config.branch, config.trainer
    models = {"student": student, **experts, **others}

    def build(work: Path) -> Mapping[str, Any]:
        from bm.branch import Traces, barrier

        sets = [Traces(t.path / TRACES, domain) for domain, t in traces.items()]
        folders = {name: model.path for name, model in models.items()}
        facts = barrier(folders, student.path, list(experts), sets, points, settings, trainer, work)
        return {**facts, "gpus": int(trainer.accelerator == "gpu")}

    held = {name: getattr(settings, name) for name in ("seed", "held_out", "sequence_length", "overlong", "packing")}
    counting = {"points": points, "held_out": held, "accelerator": trainer.accelerator, "models": list(models)}
    label = "the line" if experts else " & ".join(others)
    return stages.make("losses", label, counting, [*models.values(), *traces.values()], build)
