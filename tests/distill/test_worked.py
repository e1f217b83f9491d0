import json
import re
from dataclasses import replace
from itertools import islice

import pytest

from bm.distill.selection import Question
from bm.distill.sources.reasoning_gym import Generator, stream
from bm.distill.teachers.worked import SOLUTIONS, teacher
from bm.errors import UserError
from bm.generate import sample
from bm.verify import Case, verify
from tests.verify.conftest import verifying

SETTINGS = verifying()
PARAMETERS = {
    "calendar_arithmetic": {"tasks": ["weekday_offset"]},
    "number_filtering": {"max_decimals": 0},  # with more, the generator itself confuses 81 and 81.0
}


def questions(generator: str, count: int = 300) -> list[Question]:
    return list(islice(stream("any", {generator: Generator(1, PARAMETERS.get(generator, {}))}, seed=11), count))


def responses(asked: list[Question], slip: float, seed: int, journal) -> list[str]:
    worked = teacher(asked, seed=seed, slip=slip)
    answers = sample(worked.engine, [worked.prompt(q) for q in asked], worked.sampling, journal)
    return [response.response for (response,) in answers]


def judge(question: Question, response: str):
    return verify(Case(question.verifier, response, question.answer, question.metadata), SETTINGS)


@pytest.mark.parametrize("generator", SOLUTIONS)
def test_careful_work_is_always_right_even_beyond_the_recipes_settings(generator, tmp_path):
    asked = questions(generator)
    for question, response in zip(asked, responses(asked, 0, 0, tmp_path / "j"), strict=True):
        assert judge(question, response).accepted, (question, response)


@pytest.mark.parametrize("generator", SOLUTIONS)
def test_slips_are_caught(generator, tmp_path):
    asked = questions(generator, 100)
    verdicts = [judge(q, r) for q, r in zip(asked, responses(asked, 0.2, 0, tmp_path / "j"), strict=True)]
    refused = [verdict for verdict in verdicts if not verdict.accepted]
    assert {verdict.reason for verdict in refused} <= {"wrong answer", "no answer"}
    assert 0.05 < len(refused) / len(verdicts) < 0.95


@pytest.mark.parametrize("generator", SOLUTIONS)
def test_a_response_depends_on_the_seed_and_its_question_alone(generator, tmp_path):
    asked = questions(generator, 100)
    all_at_once = responses(asked, 0.3, 1, tmp_path / "all")
    backwards = responses(asked[::-1], 0.3, 1, tmp_path / "backwards")[::-1]
    assert all_at_once == backwards
    assert all_at_once != responses(asked, 0.3, 2, tmp_path / "other")


@pytest.mark.parametrize("generator", SOLUTIONS)
def test_work_is_shown_before_the_answer(generator, tmp_path):
    asked = questions(generator, 50)
    for response in responses(asked, 0, 0, tmp_path / "j"):
        assert re.fullmatch(r"<think>\n.+\n</think>\n\n.+", response, re.DOTALL)


def test_a_question_without_a_solution_is_refused_by_name():
    question = replace(questions("gcd", 1)[0], source="gcdd")
    with pytest.raises(UserError, match="no solution for 'gcdd'; did you mean 'gcd'"):
        teacher([question], seed=0, slip=0)


def test_euclid_shows_the_remainders(tmp_path):
    question = replace(questions("gcd", 1)[0], metadata=json.dumps({"numbers": [12, 42, 20]}))
    assert responses([question], 0, 0, tmp_path / "j") == [
        "<think>\n42 % 12 = 6\n12 % 6 = 0\n20 % 6 = 2\n6 % 2 = 0\n</think>\n\n2"
    ]
