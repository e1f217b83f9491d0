"""What can be found wrong with a run before it makes anything, by the checks that its stages make themselves."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bm.config import Component, Experiment, absent, overridden
from bm.errors import UserError, nearest
from bm.store import write_text

ENDPOINT, VLLM, LOCAL = (f"bm.generate.engines.{name}" for name in ("openai", "vllm", "transformers"))
WORKED, JSONL = "bm.distill.teachers.worked.teacher", "bm.distill.sources.jsonl.stream"


def preflight(config: Experiment, *asked: Component | None) -> None:
    """UserError for the first thing that would stop a later stage; leaves at most an empty outputs folder.

    asked: what the stages ask by way of engines, whose keys must be in the environment.
    """
    from bm.track.backends import check

    check(config.tracker)
    for component in (*asked, config.branch.stored_by):
        check_keys(component)
        _vllm(component)
        _local(component)
    _files(config)
    _teacher(config, asked)
    _moments(config)
    _models(config)
    _tasks(config)
    for name, path in absent(config):
        raise UserError(f"{name}: there is no file {path}")
    if config.output:
        writable("output", config.output)
    writable("paths.outputs", config.paths.outputs)


def _files(config: Experiment) -> None:
    place = config.evaluate.include_path
    if place is not None and not place.is_dir():
        raise UserError(f"evaluate.include_path: there is no folder {place}")
    for task, file in config.evaluate.data.items():
        if file is not None and not file.is_file():
            raise UserError(f"evaluate.data.{task}: there is no file {file}")
    asked = _named_tasks(config)
    for task in [task for task, file in config.evaluate.data.items() if file is not None and task not in asked]:
        raise UserError(f"evaluate.data.{task}: no such task in evaluate.tasks{nearest(task, asked)}")
    for name, folder in config.merge.statistics.items():
        if name not in (*config.domains, "student"):
            raise UserError(f"merge.statistics.{name}: no such domain{nearest(name, config.domains)}")
        if not folder.is_dir():
            raise UserError(f"merge.statistics.{name}: there is no folder {folder}")


def _teacher(config: Experiment, asked: Sequence[Component | None]) -> None:
    model = config.teacher.parameters.get("model")
    if model is not None and not (Path(model) / "config.json").is_file():
        raise UserError(f"teacher.model: {model} is not a model: it has no config.json")
    if config.teacher in asked and config.teacher.target == WORKED:
        for name, domain in config.domains.items():
            if domain.source.target == JSONL:
                others = "teacher=published for responses that the set has, or transformers, vllm or openai"
                raise UserError(f"domains.{name}: teacher=worked answers procedural questions alone; take {others}")


def _moments(config: Experiment) -> None:
    """Check that what a merge weighs by is kept."""
    from bm.merge import statistics_of

    for name, method in config.merge.methods.items():
        if statistics_of(method) == "second_moments" and not config.merge.statistics:
            for domain in config.domains.values():
                if not overridden(config.branch, domain.branch, f"domains.{domain.name}.branch").second_moments:
                    raise UserError(
                        f"merge={name} weighs by Adam's second moments: keep them, branch.second_moments=true"
                    )


def check_keys(component: Component | None) -> None:
    """UserError for an endpoint whose key is not in the environment."""
    for engine in named_engines(component, ENDPOINT):
        from bm.generate.endpoint import secret

        secret(engine["base_url"], engine["key"])


def _vllm(component: Component | None) -> None:
    """UserError for an engine whose interpreter finds no vLLM."""
    for engine in named_engines(component, VLLM):
        from bm.generate.vllm_engine import installed

        installed(Path(engine["python"]))


def _local(component: Component | None) -> None:
    """UserError for an engine on a device that this machine does not have."""
    for engine in named_engines(component, LOCAL):
        from bm.generate.transformers_engine import check_device

        check_device(engine["device"])


def named_engines(node: Any, target: str) -> Iterator[Mapping[str, Any]]:
    """The parameters of every engine of a kind in a component."""
    if isinstance(node, Component):
        node = {"_target_": node.target, **node.parameters}
    if isinstance(node, Mapping):
        if node.get("_target_") == target:
            yield node
        for value in node.values():
            yield from named_engines(value, target)


def _models(config: Experiment) -> None:
    """The processors of training and merging, and whether models that are there are whole and can be trained."""
    from bm.branch.adapter import check_adapter
    from bm.branch.architecture import check_devices, check_trainable
    from bm.branch.chat import check_template
    from bm.branch.teacher import check_teacher
    from bm.generate.text import model_folder
    from bm.generate.weights import check_whole
    from bm.merge.tiling import device

    check_devices(config.trainer)
    device(config.merge.device)
    given = config.student.build.parameters.get("name")
    ready = Path(given) if given and Path(given).is_dir() else None
    for folder in (ready, config.teacher.parameters.get("model")):
        if folder is not None:
            check_whole(Path(folder))
    for domain in config.domains.values():
        settings = overridden(config.branch, domain.branch, f"domains.{domain.name}.branch")
        check_adapter(settings.adapter, config.trainer.devices * config.trainer.nodes)
        if ready:
            check_trainable(ready, settings, config.trainer)
            check_template(model_folder(ready), settings.chat_template)
        if isinstance(settings.teacher, Path):
            check_teacher(settings.teacher, ready)


def _named_tasks(config: Experiment) -> list[str]:
    """The tasks that have data of their own; a domain's questions make a task of any name."""
    own = [str(domain.task) for domain in config.domains.values() if domain.questions is None]
    return [*own, *config.evaluate.tasks]


def _tasks(config: Experiment) -> None:
    """Tasks with data of their own must be known."""
    if named := _named_tasks(config):
        from bm.evaluate import check_tasks

        check_tasks(named, config.evaluate.include_path)


def writable(name: str, folder: Path) -> None:
    """UserError unless files can be written in the folder that this setting names; makes it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        write_text(probe, "")
        probe.unlink()
    except OSError as problem:
        raise UserError(f"{name}: {folder} cannot be written to: {problem.strerror}; choose another place") from problem
