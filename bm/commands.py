"""What the words after `bm` do: each composes stages and says where everything is."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from bm.config import Component, Experiment, Report, resolved
from bm.errors import UserError
from bm.progress import say
from bm.stages import Stages
from bm.store import Store, digest, write_text

if TYPE_CHECKING:
    from bm.merge.order import Order


def run(config: Experiment) -> None:
    """The whole experiment: student, experts, mixture and merges on the domains' tasks, and a report."""
    from bm.report import Settings, Subject, report

    merges = list(_merges(config))
    stages = _stages(config)
    questions = {name: stages.questions(domain) for name, domain in config.domains.items()}
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    student = stages.student()
    experts = {name: stages.expert(student, domain, traces[name]) for name, domain in config.domains.items()}
    mixture = stages.mixture(student, config.mixture, traces) if config.mixture else None
    merged = {name: stages.merge(name, method, order, student, experts) for name, method, order in merges}

    subjects = [Subject("student", "student", student, stages.evaluate(student, questions))]
    for name, expert in experts.items():
        subjects.append(Subject(name, "expert", expert, stages.evaluate(expert, questions), config.domains[name].task))
    if mixture:
        subjects.append(Subject("mixture", "mixture", mixture, stages.evaluate(mixture, questions)))
    subjects += [Subject(name, "merge", m, stages.evaluate(m, questions)) for name, m in merged.items()]

    folder = _folder(config)
    settings = Settings(
        config.recipe, _command(), _yaml(config), config.evaluate.resamples, config.evaluate.confidence, config.seed
    )
    report(subjects, stages.used, settings, folder)
    write_text(folder / "config.yaml", settings.config)
    say(
        f"results  {folder / 'results.json'}\npage     {folder / 'report' / 'index.html'}\nmodels   {stages.store.root}"
    )


def distill(config: Experiment) -> None:
    """The traces of the chosen domains."""
    stages = _stages(config)
    for domain in config.domains.values():
        traces = stages.distill(domain)
        rejected = traces.facts["rejected"]
        why = ", ".join(f"{count} {reason}" for reason, count in rejected.items()) or "none rejected"
        say(f"{domain.name}: asked {traces.facts['asked']}, kept {traces.facts['kept']} ({why})  {traces.path}")


def branch(config: Experiment) -> None:
    """The expert of one domain or, when a mixture is chosen, the baseline on all of them."""
    stages = _stages(config)
    if config.mixture is None and len(config.domains) != 1:
        raise UserError(
            "choose one domain (domain=math) for an expert, or a mixture (mixture=proportional) for the baseline"
        )
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    student = stages.student()
    if config.mixture:
        model = stages.mixture(student, config.mixture, traces)
    else:
        ((name, domain),) = config.domains.items()
        model = stages.expert(student, domain, traces[name])
    say(f"{model.label}: {model.path}")


def report(config: Report) -> None:
    """Every run below the outputs folder, side by side and beside what the paper reports."""
    from bm.report import compare

    found = sorted(config.paths.outputs.glob("**/results.json"), key=lambda path: path.stat().st_mtime)
    runs = {str(path.parent.relative_to(config.paths.outputs)): path for path in found}
    if not runs:
        raise UserError(f"{config.paths.outputs} holds no finished run; make one with `bm run`")
    folder = config.output or config.paths.outputs / "report"
    compare(runs, folder)
    say(f"page  {folder / 'index.html'}")


def _stages(config: Experiment) -> Stages:
    return Stages(Store(config.paths.outputs / "store"), config)


def _merges(config: Experiment) -> "Iterator[tuple[str, Component, Order]]":
    """Name, method and order of each merge; a method that takes any number of models merges all experts at once."""
    from bm.merge import orders

    for name, method in config.merge.methods.items():
        chosen = orders(config.merge.order, list(config.domains), method)
        for order in chosen:
            yield (name if len(chosen) == 1 else f"{name} {order}"), method, order


def _folder(config: Experiment) -> Path:
    """Where this run's results go: as told, or named by the recipe and everything that decides the results."""
    key = digest(_yaml(config).encode())[:8]
    return config.output or config.paths.outputs / "runs" / f"{config.recipe}-{key}"


def _yaml(config: Experiment) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(resolved(config)))


def _command() -> str:
    """What was typed, ready to be pasted."""
    return shlex.join(["bm", *sys.argv[0].split()[1:], *sys.argv[1:]])
