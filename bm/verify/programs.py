"""A model's program against a question's tests. Expected results stay on this side of the sandbox."""

import json
import math
import re
from decimal import Decimal
from typing import Any, NamedTuple

from bm.config import Verify
from bm.verify.cases import BrokenCaseError, Metadata, Verdict
from bm.verify.sandbox import LostError, Reply, TimeLimitError, sandbox

TOLERANCE = 1e-6
"""Relative or absolute, for results that are written with a decimal point."""
FENCE = re.compile(
    r"^[ \t]*(?:<\w+>[ \t]*)?(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*(?=$|</)|\Z)",
    re.DOTALL | re.MULTILINE,
)
DECIMAL = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,3})?")
PYTHON = {"python", "python3", "py", "py3"}
SIGNALS = {-24: "time limit", -9: "time limit", -25: "output limit"}
"""SIGXCPU, SIGKILL (also of the CPU limit), SIGXFSZ."""


class Tests(NamedTuple):
    """Inputs and expected outputs: of a script, or of the function of that name."""

    function: str | None
    inputs: list[Any]
    outputs: list[Any]


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """The program in `text` on every test in `metadata`."""
    source = program(text)
    if not source.strip():
        return Verdict(False, "no program", "")
    tests = read_tests(metadata)
    with sandbox(source, tests.function, settings) as running:
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
            request = {"stdin": given} if tests.function is None else {"arguments": given}
            try:
                failure = _failure(running.ask(request), expected, tests.function is not None)
            except TimeLimitError:
                failure = "time limit"
            except LostError:
                failure = "runtime error"
            if failure:
                return Verdict(False, f"{failure} on test {number}", source)
    return Verdict(True, "", source)


def program(text: str) -> str:
    """The last fenced block that is marked as Python, else the last that is unmarked: what follows a program may be its
    output. The whole text if nothing is fenced."""
    blocks = {language.lower(): code for _, language, code in FENCE.findall(text)}
    marked = [code for _, language, code in FENCE.findall(text) if language.lower() in PYTHON]
    return marked[-1] if marked else blocks.get("", "") if blocks else text


def read_tests(metadata: Metadata) -> Tests:
    """`tests` of the metadata in the layout of APPS and LiveCodeBench, or JSON of that; BrokenCaseError if it is not.

    Arguments of a function are a list, or JSON values, one per line; expected results are values, or JSON of them.
    """
    tests = _parsed(metadata.get("tests"), "tests must be JSON")
    if not isinstance(tests, dict):
        raise BrokenCaseError("tests must have inputs and outputs")
    inputs, outputs, function = tests.get("inputs"), tests.get("outputs"), tests.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise BrokenCaseError("inputs and outputs must be lists of the same length, and not empty")
    if function is None:
        return Tests(None, [_text(case) for case in inputs], [_text(case) for case in outputs])
    if not isinstance(function, str) or not function.isidentifier():
        raise BrokenCaseError("fn_name must be the name of a function")
    return Tests(function, [_arguments(case) for case in inputs], [_value(case) for case in outputs])


def _text(lines: Any) -> str:
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        return "\n".join(lines)
    if not isinstance(lines, str):
        raise BrokenCaseError("inputs and outputs of a script must be strings")
    return lines


def _arguments(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [_parsed(line, "arguments must be JSON, one per line") for line in given.splitlines() if line.strip()]
    if not isinstance(given, list):
        raise BrokenCaseError("inputs of a function must be lists of arguments, or JSON lines")
    return given


def _parsed(value: Any, otherwise: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as problem:
        raise BrokenCaseError(otherwise) from problem


def _value(expected: Any) -> Any:
    try:
        return json.loads(expected) if isinstance(expected, str) else expected
    except ValueError:
        return expected


def _failure(reply: Reply, expected: Any, called: bool) -> str:
    """How a test failed; "" if it did not."""
    if reply["overflow"]:
        return "output limit"
    if reply["status"] != 0:
        memory = "MemoryError" in str(reply["error"])
        return "memory limit" if memory else SIGNALS.get(reply["status"], "runtime error")
    if not called:
        return "" if _same_text(str(reply["stdout"]), expected) else "wrong output"
    try:
        result = json.loads(reply["result"])
    except (TypeError, ValueError, RecursionError):
        return "runtime error"
    # APPS wraps an expected result into a list
    wrapped = isinstance(expected, list) and len(expected) == 1 and _same(result, expected[0])
    return "" if wrapped or _same(result, expected) else "wrong output"


def _same_text(output: str, expected: str) -> bool:
    """Word by word, whatever is between them; an expected number with a point within the tolerance."""
    given, wanted = output.split(), expected.split()
    return len(given) == len(wanted) and all(map(_same_word, given, wanted))


def _same_word(given: str, wanted: str) -> bool:
    if given == wanted:
        return True
    if not DECIMAL.fullmatch(given) or not DECIMAL.fullmatch(wanted):
        return False
    if wanted.lstrip("+-").isdigit():
        return Decimal(given) == Decimal(wanted)
    return _close(float(given), float(wanted))


def _same(result: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(result, int | float):
        return _close(result, expected)
    if isinstance(expected, list) and isinstance(result, list):
        return len(result) == len(expected) and all(map(_same, result, expected))
    if isinstance(expected, dict) and isinstance(result, dict):
        return result.keys() == expected.keys() and all(_same(result[key], expected[key]) for key in expected)
    return bool(result == expected)


def _close(given: float, wanted: float) -> bool:
    try:
        return math.isclose(given, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer beyond every float
        return False
