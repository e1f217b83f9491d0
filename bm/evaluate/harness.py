"""lm-eval's tasks and evaluator with every sample scored, not only the first."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
from lm_eval.api.filter import Filter, FilterEnsemble
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from bm.config import Evaluate
from bm.errors import UserError, nearest
from bm.evaluate import thinking
from bm.evaluate.grade import grade
from bm.evaluate.model import EngineLM

TASKS = Path(__file__).parent / "tasks"
OVER_REPEATS = ("take_first_k", "majority_vote")
"""lm-eval filters that make one verdict of all repeats of a question."""

Loaded = dict[str, Any]
"""What lm-eval's `TaskManager.load` returns: `tasks`, `groups`, `group_map`."""


def load(names: Sequence[str], questions: Mapping[str, Path], include_path: Path | None) -> Loaded:
    """Tasks by name. One in `questions` is made of its questions.parquet; then yours, those of `bm`, and lm-eval's."""
    own = {name: _questions(name, questions[name]) for name in names if name in questions}
    others = [name for name in names if name not in questions]
    paths = [TASKS, *[include_path] * (include_path is not None)]
    manager = TaskManager(include_path=paths, include_defaults=False)
    if any(name not in manager.task_index for name in others):
        manager = TaskManager(include_path=paths)  # reads lm-eval's thousands of files, which takes seconds
    for name in others:
        if name not in manager.task_index:
            raise UserError(f"evaluate.tasks: no task '{name}'{nearest(name, manager.task_index)}")
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in others:
        try:
            with _quiet():
                found = manager.load([name])
        except Exception as problem:  # a data set that is gated, renamed or offline raises anything
            raise UserError(f"task {name}: its data cannot be read: {_first_line(problem)}") from problem
        for part in loaded:
            loaded[part].update(found.get(part, {}))
    loaded["tasks"] = {**own, **loaded["tasks"]}
    return loaded


def run(lm: EngineLM, loaded: Loaded, config: Evaluate) -> Mapping[str, Any]:
    """lm-eval's evaluation; a task that generates is scored once a sample, under filters named `name@index`."""
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) and not config.unsafe_code:
            raise UserError(
                f"task {task.task_name} runs a model's code as it is; set evaluate.unsafe_code=true to let it"
            )
        task.set_config("num_fewshot", task.config.num_fewshot or 0)
        task.set_fewshot_seed(config.seed)
        if task.OUTPUT_TYPE == "generate_until":
            _sample(task, config)
    with _quiet():
        results: Mapping[str, Any] = lm_eval.evaluate(
            lm, loaded, limit=config.limit, bootstrap_iters=0, apply_chat_template=config.chat_template,
            fewshot_as_multiturn=config.chat_template, confirm_run_unsafe_code=config.unsafe_code,
        )  # fmt: skip
    return results


def _sample(task: Task, config: Evaluate) -> None:
    """Give a task this protocol, and score each of its samples."""
    asked = {"temperature": config.temperature, "top_p": config.top_p, "max_gen_toks": config.max_new_tokens}
    given = {name: value for name, value in asked.items() if value is not None}
    if config.temperature is not None:
        given["do_sample"] = config.temperature > 0
    task.set_config("generation_kwargs", given, update=True)
    if config.samples is not None:
        task.set_config("repeats", config.samples)
    steps = [step["function"] for one in task.config.filter_list or [] for step in one["filter"]]
    if not set(steps) & set(OVER_REPEATS):
        judged_whole = task.config.process_results is grade
        task._filters = [_only(one, i, judged_whole) for one in task._filters for i in range(task.config.repeats)]


def _only(pipeline: FilterEnsemble, index: int, whole: bool) -> FilterEnsemble:
    """The pipeline on sample `index` alone and, unless `whole`, on its answer alone."""
    return FilterEnsemble(f"{pipeline.name}@{index}", [partial(_Sample, index, whole), *pipeline.filters])


class _Sample(Filter):  # type: ignore[misc]  # lm-eval has no types
    """Of each request's samples, one."""

    def __init__(self, index: int, whole: bool) -> None:
        self._index, self._whole = index, whole

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return [[r[self._index] if self._whole else thinking.answer(r[self._index])] for r in resps]


def _questions(name: str, path: Path) -> Task:
    manager = TaskManager(include_path=TASKS, include_defaults=False, metadata={"questions": str(path)})
    with _quiet():
        (task,) = manager.load("questions")["tasks"].values()
    task.set_config("task", name)
    return task


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's own bars and remarks on its own YAML, which have no switch, and without those of datasets."""
    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level, shown = logger.level, not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if shown:
            datasets.enable_progress_bars()


def _first_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
