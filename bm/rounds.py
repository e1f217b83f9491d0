"""A round of an experiment: traces, experts, mixture and merges, tested; and which of them the next one begins with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bm.config import Component, Experiment, overridden
from bm.errors import UserError, nearest
from bm.feedback import check as check_feedback
from bm.feedback import taught_again, teaches
from bm.measuring import held_out_loss, interference, losses, measured
from bm.preflight import LOCAL
from bm.progress import say
from bm.stages import Stages
from bm.store import Artefact, model_digest
from bm.tuning import TUNED, tuned
from bm.tuning import check as check_tuning

if TYPE_CHECKING:
    from bm.merge.order import Order
    from bm.report import Kind, Results, Subject
    from bm.statistics import Array

    Merging = tuple[str, Component, Order]
    """A merge's name, method and order."""


def chosen_merges(config: Experiment) -> "Iterator[Merging]":
    """Name, method and order of each merge; a method that takes any number of models merges all experts at once."""
    from bm.merge import orders

    for name, method in config.merge.methods.items():
        chosen = orders(config.merge.order, list(config.domains), method)
        for order in chosen:
            yield (name if len(chosen) == 1 else f"{name} {order}"), method, order


def check(config: Experiment, merges: Sequence[str]) -> None:
    """Check that later rounds have a model to begin with, and fresh questions; UserError before anything is made."""
    check_tuning(config)
    _check_ensemble(config)
    _check_parts(config, merges)
    for domain in config.domains.values() if config.rounds.feedback else ():
        check_feedback(config, domain)
    if config.rounds.count == 1:
        return
    kinds = {"expert", *["merge"] * bool(merges), *["mixture"] * (config.mixture is not None)}
    names = {*config.domains, *merges, *config.consolidate, *kinds}
    if config.rounds.model not in names:
        raise UserError(f"rounds.model: no round makes '{config.rounds.model}'{nearest(config.rounds.model, names)}")
    for name, domain in config.domains.items():
        if domain.traces is None:
            raise UserError(
                f"domains.{name}.traces: must be a number in several rounds, so that each has its own traces"
            )


def _check_ensemble(config: Experiment) -> None:
    if config.ensemble and config.evaluate.engine.target != LOCAL:
        raise UserError("ensemble: several models answer as one in the engine transformers alone; choose "
                        "evaluate.engine=transformers, or ensemble=null")  # fmt: skip
    if config.ensemble and len(config.domains) < 2:
        raise UserError("ensemble: one expert alone is none; choose more domains, or ensemble=null")


def _check_parts(config: Experiment, merges: Sequence[str]) -> None:
    if config.rounds.parts == 1:
        if config.rounds.patience is not None:
            raise UserError("rounds.patience: with one part there is nothing to stop; set rounds.parts")
        return
    if config.rounds.patience is not None and not config.branch.held_out:
        raise UserError("rounds.patience: needs held-out traces, branch.held_out")
    if len(merges) != 1:
        raise UserError(f"rounds.parts: experts continue from one merge, not from {', '.join(merges) or 'none'}")
    for name, domain in config.domains.items():
        branch = overridden(config.branch, domain.branch, f"domains.{name}.branch")
        for setting in ("keep", "at", "ema", "tail", "adapter"):
            if getattr(branch, setting):
                raise UserError(
                    f"branch.{setting}: does not work with rounds.parts, as each part begins with another model"
                )


def models(
    stages: Stages,
    questions: Mapping[str, Artefact],
    merges: "Sequence[Merging]",
    number: int,
    before: "Subject | None",
) -> "list[Subject]":
    """Round `number`'s models, tested. In the first the student is the recipe's, and its teacher teaches.

    Later the student is the model `before`, and teaches itself: of its responses to questions that no round has asked
    yet, those that the domain's verifier accepts (rejection sampling).
    """
    config = stages.config
    teacher = teaches(config.rounds.teacher, before.model) if before else config.teacher
    student = before.model if before else stages.student()
    traces = {name: stages.distill(domain, "train", teacher, number) for name, domain in config.domains.items()}
    mixture = stages.mixture(student, config.mixture, traces) if config.mixture else None
    start, experts = _branched(stages, student, traces, merges, mixture)
    experts = taught_again(stages, experts, number, mixture)
    interference(stages, start, experts)
    said = f"round {number} " if config.rounds.count > 1 else ""
    keys = {id(method): key for key, method in config.merge.methods.items()}
    called = {name: keys[id(method)] for name, method, _ in merges}
    merges = [*merges, *tuned(stages, merges, start, experts, traces)]
    merged = {
        said + name: stages.merge(name, method, order, start, experts, measured(stages, method, start, experts, traces))
        for name, method, order in merges
    }
    losses(stages, student, experts, merged, traces)
    if mixture:
        losses(stages, student, {}, {"mixture": mixture}, traces)
    starts = {"student": student, "mixture": mixture, "merge": next(iter(merged.values()), None)}
    finished = {
        said + name: stages.consolidated(name, arm, begun, experts, traces, mixture)
        for name, arm in config.consolidate.items()
        if (begun := starts[arm.start]) is not None
    }
    together = _ensemble(stages, experts, config.ensemble) if config.ensemble else None
    called |= {name + TUNED: key + TUNED for name, key in called.items()}
    made = {said + name: _made_of(called[name], order) for name, _, order in merges}

    tested = partial(_tested, stages, questions)
    subjects = [replace(before, kind="student", task=None) if before else tested(f"{said}student", "student", student)]
    experts_tested = {name: tested(said + name, "expert", e, config.domains[name].task) for name, e in experts.items()}
    subjects += [replace(expert, domains=(name,)) for name, expert in experts_tested.items()]
    subjects += [tested(f"{said}mixture", "mixture", mixture)] if mixture else []
    out = _raced(stages, questions, merged, subjects[0])
    tests = {name: tested(name, "merge", model, first=out.get(name)) for name, model in merged.items()}
    subjects += [replace(merge, **made[name]) for name, merge in tests.items()]
    for name, model in finished.items():
        subjects.append(replace(tested(name, "consolidated", model), domains=tuple(experts)))
    if together:
        subjects.append(replace(tested(f"{said}ensemble", "ensemble", together), domains=tuple(experts)))
    return [replace(subject, round=number) for subject in subjects]


def _branched(
    stages: Stages,
    student: Artefact,
    traces: Mapping[str, Artefact],
    merges: "Sequence[Merging]",
    mixture: Artefact | None,
) -> tuple[Artefact, dict[str, Artefact]]:
    """The experts to be merged, and what they are merged over: the student, or the merge before their last part.

    With `rounds.patience` those of the part whose merge has the lowest held-out loss (early stopping).
    """
    config, how, start = stages.config, stages.config.rounds, student
    experts: dict[str, Artefact] = {}
    best: tuple[float, Artefact, dict[str, Artefact]] | None = None
    since = 0
    for index in range(how.parts):
        experts = {
            name: stages.expert(
                experts[name] if how.go_on == "own" and experts else start,
                domain, traces[name], (index, how.parts), experts.get(name), mixture,
            )
            for name, domain in config.domains.items()
        }  # fmt: skip
        last = index + 1 == how.parts
        if last and how.patience is None:
            break
        ((name, method, order),) = merges
        known = measured(stages, method, start, experts, traces)
        merged = stages.merge(f"{name} {index + 1}/{how.parts}", method, order, start, experts, known)
        if how.patience is not None:
            loss = held_out_loss(stages, student, merged, traces)
            say(f"merge after part {index + 1} of {how.parts}: {loss:.4f} nats per held-out token")
            if best is None or loss < best[0]:
                best, since = (loss, start, experts), 0
            else:
                since += 1
            if since == how.patience:
                break
        if how.go_on == "merge":
            start = merged
    return (start, experts) if best is None else best[1:]


def _ensemble(stages: Stages, experts: Mapping[str, Artefact], average: Literal["logits", "probabilities"]) -> Artefact:
    """Experts as one model that averages what they say of each token: no weights are merged, so nothing is lost."""

    def build(work: Path) -> Mapping[str, Any]:
        from bm.generate.ensemble import write

        write(average, {n: e.path for n, e in experts.items()}, {n: model_digest(e) for n, e in experts.items()}, work)
        return {"models": len(experts)}

    return stages.make("ensemble", " & ".join(experts), {"average": average}, list(experts.values()), build)


def _made_of(method: str, order: "Order") -> dict[str, Any]:
    """What a merge's row says of how it was made."""
    from bm.merge.order import base_leaf, leaves

    return {"method": method, "order": str(order), "base": base_leaf(order), "domains": tuple(leaves(order))}


def chosen(which: str, results: "Results", subjects: "Sequence[Subject]") -> "Subject":
    """The best of a kind by its mean over tasks, or the model called `which`."""
    made = [s for s in subjects if s.kind != "student"]
    for kind in {s.kind for s in made if s.kind == which}:
        if best := results.best(kind):
            return next(s for s in made if s.name == best.name)
    experts = {s.domains[0]: s for s in made if s.kind == "expert"}
    merges = {name: s for s in made if s.kind == "merge" for name in (str(s.method), f"{s.method} {s.order}")}
    others = {s.name: s for s in made if s.kind == "consolidated"}
    return {**others, **merges, **experts}[which]


def _tested(
    stages: Stages,
    questions: Mapping[str, Artefact],
    name: str,
    kind: "Kind",
    model: Artefact,
    task: str | None = None,
    first: int | None = None,
) -> "Subject":
    """A model with its evaluation, on the first questions of each task alone if it left a race after them."""
    from bm.report import Subject

    evaluation = stages.evaluate(model, questions, first)
    return Subject(name, kind, model, evaluation, task, stages.seen(model, evaluation), first)


def _raced(
    stages: Stages, questions: Mapping[str, Artefact], merged: Mapping[str, Artefact], student: "Subject"
) -> dict[str, int]:
    """The merges that cannot win any more, and after how many questions of each task; none if there is no race."""
    config = stages.config.evaluate
    if config.race is None or len(merged) < 2:
        return {}
    from bm.evaluate.racing import race
    from bm.report.findings.verdicts import graded

    own = {domain.task for domain in stages.config.domains.values()}
    known = graded(student.evaluation.path)
    tasks = [task for task in known if task in own] or list(known)
    asked = max(len(known[task][0]) for task in tasks)

    def ask(name: str, first: int) -> "dict[str, Array]":
        samples = graded(stages.evaluate(merged[name], questions, first).path)
        return {task: samples[task][1] for task in tasks}

    out = race(list(merged), asked, ask, config.race)
    spared = sum(1 - first / asked for first in out.values()) / len(merged)
    say(f"race: {len(out)} of {len(merged)} merges left early, which spared {spared:.0%} of their questions")
    return out
