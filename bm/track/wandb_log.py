"""What W&B holds of a run on this machine: its transaction logs, written offline and online alike, read back.

A log is a LevelDB log of protobuf records: a header of 7 bytes, then blocks of 32 KiB, in which a record is cut into
parts, each after its checksum, length and kind. A killed process leaves the last record cut off.
"""

import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bm.store import file_digest

BLOCK, HEADER = 1 << 15, 7
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record."""
PATIENCE = 20.0
"""Seconds that W&B's own process is given to write the end of a run."""


@dataclass
class Held:
    """A run, as told to W&B or as found there."""

    about: dict[str, Any] = field(default_factory=dict)
    """Id, name, project, group, job type and tags."""
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    """By metric, what it is drawn over."""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By step, what was logged; of a step logged twice, the later."""
    summary: dict[str, Any] = field(default_factory=dict)
    media: dict[str, str] = field(default_factory=dict)
    """By name, the SHA-256 of a table's or figure's file, where it is on disk and whole."""
    used: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    """References to artefacts."""
    exits: list[int] = field(default_factory=list)
    """Exit status of each attempt that ended by itself."""


def logs(folder: Path, key: str) -> list[Path]:
    """The transaction logs of all attempts at a run below W&B's folder, oldest first."""
    return sorted((folder / "wandb").glob(f"*run-*-{key}/run-{key}.wandb"))


def held(files: Iterable[Path], step: str) -> Held:
    """What some logs hold together, later ones over earlier ones; `step` names the counter of the rows."""
    read = Held()
    for file in files:
        for record in records(file):
            _add(read, record, step, file.parent / "files")
    return read


def ended(file: Path) -> bool:
    """Wait until W&B's process has written the end of a run; False if it does not come."""
    limit = time.monotonic() + PATIENCE
    while not any(record.HasField("exit") for record in records(file)):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def records(file: Path) -> Iterator[Any]:
    """The records of a transaction log up to the one that was cut off, if one was."""
    from wandb.proto import wandb_internal_pb2 as wire

    data, place, parts = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if (left := -place % BLOCK) and left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (WHOLE, LAST) and place <= len(data):
            yield wire.Record.FromString(parts)  # type: ignore[attr-defined]  # protobuf makes it on import
            parts = b""


def differences(told: Held, there: Held) -> list[str]:
    """Where W&B holds something else than what was logged, a line each; what it holds besides does not matter."""
    lines = [f"{what} is {there.about.get(what)!r}, not {value!r}" for what, value in told.about.items()
             if there.about.get(what) != value]  # fmt: skip
    for kind in ("config", "axes", "summary", "media"):
        is_, due = getattr(there, kind), getattr(told, kind)
        wrong = [name for name in due if name not in is_ or is_[name] != due[name]]
        lines += [f"{kind}: {', '.join(wrong[:3])} {_others(wrong)}"] * bool(wrong)
    rows = [str(step) for step, row in told.rows.items() if not row.items() <= there.rows.get(step, {}).items()]
    lines += [f"rows: step {', '.join(rows[:3])} {_others(rows)}"] * bool(rows)
    for kind in ("used", "made"):
        lost = sorted(getattr(told, kind) - getattr(there, kind))
        lines += [f"artefacts {kind}: {', '.join(lost[:3])} {_others(lost)}"] * bool(lost)
    if there.exits[-1:] != told.exits:
        lines.append(f"exit status is {there.exits[-1:]}, not {told.exits}")
    return lines


def plain(value: Any) -> Any:
    """A value as W&B's JSON has it: what is no number in JSON is a word there."""
    return json.loads(json.dumps(value), parse_constant=lambda word: word)


def _others(names: list[str]) -> str:
    return f"and {len(names) - 3} others" if len(names) > 3 else "missing or changed"


def _add(read: Held, record: Any, step: str, files: Path) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        read.about = {"id": run.run_id, "name": run.display_name, "project": run.project, "group": run.run_group,
                       "job type": run.job_type, "tags": list(run.tags)}  # fmt: skip
        read.config |= _values(run.config.update)
    elif kind == "config":
        read.config |= _values(record.config.update)
    elif kind == "metric" and record.metric.step_metric:
        read.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "history":
        row = _values(record.history.item)
        media = {name: value for name, value in row.items() if isinstance(value, Mapping) and "sha256" in value}
        read.media |= {name: value["sha256"] for name, value in media.items() if _whole(files, value)}
        if step in row:
            read.rows.setdefault(int(row[step]), {}).update(row)
    elif kind == "summary":
        read.summary |= _values(record.summary.update)
    elif kind == "artifact":
        references = {entry.ref for entry in record.artifact.manifest.contents if entry.ref}
        (read.used if record.artifact.use_after_commit else read.made).update(references)
    elif kind == "exit":
        read.exits.append(record.exit.exit_code)


def _values(items: Iterable[Any]) -> dict[str, Any]:
    """Key-value records as nested dicts."""
    values: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        here = values
        for part in path:
            here = here.setdefault(part, {})
        here[last] = json.loads(item.value_json, parse_constant=lambda word: word)
    return values


def _whole(files: Path, media: Mapping[str, Any]) -> bool:
    file = files / media["path"]
    return file.is_file() and file_digest(file) == str(media["sha256"])
