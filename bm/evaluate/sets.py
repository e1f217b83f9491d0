"""Published problem sets as questions: each names in its task's YAML where it is and what its columns mean.

Every function here is the `custom_dataset` of a task; lm-eval calls it with the task's `metadata` and `dataset_kwargs`.
Whatever the set's own layout, the documents it gives have the same columns, all strings: `id`, `question` (its bare
text), `prompt` (what is asked), `system`, `answer`, `verifier` and `metadata` (JSON), which `grade` understands.
"""

import csv
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import jinja2
from lm_eval.utils import env

from bm import parquet
from bm.errors import UserError

Row = Mapping[str, Any]
"""One row of a published set, by its own column names."""
Template = str | Sequence[str]
"""Jinja over a row's columns (and `row`, for names with spaces); of several, the first whose columns are there."""
Split = dict[str, datasets.Dataset]

LETTERS = "ABCDEFGHIJ"


def questions(file: str, **_: Any) -> Split:
    """The questions of a domain (questions.parquet)."""
    rows = parquet.read(Path(file)).to_pylist()
    return _documents({"question": row["prompt"], **row} for row in rows)


def problems(
    question: Template,
    answer: Template,
    verifier: str,
    *,
    id: Template = (),  # noqa: A002  # it is the column's name
    **place: Any,
) -> Split:
    """Questions with a reference answer that `verifier` compares with; place: see `rows`."""
    return _documents(
        {
            "question": (text := fill(question, row)),
            "id": fill(id, row) if id else _name(text),
            "prompt": text,
            "answer": fill(answer, row),
            "verifier": verifier,
        }
        for row in rows(**place)
    )


def choices(
    question: Template,
    options: Sequence[Template],
    correct: Template,
    *,
    seed: int | None = None,
    id: Template = (),  # noqa: A002
    **place: Any,
) -> Split:
    """Multiple choice, answered by a letter. `correct` is the place of the right one among `options`.

    With a seed the options are shuffled, each question's by itself: whatever else is in the set, it is asked the same.
    """
    documents = []
    for row in rows(**place):
        text, texts = fill(question, row), [fill(option, row) for option in options]
        order = list(range(len(texts)))
        if seed is not None:
            random.Random(f"{seed}\0{text}").shuffle(order)
        listed = "\n".join(f"{letter}) {texts[i]}" for letter, i in zip(LETTERS, order, strict=False))
        documents.append(
            {
                "question": text,
                "id": fill(id, row) if id else _name(f"{text}\n{listed}"),
                "prompt": f"{text}\n\n{listed}",
                "answer": LETTERS[order.index(int(fill(correct, row)))],
                "verifier": "choice",
                "metadata": json.dumps({"choices": [texts[i] for i in order]}),
            }
        )
    return _documents(documents)


def local(file: Path, **_: Any) -> Mapping[str, datasets.Dataset]:
    """A file in place of whichever split of its set a task asks for."""
    return _EverySplit(datasets.Dataset.from_list(read(file)))


def rows(
    path: str = "",
    name: str | None = None,
    split: str = "test",
    file: str | None = None,
    files: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
    **_: Any,
) -> Iterable[Row]:
    """Rows of the hub's set `path` (its configuration `name`, or its JSON Lines `files`), or of a local `file`.

    only: keep the rows whose column, where they have it, holds one of these values.
    """
    if file:
        table: Iterable[Row] = read(Path(file))
    elif files:
        table = datasets.load_dataset("json", data_files=[f"hf://datasets/{path}/{f}" for f in files], split="train")
    elif path:
        table = datasets.load_dataset(path, name, split=split)
    else:
        raise UserError("it is not on the hub; give it as a file, evaluate.data.TASK=FILE")
    wanted = (only or {}).items()
    return (row for row in table if all(column not in row or row[column] in values for column, values in wanted))


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines, Parquet or CSV file; UserError if it is none."""
    readers: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        ".jsonl": lambda f: [json.loads(line) for line in f.read_text(encoding="utf-8").splitlines() if line.strip()],
        ".parquet": lambda f: parquet.read(f).to_pylist(),
        ".csv": lambda f: list(csv.DictReader(f.read_text(encoding="utf-8").splitlines(keepends=True))),
    }
    if file.suffix not in readers:
        raise UserError(f"{file} must be one of {', '.join(readers)}")
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError) as problem:  # also what JSON, Parquet and text decoding raise
        raise UserError(f"{file} cannot be read: {str(problem).splitlines()[0]}") from problem


def fill(template: Template, row: Row) -> str:
    """A template with a row's values; UserError if a row has the columns of none."""
    tried = [template] if isinstance(template, str) else template
    for version in tried:
        try:
            return _compiled(version).render(**{**row, "row": row})
        except jinja2.UndefinedError:
            continue
    raise UserError(f"its rows have the columns {', '.join(row)}, but not {' or '.join(tried)}")


@cache
def _compiled(template: str) -> jinja2.Template:
    compiled: jinja2.Template = env.from_string(template)
    return compiled


def made(rows: Iterable[Row], file: str | None) -> Split:
    """Questions made by program, where no file is put in their place."""
    if file:
        raise UserError("its questions are made, not read; choose a task of your own for the file")
    return {"test": datasets.Dataset.from_list([*rows])}


def _documents(rows: Iterable[Row]) -> Split:
    documents = [{"system": "", "metadata": "{}", **document} for document in rows]
    if not documents:
        raise UserError("it has no rows that fit")
    return {"test": datasets.Dataset.from_list(documents)}


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _EverySplit(dict[str, datasets.Dataset]):
    def __init__(self, rows: datasets.Dataset) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, split: str) -> datasets.Dataset:
        return self._rows
