"""Each stage as one short function: configuration and input artefacts in, an artefact out."""

import inspect
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from bm.config import (
    Branch,
    Component,
    Consolidate,
    Distill,
    Domain,
    Experiment,
    Merge,
    Mixture,
    components,
    contents,
    identity,
    overridden,
)
from bm.errors import UserError
from bm.ledger import engines_gpus, gpus
from bm.mixtures import ratios
from bm.progress import say
from bm.store import Artefact, Build, Store, external, model_digest, write_text
from bm.teaching import told

if TYPE_CHECKING:
    from torch import Tensor

    from bm.distill.selection import Wanted
    from bm.generate.transformers_engine import Loaded
    from bm.merge.order import Order

TRACES, QUESTIONS = "traces.parquet", "questions.parquet"
OF_OTHERS = ("methods", "order", "examples", "interference", "barrier")
"""Settings of `merge` that are not a single merge's: its own method and order count, and what was measured for it."""


@dataclass(frozen=True)
class Known:
    """What a merge method weighs by (`bm.measuring`): folders by expert, or the student's."""

    folders: Mapping[str, Path]
    artefacts: Sequence[Artefact]


class Stages:
    """The stages of one experiment over one store. A room is imported when its stage runs, not before."""

    def __init__(self, store: Store, config: Experiment) -> None:
        self.store, self.config = store, config
        self.used: list[Artefact] = []
        """What was made or found, in the order of the stages."""
        self._apart = set[str]()
        """Keys of the traces that are no evaluation questions."""

    def questions(self) -> dict[str, Artefact]:
        """Evaluation questions of each domain whose task has none of its own; no trace can be one of them."""
        return self._own

    @cached_property
    def _own(self) -> dict[str, Artefact]:
        return {name: self.questions_of(d) for name, d in self.config.domains.items() if d.questions is not None}

    def questions_of(self, domain: Domain, beyond: int = 0) -> Artefact:
        """A domain's test; or, beyond it, this many more questions to choose between merges on."""
        seed = self.config.seed
        settings = {"source": domain.source, "count": domain.questions, "seed": seed, "beyond": beyond}

        def build(work: Path) -> Mapping[str, Any]:
            from bm.distill import questions

            return questions(domain, seed, work, beyond)

        return self.make("questions", f"{domain.name} tune" if beyond else domain.name, settings, [], build)

    @cached_property
    def _asked(self) -> tuple[dict[str, Artefact], dict[str, str]]:
        """What every evaluation task asks, by task; and why those cannot be read whose data are out of reach."""
        read = {str(self.config.domains[name].task): questions for name, questions in self._own.items()}
        unread: dict[str, str] = {}
        for task in self._tasks():
            if task not in read:
                try:
                    read[task] = self._prompts(task)
                except UserError as problem:
                    unread[task] = str(problem)
        return read, unread

    def _tasks(self) -> list[str]:
        """The domains' tasks, then those of `evaluate`."""
        config = self.config
        return list(dict.fromkeys([*(str(domain.task) for domain in config.domains.values()), *config.evaluate.tasks]))

    def _prompts(self, task: str) -> Artefact:
        """The questions of a task that has its own, to keep training data apart from."""
        data = {name: file for name, file in self.config.evaluate.data.items() if name == task and file}
        config = replace(self.config.evaluate, data=data)
        counting = identity(config)
        settings = {"task": task, "data": counting["data"], "include_path": counting["include_path"]}

        def build(work: Path) -> Mapping[str, Any]:
            from bm.distill import write_prompts
            from bm.evaluate import prompts

            texts = [prompt for asked in prompts([task], config).values() for prompt in asked]
            write_prompts(texts, work / QUESTIONS)
            return {"questions": len(texts)}

        return self.make("prompts", task, settings, [], build)

    def distill(
        self, domain: Domain, part: Literal["train", "student"] = "train", teacher: Component | None = None,
        number: int = 1, label: str | None = None, some: bool = True,
    ) -> Artefact:  # fmt: skip
        """Verified traces of a domain: `train` for its expert, `student` for the student's own pretraining.

        teacher: in place of the recipe's; number: of the round, whose questions are none that an earlier one asked;
        some: UserError where no response became a trace.
        """
        seed, teacher, count = self.config.seed, teacher or self.config.teacher, domain.traces
        skip = (number - 1) * (count or 0)
        distilling = overridden(self.config.distill, domain.distill, f"domains.{domain.name}.distill")
        tasks, unread = self._apart_from(distilling)
        asked = self._part(domain, part)
        settings = {
            "source": domain.source,
            "expected": domain.expected,
            "distill": distilling,
            "tasks": sorted(tasks),
            "teacher": teacher,
            "verify": self.config.verify,
            "part": asked,
            "count": count,
            "skip": skip,
            "seed": seed,
        }

        def build(work: Path) -> Mapping[str, Any]:
            from bm.distill import distill

            apart = {task: prompts.path / QUESTIONS for task, prompts in tasks.items()}
            verifying = self.config.verify
            facts = distill(domain, teacher, distilling, verifying, asked, count, seed, apart, work, skip, answers)
            return {**facts, "unchecked": unread}

        label = label or f"{domain.name} {part}" + (f", round {number}" if number > 1 else "")
        models = self._folders(teacher)
        answers = self.store.journals(models[0]) if models else self.store.root / "samples" / "endpoints"
        inputs = [*models, *self._folders(domain.source), *tasks.values()]
        made = self.make("distill", label, settings, inputs, build)
        if some and not made.facts["kept"]:
            from bm.distill import shortage

            raise UserError(f"{shortage(label, made.facts)}; {made.path / 'rejected.parquet'} has every response")
        return made

    def _part(self, domain: Domain, part: Literal["train", "student"]) -> "Wanted | None":
        """The part of a source that traces come from; None: all of it, as the task has questions of its own."""
        if domain.questions is None:
            return None
        student = self.config.student
        return part if domain.name in [*student.domains, *student.learned] else "student or train"

    def _apart_from(self, settings: Distill) -> tuple[dict[str, Artefact], dict[str, str]]:
        """The tasks that questions are checked against, and those that cannot be read: UserError if that is strict."""
        if settings.decontamination is None:
            return {}, {}
        tasks, unread = self._asked
        if unread and settings.decontamination.strict:
            task, why = next(iter(unread.items()))
            raise UserError(f"distill.decontamination: what {task} asks cannot be read ({why})")
        return tasks, unread

    def _folders(self, settings: Component | Branch) -> list[Artefact]:
        """The folders that settings name: what is in them, and the artefacts of this store among them."""
        return [self._artefact(path) for path in contents(settings) if path.is_dir()]

    def _artefact(self, folder: Path) -> Artefact:
        path = folder.resolve()
        ours = path.parent.parent == self.store.root.resolve()
        return (self.store.find(path.parent.name, path.name) if ours else None) or external(folder)

    def check_apart(self, traces: Iterable[Artefact]) -> None:
        """Check that no trace is an evaluation question; whoever trains on traces calls it."""
        from bm.distill import check_apart

        unchecked = [a for a in traces if a.key not in self._apart]
        check_apart({n: q.path / QUESTIONS for n, q in self.questions().items()}, [a.path / TRACES for a in unchecked])
        self._apart.update(a.key for a in unchecked)

    def student(self) -> Artefact:
        """The initial model θ0: built, and first trained on its own domains jointly where it has some.

        A builder with a parameter `traces` also makes its tokenizer from them.
        """
        student = self.config.student
        traces = {name: self.distill(domain, "student") for name, domain in student.domains.items()}

        def build(work: Path) -> Mapping[str, Any]:
            scratch = "traces" in inspect.signature(student.build.function).parameters
            sets = {"traces": [t.path / TRACES for t in traces.values()]} if scratch else {}
            facts: Mapping[str, Any] = student.build(work, **sets)
            return facts

        inputs = [*self._folders(student.build), *traces.values()]
        made = self.make("student", student.name, {"build": student.build}, inputs, build)
        for settings in self.config.student_trainings():
            made = self._train(student.name, made, traces, {}, settings)
        return made

    def expert(
        self, student: Artefact, domain: Domain, traces: Artefact, part: tuple[int, int] = (0, 1),
        before: Artefact | None = None, mixture: Artefact | None = None,
    ) -> Artefact:  # fmt: skip
        """The student after SFT on one domain's traces (paper, section 3.1), or after a part of it.

        part: which, from 0, of how many; before: the same expert after the part before this one; mixture: the run's,
        which may teach.
        """
        settings = overridden(self.config.branch, domain.branch, f"domains.{domain.name}.branch")
        teachers = _teachers(settings, [domain.name], {}, mixture)
        return self._train(domain.name, student, {domain.name: traces}, {}, settings, teachers, part, before)

    def mixture(self, student: Artefact, mixture: Mixture, traces: Mapping[str, Artefact]) -> Artefact:
        """The baseline: the student after one SFT on the domains together."""
        settings = overridden(self.config.branch, mixture.branch, "mixture.branch")
        used = {name: kept for name, kept in traces.items() if name != mixture.leave_out}
        ratio = ratios(mixture, {name: int(kept.facts["kept"]) for name, kept in used.items()})
        return self._train("mixture", student, used, ratio, settings)

    def consolidated(
        self, name: str, arm: Consolidate, start: Artefact, experts: Mapping[str, Artefact],
        traces: Mapping[str, Artefact], mixture: Artefact | None = None,
    ) -> Artefact:  # fmt: skip
        """A model trained on from `start`, on all domains' traces or by what experts or mixture say of them."""
        ours = replace(self.config.branch, keep=(), at=None)
        settings = overridden(ours, arm.branch, f"consolidate.{name}.branch")
        return self._train(name, start, traces, {}, settings, _teachers(settings, list(traces), experts, mixture))

    def merge(
        self, name: str, method: Component, order: "Order", student: Artefact, experts: Mapping[str, Artefact],
        known: Known,
    ) -> Artefact:  # fmt: skip
        """Experts to one model by one method along one order (paper, section 3.2); known: what it weighs by."""
        config = self._merging(known)
        numerics = {name: value for name, value in identity(self.config.merge).items() if name not in OF_OTHERS}
        settings = {"method": method, "order": str(order), **numerics}

        def build(work: Path) -> Mapping[str, Any]:
            from bm.merge import merge

            facts = merge(order, method, {n: e.path for n, e in experts.items()}, student.path, config, work)
            return {**facts, "gpus": gpus(config.device)}

        return self.make("merge", name, settings, [student, *experts.values(), *known.artefacts], build)

    def merge_in_memory(
        self, method: Component, order: "Order", student: Artefact, experts: Mapping[str, Artefact], known: Known
    ) -> "tuple[Artefact, dict[str, Tensor]]":
        """What `merge` makes, not as an artefact but as tensors by name; and the expert whose configuration it has."""
        from bm.merge import base_leaf, merge_in_memory

        folders, config = {name: expert.path for name, expert in experts.items()}, self._merging(known)
        return experts[base_leaf(order)], merge_in_memory(order, method, folders, student.path, config)

    def _merging(self, known: Known) -> Merge:
        return replace(self.config.merge, statistics=known.folders) if known.folders else self.config.merge

    def evaluate(self, model: Artefact, questions: Mapping[str, Artefact], first: int | None = None) -> Artefact:
        """pass@1 with its interval on every domain's task and on the tasks of `evaluate` (paper, section 4.1).

        The model counts by what it is, not by how it was made; first: ask only this many questions of each task.
        """
        asked = replace(self.config.evaluate, tasks=self._tasks(), traces=(), race=None)  # which are of the whole run
        settings = {"evaluate": asked, "verify": self.config.verify, "first": first}
        build = partial(self.ask, model.path, questions, self.store.journals(model), first)
        weights = {"stage": model.manifest["stage"], "key": model_digest(model), "label": model.label}
        inputs = [Artefact(model.path, weights), *questions.values()]
        return self.make("evaluate", model.label, settings, inputs, build)

    def ask(
        self, model: "Path | Loaded", questions: Mapping[str, Artefact], journals: Path, first: int | None, work: Path
    ) -> dict[str, Any]:
        """Put a folder's model, or one in memory, to the tasks of `evaluate`: its files in `work`, and facts."""
        from bm.evaluate import evaluate

        domains = self.config.domains
        own = {str(domains[name].task): artefact.path / QUESTIONS for name, artefact in questions.items()}
        return evaluate(model, self.config.evaluate, self.config.verify, self._tasks(), own, work, journals, first)

    def seen(self, model: Artefact, evaluation: Artefact) -> dict[str, int] | None:
        """By task, the questions that a model was trained on, as far as its traces are known; None if none are."""
        from bm.evaluate import seen

        named = [path / TRACES if path.is_dir() else path for path in self.config.evaluate.traces]
        for path in named:
            if not path.is_file():
                raise UserError(f"evaluate.traces: there is no file {path}")
        traces = [*named, *(a.path / TRACES for a in self.store.behind(model.path, "distill"))]
        return seen(evaluation.path / "samples.parquet", traces) if traces else None

    def _train(
        self, name: str, student: Artefact, traces: Mapping[str, Artefact], ratio: Mapping[str, float],
        settings: Branch, teachers: Mapping[str, Artefact] = MappingProxyType({}), part: tuple[int, int] = (0, 1),
        before: Artefact | None = None,
    ) -> Artefact:  # fmt: skip
        """`teachers`: by domain, where each has one of its own."""
        self.check_apart(traces.values())
        trainer, tracker = self.config.trainer, self.config.tracker
        whole = replace(settings, at=None)  # a training is the same, whichever of its models is taken
        config = {"branch": whole, "trainer": trainer, "ratio": dict(ratio), "part": list(part)}
        lineage = {domain: t.name for domain, t in traces.items()}
        asked = teachers or {d: self._artefact(settings.teacher) for d in traces if isinstance(settings.teacher, Path)}
        kept = {} if settings.stored is None else {
            d: told(self.make, d, t, t.path / TRACES, student, asked[d], whole, trainer) for d, t in traces.items()
        }  # fmt: skip

        def build(work: Path) -> Mapping[str, Any]:
            from bm.branch import Part, Traces, card, train

            folders, stored = ({d: a.path for d, a in by_domain.items()} for by_domain in (teachers, kept))
            sets = [Traces(t.path / TRACES, d, ratio.get(d, 1.0), folders.get(d), stored.get(d))
                    for d, t in traces.items()]  # fmt: skip
            rest = Part(*part, before.path if before else None)
            facts = train(student.path, sets, whole, trainer, tracker, name, work.stem, work, rest)
            write_text(work / "README.md", card(name, student.name, lineage, whole, facts))
            return {**facts, "gpus": trainer.devices * trainer.nodes * (trainer.accelerator == "gpu")}

        inputs = [student, *traces.values(), *teachers.values(), *kept.values(), *self._folders(settings)]
        inputs += [before] if before else []
        trained = self.make(
            "branch", name if part[1] == 1 else f"{name} {part[0] + 1}/{part[1]}", config, inputs, build
        )
        if settings.at in (None, settings.epochs):
            return trained

        def take(work: Path) -> Mapping[str, Any]:
            from bm.branch import FACTS, card, rung

            shutil.copytree(rung(trained.path, float(settings.at or 0)), work, dirs_exist_ok=True)
            facts: dict[str, Any] = json.loads((work / FACTS).read_text())
            (work / FACTS).unlink()
            write_text(work / "README.md", card(name, student.name, lineage, settings, facts))
            return {**facts, "gpus": trained.facts["gpus"]}

        return self.make("rung", name, {"at": settings.at}, [trained], take)

    def make(
        self, stage: str, label: str, settings: Mapping[str, Any], inputs: Sequence[Artefact], build: Build
    ) -> Artefact:
        """The artefact that `build` makes, by its settings, its inputs, and the code of it and of every component."""
        made = False

        def noted(work: Path) -> Mapping[str, Any]:
            nonlocal made
            made = True
            facts = build(work)
            return {"gpus": engines_gpus(facts), **facts}

        code = [_entry(build), *(component.entry for component in components(settings))]
        artefact = self.store.make(stage, label, identity(settings), inputs, sorted(set(code)), noted)
        spent = f"{artefact.manifest['seconds']:6.1f} s" if made else "  kept  "
        say(f"{stage:<10} {label:<36} {spent}  [dim]{artefact.key}[/dim]")
        self.used.append(artefact)
        return artefact


def _teachers(
    settings: Branch, domains: Sequence[str], experts: Mapping[str, Artefact], mixture: Artefact | None
) -> Mapping[str, Artefact]:
    """By domain, the model of this run that teaches it; none where the teacher is a folder, or there is none."""
    if settings.teacher == "experts":
        return experts
    if settings.teacher == "mixture":
        assert mixture is not None, "settings with such a teacher have a mixture"
        return dict.fromkeys(domains, mixture)
    return {}


def _entry(build: Any) -> str:
    """A function of this module as `bm.code` names it."""
    function = build.func if isinstance(build, partial) else build
    return f"{function.__module__}:{function.__qualname__.replace('<locals>.', '')}"
