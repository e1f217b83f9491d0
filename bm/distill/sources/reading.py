"""Rows of a published set, from the hub or from files of yours, in an order drawn from a seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bm.errors import UserError
from bm.generate.characters import whole_characters

Row = Mapping[str, Any]
LINES = (".jsonl", ".json")


class RowsByNumber(Protocol):
    """Rows by number; no more of them in memory than are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Row: ...


def rows(
    name: str | None,
    path: Path | None,
    columns: Sequence[str],
    seed: int,
    config: str | None = None,
    split: str = "train",
) -> Iterator[Row]:
    """Every row once, in an order drawn from the seed, each with at least `columns`.

    Rows that are appended leave the order of those before them as it was, and stand anywhere among them.

    name: a set on the hub, at a commit of it as `name@commit`, and its `config` and `split`; path: a JSON Lines or
    Parquet file, or a folder of such files, in its place. UserError if there is neither, if it cannot be read, or if a
    row lacks a column: it is named beside those that there are.
    """
    where = str(path or name)
    table = _local(path) if path else _hub(name, config, split)
    if not len(table):
        raise UserError(f"{where} has no rows")
    for row in np.random.default_rng(seed).random(len(table)).argsort(kind="stable").tolist():
        values = table[row]
        for column in columns:
            if column not in values:
                there = ", ".join(sorted(values))
                raise UserError(
                    f"{where}: row {row + 1} has no column '{column}', but {there}: name yours in the source's settings"
                )
        yield values


def _local(path: Path) -> RowsByNumber:
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    parquet = [file for file in files if file.suffix == ".parquet"]
    lines = [file for file in files if file.suffix in LINES]
    if not path.exists() or not (parquet or lines):
        raise UserError(f"{path}: no JSON Lines or Parquet here; give a file (.jsonl, .parquet) or a folder with some")
    return _load(str(path), "parquet", None, "train", [str(p) for p in parquet]) if parquet else Lines(lines)


def _hub(name: str | None, config: str | None, split: str) -> RowsByNumber:
    if name is None:
        raise UserError("the source needs `name`, a set on the hub, or `path`, a file or folder of yours")
    repository, _, commit = name.partition("@")
    return _load(f"the set {name}", repository, config, split, revision=commit or None)


def _load(
    what: str, set_: str, config: str | None, split: str, files: list[str] | None = None, revision: str | None = None
) -> RowsByNumber:
    """A set through `datasets`, which maps it into memory instead of reading it."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        table: RowsByNumber = datasets.load_dataset(set_, config, split=split, data_files=files, revision=revision)
    except Exception as problem:  # a set that is gated, renamed, damaged or out of reach raises anything
        first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        remedy = "" if files else "; a copy of it can be read with the source's `path`"
        raise UserError(f"{what} cannot be read: {first}{remedy}") from problem
    finally:
        if shown:
            datasets.enable_progress_bars()
    return table


class Lines:
    """JSON Lines files as one table: where each line begins is kept, not what it says."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._lines: list[tuple[Path, int]] = []
        for file in files:
            with file.open("rb") as opened:
                start = 0
                for line in opened:
                    if line.strip():
                        self._lines.append((file, start))
                    start += len(line)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, row: int) -> Row:
        file, start = self._lines[row]
        with file.open("rb") as opened:
            opened.seek(start)
            line = opened.readline()
        try:
            value = json.loads(whole_characters(json.dumps(json.loads(line), ensure_ascii=False)))
        except ValueError as problem:
            raise UserError(f"{file}: row {row + 1} is not JSON ({problem})") from problem
        if not isinstance(value, dict):
            raise UserError(f"{file}: row {row + 1} is not a JSON object")
        return value
