import itertools
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.distill.selection import SHARES, Question, check_apart, part_of, select
from bm.errors import UserError

TRACES = "domains.math.traces"
"""The setting that asks for questions."""


def asked(prompt: str) -> Question:
    return Question("math", "made up", "", prompt, "1", "reasoning_gym", "{}")


def numbered(count: int | None = None) -> Iterator[Question]:
    return (asked(f"question {i}") for i in (itertools.count() if count is None else range(count)))


def test_the_parts_divide_the_hash_range_without_gap_or_overlap():
    assert sorted(itertools.chain(*SHARES.values())) == list(range(100))


@given(st.text(), st.text(), st.text())
def test_a_prompt_belongs_to_one_part_whatever_else_the_question_says(prompt, answer, metadata):
    question = Question("coding", "elsewhere", "Be brief.", prompt, answer, "reasoning_gym", metadata)
    assert part_of(question) == part_of(asked(prompt))


def test_parts_get_their_shares_of_many_questions():
    parts = [part_of(question) for question in numbered(20_000)]
    for part, share in SHARES.items():
        assert parts.count(part) / len(parts) == pytest.approx(len(share) / 100, abs=0.02)


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(0, 5))
def test_selected_questions_are_the_first_distinct_ones_of_their_part(numbers, count):
    stream = [asked(f"question {i}") for i in numbers]
    distinct = [q for q in dict.fromkeys(stream) if part_of(q) == "train"]
    if len(distinct) < count:
        has = f"but the source has {len(distinct) or 'none'} for 'train' .*, {count - len(distinct)} too few"
        with pytest.raises(UserError, match=f"^{TRACES}: asks for {count} distinct questions, {has}"):
            select(iter(stream), "train", count, TRACES)
    else:
        assert select(iter(stream), "train", count, TRACES)[0] == distinct[:count]


def test_parts_share_no_prompt():
    chosen = {part: {q.prompt for q in select(numbered(), part, 500, TRACES)[0]} for part in SHARES}
    for prompts, others in itertools.combinations(chosen.values(), 2):
        assert not prompts & others


def test_repeats_are_counted():
    first, second = (q for q in numbered() if part_of(q) == "train"), (q for q in numbered() if part_of(q) == "train")
    stream = itertools.chain(itertools.islice(first, 10), second)
    chosen, duplicates, refused = select(stream, "train", 15, TRACES)
    assert (len(chosen), duplicates, refused.total()) == (15, 10, 0)


def test_a_source_without_any_question_is_refused_however_many_are_asked_for():
    with pytest.raises(UserError, match="asks for all questions, but the source has none for 'train'"):
        select(iter([]), "train", None, TRACES)
    with pytest.raises(UserError, match="asks for 5 distinct questions, but the source has none, 5 too few"):
        select(iter([]), None, 5, TRACES, short=True)


def test_what_became_of_other_questions_is_told():
    refusing = {"question 1": "near duplicate", "question 2": "near duplicate", "question 3": "contaminated by gsm8k"}
    with pytest.raises(
        UserError, match=r"has 2, 3 too few; 3 more are refused \(near duplicate, contaminated by gsm8k\)"
    ):
        select(numbered(5), None, 5, TRACES, lambda question: refusing.get(question.prompt, ""))


@pytest.mark.parametrize(("part", "share"), [("evaluate", 20), ("train", 40), ("student or train", 80)])
def test_too_few_questions_are_told_with_the_share_of_the_source_that_a_part_is(part, share):
    with pytest.raises(UserError, match=rf"for '{part}' \(about {share} % of all\)"):
        select(numbered(50), part, 60, TRACES)


def test_an_endless_source_with_few_questions_is_given_up():
    with pytest.raises(UserError, match="ask for fewer, or choose a larger source"):
        select(itertools.cycle(numbered(50)), "train", 60, TRACES)


def test_a_question_among_the_traces_is_named(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"]}), tmp_path / "traces.parquet")
    pq.write_table(pa.table({"id": ["c", "d"]}), tmp_path / "apart.parquet")
    pq.write_table(pa.table({"id": ["c", "b"]}), tmp_path / "shared.parquet")
    check_apart({"math": tmp_path / "apart.parquet"}, [tmp_path / "traces.parquet"])
    with pytest.raises(UserError, match="math: evaluation question b is a training trace too"):
        check_apart({"math": tmp_path / "shared.parquet"}, [tmp_path / "traces.parquet"])


def test_of_equal_prompts_one_with_responses_is_taken_in_the_first_ones_place():
    bare, told, again = (replace(asked("1 + 1"), responses=given) for given in ((), ("2",), ("3",)))
    assert select(iter([bare, asked("2 + 2"), told, again]), None, None, TRACES).questions == [told, asked("2 + 2")]
    assert select(iter([told, bare]), None, None, TRACES).questions == [told]
