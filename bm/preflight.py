"""What can be found wrong with a run before it makes anything, by the checks that its stages make themselves."""

from pathlib import Path

from bm.config import Experiment, overridden
from bm.errors import UserError
from bm.store import write_text


def preflight(config: Experiment) -> None:
    """UserError for the first thing that would stop a later stage; leaves at most an empty outputs folder."""
    _files(config)
    _devices(config)
    _tasks(config)
    _writable(config.paths.outputs)


def _files(config: Experiment) -> None:
    place = config.evaluate.include_path
    if place is not None and not place.is_dir():
        raise UserError(f"evaluate.include_path: there is no folder {place}")
    for path in config.evaluate.traces:
        if not path.exists():
            raise UserError(f"evaluate.traces: there is no file {path}")
    for task, file in config.evaluate.data.items():
        if file is not None and not file.is_file():
            raise UserError(f"evaluate.data.{task}: there is no file {file}")
    for name, domain in config.domains.items():
        given = domain.source.parameters.get("path")
        if given is not None and not Path(given).exists():
            raise UserError(f"domains.{name}.source.path: there is no file {given}")


def _devices(config: Experiment) -> None:
    """The processors of training and merging, and whether a ready student can be trained at all."""
    from bm.branch.architecture import check_devices, check_trainable
    from bm.merge.grid import device

    check_devices(config.trainer)
    device(config.merge.device)
    given = config.student.build.parameters.get("name")
    if given and Path(given).is_dir():
        for domain in config.domains.values():
            settings = overridden(config.branch, domain.branch, f"domains.{domain.name}.branch")
            check_trainable(given, settings, config.trainer)


def _tasks(config: Experiment) -> None:
    """Tasks that are made of a domain's questions may have any name; the others must be known."""
    named = [str(domain.task) for domain in config.domains.values() if domain.questions is None]
    named += config.evaluate.tasks
    if named:
        from bm.evaluate import check_tasks

        check_tasks(named, config.evaluate.include_path)


def _writable(outputs: Path) -> None:
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        probe = outputs / ".probe"
        write_text(probe, "")
        probe.unlink()
    except OSError as problem:
        raise UserError(f"paths.outputs: {outputs} cannot be written to: {problem.strerror}") from problem
