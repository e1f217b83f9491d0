"""Candidates of a search: the model that settings make, in memory where it is a merge, asked more and more."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from bm.config import Experiment
from bm.errors import UserError
from bm.generate import IN_MEMORY
from bm.measuring import measured
from bm.preflight import preflight
from bm.report.findings.verdicts import graded
from bm.stages import Stages
from bm.store import Artefact, Store
from bm.tuning import loaded

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "mean": "maximize",
    "worst": "maximize",
    "response_tokens": "minimize",
    "trained_tokens": "minimize",
}
"""What can be sought: the mean score over the domains' tasks, the score on the worst of them, the mean length of a
response, and the tokens that all training behind the model saw, each of its steps counted once."""


@dataclass
class Candidate:
    """A model of the search. `folder` takes its samples and scores."""

    words: Sequence[str]
    stages: Stages
    folder: Path
    lineage: Sequence[Artefact]
    model: "Artefact | tuple[Artefact, dict[str, Tensor]]"
    """One that was trained, or a merge: the expert whose configuration it has, and its tensors."""
    questions: int
    """Questions of the task that has most of them."""

    def ask(self, first: int | None) -> None:
        """Put it to the first questions of each task (None: all); what was asked before is not asked again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        model = self.model.path if isinstance(self.model, Artefact) else loaded(*self.model, self.stages.config)
        self.stages.ask(model, self.stages.questions(), self.folder / "samples", first, self.folder)

    @cached_property
    def tasks(self) -> set[str]:
        """Those that scores are compared on: the domains' own."""
        return {str(domain.task) for domain in self.stages.config.domains.values()}

    def values(self, objectives: Sequence[str]) -> list[float]:
        """What it reaches, once all questions were asked."""
        scores = json.loads((self.folder / "scores.json").read_text())
        means = [scores[task]["mean"] for task in sorted(self.tasks)]
        trained = sum(a.facts.get("tokens", 0) for a in self.lineage if a.manifest["stage"] == "branch")
        values = {
            "mean": fmean(means),
            "worst": min(means),
            "response_tokens": fmean(scores[task]["response_tokens"] for task in sorted(self.tasks)),
            "trained_tokens": float(trained),
        }
        return [values[name] for name in objectives]


def candidate(config: Experiment, words: Sequence[str], home: Path, mixture: bool) -> Candidate:
    """The model of `config`: its only merge, or its mixture. UserError if there are several, or none."""
    from bm.commands import chosen_merges, run_key

    merges = list(chosen_merges(config))
    _check(config, [name for name, _, _ in merges], mixture)
    preflight(config, config.teacher, config.verify.judge, config.evaluate.engine)
    stages = Stages(Store(config.paths.outputs / "store"), config)
    questions = stages.questions()
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    student = stages.student()
    most = max(len(ids) for ids, _ in graded(stages.evaluate(student, questions).path).values())
    folder = home / "candidates" / run_key(config)
    if config.mixture is not None and mixture:
        model = stages.mixture(student, config.mixture, traces)
        return Candidate(words, stages, folder, [student, model], model, most)
    ((_, method, order),) = merges
    experts = {name: stages.expert(student, domain, traces[name]) for name, domain in config.domains.items()}
    known = measured(stages, method, student, experts, traces)
    merged = stages.merge_in_memory(method, order, student, experts, known)
    return Candidate(words, stages, folder, [student, *experts.values()], merged, most)


def _check(config: Experiment, merges: Sequence[str], mixture: bool) -> None:
    """UserError unless the settings make the one model that a candidate is."""
    if mixture and config.mixture is None:
        raise UserError("a search over mixtures needs one: mixture=proportional")
    if not mixture and config.evaluate.engine.target != IN_MEMORY:
        raise UserError(f"evaluate.engine: a search merges in memory, which only {IN_MEMORY} can take models from")
    if not mixture and len(merges) != 1:
        raise UserError(
            f"a candidate of a search is one merge, by one method in one order, not {', '.join(merges) or 'none'}"
        )
