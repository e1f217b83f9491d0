"""Whether a model was trained on the questions it is tested on."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bm import parquet


def key(question: str) -> str:
    """A name of a question's text that does not depend on case and spacing: 16 hex digits."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:16]


def seen(samples: Path, traces: Sequence[Path]) -> dict[str, int]:
    """How many questions of each task in a samples.parquet are the prompt of a trace in these traces.parquet."""
    trained = {
        key(prompt) for path in traces for prompt in parquet.read(path, columns=["prompt"])["prompt"].to_pylist()
    }
    asked: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in parquet.read(samples, columns=["task", "question", "key"]).to_pylist():
        asked[row["task"]].add((row["question"], row["key"]))
    return {task: sum(name in trained for _, name in questions) for task, questions in asked.items()}
