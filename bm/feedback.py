"""The second stage of a round: experts answer new questions, and are taught again what they get wrong.

SAGE-32B (arXiv 2601.04237) publishes that it distils in two stages with feedback, and that a head foresees failures;
not by what formulas or data. How it is done here is ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bm.config import Component, Domain, Experiment, Feedback, overridden
from bm.errors import UserError
from bm.ledger import gpus
from bm.progress import say
from bm.stages import TRACES, Stages
from bm.store import Artefact

REJECTED = "rejected.parquet"
MISTAKES, AGAIN = "bm.distill.sources.mistakes.stream", "bm.distill.teachers.again.teacher"


def check(config: Experiment, domain: Domain) -> None:
    """UserError where there are no questions beyond those that an expert learns from, or its training is not one."""
    assert config.rounds.feedback is not None
    overrides = {**domain.branch, **config.rounds.feedback.branch}
    overridden(config.branch, overrides, "rounds.feedback.branch")
    if domain.traces is None:
        raise UserError(f"domains.{domain.name}.traces: must be a number with rounds.feedback, which asks as many more")


def teaches(teacher: Component, model: Artefact) -> Component:
    """A model as a teacher, sampled as `rounds.teacher` says."""
    return Component(teacher.target, {**teacher.parameters, "model": str(model.path)})


def taught_again(
    stages: Stages, experts: Mapping[str, Artefact], number: int, mixture: Artefact | None
) -> dict[str, Artefact]:
    """The experts of round `number` after the second stage of `rounds.feedback`; as they are where there is none."""
    feedback = stages.config.rounds.feedback
    if feedback is None:
        return dict(experts)
    return {
        name: _taught_again(stages, feedback, expert, stages.config.domains[name], number, mixture)
        for name, expert in experts.items()
    }


def _taught_again(
    stages: Stages, feedback: Feedback, expert: Artefact, domain: Domain, number: int, mixture: Artefact | None
) -> Artefact:
    """One expert. No round asks the questions of this stage, and each round's are its own."""
    config = stages.config
    attempts = stages.distill(
        domain, "train", teaches(config.rounds.teacher, expert), config.rounds.count + number,
        f"{domain.name} attempts", some=False,
    )  # fmt: skip
    if feedback.head:
        foreseen(stages, expert, attempts, domain.name)
    source = Component(MISTAKES, {"attempts": str(attempts.path)})
    if not any(source(domain.name, seed=config.seed)):
        say(f"{domain.name}: no mistake in {attempts.facts['asked']} questions, so there is nothing to teach again")
        return expert
    teacher = Component(AGAIN, {"teacher": config.teacher, "template": feedback.template})
    mistaken = replace(domain, source=source, traces=None)
    again = stages.distill(mistaken, "train", teacher, 1, f"{domain.name} mistakes", some=False)
    if not again.facts["kept"]:
        say(f"{domain.name}: of {again.facts['asked']} mistakes no new answer was accepted; the expert stays as it is")
        return expert
    say(f"{domain.name}: {again.facts['asked']} of {attempts.facts['asked']} questions answered wrongly, "
        f"{again.facts['kept']} of them answered again")  # fmt: skip
    settings = replace(domain, branch={**domain.branch, **feedback.branch})
    return stages.expert(expert, settings, again, mixture=mixture)


def foreseen(stages: Stages, expert: Artefact, attempts: Artefact, name: str) -> Artefact:
    """How well prompt and plan foretell whether the verifier will accept a response (`bm.branch.foresight`)."""
    feedback, device = stages.config.rounds.feedback, stages.config.merge.device
    assert feedback is not None and feedback.head is not None
    head = feedback.head

    def build(work: Path) -> Mapping[str, Any]:
        from bm.branch import foresight
        from bm.distill import UNCHOSEN

        files = attempts.path / TRACES, attempts.path / REJECTED
        facts = foresight(expert.path, *files, UNCHOSEN, head, device, work)
        return {**facts, "gpus": gpus(device)}

    made = stages.make("foresight", name, {"head": head}, [expert, attempts], build)
    if not made.facts["scores"]:
        accepted = f"{made.facts['accepted']:.0%} of {made.facts['responses']} responses"
        say(f"{name}: {accepted} accepted, too few of either kind to foresee which")
    for seen, scores in made.facts["scores"].items():
        say(f"{name}: acceptance foreseen from the {seen}: Brier score {scores['brier']:.3f} "
            f"({scores['brier_of_share']:.3f} by their share), calibration error {scores['ece']:.3f}")  # fmt: skip
    return made
