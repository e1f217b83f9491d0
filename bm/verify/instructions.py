"""Whether a response keeps to the letter of an instruction that can be checked without understanding it.

The kinds are some of IFEval's (Zhou et al., 2023, arXiv:2311.07911), one per question.
"""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from bm.config import Verify
from bm.verify.cases import BrokenCaseError, Metadata, Verdict

FEWEST = 4
"""Words below which a response says nothing, so that a model that has lost its speech does not keep to anything."""


class Kind(NamedTuple):
    """What `value` is, whether a text keeps to it, and why not if it does not."""

    value: type
    kept: Callable[[str, Any], bool]
    reason: str


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """`metadata` has the `instruction`, one of KINDS, and its `value` (true where there is none to give)."""
    name, value = metadata.get("instruction"), metadata.get("value")
    if name not in KINDS:
        raise BrokenCaseError(f"there is no instruction '{name}'")
    kind = KINDS[name]
    if type(value) is not kind.value:
        raise BrokenCaseError(f"the value of '{name}' must be {kind.value.__name__}")
    if name != "json_key" and len(_words(text)) < FEWEST:
        return Verdict(False, "says nothing", text)
    return Verdict(True, "", text) if kind.kept(text, value) else Verdict(False, kind.reason, text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text)


def _sentences(text: str) -> int:
    """Runs that a full stop, question or exclamation mark ends, quotes closed, and what follows the last."""
    return sum(bool(re.search(r"\w", part)) for part in re.split(r"[.!?]+[\"”')]*(?:\s+|$)", text))


def _bullets(text: str) -> int:
    return len(re.findall(r"^\s*[-*•]\s+\S", text, re.MULTILINE))


def _has(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _object_with(text: str, key: str) -> bool:
    """A JSON object and nothing else, a code fence around it aside."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value.get(key))


KINDS = {
    "lower_case": Kind(bool, lambda text, _: text == text.lower(), "has capitals"),
    "capitals": Kind(bool, lambda text, _: text == text.upper(), "has small letters"),
    "no_commas": Kind(bool, lambda text, _: "," not in text, "has commas"),
    "keyword": Kind(str, _has, "lacks the keyword"),
    "without": Kind(str, lambda text, word: not _has(text, word), "has the forbidden word"),
    "most_words": Kind(int, lambda text, most: len(_words(text)) <= most, "too many words"),
    "least_words": Kind(int, lambda text, least: len(_words(text)) >= least, "too few words"),
    "bullets": Kind(int, lambda text, count: _bullets(text) == count, "wrong number of bullet points"),
    "sentences": Kind(int, lambda text, count: _sentences(text) == count, "wrong number of sentences"),
    "starts": Kind(str, lambda text, phrase: text.lstrip("\"'“*").startswith(phrase), "begins otherwise"),
    "ends": Kind(str, lambda text, phrase: text.rstrip("\"'”*").endswith(phrase), "ends otherwise"),
    "json_key": Kind(str, _object_with, "is not a JSON object with the key"),
}
