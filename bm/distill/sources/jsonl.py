"""Any set of questions, by saying where in its rows what is: JSON Lines, Parquet, or a set on the hub."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from bm.config import Content
from bm.distill.selection import Question
from bm.distill.sources import Stream
from bm.distill.sources.reading import Row, rows
from bm.distill.sources.thoughts import normalised
from bm.errors import UserError
from bm.verify.cases import BrokenCaseError
from bm.verify.programs import read_tests

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABEL = re.compile(r"\s*[(\[]?([A-Z])[).:\]]\s*")


def stream(
    domain: str,
    seed: int,
    name: str | None,
    path: Annotated[Path, Content] | None,
    config: str | None,
    split: str,
    prompt: Sequence[str],
    join: str,
    answer: str | None,
    answer_pattern: str | None,
    choices: str | None,
    tests: str | None,
    responses: str | None,
    verifier: str,
    system: str,
) -> Stream:
    """One question per row. Fields are named by their paths (`meta.level`, `turns.0.text`).

    prompt: one or several fields, joined by `join`. answer: the reference; answer_pattern: a regular expression whose
    first group is the reference within that field (`#### (.+)`). choices: a field with a list of options, which are
    put below the prompt under letters; the answer is then a letter or, counted from 0, an index. tests: a field with a
    program's tests, an object or JSON. responses: a field with one published response or a list. A row whose answer is
    missing or does not match is refused. UserError names a field that a row does not have.
    """
    fields = [*prompt, *filter(None, (answer, choices, tests, responses))]
    columns = list(dict.fromkeys(field.split(".")[0] for field in fields))
    if name and path:
        raise UserError(f"the source has both `name` ({name}) and `path` ({path}); give one of them")
    pattern = _pattern(answer_pattern)
    where = str(path or name)
    for row in rows(name, path, columns, seed, config, split):
        asked = join.join(str(_field(row, field, where)).strip() for field in prompt)
        options = _options(_listed(_field(row, choices, where), choices, where)) if choices else []
        given = _field(row, answer, where) if answer else None
        if isinstance(given, Mapping | list):
            raise UserError(f"{where}: a row's field '{answer}' is neither text nor a number; name a field within it")
        reference = _reference(given, pattern, len(options)) if answer else ""
        if reference is None:
            yield None
            continue
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        metadata: dict[str, Any] = {"choices": options} if options else {}
        if tests:
            metadata["tests"] = _object(_field(row, tests, where), tests, where)
        if verifier == "code":
            _runnable(metadata, tests, where)
        published = _published(_field(row, responses, where), responses, where) if responses else ()
        source = Path(where).stem if path else where
        said_of = json.dumps(metadata, ensure_ascii=False)
        yield Question(domain, source, system, asked + listed, reference, verifier, said_of, published)


def _pattern(given: str | None) -> re.Pattern[str] | None:
    try:
        pattern = re.compile(given) if given else None
    except re.error as problem:
        raise UserError(f"answer_pattern: {given!r} is not a regular expression ({problem})") from None
    if pattern and not pattern.groups:
        raise UserError(f"answer_pattern: {given!r} has no group; put the reference in parentheses, as in '#### (.+)'")
    return pattern


def _field(row: Row, field: str, where: str) -> Any:
    """What a row has at a dotted path; list places are numbers."""
    value: Any = row
    for part in field.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            there = f"; there are {', '.join(value)}" if isinstance(value, Mapping) else ""
            raise UserError(f"{where}: a row has no field '{field}'{there}") from None
    return value


def _listed(value: Any, field: str, where: str) -> Sequence[Any]:
    """A list, or UserError: the letters of a text are no options."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise UserError(f"{where}: a row's field '{field}' is not a list")
    return value


def _published(value: Any, field: str, where: str) -> tuple[str, ...]:
    """The responses that a row has: one, several, or none."""
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if isinstance(texts, Mapping) or not isinstance(texts, Sequence):
        raise UserError(f"{where}: a row's field '{field}' is neither text nor a list")
    if any(not isinstance(text, str) for text in texts):
        raise UserError(f"{where}: a row's field '{field}' has a response that is not text")
    return tuple(map(normalised, texts))


def _reference(value: Any, pattern: re.Pattern[str] | None, options: int) -> str | None:
    """The reference answer as text: a whole number without its `.0`, a choice by its letter; None if there is none."""
    if isinstance(value, int) and options:
        return LETTERS[value] if 0 <= value < options else None
    text = (
        str(int(value)) if isinstance(value, float) and value.is_integer() else str(value if value is not None else "")
    )
    if pattern:
        match = pattern.search(text)
        text = match[1] if match else ""
    return text.strip() or None


def _options(given: Sequence[Any]) -> list[str]:
    """Options without the letters that some sets write before them (`A)5`)."""
    options = [str(option) for option in given]
    labels = [LABEL.match(option) for option in options]
    if all(label and label[1] == letter for label, letter in zip(labels, LETTERS, strict=False)):
        return [option[label.end() :] for option, label in zip(options, labels, strict=True) if label]
    return options


def _runnable(metadata: dict[str, Any], field: str | None, where: str) -> None:
    """UserError unless a program can be held to the tests."""
    try:
        read_tests(metadata)
    except BrokenCaseError as problem:
        named = f"a row's field '{field}' has no tests" if field else "verifier code needs the field `tests`"
        raise UserError(f"{where}: {named}: {problem}") from None


def _object(value: Any, field: str, where: str) -> Any:
    """Tests as an object; some sets have them as JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise UserError(f"{where}: a row's field '{field}' is not JSON") from None
