"""An evaluation on disk: every sample, and a score with its interval for every task."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from bm.config import Evaluate
from bm.evaluate.contamination import key
from bm.evaluate.loading import Loaded, question
from bm.evaluate.model import EngineLM
from bm.statistics import Interval, interval, majority, pass_at_k
from bm.verify import thinking

UNCLOSED, WRONG = "unclosed reasoning", "wrong answer"
CORPUS_RESAMPLES = 1000
"""Resamples for a metric that is no mean over questions and has to be computed anew for each (perplexity, F1)."""

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "question": pa.string(),
        "key": pa.string(),  # of the question's text: `contamination.key`
        "sample": pa.int32(),
        "prompt": pa.string(),
        "response": pa.string(),
        "answer": pa.string(),  # what was judged
        "accepted": pa.bool_(),  # full score
        "score": pa.float64(),  # the task's first metric; null where it has no value for a single question
        "reason": pa.string(),  # why not accepted
        "response_tokens": pa.int32(),
        "finished": pa.bool_(),  # false: cut off by the limit on tokens
        "left_out": pa.int32(),  # tokens at the beginning of the prompt for which the context had no room
    }
)

Row = dict[str, Any]
"""A row of `SCHEMA`, and under `value` what the task's first metric made of it."""


def rows(results: Mapping[str, Any], lm: EngineLM, tasks: Mapping[str, Task]) -> list[Row]:
    """One row per sample, by task, question and sample, judged by each task's first metric after its first filter."""
    return [row for name, task in tasks.items() for row in _task_rows(name, task, results["samples"][name], lm)]


def _task_rows(name: str, task: Task, entries: Sequence[Mapping[str, Any]], lm: EngineLM) -> Iterator[Row]:
    judged = []
    for entry in entries:
        pipeline, _, index = entry["filter"].partition("@")
        if pipeline == entries[0]["filter"].partition("@")[0]:
            judged.append((entry["doc_id"], int(index or 0), entry))
    keys = {place: key(question(task, entry["doc"])) for place, _, entry in judged}
    ids = {place: entry["doc"].get("id") for place, _, entry in judged}
    named = None not in ids.values() and len(set(ids.values())) == len(ids)
    for place, index, entry in sorted(judged, key=lambda triple: triple[:2]):
        made = _generated if task.OUTPUT_TYPE == "generate_until" else _scored
        yield {"task": name, "question": str(ids[place] if named else place), "key": keys[place], "sample": index,
               "prompt": entry["arguments"][0][0], **_verdict(entry), **made(name, entry, index, lm)}  # fmt: skip


def _verdict(entry: Mapping[str, Any]) -> Row:
    value = entry[entry["metrics"][0]]
    score = float(value) if isinstance(value, int | float | np.number) else None
    return {"value": value, "score": score, "accepted": None if score is None else score == 1}


def _generated(task: str, entry: Mapping[str, Any], index: int, lm: EngineLM) -> Row:
    sample, response = lm.samples[task, entry["place"], 0][index], entry["resps"][0][index]
    reason = UNCLOSED if thinking.unclosed(response) else WRONG if not entry[entry["metrics"][0]] else ""
    return {"response": response, "answer": entry.get("answer", str(entry["filtered_resps"][0])),
            "reason": entry.get("reason", reason), "response_tokens": sample.tokens,
            "finished": sample.finished, "left_out": sample.left_out}  # fmt: skip


def _scored(task: str, entry: Mapping[str, Any], index: int, lm: EngineLM) -> Row:
    """The rows of a task that compares log-likelihoods: the likeliest continuation stands for the response."""
    pairs = [argument for argument in entry["arguments"] if len(argument) == 2]
    best = int(np.argmax([response[0] for response in entry["filtered_resps"]])) if len(pairs) > 1 else 0
    chosen = pairs[best][1].strip() if pairs else ""
    left_out = max(lm.left_out[task, entry["place"], place] for place in range(len(entry["arguments"])))
    return {"response": chosen, "answer": chosen, "reason": "" if entry[entry["metrics"][0]] else WRONG,
            "response_tokens": 0, "finished": True, "left_out": left_out}  # fmt: skip


def write_samples(rows: Sequence[Row], path: Path) -> None:
    """Parquet of `SCHEMA`, the same bytes for the same rows, renamed into place."""
    beside = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), beside, compression="zstd")
    beside.rename(path)


def scores(
    samples: Sequence[Row], results: Mapping[str, Any], loaded: Loaded, config: Evaluate
) -> dict[str, dict[str, Any]]:
    """By task: `mean` with `low` and `high`, over `questions` of `samples` each; lengths; how many questions were
    `truncated`; whose task it is; and lm-eval's own `metrics`.

    A group of tasks has the mean over the questions of them all, where its tasks share a metric that is such a mean.
    """
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in samples:
        by_task[row["task"]].append(row)
    aggregations = {name: _aggregation(task) for name, task in loaded["tasks"].items()}
    scored = {name: _score(rows, aggregations[name], config) for name, rows in by_task.items()}
    for name, group in loaded["groups"].items():
        members = [task.task_name for task in group.get_all_tasks()]
        if all(aggregations[member] is mean for member in members):
            scored[name] = _score([row for member in members for row in by_task[member]], mean, config)
    for name, score in scored.items():
        score["task"] = loaded["whose"].get(name, "a part of a group")
        score["metrics"] = _metrics(results["results"].get(name, {}) | results.get("groups", {}).get(name, {}))
    return scored


def _aggregation(task: Task) -> Callable[[Sequence[Any]], float]:
    """How lm-eval makes one number of the task's first metric."""
    known: dict[str, Callable[[Sequence[Any]], float]] = task.aggregation()
    return next(iter(known.values()))


def _score(rows: Sequence[Row], aggregation: Callable[[Sequence[Any]], float], config: Evaluate) -> dict[str, Any]:
    by_question: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_question[row["task"], row["question"]].append(row)
    questions = list(by_question.values())
    values = [[row["value"] for row in samples] for samples in questions]
    if aggregation is mean:
        scored = np.array(values, float)
        bounds = (min(0.0, scored.min()), max(1.0, scored.max()))
        seen = interval(scored, config.resamples, config.confidence, config.seed, bounds)
    else:
        seen = _corpus_interval(values, aggregation, config)
    tokens = [row["response_tokens"] for row in rows]
    return {"mean": seen.mean, "low": seen.low, "high": seen.high, "questions": len(values), "samples": len(values[0]),
            "response_tokens": float(np.mean(tokens)), "unclosed": sum(row["reason"] == UNCLOSED for row in rows),
            "cut": sum(not row["finished"] for row in rows),
            "truncated": sum(samples[0]["left_out"] > 0 for samples in questions), **_several(questions)}  # fmt: skip


def _several(questions: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """What several samples of a question are worth together: `pass@k` for powers of two, and `majority`."""
    n = len(questions[0])
    if n == 1 or any(row["score"] not in (0, 1) for samples in questions for row in samples):
        return {}
    accepted = [[row["accepted"] for row in samples] for samples in questions]
    ks = [2**power for power in range(1, n.bit_length()) if 2**power <= n]
    votes = [majority([row["answer"] for row in samples], a) for samples, a in zip(questions, accepted, strict=True)]
    passes = {str(k): float(np.mean([pass_at_k(sum(a), n, k) for a in accepted])) for k in ks}
    return {"pass@k": passes, "majority": float(np.mean(votes))}


def _corpus_interval(
    values: Sequence[Sequence[Any]], aggregation: Callable[[Sequence[Any]], float], config: Evaluate
) -> Interval:
    """Percentile bootstrap over questions of a metric that looks at all at once; values: [questions][samples]."""
    draws = np.random.default_rng(config.seed).integers(0, len(values), (CORPUS_RESAMPLES, len(values)))

    def whole(questions: Sequence[int]) -> float:
        return float(np.mean([aggregation([values[q][k] for q in questions]) for k in range(len(values[0]))]))

    tails = [(1 - config.confidence) / 2, (1 + config.confidence) / 2]
    low, high = np.quantile([whole(draw) for draw in draws.tolist()], tails)
    return Interval(whole(range(len(values))), float(low), float(high))


def _metrics(reported: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval's own numbers as `metric,filter`, those of single samples averaged."""
    collected: dict[str, list[float]] = defaultdict(list)
    for name, value in reported.items():
        metric, comma, pipeline = name.partition(",")
        if comma and not metric.endswith("_stderr") and metric not in ("reason", "answer"):
            collected[f"{metric},{pipeline.partition('@')[0]}"].append(value)
    return {name: float(np.mean(numbers)) for name, numbers in collected.items()}
