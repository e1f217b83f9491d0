"""Problem sets as users keep them, read by YAML alone: the layouts of well-known ones."""

import json

import pytest

from bm.config import Domain, typed
from bm.distill.selection import FILTERED, select
from bm.errors import UserError
from bm.verify import Case, verify
from bm.yaml import read_yaml
from tests.distill.conftest import CONF
from tests.verify.conftest import verifying

LAYOUTS = {
    "gsm8k": (
        {"question": "A crate holds 4 melons. How many do 3 crates hold?", "answer": "3 * 4 = <<3*4=12>>12\n#### 12"},
        {"answer_pattern": "#### (.+)"},
        "12",
    ),
    "math500": ({"problem": "Halve $5$.", "answer": "\\frac{5}{2}"}, {"prompt": ["problem"]}, "\\frac{5}{2}"),
    "mawps": (
        {"input": "Ann had 50 pears and gave 7 away.", "target": 43.0},
        {"prompt": ["input"], "answer": "target"},
        "43",
    ),
    "svamp": (
        {"Body": "Two tins hold 9 pins each.", "Question": "How many pins?", "Answer": 18.0},
        {"prompt": ["Body", "Question"], "answer": "Answer"},
        "18",
    ),
    "aqua": (
        {"question": "Double 4?", "options": ["A)6", "B)8", "C)10"], "correct": "B"},
        {"choices": "options", "answer": "correct", "verifier": "choice"},
        "B",
    ),
    "mmlu": (
        {"question": "Which is a noble gas?", "choices": ["oxygen", "iron", "neon"], "answer": 2},
        {"choices": "choices", "verifier": "choice"},
        "C",
    ),
    "dotted": (
        {"turns": [{"text": "Add 1 and 2."}], "meta": {"gold": "3"}},
        {"prompt": ["turns.0.text"], "answer": "meta.gold", "verifier": "number"},
        "3",
    ),
    "code": (
        {"task": "Print the input.", "cases": '{"inputs": ["a\\n"], "outputs": ["a\\n"]}'},
        {"prompt": ["task"], "answer": None, "tests": "cases", "verifier": "code"},
        "",
    ),
}  # fmt: skip
RESPONSES = {
    "gsm8k": "\\boxed{12}", "math500": "\\boxed{2.5}", "mawps": "The answer is 43.", "svamp": "18", "aqua": "(B)",
    "mmlu": "The answer is C.", "dotted": "3", "code": "```python\nprint(input())\n```",
}  # fmt: skip


def questions(file, lines, **overrides):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    node = {"name": "jsonl", **read_yaml(CONF / "domain" / "jsonl.yaml")}
    node["source"] |= {"path": str(file), **overrides}
    return select(typed(Domain, node).source("jsonl", seed=1), None, None, "domains.jsonl.traces")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_a_question_that_its_answer_solves(layout, tmp_path):
    row, fields, answer = LAYOUTS[layout]
    (question,) = questions(tmp_path / f"{layout}.jsonl", [row], **fields).questions
    assert (question.answer, question.source) == (answer, layout)
    case = Case(question.verifier, f"<think>\nso\n</think>\n\n{RESPONSES[layout]}", answer, question.metadata)
    assert verify(case, verifying()).accepted


def test_several_fields_are_one_prompt_and_options_stand_below_it(tmp_path):
    svamp, aqua = ({**LAYOUTS[name][1], "lines": [LAYOUTS[name][0]]} for name in ("svamp", "aqua"))
    assert questions(tmp_path / "a.jsonl", **svamp).questions[0].prompt == "Two tins hold 9 pins each. How many pins?"
    assert questions(tmp_path / "b.jsonl", **aqua).questions[0].prompt == "Double 4?\nA. 6\nB. 8\nC. 10"


def test_published_responses_come_along_normalised(tmp_path):
    row = {"question": "1 + 1", "answer": "2", "said": ["<think>two</think>2", "2"]}
    (question,) = questions(tmp_path / "set.jsonl", [row], responses="said").questions
    assert question.responses == ("<think>\ntwo\n</think>\n\n2", "2")


def test_a_row_without_an_answer_is_refused_and_counted(tmp_path):
    rows = [
        {"question": "a", "answer": "no mark"},
        {"question": "b", "answer": None},
        {"question": "c", "answer": "#### 3"},
    ]
    selection = questions(tmp_path / "set.jsonl", rows, answer_pattern="#### (.+)")
    assert ([q.prompt for q in selection.questions], selection.refused[FILTERED]) == (["c"], 2)


def test_a_field_within_a_row_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no field 'meta\.gold'; there are level"):
        questions(tmp_path / "set.jsonl", [{"question": "a", "meta": {"level": 1}}], answer="meta.gold")


@pytest.mark.parametrize(
    ("row", "fields", "line"),
    [
        ({"question": "a", "answer": {"gold": 1}}, {}, "field 'answer' is neither text nor a number"),
        (
            {"question": "a", "answer": "1", "said": {"text": "x"}},
            {"responses": "said"},
            "field 'said' is neither text nor a list",
        ),
        ({"question": "a", "answer": "1", "said": [{"text": "x"}]}, {"responses": "said"}, "response that is not text"),
        ({"question": "a", "answer": "1", "said": 7}, {"responses": "said"}, "field 'said' is neither text nor a list"),
        (
            {"question": "a", "answer": "B", "options": "A)5 B)6"},
            {"choices": "options"},
            "field 'options' is not a list",
        ),
        ({"question": "a", "answer": "1"}, {"answer_pattern": "#### (.+"}, "is not a regular expression"),
        ({"question": "a", "answer": "1"}, {"answer_pattern": "####"}, "has no group"),
        ({"question": "a", "answer": "1"}, {"name": "openai/gsm8k"}, "has both `name`"),
    ],
)
def test_what_a_source_cannot_mean_is_one_line(row, fields, line, tmp_path):
    with pytest.raises(UserError, match=line):
        questions(tmp_path / "set.jsonl", [row], **fields)


@pytest.mark.parametrize(
    ("tests", "line"),
    [(None, "verifier code needs the field `tests`"), ("x", "field 'x' has no tests: inputs and outputs")],
)
def test_tests_that_are_none_are_found_before_a_teacher_is_paid(tests, line, tmp_path):
    row = {"question": "Add.", "answer": "1", "x": {"inputs": [], "outputs": []}}
    with pytest.raises(UserError, match=line):
        questions(tmp_path / "a.jsonl", [row], verifier="code", tests=tests)


def test_an_empty_file_and_a_pattern_that_matches_nothing_say_so(tmp_path):
    with pytest.raises(UserError, match="has no rows"):
        questions(tmp_path / "set.jsonl", [])
    node = {"name": "jsonl", **read_yaml(CONF / "domain" / "jsonl.yaml")}
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "a", "answer": "1"}) + "\n")
    node["source"] |= {"path": str(tmp_path / "set.jsonl"), "answer_pattern": "#### (.+)"}
    with pytest.raises(UserError, match=r"refuses all of its 1 rows.*answer_pattern"):
        select(typed(Domain, node).source("jsonl", seed=1), None, 5, "domains.jsonl.traces")


def test_half_a_character_in_a_row_can_be_written(tmp_path):
    (question,) = questions(tmp_path / "set.jsonl", [{"question": "x\ud83d", "answer": "1"}]).questions
    assert question.prompt == "x\ufffd"
    assert question.id
