"""What the words after `bm` do: each composes stages and says where everything is."""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bm import rounds, runs
from bm.config import (
    Doctor,
    EvaluateFolder,
    Experiment,
    MergeFolders,
    Push,
    Report,
    VerifyFile,
    identity,
    resolved,
)
from bm.errors import UserError
from bm.preflight import preflight, writable
from bm.progress import console, quantity, say, say_where
from bm.stages import Stages
from bm.store import Artefact, Store, external, folder, write_json, write_text
from bm.track import About, Tracked, tracked
from bm.tuning import searched

if TYPE_CHECKING:
    from bm.report import Results, Subject
    from bm.rounds import Merging

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
"""Where a checkout keeps published and measured numbers."""


def run(config: Experiment) -> float | None:
    """The whole experiment: student, experts, mixture and merges on the domains' tasks, and a report, round by round.

    Returns the mean score of the best merge, for Hydra's sweepers to maximise; None without a merge.
    """
    began_by = runs.made_by(config)
    if not _swept():  # a mistake leaves nothing behind; in a sweep it leaves a failed run among the others
        _checked(config)
    with tracked(config.tracker, _about(config)) as tracking:
        merges = _checked(config)
        _say_order(config, merges)
        _say_plan(config, merges)
        stages = _stages(config)
        mean = _run_rounds(stages, merges, tracking)
    runs.finish(config, began_by, mean, stages.used)
    return mean


def _swept() -> bool:
    """Whether this run is a job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _about(config: Experiment) -> About:
    """What a tracker is told of a run: one run per key, shown with the other cells of its experiment or sweep."""
    key = runs.key_of(config)
    return About(key, f"{config.recipe}-{key}", "run", resolved(config), "round", group=config.experiment)


def _checked(config: Experiment) -> "list[Merging]":
    merges = list(rounds.chosen_merges(config))
    rounds.check(config, [name for name, _, _ in merges])
    preflight(config, config.teacher, config.verify.judge, config.evaluate.engine)
    return merges


def _say_order(config: Experiment, merges: "Sequence[Merging]") -> None:
    """The order that nobody wrote down, where a method depends on one."""
    from bm.merge import takes_two

    for order in [order for _, method, order in merges if config.merge.order is None and takes_two(method)][:1]:
        say(f"merge.order: {order}, as the domains are listed; merge.order=all makes every order")


def _say_plan(config: Experiment, merges: "Sequence[Merging]") -> None:
    """What is going to take how long; UserError where a training cannot fit its GPUs."""
    from bm import plan as planning

    try:
        planned = _planned(planning.on_this_machine(config), merges, quick=True)
    except UserError as unknown:
        say(f"plan     none: {unknown}")
        return
    remedies = planning.remedies(planned, config.plan.reserve_gib)
    if remedies and config.plan.refuse:
        raise UserError(f"{remedies[0]} (plan.refuse=false tries it all the same)")
    say(planning.line(planned))
    free, needed = shutil.disk_usage(config.paths.outputs).free / 2**30, planned["total"]["disk_gib"]
    if free < needed:
        say(f"disk     {quantity(free, 'GiB')} free, {quantity(needed, 'GiB')} planned, less what is there already")


def _planned(config: Experiment, merges: "Sequence[Merging]", quick: bool = False) -> dict[str, Any]:
    from bm.plan import plan

    tuned = [name for name, *_ in searched(config, merges)]
    return plan(config, [name for name, _, _ in merges], tuned, quick)


def _run_rounds(stages: Stages, merges: "Sequence[Merging]", tracking: Tracked) -> float | None:
    config, questions = stages.config, stages.questions()
    results, subjects = _round(stages, questions, merges, 1, None, tracking)
    for number in range(2, config.rounds.count + 1):
        before = rounds.chosen(config.rounds.model, results, subjects)
        results, subjects = _round(stages, questions, merges, number, before, tracking)
    best = results.best("merge")
    return results.mean(best) if best else None


def _round(
    stages: Stages,
    questions: Mapping[str, Artefact],
    merges: "Sequence[Merging]",
    number: int,
    before: "Subject | None",
    tracking: Tracked,
) -> "tuple[Results, list[Subject]]":
    """A round and its report: the last one's where a run's results belong, an earlier one's in a folder beside them."""
    from bm.report import Settings, report
    from bm.report.pages.tracking import track
    from bm.report.pages.wording import spent

    config, subjects = stages.config, rounds.models(stages, questions, merges, number, before)
    last = number == config.rounds.count
    home = runs.folder_of(config) / ("" if last else f"round-{number}")
    title = config.recipe if config.rounds.count == 1 else f"{config.recipe}, round {number} of {config.rounds.count}"
    of, domains = config.evaluate, {name: domain.task for name, domain in config.domains.items() if domain.task}
    settings = Settings(
        title, runs.described(config), runs.as_yaml(config), of.resamples, of.confidence, config.prices, domains
    )
    results = report(subjects, stages.used, settings, home)
    write_text(home / "config.yaml", settings.config)
    track(tracking, results, subjects, stages.used, number)
    if results.spent:
        say(f"cost     {spent(results.spent)}")
    say_where(home, stages.store.root)
    return results, subjects


def plan(config: Experiment) -> None:
    """What the experiment would take; on standard output as a table, and to `output` as JSON."""
    from bm import plan as planning

    planned = _planned(config, list(rounds.chosen_merges(config)))
    Console(width=150).print(planning.table(planned))
    for remedy in planning.remedies(planned, config.plan.reserve_gib):
        say(remedy)
    if config.rounds.count > 1:
        say(f"of one round; rounds.count={config.rounds.count}")
    if config.output:
        write_json(config.output, planned)
        say(f"plan     {config.output}")


def doctor(config: Doctor) -> None:
    """What this machine has and what the experiment lacks; UserError, for a script's sake, if that is something."""
    from bm.doctor import examine, table

    planned = _planned(config, list(rounds.chosen_merges(config)), quick=True)
    needed = float(planned["total"]["disk_gib"]), max(float(s["peak_gib_ram"]) for s in planned["stages"])
    Console(width=150).print(table(findings := list(examine(config, *needed))))
    if missing := [finding.name for finding in findings if finding.state == "missing"]:
        raise UserError(f"recipe={config.recipe} lacks something on this machine: {', '.join(missing)}")


def distill(config: Experiment) -> None:
    """The traces of the chosen domains."""
    from bm.distill import funnel_table

    preflight(config, config.teacher, config.verify.judge)
    stages = _stages(config)
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    console.print(funnel_table({name: made.facts for name, made in traces.items()}))
    unchecked = {task: why for made in traces.values() for task, why in made.facts["unchecked"].items()}
    for task, why in unchecked.items():
        say(f"not checked against {task}: {why}")
    for name, made in traces.items():
        say(f"{name}: {made.path}")


def branch(config: Experiment) -> None:
    """The expert of one domain or, when a mixture is chosen, the baseline on all of them."""
    stages = _stages(config)
    if config.mixture is None and len(config.domains) != 1:
        raise UserError(
            "choose one domain (domain=math) for an expert, or a mixture (mixture=proportional) for the baseline"
        )
    preflight(config, config.teacher, config.verify.judge)
    student = stages.student()
    traces = {name: stages.distill(domain) for name, domain in config.domains.items()}
    if config.mixture:
        model = stages.mixture(student, config.mixture, traces)
    else:
        ((name, domain),) = config.domains.items()
        model = stages.expert(student, domain, traces[name])
    say(f"{model.label}: {model.path}")


def merge(config: MergeFolders) -> None:
    """Any Hugging Face folders into one, or a mergekit config as it is."""
    if config.mergekit and (config.base or config.models):
        raise UserError("mergekit: the file names its own base and models; leave out base and models")
    with ThreadPoolExecutor(1) as beside:
        predicted = None if config.mergekit else beside.submit(_predicted, config)
        made = _merge_config(config, config.mergekit) if config.mergekit else _merge_folders(config)
    kept = made.facts.get("kept_share")
    share = "" if kept is None else f", {kept:.1%} taken from the merged models"
    say(f"{made.path} ({made.manifest['seconds']:.1f} s{share})")
    if predicted and (line := predicted.result()):
        say(line)


def _merge_config(config: MergeFolders, file: Path) -> Artefact:
    from bm.merge.mergekit import merge_config
    from bm.merge.mergekit.adapters import inputs
    from bm.merge.mergekit.schema import read_config

    if not file.is_file():
        raise UserError(f"mergekit: there is no file {file}")
    settings = {**identity(config.merge), "mergekit": file.read_text()}
    folders = inputs(read_config(file).folders)
    return folder(config.output, settings, folders, lambda work: merge_config(file, config.merge, work))


def _merge_folders(config: MergeFolders) -> Artefact:
    from bm.merge import merge_folders

    if len(config.merge.methods) != 1:
        raise UserError(f"choose one merge method, not {', '.join(config.merge.methods)}")
    (method,) = config.merge.methods.values()
    inputs = [*config.models, *([config.base] if config.base else [])]
    if missing := [path for path in inputs if not path.is_dir()]:
        raise UserError(f"{missing[0]} is not a directory")
    settings = {**identity(config.merge), "base": str(config.base), "models": [str(m) for m in config.models]}
    build = partial(merge_folders, method, config.base, config.models, config.merge)
    return folder(config.output, settings, inputs, build)


def _predicted(config: MergeFolders) -> str | None:
    """How such a merge would stand to a mixture, from the weights alone; None where the base is no common student."""
    from bm.merge import geometry, takes_two

    ((name, method),) = config.merge.methods.items()
    if config.base is None or len(config.models) < 2 or takes_two(method):
        return None
    from bm.report.findings.forecast import forecast
    from bm.report.findings.regimes import Regime
    from bm.report.pages.wording import forecast_of

    measured = geometry(config.models, config.base)
    told = forecast(Regime(name, **vars(measured))) if measured else None
    return forecast_of(told) if told else None


def evaluate(config: EvaluateFolder) -> None:
    """A Hugging Face folder on the domains' tasks and on `evaluate.tasks`."""
    stages = _stages(config)
    if config.output.resolve() == config.model.resolve():
        raise UserError("output: is the model's own folder; choose another, so that the model stays as it was made")
    if not (config.evaluate.tasks or config.domains):
        raise UserError("evaluate.tasks: there is nothing to ask; name a task, or choose a domain")
    model = external(config.model)
    preflight(config, config.verify.judge, config.evaluate.engine)
    questions = stages.questions()
    evaluation = stages.evaluate(model, questions)
    config.output.mkdir(parents=True, exist_ok=True)
    for file in (evaluation.path / name for name in evaluation.manifest["files"]):
        beside = Path(shutil.copy(file, config.output / f".{file.name}"))
        beside.replace(config.output / file.name)
    scores, seen = json.loads((config.output / "scores.json").read_text()), stages.seen(model, evaluation)
    for task, score in scores.items():
        interval = f"{score['mean']:.1%} [{score['low']:.1%}, {score['high']:.1%}]"
        score["seen"] = None if seen is None else seen.get(task, 0)
        trained = "" if seen is None else f", {score['seen']} of them among the training traces"
        say(f"{task:<24} {interval}  {score['questions']} questions x {score['samples']}"
            f", {score['response_tokens']:.0f} tokens per response, {score['unclosed']} unclosed{trained}")  # fmt: skip
    write_json(config.output / "scores.json", scores)
    say(f"samples  {config.output}")


def verify(config: VerifyFile) -> None:
    """A file of responses graded one by one: accepted, or why not."""
    from bm.verify.file import grade, summary

    if config.output.resolve() == config.file.resolve():
        raise UserError("output: is the file of responses; choose another, so that they stay as they are")
    console.print(summary(grade(config.verifier, config.file, config.output, config.verify)))
    say(f"graded  {config.output}")


def report(config: Report) -> None:
    """Every run below the outputs folder, side by side and beside the paper; an experiment's grid; or traces."""
    from bm.report import browse, compare, named, report_grid

    if config.output:
        writable("output", config.output)
    if config.grid.experiment:
        name, recipe = config.grid.experiment, config.grid.recipe
        home = config.output or config.paths.outputs / "report" / name
        record = EXPERIMENTS / name if config.record else None
        report_grid(config.paths.outputs, name, recipe, config.prices, home, record)
        say(f"page  {home / 'index.html'}\nfiles {home / 'figures'}")
        if record:
            say(f"kept  {record / 'measured.json'}")
        return
    if config.traces:
        home = config.output or config.paths.outputs / "report" / f"traces-{config.traces.resolve().name}"
        browse(config.traces, config.limit, home)
        say(f"page  {home / 'index.html'}")
        return
    finished = named(config.paths.outputs)
    if not finished:
        raise UserError(f"{config.paths.outputs} holds no finished run; make one with `bm run`")
    home = config.output or config.paths.outputs / "report"
    compare(finished, home)
    say(f"page  {home / 'index.html'}")


def push(config: Push) -> None:
    """A model or a set of traces to a repository of the hub."""
    from bm.push import push as to_hub

    to_hub(config)


def _stages(config: Experiment) -> Stages:
    return Stages(Store(config.paths.outputs / "store", config.fresh), config)
