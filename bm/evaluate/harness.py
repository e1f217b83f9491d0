"""lm-eval's evaluator with every sample scored, not only the first."""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import lm_eval
from lm_eval.api.filter import Filter, FilterEnsemble
from lm_eval.api.task import Task

from bm.config import Evaluate
from bm.evaluate.grade import Graded, grade
from bm.evaluate.loading import Loaded, evaluates, quiet, unsafe
from bm.evaluate.model import EngineLM
from bm.verify import Grader, thinking

FEWSHOT_SEED = 1234
"""lm-eval's default `fewshot_random_seed`: its command line draws the same examples."""
OVER_REPEATS = ("take_first_k", "majority_vote")
"""lm-eval filters that make one verdict of all repeats of a question."""


def run(lm: EngineLM, loaded: Loaded, config: Evaluate, grader: Grader, first: int | None = None) -> Mapping[str, Any]:
    """lm-eval's evaluation; a task that generates is scored once per sample, under filters named `name@index`.

    first: only this many questions of each task, in an order that is drawn once for all models. In each logged sample
    `place` is the question's place among those asked.
    """
    for task in loaded["tasks"].values():
        if not config.unsafe_code and (getattr(task, "UNSAFE_CODE", False) or evaluates(task)):
            raise unsafe(task.task_name)
        task.set_config("num_fewshot", task.config.num_fewshot or 0)
        task.set_fewshot_seed(FEWSHOT_SEED)
        if task.OUTPUT_TYPE == "generate_until":
            _sample(task, config, grader)
    asked = {name: _asked(task, config, first) for name, task in loaded["tasks"].items()}
    with quiet():
        results: Mapping[str, Any] = lm_eval.evaluate(
            lm, loaded, samples=asked, bootstrap_iters=0, apply_chat_template=config.chat_template,
            fewshot_as_multiturn=config.chat_template, confirm_run_unsafe_code=config.unsafe_code,
        )  # fmt: skip
    for name, entries in results["samples"].items():
        places = {question: place for place, question in enumerate(asked[name])}
        for entry in entries:
            entry["place"] = places[entry["doc_id"]]
    return results


def _asked(task: Task, config: Evaluate, first: int | None) -> list[int]:
    """Which of a task's questions are asked, in their order."""
    every = range(len(task.eval_docs))[: config.limit]
    return sorted(random.Random(config.seed).sample(every, len(every))[:first])


def _sample(task: Task, config: Evaluate, grader: Grader) -> None:
    """Give a task this protocol, and score each of its samples."""
    asked = {"temperature": config.temperature, "top_p": config.top_p, "max_gen_toks": config.max_new_tokens}
    given = {name: value for name, value in asked.items() if value is not None}
    if config.temperature is not None:
        given["do_sample"] = config.temperature > 0
    task.set_config("generation_kwargs", given, update=True)
    if config.samples is not None:
        task.set_config("repeats", config.samples)
    steps = [step["function"] for pipeline in task.config.filter_list or [] for step in pipeline["filter"]]
    if not set(steps) & set(OVER_REPEATS):
        task._filters = [
            _only(task, pipeline, i, grader) for pipeline in task._filters for i in range(task.config.repeats)
        ]


def _only(task: Task, pipeline: FilterEnsemble, index: int, grader: Grader) -> FilterEnsemble:
    """The pipeline on the verdict of sample `index` or, for a task with graders of its own, on its answer."""
    judged = task.config.process_results is grade
    first = partial(Graded, task.task_name, index, grader) if judged else partial(_Answer, index)
    return FilterEnsemble(f"{pipeline.name}@{index}", [first, *pipeline.filters])


class _Answer(Filter):  # type: ignore[misc]  # lm-eval has no types
    """One sample of each request, without its thought."""

    def __init__(self, index: int) -> None:
        self._index = index

    def apply(self, resps: Sequence[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return [[thinking.answer(responses[self._index])] for responses in resps]
