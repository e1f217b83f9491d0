"""Small Python functions to write, each with its tests: what a chat model could program before further training."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bm.evaluate.sets import Split, made

TESTS = 8
"""How many each function has."""


class Kind(NamedTuple):
    """Functions that differ by one number or letter `k`."""

    name: str
    signature: str
    task: str
    values: tuple[Any, ...]
    """Values of k; each gives one question."""
    draws: Callable[[random.Random], list[Any]]
    """The arguments of one test."""
    solution: Callable[..., Any]
    """The right result, of k and the arguments."""


def _number(drawing: random.Random) -> list[Any]:
    return [drawing.randint(-20, 40)]


def _numbers(drawing: random.Random) -> list[Any]:
    return [[drawing.randint(-9, 20) for _ in range(drawing.randint(3, 7))]]


def _text(drawing: random.Random) -> list[Any]:
    return ["".join(drawing.choice("abcdeor") for _ in range(drawing.randint(5, 9)))]


KINDS = (
    Kind("add", "n", "Return the number n plus {k}.", (1, 2, 5, 7, 10, 12), _number, lambda k, n: n + k),
    Kind("times", "n", "Return the number n times {k}.", (2, 3, 4, 5, 8, 10), _number, lambda k, n: n * k),
    Kind("power", "n", "Return n to the power of {k}.", (2, 3, 4, 5), _number, lambda k, n: n**k),
    Kind("divisible", "n", "Return True if n is divisible by {k}, else False.", (2, 3, 4, 5, 7, 10), _number,
         lambda k, n: n % k == 0),
    Kind("larger", "n", "Return True if n is larger than {k}, else False.", (0, 3, 5, 10, 15, 20), _number,
         lambda k, n: n > k),
    Kind("distance", "n", "Return the absolute difference between n and {k}.", (1, 4, 6, 10, 12), _number,
         lambda k, n: abs(n - k)),
    Kind("total", "numbers", "Return the sum of the list of numbers, plus {k}.", (0, 1, 3, 10), _numbers,
         lambda k, numbers: sum(numbers) + k),
    Kind("above", "numbers", "Return a list of those numbers that are larger than {k}.", (0, 2, 4, 6, 8, 10), _numbers,
         lambda k, numbers: [n for n in numbers if n > k]),
    Kind("count_above", "numbers", "Return how many of the numbers are larger than {k}.", (0, 2, 4, 6, 8, 10), _numbers,
         lambda k, numbers: sum(n > k for n in numbers)),
    Kind("scaled", "numbers", "Return a list of all the numbers, each multiplied by {k}.", (2, 3, 4, 5, 10), _numbers,
         lambda k, numbers: [n * k for n in numbers]),
    Kind("first", "numbers", "Return a list of the first {k} numbers.", (1, 2, 3), _numbers,
         lambda k, numbers: numbers[:k]),
    Kind("without_last", "numbers", "Return the list of numbers without its last {k}.", (1, 2, 3), _numbers,
         lambda k, numbers: numbers[:-k]),
    Kind("largest", "numbers", "Return a list of the {k} largest numbers, the largest first.", (1, 2, 3), _numbers,
         lambda k, numbers: sorted(numbers, reverse=True)[:k]),
    Kind("repeated", "text", "Return the text repeated {k} times.", (2, 3, 4, 5), _text, lambda k, text: text * k),
    Kind("start", "text", "Return the first {k} characters of the text.", (1, 2, 3, 4), _text,
         lambda k, text: text[:k]),
    Kind("end", "text", "Return the last {k} characters of the text.", (1, 2, 3, 4), _text, lambda k, text: text[-k:]),
    Kind("count_letter", "text", "Return how often the letter '{k}' occurs in the text.", tuple("abcdeor"), _text,
         lambda k, text: text.count(k)),
    Kind("without_letter", "text", "Return the text without any letter '{k}'.", tuple("abcdeor"), _text,
         lambda k, text: text.replace(k, "")),
    Kind("starts_with", "text", "Return True if the text begins with the letter '{k}', else False.", tuple("abcdeor"),
         _text, lambda k, text: text.startswith(k)),
    Kind("has_letter", "text", "Return True if the letter '{k}' occurs in the text, else False.", tuple("abcdeor"),
         _text, lambda k, text: k in text),
    Kind("upper_with", "text", "Return the text in upper case, followed by '{k}'.", ("!", "?", ".", "A"), _text,
         lambda k, text: text.upper() + k),
    Kind("reversed_with", "text", "Return the text reversed, followed by '{k}'.", ("!", "?", ".", "a"), _text,
         lambda k, text: text[::-1] + k),
)  # fmt: skip


def questions(seed: int, file: str | None = None, **_: Any) -> Split:
    """Every function of every kind, its tests drawn from the seed; UserError if a file is put in their place."""
    return made(_drawn(random.Random(seed)), file)


def _drawn(drawing: random.Random) -> Iterator[dict[str, str]]:
    """One of each kind, then the next of each: the first questions are of every kind."""
    for place in range(max(len(kind.values) for kind in KINDS)):
        for kind in (kind for kind in KINDS if place < len(kind.values)):
            k = kind.values[place]
            inputs = [kind.draws(drawing) for _ in range(TESTS)]
            outputs = [json.dumps(kind.solution(k, *given)) for given in inputs]
            task = kind.task.format(k=k)
            prompt = (
                "Complete this Python function. Answer with the whole function in one code block.\n\n"
                f'```python\ndef {kind.name}({kind.signature}):\n    """{task}"""\n```'
            )
            yield {
                "id": hashlib.sha256(prompt.encode()).hexdigest()[:16], "question": prompt, "prompt": prompt,
                "system": "", "answer": "", "verifier": "code",
                "metadata": json.dumps({"tests": {"fn_name": kind.name, "inputs": inputs, "outputs": outputs}}),
            }  # fmt: skip
