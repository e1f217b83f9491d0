"""The paper's tasks on small sets that have the published columns: what is asked, how it is graded, what is refused."""

import base64
import json
import os
import pickle
import shutil
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.errors import UserError
from bm.evaluate import loading, prompts
from bm.evaluate.livecodebench import hidden, unpacked
from tests.evaluate.conftest import scripted, tiny
from tests.evaluate.test_evaluate import run
from tests.verify.conftest import verifying

AIME = [{"ID": "2024-I-1", "Problem": "What is $6 \\cdot 7$?", "Solution": "Multiply.", "Answer": 42},
        {"ID": "2024-I-2", "Problem": "What is $2^5$?", "Solution": "Double.", "Answer": 32}]  # fmt: skip
SETS = {
    "aime24": AIME,
    "aime25": [{"problem": "What is $6 \\cdot 7$?", "answer": "42", "id": "0"}],
    "math500": [{"problem": "Half of $3$?", "solution": "s", "answer": "\\frac{3}{2}", "subject": "Algebra", "level": 1,
                 "unique_id": "test/algebra/1.json"}],
    "gsm8k": [{"question": "Ann has 3 nuts and finds 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"}],
    "mawps": [{"input": "There were 2 cats . 3 came . How many ?", "target": 5.0, "type": "singleop"}],
    "svamp": [{"ID": "chal-1", "Body": "Tim has 9 pens", "Question": "How many are left after 4?", "Answer": 5.0,
               "Equation": "( 9.0 - 4.0 )", "Type": "Subtraction"}],
    "mmlu_stem": [{"question": "Which is a metal?", "subject": "high_school_chemistry",
                   "choices": ["neon", "iron", "argon", "sulphur"], "answer": 1},
                  {"question": "Who wrote it?", "subject": "world_religions", "choices": list("abcd"), "answer": 0}],
}  # fmt: skip
ASKED = {
    "aime24": ("2024-I-1", "What is $6 \\cdot 7$?", "42", "math", 16),
    "aime25": (None, "What is $6 \\cdot 7$?", "42", "math", 16),
    "math500": ("test/algebra/1.json", "Half of $3$?", "\\frac{3}{2}", "math", 4),
    "gsm8k": (None, "Ann has 3 nuts and finds 4. How many?", "7", "number", 1),
    "mawps": (None, "There were 2 cats . 3 came . How many ?", "5.0", "number", 1),
    "svamp": ("chal-1", "Tim has 9 pens. How many are left after 4?", "5.0", "number", 1),
    "mmlu_stem": (None, "Which is a metal?\n\nA) neon\nB) iron\nC) argon\nD) sulphur", "B", "choice", 1),
}


def written(folder: Path, name: str, rows: list[dict], suffix: str = ".jsonl") -> Path:
    path = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(name: str, file: Path, **settings):
    return loading.load([name], {}, tiny(data={name: file}, **settings))["tasks"][name]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ASKED)
def test_published_columns_become_graded_questions(tmp_path, name, suffix):
    task = loaded(name, written(tmp_path, name, SETS[name], suffix))
    identity, prompt, answer, verifier, repeats = ASKED[name]
    document = task.eval_docs[0]
    assert len(task.eval_docs) == (2 if name == "aime24" else 1)
    assert (document["prompt"], document["answer"], document["verifier"]) == (prompt, answer, verifier)
    assert document["id"] == identity or identity is None
    settings = task.config.generation_kwargs
    assert (task.config.repeats, settings["until"], settings["max_gen_toks"]) == (repeats, [], 32768)
    assert (settings["temperature"], settings["top_p"], settings["do_sample"]) == (0.6, 0.95, True)


def test_another_layout_of_the_same_set(tmp_path):
    rows = [{"id": 60, "problem": "What is $6 \\cdot 7$?", "solution": "s", "answer": "042", "url": "u"}]
    document = loaded("aime24", written(tmp_path, "aime24", rows)).eval_docs[0]
    assert (document["id"], document["prompt"], document["answer"]) == ("60", "What is $6 \\cdot 7$?", "042")


def test_system_prompts_say_what_the_paper_asks_for(tmp_path):
    files = {name: written(tmp_path, name, rows) for name, rows in SETS.items()}
    files |= {"gpqa_diamond": written(tmp_path, "gpqa", GPQA), "livecodebench": written(tmp_path, "lcb", LCB)}
    tasks = loading.load(list(files), {}, tiny(data=files))["tasks"]
    said = {name: task.config.description for name, task in tasks.items()}
    assert "step by step" in said["aime24"] and "\\boxed{}" in said["aime24"]
    assert "step by step" in said["gpqa_diamond"]
    assert all(tag in said["livecodebench"] for tag in ("<think>", "</think>", "<answer>", "</answer>"))


GPQA = [{"Question": f"Question {k}?\n", "Correct Answer": f"right {k}\n", "Incorrect Answer 1": "a",
         "Incorrect Answer 2": "b", "Incorrect Answer 3": "c", "Record ID": f"rec{k}", "Subdomain": "Genetics"}
        for k in range(40)]  # fmt: skip


def test_choices_are_shuffled_by_each_question_alone(tmp_path):
    whole = loaded("gpqa_diamond", written(tmp_path, "gpqa", GPQA)).eval_docs
    part = loaded("gpqa_diamond", written(tmp_path, "part", GPQA[:5:-1])).eval_docs
    by_id = {document["id"]: document for document in whole}
    assert all(by_id[document["id"]] == document for document in part)
    for k, document in enumerate(whole):
        assert document["prompt"].startswith(f"Question {k}?\n\nA) ")
        assert f"{document['answer']}) right {k}\n" in document["prompt"] + "\n"
        assert json.loads(document["metadata"])["choices"]["ABCD".index(document["answer"])] == f"right {k}"
    assert {document["answer"] for document in whole} == set("ABCD")


def packed(cases: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def problem(date: str, name: str, **changes) -> dict:
    by_input = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    row = {"question_title": name, "question_content": f"Add two numbers ({name}).", "platform": "atcoder",
           "question_id": name, "contest_id": "c", "contest_date": date, "starter_code": "", "difficulty": "easy",
           "public_test_cases": json.dumps(by_input),
           "private_test_cases": packed([{"input": "4 5\n", "output": "9\n", "testtype": "stdin"}]),
           "metadata": "{}"}  # fmt: skip
    return row | changes


FUNCTION = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]
LCB = [
    problem("2024-07-31T00:00:00", "early"),
    problem("2024-08-01T00:00:00", "sum"),
    problem(
        "2025-02-28T12:00:00", "shift", starter_code="class Solution:\n    def shift(self, a, b):\n        ",
        public_test_cases=json.dumps(FUNCTION), private_test_cases=packed(FUNCTION), metadata='{"func_name": "shift"}',
    ),
    problem("2025-03-01T00:00:00", "late"),
]  # fmt: skip


def test_livecodebench_takes_the_window_and_both_forms(tmp_path):
    by_input, by_function = loaded("livecodebench", written(tmp_path, "lcb", LCB)).eval_docs
    assert (by_input["id"], by_function["id"]) == ("sum", "shift")
    assert (by_input["question"], by_input["verifier"]) == ("Add two numbers (sum).", "code")
    assert "standard input" in by_input["prompt"] and "def shift(self, a, b)" in by_function["prompt"]
    assert json.loads(unpacked(by_input["metadata"])) == {
        "tests": {"inputs": ["1 2\n", "4 5\n"], "outputs": ["3\n", "9\n"]}
    }
    assert json.loads(unpacked(by_function["metadata"])) == {
        "tests": {"inputs": ["[1, 2]\n3"] * 2, "outputs": ["[4, 5]"] * 2, "fn_name": "shift"}
    }


def test_livecodebench_with_another_window_is_four_lines_of_yaml(tmp_path):
    (tmp_path / "recent.yaml").write_text(
        f"include: {loading.TASKS / 'livecodebench.yaml'}\ntask: recent\n"
        "dataset_kwargs: {first: '2025-03-01', last: '2025-03-31'}\n"
    )
    task = loaded("recent", written(tmp_path, "lcb", LCB), include_path=tmp_path)
    assert [document["id"] for document in task.eval_docs] == ["late"]


class Malice:
    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    bad = Malice()
    bad.place = tmp_path / "ran"
    for content in (bad, ["[]"], 3, ("[]",), {"a": "[]"}):
        text = base64.b64encode(zlib.compress(pickle.dumps(content))).decode()
        with pytest.raises(UserError, match="hidden tests are refused"):
            hidden(text)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(bad))
    assert (tmp_path / "ran").exists(), "it would have run"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_keeps_its_string(protocol):
    cases = [{"input": "é\n" * 200, "output": "1"}]
    assert hidden(base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases), protocol))).decode()) == cases


def test_tests_that_are_damaged_or_explode_are_refused(monkeypatch):
    for text in ("no base64!", base64.b64encode(b"no zlib").decode(), packed([])[:-8]):
        with pytest.raises(UserError, match="hidden tests are refused"):
            hidden(text)
    monkeypatch.setattr("bm.evaluate.livecodebench.LARGEST", 1000)
    with pytest.raises(UserError, match="unpack to more than"):
        hidden(packed([{"input": "0" * 5000, "output": ""}]))


def test_what_a_file_lacks_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"task gsm8k: .*columns problem, answer, but not \{\{question\}\}"):
        loaded("gsm8k", written(tmp_path, "x", [{"problem": "p", "answer": "#### 1"}]))
    with pytest.raises(UserError, match=r"task livecodebench: .*no problem from 2024-08-01 to 2025-02-28"):
        loaded("livecodebench", written(tmp_path, "y", LCB[:1]))
    with pytest.raises(UserError, match=r"task gsm8k: .*must be one of \.jsonl, \.parquet, \.csv"):
        loaded("gsm8k", tmp_path / "z.txt")
    with pytest.raises(
        UserError, match=r"evaluate\.data\.gsm8x: no such task in evaluate\.tasks; did you mean 'gsm8k'"
    ):
        loading.load(["gsm8k"], {}, tiny(data={"gsm8x": tmp_path / "z.jsonl"}))
    with pytest.raises(UserError, match=r"task mawps: .*not on the hub"):
        loading.load(["mawps"], {}, tiny())


@pytest.mark.parametrize(("name", "place"), [("gpqa_diamond", "Idavidrein/gpqa"), ("aime24", "Maxwell-Jia/AIME_2024")])
def test_a_set_that_is_away_or_gated_is_one_line_with_the_remedy(monkeypatch, name, place):
    def gated(*arguments, **settings):
        raise RuntimeError("Dataset is a gated dataset on the Hub.\nVisit the page to ask for access.")

    monkeypatch.setattr("datasets.load_dataset", gated)
    with pytest.raises(UserError) as refused:
        loading.load([name], {}, tiny())
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(f"task {name}: its data ({place}) cannot be read: Dataset is a gated")
    assert said.endswith(f"log in if it asks, or give evaluate.data.{name}=FILE")


def test_lm_evals_own_tasks_load_up_to_their_sets(monkeypatch):
    """HumanEval only where its code may run; BBH to the set of its parts; MMLU with its own part STEM."""
    asked = []

    def away(path, *arguments, **settings):
        asked.append(path)
        raise OSError("offline")

    monkeypatch.setattr("datasets.load_dataset", away)
    with pytest.raises(UserError, match=r"humaneval runs a model's code as it is; set evaluate\.unsafe_code=true"):
        loading.load(["humaneval"], {}, tiny())
    for name, place in (
        ("bbh", "SaylorTwift/bbh"),
        ("mmlu", "cais/mmlu"),
        ("hendrycks_math500", "HuggingFaceH4/MATH-500"),
    ):
        with pytest.raises(UserError, match=f"task {name}: its data.*cannot be read: offline"):
            loading.load([name], {}, tiny())
        assert asked.pop() == place


def test_a_local_file_stands_in_for_the_set_of_any_task(tmp_path, monkeypatch):
    """lm-eval's own BBH part: its few-shot examples are in its YAML, its questions in the file."""
    rows = [{"input": "not True is", "target": "False"}, {"input": "not False is", "target": "True"}]
    name = "bbh_cot_fewshot_boolean_expressions"
    task = loaded(name, written(tmp_path, "bool", rows))
    assert [task.doc_to_target(document) for document in task.eval_docs] == ["False", "True"]
    with pytest.raises(UserError, match=r"evaluate\.data\.bbh: 'bbh' is a group"):
        loading.load(["bbh"], {}, tiny(data={"bbh": tmp_path / "bool.jsonl"}))


def test_prompts_are_the_bare_questions(tmp_path):
    files = {"mmlu_stem": written(tmp_path, "m", SETS["mmlu_stem"]), "livecodebench": written(tmp_path, "l", LCB)}
    assert prompts(list(files), tiny(data=files)) == {
        "mmlu_stem": ["Which is a metal?"],
        "livecodebench": ["Add two numbers (sum).", "Add two numbers (shift)."],
    }


def fenced(code: str) -> str:
    return f"<think>\nwell\n</think>\n\n<answer>\n```python\n{code}\n```\n</answer>"


ANSWERS = {
    "aime24": ("so \\boxed{042}", "so \\boxed{41}"),
    "math500": ("it is \\boxed{1.5}", "it is \\boxed{\\frac{2}{3}}"),
    "gsm8k": ("That makes \\boxed{7}.", "That makes \\boxed{8}."),
    "mawps": ("The answer is 5.", "The answer is 6."),
    "mmlu_stem": ("\\boxed{B}", "\\boxed{C}"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_responses_are_graded_by_the_tasks_verifier(tmp_path, name):
    right, wrong = ANSWERS[name]
    file = written(tmp_path, name, SETS[name][:1])
    question = loaded(name, file).eval_docs[0]["prompt"]
    said = [f"<think>\nhm\n</think>\n\n{right}", wrong, right, f"<think>\n{right}"]
    _, rows, scores = run(tmp_path / "w", tiny(engine=scripted({question: said}), data={name: file}), [name])
    assert [row["accepted"] for row in rows] == [True, False, True, False]
    assert (rows[3]["reason"], scores[name]["unclosed"], scores[name]["samples"]) == ("unclosed reasoning", 1, 4)


def test_programs_and_functions_are_run(tmp_path):
    """In the sandbox, or without one where this machine has none: the tests decide, the hidden ones too."""
    file = written(tmp_path, "lcb", LCB)
    by_input, by_function = (document["prompt"] for document in loaded("livecodebench", file).eval_docs)
    shift = "class Solution:\n    def shift(self, a, b):\n        return [x + b for x in a]"
    script = {
        by_input: [fenced("print(sum(map(int, input().split())))"), fenced("print(3)"), "no code"],
        by_function: [fenced(shift), fenced(shift.replace("+", "-")), fenced("def shift(self, a, b): pass")],
    }
    config = tiny(engine=scripted(script), samples=3, data={"livecodebench": file})
    sandbox = "bubblewrap" if shutil.which("bwrap") else "unsafe"
    _, rows, scores = run(tmp_path / "w", config, ["livecodebench"], verify=verifying(sandbox=sandbox))
    assert [row["accepted"] for row in rows] == [True, False, False] * 2
    assert scores["livecodebench"]["mean"] == pytest.approx(1 / 3)


def test_instructions_are_made_and_the_same_every_time(tmp_path):
    first, again = (loading.load(["instructions"], {}, tiny())["tasks"]["instructions"] for _ in range(2))
    documents = [dict(doc) for doc in first.eval_docs]
    assert documents == [dict(doc) for doc in again.eval_docs]
    assert len({doc["id"] for doc in documents}) == 120
    assert first.config.generation_kwargs["max_gen_toks"] == 128
    with pytest.raises(UserError, match="made, not read"):
        loaded("instructions", written(tmp_path, "mine", [{"a": 1}]))


def test_ours_and_lm_evals_of_the_same_name_are_told_apart(tmp_path, capsys):
    assert set(loading.SHARED) == set(loading._own(None).task_index) & set(loading._theirs(None).task_index)
    loading._say_which.cache_clear()
    files = {
        name: written(tmp_path, name, [*SETS["gsm8k"], *SETS["gsm8k"]], ".jsonl") for name in ("gsm8k", "lm_eval_gsm8k")
    }
    chosen = loading.load(list(files), {}, tiny(data=files))
    said = " ".join(capsys.readouterr().err.split())
    assert "task gsm8k is bm's, which asks and grades differently from lm-eval's task of that name" in said
    assert "(lm_eval_gsm8k)" in said
    assert chosen["whose"] == {"gsm8k": "bm", "lm_eval_gsm8k": "lm-eval"}
    ours, theirs = chosen["tasks"].values()
    assert "boxed" in ours.config.description and ours.config.num_fewshot == 0
    assert theirs.config.num_fewshot == 5 and theirs.doc_to_text(SETS["gsm8k"][0]).startswith("Question:")
    assert theirs.task_name == "lm_eval_gsm8k"


@pytest.mark.parametrize(
    "name", ["longproc_countdown_0.5k", "prompt_robustness_math_algebra", "hendrycks_math_algebra"]
)
def test_a_task_whose_grader_calls_eval_needs_leave(name):
    """lm-eval does not mark these: a model's text reaches `eval` in the first, SymPy's `parse_expr` in the second."""
    manager = loading._theirs(None)
    config = manager.task_index[name]
    functions = loading.load_yaml(config.yaml_path)
    task = type("Task", (), {"config": type("Config", (), {"process_results": functions["process_results"]})})
    assert loading.evaluates(task) is (not name.startswith("hendrycks"))
