"""An LLM as judge: asked once for all, believed only where it says so, and marked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bm.errors import UserError
from bm.generate import Sample
from bm.stages import _engines_gpus
from bm.verify import JUDGED, Case, judge_facts, verify, verify_all
from tests.verify.conftest import verifying

ASKED: list[list[str]] = []


class Judge:
    """Says what the reference tells it to say."""

    def facts(self) -> dict[str, Any]:
        return {"engine": "script", "gpus": 2}

    def render(self, messages: Sequence[Any]) -> str:
        return messages[0]["content"]

    def generate(self, prompts, sampling, known=()):
        ASKED.append(list(prompts))
        assert (sampling.n, sampling.temperature) == (1, 0)
        for place in reversed(range(len(prompts))):
            said = prompts[place].split("<reference>\n")[1].split("\n</reference>")[0]
            yield [Sample(place, 0, said, 1, True)]


def engine(model: Path | None) -> Judge:
    return Judge()


SETTINGS = verifying(
    judge={
        "_target_": "bm.verify.llm.judge",
        "engine": {"_target_": "tests.verify.test_judge.engine"},
        "model": None,
        "max_new_tokens": 64,
    }
)


@pytest.mark.parametrize(
    ("said", "accepted", "reason"),
    [
        ("VERDICT: SAME", True, ""),
        ("They differ.\n\n**VERDICT: DIFFERENT**", False, "wrong answer"),
        ("<think>VERDICT: SAME</think>VERDICT: DIFFERENT", False, "wrong answer"),
        ("VERDICT: DIFFERENT, no: VERDICT: SAME", True, ""),
        ("<think>VERDICT: SAME", False, "the judge gave no verdict"),
        ("same", False, "the judge gave no verdict"),
        ("", False, "the judge gave no verdict"),
    ],
)
def test_the_last_verdict_after_its_own_thought_counts(said, accepted, reason):
    verdict = verify(Case("judge", "<think>x</think>the answer", said, ""), SETTINGS)
    assert verdict == (accepted, reason, "the answer", JUDGED)


def test_all_are_asked_together_and_keep_their_place():
    ASKED.clear()
    metadata = json.dumps({"question": "How many?"})
    cases = [
        Case("judge", "one", "VERDICT: SAME", metadata),
        Case("choice", "B", "B", ""),
        Case("judge", "<think>cut off", "VERDICT: SAME", ""),
        Case("judge", "two", "VERDICT: DIFFERENT", ""),
    ]
    verdicts = verify_all(cases, SETTINGS)
    assert [verdict.accepted for verdict in verdicts] == [True, True, False, False]
    assert verdicts[2].reason == "unclosed reasoning"
    ((first, second),) = ASKED
    assert "How many?" in first and "<student>\none\n</student>" in first
    assert "question" not in second.split("<reference>")[0]


def test_without_a_judge_the_user_is_told():
    with pytest.raises(UserError, match="verifier 'judge' needs an LLM: choose judge=openai or judge=local"):
        verify(Case("judge", "one", "one", ""), verifying())


def test_the_gpus_of_a_judge_count_where_it_judged():
    told = judge_facts({"math", "judge"}, SETTINGS)
    assert told == {"judge": {"engine": "script", "gpus": 2}}
    assert _engines_gpus({"teacher": {"gpus": 0}, **told}) == 2
    assert judge_facts({"math"}, SETTINGS) == judge_facts({"judge"}, verifying()) == {}
