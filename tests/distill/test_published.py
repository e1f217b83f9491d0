"""Published sets, each by a few rows of its true schema: what passes which filter, and what becomes of a response."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.config import Component, Domain, typed
from bm.distill.selection import FILTERED, select
from bm.distill.sources import mix, thoughts
from bm.distill.sources.reading import rows
from bm.errors import UserError
from bm.verify import Case, verify
from bm.yaml import read_yaml
from tests.distill.conftest import CONF
from tests.verify.conftest import verifying

FIXTURES = Path(__file__).parent / "fixtures"


def source(domain: str, file: str, **overrides) -> Component:
    """A domain's source as its YAML has it, reading a fixture."""
    node = read_yaml(CONF / "domain" / f"{domain}.yaml")["source"]
    return typed(Domain, template(node | {"path": str(FIXTURES / file), **overrides})).source


def template(node: dict) -> dict:
    return {"name": "d", "task": "t", "source": node, "traces": None, "questions": None, "expected": None,
            "distill": {}, "branch": {}}  # fmt: skip


def taken(component: Component, seed: int = 42):
    return select(component("d", seed=seed), None, None, "")


def accepted(question) -> list[bool]:
    cases = [Case(question.verifier, text, question.answer, question.metadata) for text in question.responses]
    return [verify(case, verifying()).accepted for case in cases]


def test_openr1_math_keeps_what_the_papers_columns_let_pass():
    questions, _, refused = taken(source("openr1_math", "openr1_math.jsonl"))
    assert (len(questions), refused[FILTERED]) == (4, 4)
    assert sorted(len(q.responses) for q in questions) == [1, 1, 2, 3]
    assert {q.source for q in questions} == {
        "openr1_math/olympiads", "openr1_math/aops_forum", "openr1_math/cn_contest", "openr1_math/number_theory"
    }  # fmt: skip
    assert all(all(accepted(q)) for q in questions)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ({"question_type": None}, 6),
        ({"question_type": ["MCQ", "proof"]}, 2),
        ({"source": ["olympiads"]}, 1),
        ({"correctness_math_verify": False}, 6),
        ({"correctness_math_verify": False, "question_type": None}, 8),
    ],
)
def test_openr1_maths_filters_are_parameters(overrides, count):
    assert len(taken(source("openr1_math", "openr1_math.jsonl", **overrides)).questions) == count


def test_openthoughts_code_has_tests_and_solutions_that_pass_them():
    questions, _, refused = taken(source("openthoughts_code", "openthoughts.jsonl"))
    assert (len(questions), refused[FILTERED]) == (3, 7)
    function = next(q for q in questions if "larger" in q.prompt)
    assert json.loads(function.metadata)["tests"]["fn_name"] == "larger"
    assert "named `larger`" in function.prompt
    assert "def larger(a, b):" in function.prompt
    assert all(len(q.responses) == 1 and accepted(q) == [True] for q in questions)


def test_openthoughts_science_is_three_of_its_domains_without_a_reference():
    science = source(
        "openthoughts_code", "openthoughts.jsonl", domains=["biology", "chemistry", "physics"], verifier="none"
    )
    questions, _, refused = taken(science)
    assert (len(questions), refused[FILTERED]) == (3, 7)
    assert {(q.verifier, q.metadata) for q in questions} == {("none", "{}")}
    assert questions[0].responses[0].startswith("<think>\nBy Avogadro's law, volume decides.\n</think>\n\nThe one")


def s1(file: str, **overrides) -> Component:
    node = {"_target_": "bm.distill.sources.s1.stream", "name": None, "path": str(FIXTURES / file), "cot_type": None,
            "responses": "none", "verifier": "none", "system": ""}  # fmt: skip
    return typed(Domain, template(node | overrides)).source


def test_full59k_gives_science_and_health_and_geminis_thoughts_only_when_asked():
    questions, _, refused = taken(s1("full59k.jsonl", cot_type=["science", "health science"]))
    assert (len(questions), refused[FILTERED]) == (4, 2)
    assert all(q.responses == () for q in questions)
    told = taken(s1("full59k.jsonl", responses="attempt", verifier="choice", cot_type=["science"])).questions
    assert all("\nThat is in the mitochondrion.\n</think>\n\nThe answer is B." in q.responses[0] for q in told)
    assert [accepted(q) for q in told] == [[True], [True]]


def test_s1k_1_1_gives_r1s_or_geminis_thoughts():
    r1 = {q.prompt: q.responses for q in taken(s1("s1k_1_1.jsonl", responses="deepseek")).questions}
    assert Counter(map(len, r1.values())) == {1: 3, 0: 1}
    assert {r for rs in r1.values() for r in rs} == {"<think>\nThe mitochondrion respires.\n</think>\n\nIt is **B**."}
    gemini = taken(s1("s1k_1_1.jsonl", responses="gemini")).questions
    assert all(q.responses == ("<think>\nRespiration makes ATP.\n</think>\n\nB",) for q in gemini)


def test_numinamath_leaves_out_what_has_no_answer_or_is_not_valid():
    assert {q.answer for q in taken(source("numinamath", "numinamath.jsonl")).questions} == {"4", "9", "121"}
    every = source("numinamath", "numinamath.jsonl", question_type=None, valid=False, synthetic=True)
    assert len(taken(every).questions) == 7


def test_the_science_mix_takes_each_part_up_to_its_count_and_nothing_twice():
    node = read_yaml(CONF / "domain" / "science_mix.yaml")["source"]
    files = {"ablation59k": "full59k.jsonl", "s1k": "s1k_1_1.jsonl", "openthoughts": "openthoughts.jsonl"}
    for name, part in node["parts"].items():
        part["source"]["path"] = str(FIXTURES / files[name])
    mixed = taken(typed(Domain, template(node)).source)
    # 4 of science and health in full59K and 4 of s1K, of which one is the same question, and 3 of OpenThoughts
    assert Counter(q.source.split("/")[0] for q in mixed.questions) == {"s1": 7, "openthoughts": 3}
    assert mixed.duplicates == 1
    node["parts"]["openthoughts"]["count"] = 2
    node["parts"]["ablation59k"]["count"] = 1
    fewer = taken(typed(Domain, template(node)).source)
    assert Counter(q.source.split("/")[0] for q in fewer.questions)["openthoughts"] == 2
    assert len(fewer.questions) in (6, 7)


def test_a_mix_of_endless_parts_is_in_proportion():
    gym = {
        "_target_": "bm.distill.sources.reasoning_gym.stream",
        "generators": {"chain_sum": {"weight": 1, "parameters": {}}},
    }
    other = {**gym, "generators": {"gcd": {"weight": 1, "parameters": {}}}}
    parts = {"sums": {"source": gym, "count": 3000}, "divisors": {"source": other, "count": 1000}}
    node = {"_target_": "bm.distill.sources.mix.stream", "parts": parts}
    chosen = select(typed(Domain, template(node)).source("d", seed=1), None, 400, "").questions
    assert Counter(q.source for q in chosen)["chain_sum"] == pytest.approx(300, abs=40)
    assert mix.stream.__module__.endswith("mix")


def test_a_seed_draws_the_order_and_nothing_else():
    component = source("openr1_math", "openr1_math.jsonl")
    first, again, other = (taken(component, seed).questions for seed in (1, 1, 3))
    assert first == again != other
    assert sorted(q.id for q in first) == sorted(q.id for q in other)


def test_parquet_jsonl_and_folders_of_them_hold_the_same_rows(tmp_path):
    lines = [json.loads(line) for line in (FIXTURES / "openr1_math.jsonl").read_text().splitlines()]
    (tmp_path / "parquet").mkdir(), (tmp_path / "lines").mkdir()
    for part, half in enumerate((lines[:5], lines[5:])):
        pq.write_table(pa.Table.from_pylist(half), tmp_path / "parquet" / f"train-{part:05d}.parquet")
        (tmp_path / "lines" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half))
    expected = taken(source("openr1_math", "openr1_math.jsonl"))
    for folder in ("parquet", "lines"):
        assert taken(source("openr1_math", "openr1_math.jsonl", path=str(tmp_path / folder))) == expected


def test_a_missing_column_is_named_beside_those_that_there_are(tmp_path):
    (tmp_path / "set.jsonl").write_text('{"problem": "1 + 1", "answers": "2"}\n')
    with pytest.raises(UserError, match="row 1 has no column 'answer', but answers, problem: name yours in the source"):
        list(rows(None, tmp_path / "set.jsonl", ["problem", "answer"], 1))


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "row 1 is not JSON"), ("[1]", "row 1 is not a JSON object"), (None, "no JSON Lines or Parquet here")],
)
def test_what_cannot_be_read_is_one_line(content, said, tmp_path):
    if content:
        (tmp_path / "set.jsonl").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        list(rows(None, tmp_path / "set.jsonl", [], 1))
    assert "\n" not in str(caught.value)


def test_a_source_without_a_place_and_a_broken_parquet_are_mistakes(tmp_path):
    with pytest.raises(UserError, match="`name`, a set on the hub, or `path`"):
        list(rows(None, None, [], 1))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read"):
        list(rows(None, tmp_path / "broken.parquet", [], 1))


@given(st.text(), st.text())
def test_normalising_is_idempotent_and_keeps_a_thought_and_its_answer(reasoning, answer):
    if "<think>" in reasoning + answer or "</think>" in reasoning + answer or "<|" in reasoning + answer:
        return
    form = thoughts.thought(reasoning, answer)
    assert thoughts.normalised(form) == form
    theirs = (
        f"<|begin_of_thought|>\n\n{reasoning}\n\n<|end_of_thought|>\n\n"
        f"<|begin_of_solution|>\n\n{answer}\n\n<|end_of_solution|>"
    )
    assert thoughts.normalised(theirs) == form
    assert thoughts.normalised(f"<think>{reasoning}</think>{answer}") == form
    assert thoughts.normalised(f"{reasoning}</think>{answer}") == form  # a template had written the opening tag


def test_an_unclosed_thought_and_a_plain_answer_stay_what_they_are():
    assert thoughts.normalised(" <think>\nand so on ") == "<think>\nand so on"
    assert thoughts.normalised("42") == "42"
