"""Tasks that are made by program: the same every time, balanced, with answers that an independent check confirms."""

import json
import re
import shutil
from collections import Counter

import pytest

from bm.errors import UserError
from bm.evaluate import loading
from bm.evaluate.programs import KINDS
from bm.evaluate.reasoning import DAYS
from tests.evaluate.conftest import scripted, tiny
from tests.evaluate.test_evaluate import run
from tests.verify.conftest import verifying

BODIES = {
    "add": "return n + {k}", "times": "return n * {k}", "divisible": "return n % {k} == 0",
    "above": "return [n for n in numbers if n > {k}]", "first": "return numbers[:{k}]", "end": "return text[-{k}:]",
    "count_letter": "return text.count('{k}')",
}  # fmt: skip


def documents(task: str) -> list[dict]:
    return [dict(doc) for doc in loading.load([task], {}, tiny())["tasks"][task].eval_docs]


@pytest.mark.parametrize("task", ["programs", "reasoning"])
def test_the_same_every_time_and_no_file_stands_in(task, tmp_path):
    made = documents(task)
    assert made == documents(task)
    assert len({doc["question"] for doc in made}) == len(made) >= 100
    file = tmp_path / "mine.jsonl"
    file.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="made, not read"):
        loading.load([task], {}, tiny(data={task: file}))


def test_right_programs_pass_and_others_fail(tmp_path):
    asked = documents("programs")[: len(KINDS)]
    assert [json.loads(doc["metadata"])["tests"]["fn_name"] for doc in asked] == [kind.name for kind in KINDS]
    script = {}
    for kind, doc in zip(KINDS, asked, strict=True):
        body = BODIES.get(kind.name, "return None").format(k=kind.values[0])
        script[doc["prompt"]] = [f"Here it is:\n```python\ndef {kind.name}({kind.signature}):\n    {body}\n```"]
    sandbox = "bubblewrap" if shutil.which("bwrap") else "unsafe"
    config = tiny(engine=scripted(script), samples=1, limit=len(KINDS))
    _, rows, _ = run(tmp_path / "w", config, ["programs"], verify=verifying(sandbox=sandbox))
    by_id = {doc["id"]: kind.name for kind, doc in zip(KINDS, asked, strict=True)}
    assert {by_id[row["question"]] for row in rows if row["accepted"]} == BODIES.keys()


def solved(question: str, choices: list[str]) -> str:
    """The answer by other means than the maker's."""
    if match := re.search(r"`(.*)`", question):
        return str(eval(match[1], {}))
    if "How many things" in question:
        return str(sum(map(int, re.findall(r"\d+", question))))
    if match := re.search(r"Today is (\w+)\. Which day is it (\d) ", question):
        return DAYS[(DAYS.index(match[1]) + int(match[2])) % 7]
    if facts := re.findall(r"(\w+) is (taller|shorter) than (\w+)", question):
        taller = {(a, b) if how == "taller" else (b, a) for a, how, b in facts}
        above = {name: sum(a == name for a, _ in taller) - sum(b == name for _, b in taller) for name in choices}
        return max(above, key=above.__getitem__) if "tallest" in question else min(above, key=above.__getitem__)
    low, high, first, second = re.search(
        r"All (\w+) are \w+\. All \w+ are (\w+)\. .* all (\w+) are (\w+)\?", question
    ).groups()
    return "Yes" if (low, high) == (first, second) else "No"


def test_every_answer_is_right_and_none_is_always_the_same():
    made = documents("reasoning")
    for doc in made:
        assert doc["choices"][doc["answer"]] == solved(doc["question"], doc["choices"])
    places = Counter(doc["answer"] for doc in made)
    assert places.most_common(1)[0][1] < 0.55 * len(made)
