"""Responses on disk before they are judged, so that a killed run asks nothing twice."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bm.distill.selection import Question


class Journal:
    """One response a line, appended as they come: safe from a killed process at once, from a power cut within a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.responses = dict(_whole_lines(path))
        """Question id to response, of this run and of those that were interrupted."""

    def record(self, answers: Iterable[tuple[Question, str]]) -> Iterator[Question]:
        """Write each answer down as it arrives, then pass its question on."""
        with self.path.open("a", encoding="utf-8") as file:
            synced = time.monotonic()
            for question, response in answers:
                file.write(json.dumps([question.id, response]) + "\n")
                file.flush()
                if time.monotonic() - synced > 1:
                    os.fsync(file.fileno())
                    synced = time.monotonic()
                self.responses[question.id] = response
                yield question
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The journal's entries; half a line, from a process killed while it wrote, is cut off."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(file.seek(-len(line), os.SEEK_CUR))
                return
            name, response = json.loads(line)
            yield name, response
