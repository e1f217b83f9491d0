"""What each command of `bm` is told, whole."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bm.config.component import TeacherTarget, TrackerTarget
from bm.config.loading import Content, NoKey, overridden
from bm.config.planning import Planning
from bm.config.settings import (
    STRICT,
    Distill,
    Domains,
    Evaluate,
    Merge,
    Mixture,
    Name,
    Paths,
    Positive,
    Prices,
    Rounds,
    Seed,
    Student,
    Verify,
)
from bm.config.training import Branch, Consolidate, Trainer
from bm.config.tuning import Tune
from bm.errors import nearest

Stage = Literal[
    "questions", "prompts", "distill", "student", "tell", "branch", "interference", "statistics", "merge", "losses",
    "ensemble", "evaluate", "rung", "tune", "foresight",
]  # fmt: skip


@dataclass(frozen=True, config=STRICT)
class Experiment:
    """A whole experiment, from questions to verdicts."""

    recipe: Name
    """The page of `conf/recipe/` that the settings begin with; runs and reports are called by it."""
    experiment: Name | None
    """The published table or figure, or the ablation, that this is a cell of; `conf/experiment/` sets it."""
    variant: Annotated[Name | None, NoKey]
    """What the experiment calls this cell, where several settings make one difference; null: its settings tell."""
    seed: Seed
    """Seed of every draw: training, merging, sampling and the bootstrap follow it unless they have their own."""
    paths: Annotated[Paths, NoKey]
    """Where things are written."""
    output: Annotated[Path | None, NoKey]
    """Where the results go; null: a folder below `paths.outputs` that is named by what decides them."""
    fresh: Annotated[Sequence[Stage], NoKey]
    """Stages whose artefacts are made again although they exist; what depends on a changed result is made again too."""
    student: Student
    teacher: TeacherTarget
    """Who answers the questions (`bm.distill.teachers`)."""
    domains: Domains
    mixture: Mixture | None
    distill: Distill
    branch: Branch
    merge: Merge
    tune: Tune | None
    """Merges with tuned parameters beside those with their defaults; null: none."""
    consolidate: Mapping[Name, Consolidate]
    """Ways to finish one model from all experts, by name."""
    ensemble: Literal["logits", "probabilities"] | None
    """What is averaged of all experts where they answer together, token by token (`bm.generate.ensemble`): an upper
    line for merges, at the cost of a forward pass of each; null: they do not."""
    evaluate: Evaluate
    verify: Verify
    rounds: Rounds
    trainer: Trainer
    prices: Prices
    plan: Annotated[Planning, NoKey]
    tracker: Annotated[TrackerTarget, NoKey]
    """Who watches (`bm.track.backends`); local files are written besides, and are the truth."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        self._check_consolidations()
        for name, domain in self.domains.items():
            if domain.task is None:
                raise ValueError(
                    f"domains.{name}.task: domain '{name}' has no evaluation task; name one of lm-eval's or of bm's"
                )
            overridden(self.branch, domain.branch, f"domains.{name}.branch")
            overridden(self.distill, domain.distill, f"domains.{name}.distill")
        if self.mixture:
            for name in self.mixture.ratio:
                if name not in self.domains:
                    raise ValueError(f"mixture.ratio.{name}: no such domain{nearest(name, self.domains)}")
            if (out := self.mixture.leave_out) and (out not in self.domains or len(self.domains) == 1):
                others = [name for name in self.domains if len(self.domains) > 1]
                raise ValueError(f"mixture.leave_out: '{out}' is not one of several domains{nearest(out, others)}")
            overridden(self.branch, self.mixture.branch, "mixture.branch")
        self.student_trainings()
        return self

    def student_trainings(self) -> list[Branch]:
        """Settings of the student's own trainings in order: from scratch, then annealed; empty if it comes trained."""
        first = overridden(self.branch, self.student.branch, "student.branch")
        if not self.student.domains:
            return []
        if not self.student.anneal:
            return [first]
        return [first, overridden(replace(first, keep=(), at=None), self.student.anneal, "student.anneal")]

    def _check_consolidations(self) -> None:
        """Each has what it begins with, and nobody but them has experts for teachers."""
        for name, arm in self.consolidate.items():
            overridden(replace(self.branch, keep=(), at=None), arm.branch, f"consolidate.{name}.branch")
            if arm.start == "mixture" and self.mixture is None:
                raise ValueError(f"consolidate.{name}.start: there is no mixture to begin with; choose mixture=…")
            if arm.start == "merge" and not self.merge.methods:
                raise ValueError(f"consolidate.{name}.start: there is no merge to begin with; choose merge=…")
        others = {"branch": self.branch.teacher, "student.branch": self.student.branch.get("teacher")}
        others |= {f"domains.{name}.branch": domain.branch.get("teacher") for name, domain in self.domains.items()}
        others |= {"mixture.branch": self.mixture.branch.get("teacher")} if self.mixture else {}
        if self.rounds.feedback:
            others["rounds.feedback.branch"] = self.rounds.feedback.branch.get("teacher")
        for where, teacher in others.items():
            if teacher == "experts":
                raise ValueError(f"{where}.teacher: only a consolidation has experts for teachers (consolidate=opd)")
        arms = {f"consolidate.{name}.branch": arm.branch.get("teacher") for name, arm in self.consolidate.items()}
        for where, teacher in {**others, **arms}.items():
            if teacher == "mixture":
                self._check_mixture_teaches(where)

    def _check_mixture_teaches(self, where: str) -> None:
        """There is a mixture, and it and the student that it begins with are trained without it."""
        if self.mixture is None:
            raise ValueError(
                f"{where}.teacher: there is no mixture that could teach; `bm run mixture=teaching` has one"
            )
        if overridden(self.branch, self.mixture.branch, "mixture.branch").teacher == "mixture":
            raise ValueError("mixture.branch.teacher: the mixture cannot teach itself; choose mixture=teaching")
        if any(training.teacher == "mixture" for training in self.student_trainings()):
            raise ValueError("student.branch.teacher: the mixture is made of the student, and cannot teach it")


@dataclass(frozen=True, config=STRICT)
class Doctor(Experiment):
    """`bm doctor`: what this machine has, and what an experiment needs and lacks."""


@dataclass(frozen=True, config=STRICT)
class MergeFolders:
    """`bm merge`: any Hugging Face folders into one."""

    paths: Paths
    merge: Merge
    base: Annotated[Path, Content] | None
    """The model that the others are merged into, or from which updates are counted; null: none is needed."""
    models: Sequence[Annotated[Path, Content]]
    """The folders that are merged, in this order."""
    mergekit: Annotated[Path, Content] | None
    """A mergekit config that says all of this itself; null: none."""
    output: Path
    """Folder of the merged model."""


@dataclass(frozen=True, config=STRICT)
class EvaluateFolder(Experiment):
    """`bm evaluate`: a Hugging Face folder on the domains' tasks and on `evaluate.tasks`."""

    model: Annotated[Path, Content]
    """The Hugging Face folder that is tested."""
    output: Path
    """Where its scores and samples go."""


@dataclass(frozen=True, config=STRICT)
class VerifyFile:
    """`bm verify`: a file of responses, graded one by one."""

    paths: Paths
    verify: Verify
    verifier: str
    """One of `verify.verifiers`, or `judge`."""
    file: Path
    """JSON Lines with `response`, and `answer` or `tests`."""
    output: Path
    """JSON Lines with a verdict for each response."""


@dataclass(frozen=True, config=STRICT)
class Chosen:
    """The grid that a report is of."""

    experiment: Name | None
    """The experiment whose grid is reported; null: every run below `paths.outputs`."""
    recipe: Name | None
    """Its scale; null: the one it was run at."""


@dataclass(frozen=True, config=STRICT)
class Report:
    """`bm report`: every run side by side, the grid of an experiment, or the traces of a folder."""

    paths: Paths
    grid: Chosen
    """The experiment that is reported, and its scale."""
    record: bool
    """Whether a checkout keeps what was measured, in `experiments/`."""
    traces: Path | None
    """A distillation artefact, or any folder with a traces.parquet; null: the runs."""
    limit: Positive
    """Greatest number of traces that the page holds."""
    prices: Prices
    output: Path | None
    """Folder of the page; null: below `paths.outputs`."""


@dataclass(frozen=True, config=STRICT)
class Push:
    """`bm push`: a model, or a set of traces, to a repository of the Hugging Face hub."""

    paths: Paths
    folder: Path
    """A model that `bm` made, or any with safetensors; or a folder with traces.parquet."""
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """OWNER/NAME; it is created as a private repository if it does not exist."""
    results: Path | None
    """The run, or `bm evaluate`'s folder, whose scores the card has; null: every run that tested the model."""
    licence: str | None
    """For the card's metadata, as the hub writes it: `apache-2.0`; null: as the card has it."""
    public: bool
    """Whether everybody may see it, which is asked again on the terminal."""
    yes: bool
    """Does not ask again, for use in a script."""
