"""Each kind of instruction can be kept and broken."""

import json

import pytest

from bm.evaluate import instructions as asked
from bm.verify import Case, Verdict, verify
from bm.verify.instructions import KINDS
from tests.verify.conftest import verifying

SETTINGS = verifying()
KEPT = [
    ("lower_case", True, "the sea is wide, 3 miles or more."),
    ("capitals", True, "THE SEA IS WIDE: 3 MILES."),
    ("no_commas", True, "The sea is wide and deep."),
    ("keyword", "river", "Rain fills the River all year."),
    ("without", "the", "Seas are wide there, they say."),
    ("most_words", 6, "It's a well-kept, very quiet garden."),
    ("least_words", 6, "It's a well-kept, very quiet garden."),
    ("bullets", 2, "Here:\n- bread is made of flour\n  * and of water"),
    ("sentences", 2, 'He said "go." It is 3.5 miles long!!!'),
    ("sentences", 2, "The sea is wide. And it is deep"),
    ("starts", "In short", '"In short, the sea is wide."'),
    ("ends", "The end.", "The sea is wide. **The end.**"),
    ("json_key", "title", '```json\n{"title": "Sea"}\n```'),
    ("json_key", "title", '{"title": {"a": 1}, "b": 2}'),
]
BROKEN = [
    ("lower_case", True, "the Sea is wide and deep", "has capitals"),
    ("capitals", True, "THE SEA IS wide and deep", "has small letters"),
    ("no_commas", True, "wide, deep and blue it is", "has commas"),
    ("keyword", "river", "The rivers are wide and deep", "lacks the keyword"),
    ("without", "the", "The sea is wide and deep", "has the forbidden word"),
    ("most_words", 5, "It's a well-kept, very quiet garden.", "too many words"),
    ("least_words", 7, "It's a well-kept, very quiet garden.", "too few words"),
    ("bullets", 2, "- one is here\n- two is here\n- three", "wrong number of bullet points"),
    ("bullets", 2, "one - two - three and four", "wrong number of bullet points"),
    ("sentences", 2, "The sea is wide. It is deep. It is blue.", "wrong number of sentences"),
    ("starts", "In short", "The sea, in short, is wide", "begins otherwise"),
    ("ends", "The end.", "The end. The sea is wide", "ends otherwise"),
    ("json_key", "title", 'Here it is: {"title": "Sea"}', "is not a JSON object with the key"),
    ("json_key", "title", '{"name": "Sea"}', "is not a JSON object with the key"),
    ("json_key", "title", '["title"]', "is not a JSON object with the key"),
    ("json_key", "title", '{"title": ""}', "is not a JSON object with the key"),
    ("no_commas", True, "a a", "says nothing"),
]  # fmt: skip


def judged(instruction: str, value: object, response: str) -> Verdict:
    case = Case("instructions", response, "", json.dumps({"instruction": instruction, "value": value}))
    return verify(case, SETTINGS)


@pytest.mark.parametrize(("instruction", "value", "response"), KEPT)
def test_kept(instruction, value, response):
    assert judged(instruction, value, response) == Verdict(True, "", response)
    assert judged(instruction, value, f"<think>\nA, or b?\n</think>\n\n{response}").accepted


@pytest.mark.parametrize(("instruction", "value", "response", "reason"), BROKEN)
def test_broken(instruction, value, response, reason):
    assert judged(instruction, value, response) == Verdict(False, reason, response)


def test_every_kind_is_here_and_asked_for():
    assert {row[0] for row in KEPT} == {row[0] for row in BROKEN} == set(KINDS) == set(asked.KINDS)
    for kind, (_, _, values) in asked.KINDS.items():
        assert {type(value) for value in values} == {KINDS[kind].value}


@pytest.mark.parametrize(
    ("instruction", "value", "reason"),
    [("rhyme", True, "there is no instruction 'rhyme'"), ("bullets", "2", "the value of 'bullets' must be int"),
     ("bullets", True, "the value of 'bullets' must be int")],
)  # fmt: skip
def test_what_cannot_be_checked_is_said(instruction, value, reason):
    assert judged(instruction, value, "The sea is wide.").reason == f"broken question: {reason}"
