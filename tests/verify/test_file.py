"""`bm verify`: one line in, one line out, in order, whatever the line is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bm
from tests.verify.conftest import BUBBLEWRAP

LINES: list[tuple[Any, bool, str]] = [
    ({"response": "<think>\\boxed{3}</think>\\boxed{\\frac12}", "answer": "0.5", "id": 7, "é": ["ü"]}, True, ""),
    ({"response": "The answer is $8$.", "answer": 7}, False, "wrong answer"),
    ({"response": "<think>The answer is $7$.", "answer": "7"}, False, "unclosed reasoning"),
    ("not json", False, "broken line: no JSON"),
    ("", False, "broken line: no JSON"),
    ("[1]", False, "broken line: no JSON object"),
    ("[" * 100_000, False, "broken line: no JSON"),
    ('{"response": "a\ud800", "answer": "b"}', False, "broken line: no JSON"),
    ('{"response": "\\ud800", "answer": "b"}', False, "wrong answer"),
    ({"answer": "7"}, False, "broken line: response is missing"),
    ({"response": 7, "answer": "7"}, False, "broken line: response must be a string"),
    ({"response": "7"}, False, "broken line: answer is missing"),
    ({"response": "7", "answer": ["7"]}, False, "broken line: answer must be a string or a number"),
    ({"response": "7", "answer": "7", "metadata": "{"}, False, "broken line: metadata must be JSON"),
    ({"response": "7", "answer": 7.0, "metadata": '{"level": 5}'}, True, ""),
    ({"response": "", "answer": "7"}, False, "no answer"),
]


def graded(bm: Bm, folder: Path, lines: list[Any], *words: str) -> list[dict[str, Any]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    (folder / "R.jsonl").write_bytes(text.encode(errors="surrogatepass"))
    said = bm("verify", "file=R.jsonl", "output=out/G.jsonl", *words, cwd=folder)
    assert said.returncode == 0, said.stderr
    assert "accepted" in said.stderr and said.stdout == ""
    rows = [json.loads(line) for line in (folder / "out" / "G.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines)
    assert [path.name for path in (folder / "out").iterdir()] == ["G.jsonl"]
    return rows


def test_every_line_has_its_verdict_at_its_place(bm: Bm, tmp_path: Path) -> None:
    rows = graded(bm, tmp_path, [line for line, _, _ in LINES], "verifier=math")
    assert [(row["accepted"], row["reason"]) for row in rows] == [(a, r) for _, a, r in LINES]
    assert rows[0] == LINES[0][0] | {"accepted": True, "reason": "", "graded": "\\frac12", "note": "two checks agree"}


def test_choices_numbers_and_procedural_questions(bm: Bm, tmp_path: Path) -> None:
    choice = {"response": "The answer is red.", "answer": "B", "choices": ["blue", "red"]}
    assert graded(bm, tmp_path, [choice, choice | {"answer": "A"}], "verifier=choice")[0]["accepted"]
    assert graded(bm, tmp_path, [{"response": "10.05 m", "answer": "9.98"}], "verifier=number")[0]["accepted"]
    strict = [{"response": "10.05 m", "answer": "9.98"}]
    assert not graded(bm, tmp_path, strict, "verifier=number", "verify.tolerance=0.001")[0]["accepted"]
    gym = {"response": "42", "answer": "42", "metadata": {"source_dataset": "chain_sum"}}
    rows = graded(bm, tmp_path, [gym, gym | {"metadata": {"source_dataset": "nothing"}}], "verifier=reasoning_gym")
    assert [row["accepted"] for row in rows] == [True, False]
    assert "no generator 'nothing'" in rows[1]["reason"]


def test_fields_nested_as_deeply_as_can_be_read_end_nothing(tmp_path: Path) -> None:
    from bm.verify.file import grade
    from tests.verify.conftest import verifying

    most = sys.getrecursionlimit()  # 1000, unless a library that another test has loaded raised it
    deep = ('{{"response": "1", "answer": "1", "x": {}{}}}\n'.format("[" * n, "]" * n) for n in range(most - 300, most))
    (tmp_path / "R.jsonl").write_text("".join(deep))
    verdicts = grade("number", tmp_path / "R.jsonl", tmp_path / "G.jsonl", verifying())
    assert {verdict.reason for verdict in verdicts} == {"", "broken line: no JSON"}
    assert len((tmp_path / "G.jsonl").read_text().splitlines()) == 300


RHYME = """
from bm.verify.cases import Verdict

def judge(text, reference, metadata, settings, letters: int = 2):
    return Verdict(text[-letters:] == reference[-letters:], "", text)
"""


def test_a_verifier_from_outside_is_one_line(bm: Bm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rhymes.py").write_text(RHYME)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    lines = [{"response": "a cat", "answer": "hat"}, {"response": "a cow", "answer": "hat"}]
    mine = "+verify.verifiers.rhyme._target_=rhymes.judge"
    rows = graded(bm, tmp_path, lines, "verifier=rhyme", mine)
    assert [row["accepted"] for row in rows] == [True, False]
    rows = graded(bm, tmp_path, lines, "verifier=rhyme", mine, "+verify.verifiers.rhyme.letters=3")
    assert [row["accepted"] for row in rows] == [False, False]


@BUBBLEWRAP
def test_programs(bm: Bm, tmp_path: Path) -> None:
    response = "```python\nprint(int(input()) + 1)\n```"
    tests = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]}
    lines = [
        {"response": response, "tests": tests},
        {"response": response, "tests": json.dumps(tests)},
        {"response": response.replace("1", "2"), "tests": tests},
        {"response": response, "tests": {"inputs": ["1"]}},
        {"response": response},
        {"response": "```python\ndef f(a): return a\n```", "tests": {"fn_name": "f", "inputs": [[5]], "outputs": [5]}},
    ]
    rows = graded(bm, tmp_path, lines, "verifier=code")
    assert [row["accepted"] for row in rows] == [True, True, False, False, False, True]
    assert rows[2]["reason"] == "wrong output on test 1"
    assert rows[3]["reason"].startswith("broken line: inputs and outputs")
    assert rows[4]["reason"] == "broken line: tests must have inputs and outputs"


def test_the_table_counts_reasons_and_disagreement(bm: Bm, tmp_path: Path) -> None:
    lines = [{"response": r, "answer": ".0000672"} for r in (".0000672", ".0000674", "1", "x")]
    (tmp_path / "R.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = bm("verify", "verifier=math", "file=R.jsonl", "output=G.jsonl", cwd=tmp_path).stderr
    rows = {cells[0].strip(): cells[1].strip() for line in said.splitlines() if len(cells := line.split("│")) == 3}
    assert rows["accepted"] == "1" and rows["wrong answer"] == "3"
    assert rows["plain numbers, checked twice"] == "3" and rows["of those, checks disagree"] == "1"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["verifier=maths", "file=R.jsonl"], "no verifier 'maths'; did you mean 'math'"),
        (["verifier=math", "file=none.jsonl"], "file: none.jsonl cannot be read"),
        (["verifier=math", "file=/dev/null"], "file: /dev/null is empty; a line of it is a response, as JSON"),
        (["verifier=judge", "file=R.jsonl"], "verifier 'judge' needs an LLM: choose judge=openai or judge=local"),
        (["verifier=math", "file=R.jsonl", "verify.seconds=0"], "verify.seconds: must be greater than 0"),
        (["verifier=judge", "file=R.jsonl", "judge=openai"], "verify.judge.engine.served: must be given"),
        (["file=R.jsonl"], "verifier: must be given"),
        (
            ["verifier=math", "file=R.jsonl", "+verify.verifiers.mine._target_=os.system"],
            "verify.verifiers.mine: there is no function `os.system`",
        ),
        (
            ["verifier=math", "file=R.jsonl", "+verify.verifiers.mine._target_=textwrap.dedent"],
            "`textwrap.dedent` is not a verifier: such a function takes `text` and `reference`",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words: list[str], line: str, bm: Bm, tmp_path: Path) -> None:
    (tmp_path / "R.jsonl").write_text('{"response": "1", "answer": "1"}\n')
    said = bm("verify", "output=G.jsonl", *words, cwd=tmp_path)
    assert said.returncode == 2 and line in said.stderr and said.stderr.count("\n") == 1, said.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["R.jsonl"]


def test_an_interrupted_grading_leaves_what_was_there(bm: Bm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bm.errors import UserError
    from bm.verify import file as module
    from tests.verify.conftest import verifying

    (tmp_path / "R.jsonl").write_text('{"response": "1", "answer": "1"}\n' * 600)
    (tmp_path / "G.jsonl").write_text("as it was\n")
    calls = iter([module.Grader.verdicts])

    def failing(*arguments: Any) -> Any:
        for call in calls:
            return call(*arguments)
        raise UserError("no more")

    monkeypatch.setattr(module.Grader, "verdicts", failing)
    with pytest.raises(UserError, match="no more"):
        module.grade("math", tmp_path / "R.jsonl", tmp_path / "G.jsonl", verifying())
    assert (tmp_path / "G.jsonl").read_text() == "as it was\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["G.jsonl", "R.jsonl"]
