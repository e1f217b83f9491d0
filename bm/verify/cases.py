"""What is judged, and what comes of it."""

import json
import re
from typing import Any, NamedTuple

AGREED, DISAGREED, JUDGED = "two checks agree", "two checks disagree", "judged by a model"
"""Notes of a verdict: of a mathematical answer that was checked twice, and of one that no rule decided."""


Metadata = dict[str, Any]


class BrokenCaseError(Exception):
    """What a response is held to cannot be read: no JSON, or tests that are none."""


class Case(NamedTuple):
    """A response, reasoning included, and what it is held to: a verifier's name, the reference, metadata (JSON)."""

    verifier: str
    response: str
    answer: str
    metadata: str

    def fields(self) -> Metadata:
        """The metadata as an object, empty where there is none; BrokenCaseError if it is no such thing."""
        try:
            fields = json.loads(self.metadata or "{}")
        except (ValueError, RecursionError) as problem:
            raise BrokenCaseError("metadata must be JSON") from problem
        if not isinstance(fields, dict):
            raise BrokenCaseError("metadata must be a JSON object")
        return fields


class Verdict(NamedTuple):
    """Whether a response was accepted, why not (else ""), and the final answer that was judged (if any, else "")."""

    accepted: bool
    reason: str
    answer: str
    note: str = ""
    """How it was decided, where that matters: AGREED, DISAGREED or JUDGED."""

    @property
    def kind(self) -> str:
        """The reason without particulars, to count by: `wrong output on test 3` is a `wrong output`."""
        return re.sub(r" on test \d+$|:.*$", "", self.reason, flags=re.DOTALL)


def decided(accepted: bool, answer: str, note: str = "") -> Verdict:
    """The verdict on an answer that could be compared."""
    return Verdict(accepted, "" if accepted else "wrong answer", answer, note)
