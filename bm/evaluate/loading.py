"""Tasks by name: yours, those of `bm`, and lm-eval's, with their data from the hub or from a file of yours."""

import inspect
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.tasks
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind
from lm_eval.tasks._yaml_loader import load_yaml

from bm.config import Evaluate
from bm.errors import UserError, nearest
from bm.evaluate import sets
from bm.progress import say

TASKS = Path(__file__).parent / "tasks"

SHARED = ("aime24", "aime25", "gsm8k", "mmlu_stem")
"""Tasks of `bm` that have the name of one of lm-eval's, and put and grade their questions otherwise."""
THEIRS = "lm_eval_"
"""Before the name of one of lm-eval's tasks: that one, whatever else has the name."""
EVALUATES = re.compile(r"(?<![\w.])(?:eval|exec|parse_expr|sympify)\(")
"""What runs a text as Python."""

Loaded = dict[str, Any]
"""What lm-eval's `TaskManager.load` returns (`tasks`, `groups`, `group_map`), and `whose` each task is by name."""


def load(names: Sequence[str], questions: Mapping[str, Path], config: Evaluate) -> Loaded:
    """The tasks; one in `questions` is made of its questions.parquet, one in `config.data` has its data from there."""
    known = managers([name for name in names if name not in questions], config.include_path)
    files = {name: file for name, file in config.data.items() if file}
    for name in files:
        if name not in names or name in questions:
            raise UserError(f"evaluate.data.{name}: no such task in evaluate.tasks{nearest(name, names)}")
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}, "whose": _whose(known)}
    if config.unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # what lm-eval's graders of code look for, at their import
    for name in names:
        if name in known and not config.unsafe_code and _content(known[name], name).get("unsafe_code"):
            raise unsafe(name)
        if name in questions:
            spec: Any = {
                **load_yaml(TASKS / "questions.yaml"),
                "task": name,
                "dataset_kwargs": {"file": questions[name]},
            }
            built = _built(_own(None), name, spec)
        elif name in files:
            spec = _with_data(known[name], name, files[name])
            built = _built(known[name], name, spec)
        else:
            built = _built(known[name], name, _named(known[name], name), _set_of(known[name], name))
        for part in ("tasks", "groups", "group_map"):
            loaded[part].update(built.get(part, {}))
    return loaded


def unsafe(name: str) -> UserError:
    return UserError(f"task {name} runs a model's code as it is; set evaluate.unsafe_code=true to let it")


def evaluates(task: Task) -> bool:
    """Whether the functions of a task of lm-eval's or yours stand beside code that runs a text as Python.

    lm-eval marks the tasks that run programs (`unsafe_code`), but not those whose graders call `eval` on an answer.
    """
    function = task.config.process_results
    file = inspect.getsourcefile(function) if callable(function) and not isinstance(function, partial) else None
    if file is None or Path(file).is_relative_to(TASKS.parents[1]):
        return False
    return any(EVALUATES.search(source.read_text(errors="replace")) for source in Path(file).parent.glob("*.py"))


def _whose(known: Mapping[str, TaskManager]) -> dict[str, str]:
    """By task: `bm`, `lm-eval`, or where yours is. One of ours that has the name of another is said, once."""
    whose = {}
    for name, manager in known.items():
        path = Path(manager.task_index[_bare(manager, name)].yaml_path or "")
        ours, theirs = path.is_relative_to(TASKS), path.is_relative_to(Path(lm_eval.tasks.__file__).parent)
        whose[name] = "bm" if ours else "lm-eval" if theirs or not path.name else str(path)
        if ours and name in SHARED:
            _say_which(name)
    return whose


@cache
def _say_which(name: str) -> None:
    say(f"task {name} is bm's, which asks and grades differently from lm-eval's task of that name ({THEIRS}{name})")


def _bare(manager: TaskManager, name: str) -> str:
    """A name as its manager knows it."""
    return name if name in manager.task_index else name.removeprefix(THEIRS)


def _named(manager: TaskManager, name: str) -> Any:
    """What lm-eval loads: a name, or the content of one of its own tasks under the name that it has here."""
    bare = _bare(manager, name)
    if bare == name:
        return name
    entry = manager.task_index[bare]
    spec = load_yaml(entry.yaml_path) if entry.yaml_path else {}
    if entry.kind not in (Kind.TASK, Kind.GROUP):
        raise UserError(f"evaluate.tasks: '{bare}' of lm-eval is a tag; name its tasks")
    return {**spec, ("group" if entry.kind is Kind.GROUP else "task"): name}


def prompts(loaded: Loaded) -> dict[str, list[str]]:
    """The bare questions of every task, by task: what training data has to be kept apart from."""
    return {name: [question(task, doc) for doc in task.eval_docs] for name, task in loaded["tasks"].items()}


def question(task: Task, doc: Mapping[str, Any]) -> str:
    """The text of a question without what a task asks around it, where that is known."""
    return str(doc["question"] if "verifier" in doc and "question" in doc else task.doc_to_text(doc))


def managers(names: Sequence[str], include_path: Path | None) -> dict[str, TaskManager]:
    """By task, whoever knows it. Tasks of `bm` do not stand in for parts of lm-eval's groups that have their names."""
    own = _own(include_path)
    if all(name in own.task_index for name in names):
        return dict.fromkeys(names, own)
    theirs, by_task = _theirs(include_path), {}
    for name in names:
        by_task[name] = own if name in own.task_index else theirs
        if _bare(by_task[name], name) not in by_task[name].task_index:
            known = {*own.task_index, *theirs.task_index}
            raise UserError(f"evaluate.tasks: no task '{name}'{nearest(name, known)}")
    return by_task


@cache
def _theirs(include_path: Path | None) -> TaskManager:
    """lm-eval's tasks and yours: thousands of files to read, which takes seconds."""
    with quiet():
        return TaskManager(include_path=include_path)


def _own(include_path: Path | None) -> TaskManager:
    with quiet():
        return TaskManager(include_path=[TASKS, *[include_path] * (include_path is not None)], include_defaults=False)


def _with_data(manager: TaskManager, name: str, file: Path) -> dict[str, Any]:
    """The task's YAML with a local file in place of its set; one of `bm` still maps the set's columns itself."""
    entry = manager.task_index[_bare(manager, name)]
    if entry.kind is not Kind.TASK:
        raise UserError(f"evaluate.data.{name}: '{name}' is a group of tasks; choose its tasks, and a file for each")
    spec: dict[str, Any] = {**load_yaml(entry.yaml_path), "task": name}
    if spec.get("custom_dataset"):
        return {**spec, "dataset_kwargs": {**spec.get("dataset_kwargs", {}), "file": str(file)}}
    return {**spec, "custom_dataset": partial(sets.local, file), "dataset_kwargs": {}}


def _set_of(manager: TaskManager, name: str) -> str:
    """The hub's set of a task as its YAML names it; empty where that says none, as a group's."""
    spec = _content(manager, name)
    place = spec.get("dataset_path") or spec.get("dataset_kwargs", {}).get("path")
    return "" if place in (None, "json", "parquet", "csv", "text") else str(place)


def _content(manager: TaskManager, name: str) -> Mapping[str, Any]:
    """What a task's or group's YAML says, its functions unread."""
    path = manager.task_index[_bare(manager, name)].yaml_path
    content: Mapping[str, Any] = load_yaml(path, resolve_func=False) if path else {}
    return content


def _built(manager: TaskManager, name: str, spec: Any, place: str = "") -> Mapping[str, Any]:
    """What a name or a task's content makes; UserError says which set of the hub, `place`, it could not be had from."""
    try:
        with quiet():
            made: Mapping[str, Any] = manager.load([spec])
            return made
    except ImportError as problem:
        why = f"task {name} needs a Python package: {_first_line(problem)}"
        raise UserError(f"{why}; lm-eval has extras for its tasks, as pip install 'lm-eval[ifeval]'") from problem
    except Exception as problem:  # a data set that is gated, renamed or offline raises anything
        said = f"task {name}: its data{place and f' ({place})'} cannot be read: {_first_line(problem)}"
        remedy = f"; accept its terms on the hub and log in if it asks, or give evaluate.data.{name}=FILE"
        raise UserError(said + remedy * bool(place)) from problem


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's own bars and remarks on its own YAML, which have no switch, and without those of the hub."""
    loggers, bar = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")], lm_eval.api.task.tqdm
    levels, shown = [logger.level for logger in loggers], not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
