"""LiveCodeBench (Jain et al. 2024): programs for contest problems, of the months that a task names.

Its hidden tests are published as base64 of zlib of a pickle of JSON. A pickle from others is never loaded: this one
may hold a single string and nothing else, which is read off its opcodes.
"""

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from bm.errors import UserError
from bm.evaluate.sets import rows

PACKED = "private_test_cases"
"""Where the hidden tests are, in a row and in a document's metadata."""
STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
PLAIN = STRINGS | {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
"""What the pickle of a string consists of. All else builds objects or calls something."""
LARGEST = 1 << 30
"""Bytes that a problem's tests may unpack to: a small file can be made to unpack to any size."""

BY_INPUT = (
    "{question}\n\nWrite a Python program that reads the input from standard input and writes the answer to standard"
    " output. Put the whole program into one ```python code block."
)
BY_FUNCTION = (
    "{question}\n\nComplete this Python code, keeping its names, and put all of it into one ```python code block:\n\n"
    "```python\n{starter}\n```"
)


def problems(first: str, last: str, **place: Any) -> dict[str, datasets.Dataset]:
    """Problems of contests from the day `first` to the day `last` (YYYY-MM-DD, both included); place: see `sets.rows`.

    Columns as in `sets`, but that `metadata` holds the tests as published; `unpacked` makes a verifier's of them.
    """
    inside = [row for row in rows(**place) if first <= str(row["contest_date"])[:10] <= last]
    if not inside:
        raise UserError(f"it has no problem from {first} to {last}")
    return {"test": datasets.Dataset.from_list([_document(row) for row in inside])}


def _document(row: Mapping[str, Any]) -> dict[str, str]:
    question, starter = row["question_content"], row["starter_code"]
    packed = {name: row[name] for name in ("public_test_cases", PACKED)}
    function = json.loads(row["metadata"] or "{}").get("func_name")
    return {
        "id": str(row["question_id"]),
        "question": question,
        "prompt": (BY_FUNCTION if starter else BY_INPUT).format(question=question, starter=starter),
        "system": "",
        "answer": "",
        "verifier": "code",
        "metadata": json.dumps(packed | {"fn_name": function}),
    }


def unpacked(metadata: str) -> str:
    """The metadata of a code verifier from a document's: `{"tests": {"inputs", "outputs"[, "fn_name"]}}`.

    As published: what a program reads and writes, or a function's arguments and result as JSON, an argument a line.
    """
    packed = json.loads(metadata)
    cases = json.loads(packed["public_test_cases"]) + hidden(packed[PACKED])
    tests = {"inputs": [case["input"] for case in cases], "outputs": [case["output"] for case in cases]}
    return json.dumps({"tests": tests | ({"fn_name": packed["fn_name"]} if packed["fn_name"] else {})})


def hidden(published: str) -> Sequence[Mapping[str, str]]:
    """Test cases as JSON, or packed; UserError if they are anything but a packed string of JSON."""
    if not published or published.lstrip().startswith("["):
        return list(json.loads(published or "[]"))
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(published), LARGEST)
        if unpacking.unconsumed_tail:
            raise ValueError(f"they unpack to more than {LARGEST >> 20} MB")
        return list(json.loads(_string(data)))
    except (ValueError, zlib.error) as problem:
        raise UserError(f"a LiveCodeBench problem's hidden tests are refused: {problem}") from problem


def _string(pickled: bytes) -> str:
    """The string that a pickle holds, read without running it; ValueError if it holds anything else."""
    strings = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in PLAIN:
            raise ValueError(f"their pickle has {opcode.name}, which a string does not have")
        if opcode.name in STRINGS:
            strings.append(str(argument))
    if len(strings) != 1:
        raise ValueError(f"their pickle holds {len(strings)} strings, not one")
    return strings[0]
