"""What runs inside the sandbox on behalf of two verifiers: math-verify's comparison and reasoning-gym's scorers.

The runner gets its source, runs it once, and calls `equal` or `score` in a fork for each response. Some scorers call
`eval` or SymPy's `parse_expr` on a response. Here these read literals and formulas only, so that a response cannot
forge its verdict; the sandbox holds whatever else there may be.
"""

import ast
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

FUNCTIONS = {
    "sqrt", "cbrt", "root", "exp", "log", "ln", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan",
    "acot", "asec", "acsc", "sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh", "erf", "Abs", "abs", "pow",
    "Rational", "Integer", "Float", "factorial",
}  # fmt: skip
FORMULA = re.compile(r"(?:[\w\s+\-*/%^(),!]|\.(?=\s*[\d)+\-*/]|$)|(?<!\w)\.(?=\d))*")
"""Numbers, names and operators: no attribute, no string, no item, no assignment."""


PLAIN = (ast.Expression, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator,
         ast.unaryop, ast.Load)  # fmt: skip


def equal(reference: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    known, given = (
        list(parse(f"\\boxed{{{latex}}}", config, fallback_mode="no_fallback", parsing_timeout=None))
        for latex in (reference, answer)
    )
    try:
        return bool(verify(known, given, allow_set_relation_comp=True, timeout_seconds=None))
    except (RecursionError, MemoryError):
        return False


def score(text: str, entry: dict[str, Any]) -> bool:
    """Whether a generator's scorer gives a response full marks. It rewards near misses in part; they don't count."""
    name = entry["metadata"]["source_dataset"]
    if name in ("arc_agi", "rearc"):
        entry["metadata"]["output"] = _tuples(entry["metadata"]["output"])  # JSON made lists of them
    return bool(_generator(name).score_answer(text, entry) >= 1)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@cache
def _generator(name: str) -> Any:
    """Scorers look at the entry alone, so one generator with default settings judges questions made with any."""
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        raise LookupError(f"reasoning-gym has no generator '{name}'")
    return create_dataset(name, seed=0, size=1)


def before(*arguments: Any) -> None:
    """What all forks can share: the generator of an entry. Its own mistakes are found again in the fork."""
    with suppress(Exception):
        _generator(arguments[1]["metadata"]["source_dataset"])


def prepare(function: Callable[..., bool]) -> None:
    """Import what the function needs, disarmed."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    import sympy
    from sympy.parsing import sympy_parser

    evaluated = sympy_parser.parse_expr

    def formula(text: Any, *arguments: Any, **more: Any) -> Any:
        _check(text, more.get("local_dict") or {})
        return evaluated(text, *arguments, **more)

    for module in (sympy, sympy.parsing, sympy_parser):
        module.parse_expr = formula
    if function is equal:
        equal("\\frac{1}{2}", "\\sqrt{x^2+1}")  # fills caches
        return
    import reasoning_gym  # noqa: F401

    for name, loaded in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            vars(loaded)["eval"] = _value


def _check(text: str, names: "dict[str, Any]") -> None:
    """ValueError for anything but a formula of names, numbers and known functions."""
    called = set(re.findall(r"([^\W\d]\w*)\s*\(", text))
    if (
        "__" in text
        or re.search(r"\)\s*\(", text)
        or not FORMULA.fullmatch(text)
        or not called <= FUNCTIONS | set(names)
    ):
        raise ValueError("no formula")


def _value(text: str) -> Any:
    """What a literal or plain arithmetic is; ValueError for anything that has a name in it."""
    tree = ast.parse(text.strip(), mode="eval")
    if not all(isinstance(node, PLAIN) for node in ast.walk(tree)):
        raise ValueError("no literal")
    return eval(compile(tree, "literal", "eval"), {"__builtins__": {}})
