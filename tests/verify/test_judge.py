"""An LLM as judge: asked once for all, believed only where it says so, marked, and never paid twice."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from bm.cli import conf_dir
from bm.config import Experiment, Verify, load
from bm.errors import UserError
from bm.generate import Sample
from bm.ledger import Ledger, engines_gpus
from bm.stages import Stages
from bm.store import Artefact, Store
from bm.verify import JUDGED, Case, Grader, verify
from tests.conftest import Bm
from tests.generate.server import Server, serving
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


@pytest.fixture
def settings(tmp_path: Path) -> Verify:
    target = "tests.verify.test_judge.engine"
    judge = {"_target_": "bm.verify.llm.judge", "engine": {"_target_": target}, "model": None, "max_new_tokens": 64}
    return verifying(judge=judge, answers=str(tmp_path / "samples"))


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
def test_the_last_verdict_after_its_own_thought_counts(settings, said, accepted, reason):
    verdict = verify(Case("judge", "<think>x</think>the answer", said, ""), settings)
    assert verdict == (accepted, reason, "the answer", JUDGED)


def test_all_are_asked_together_and_keep_their_place(settings):
    ASKED.clear()
    metadata = json.dumps({"question": "How many?"})
    cases = [
        Case("judge", "one", "VERDICT: SAME", metadata),
        Case("choice", "B", "B", ""),
        Case("judge", "<think>cut off", "VERDICT: SAME", ""),
        Case("judge", "two", "VERDICT: DIFFERENT", ""),
    ]
    grader = Grader(settings)
    verdicts = grader.verdicts(cases)
    assert [verdict.accepted for verdict in verdicts] == [True, True, False, False]
    assert verdicts[2].reason == "unclosed reasoning"
    ((first, second),) = ASKED
    assert "How many?" in first and "<student>\none\n</student>" in first
    assert "question" not in second.split("<reference>")[0]


def test_without_a_judge_the_user_is_told():
    with pytest.raises(UserError, match="verifier 'judge' needs an LLM: choose judge=openai or judge=local"):
        verify(Case("judge", "one", "one", ""), verifying())


def test_the_gpus_of_a_judge_count_where_it_judged(settings):
    grader = Grader(settings)
    grader.verdicts([Case("choice", "B", "B", ""), Case("judge", "<think>cut off", "VERDICT: SAME", "")])
    assert grader.facts() == {}
    grader.verdicts([Case("judge", "one", "VERDICT: SAME", "")])
    assert grader.facts()["judge"]["gpus"] == engines_gpus({"teacher": {"gpus": 0}, **grader.facts()}) == 2


def doubled(body: dict) -> dict:
    """As a teacher the right sum, in words; as a judge, yes."""
    asked = body["messages"][-1]["content"]
    if "VERDICT" in asked:
        return {"content": "VERDICT: SAME"}
    return {"reasoning_content": "It is known.", "content": "It is " + "x" * int(re.findall(r"\d+", asked)[0])}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.message = doubled
        yield running


@pytest.fixture
def judging(server: Server) -> list[str]:
    return ["judge=openai", f"verify.judge.engine.base_url={server.url}", "verify.judge.engine.served=j",
            "verify.judge.engine.key=null"]  # fmt: skip


@pytest.fixture
def file(bm: Bm, server: Server, judging: list[str], tmp_path: Path) -> Callable[..., int]:
    """`bm verify` on these responses: how many requests it sends."""

    def run(responses: Sequence[str], *overrides: str, status: int = 0) -> int:
        lines = [json.dumps({"response": text, "answer": "yes", "question": "Well?"}) for text in responses]
        (tmp_path / "R.jsonl").write_text("".join(line + "\n" for line in lines))
        before = len(server.requests)
        said = bm("verify", "verifier=judge", "file=R.jsonl", "output=G.jsonl", *judging, *overrides, cwd=tmp_path)
        assert said.returncode == status, said.stderr
        return len(server.requests) - before

    return run


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ([], 0),
        (["verify.seconds=20"], 0),
        (["verify.judge.engine.retries=1"], 0),
        (["verify.judge.engine.served=another"], 3),
        (["verify.judge.max_new_tokens=99"], 3),
    ],
)
def test_a_judge_is_asked_once(file: Callable[..., int], changes: list[str], new: int) -> None:
    assert file(["yes", "no", "yes", "perhaps"]) == 3, "the same answer to the same question is judged once"
    assert file(["yes", "no", "yes", "perhaps"], *changes) == new
    assert file(["yes", "no", "of course"]) == 1


def test_a_judge_goes_on_where_it_was_stopped(server: Server, file: Callable[..., int]) -> None:
    words = [f"word {n}" for n in range(12)]
    one_at_a_time = "verify.judge.engine.parallel=1"
    server.fault = lambda number: "page" if number > 5 else None
    file(words, one_at_a_time, "verify.judge.engine.retries=0", status=2)
    server.fault = lambda number: None
    assert file(words, one_at_a_time) == 7


def made(words: Sequence[str]) -> tuple[Stages, Artefact]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(Experiment, compose("distill", list(words)))
    stages = Stages(Store(config.paths.outputs / "store"), config)
    return stages, stages.distill(config.domains["jsonl"])


def test_a_judge_s_answers_survive_another_filter_and_are_in_the_ledger(
    server: Server, judging: list[str], tmp_path: Path
) -> None:
    """A distillation whose teacher and judge have prices: the second one asks nobody, and costs nothing."""
    rows = [json.dumps({"question": f"What is {n} + {n}?", "answer": 2 * n}) for n in range(1, 41)]
    (tmp_path / "set.jsonl").write_text("\n".join(rows))
    words = [f"paths.outputs={tmp_path / 'outputs'}", "domain=jsonl", "domains.jsonl.source.verifier=judge",
             f"domains.jsonl.source.path={tmp_path / 'set.jsonl'}", "domains.jsonl.traces=10",
             "domains.jsonl.questions=2", "teacher=server", "teacher.engine.served=m",
             f"teacher.engine.base_url={server.url}", *judging,
             "verify.judge.engine.price={input: 1, output: 1e4}"]  # fmt: skip
    stages, first = made(words)
    assert len(server.requests) == 20
    judge = first.facts["judge"]
    assert (judge["engine"], judge["model"], judge["responses"]) == ("openai", "j", 10)
    assert judge["own"] == {name: judge[name] for name in ("responses", "prompt_tokens", "tokens", "cost")}
    assert judge["tokens"] == 10 * 2 * len("VERDICT: SAME") and judge["cost"] > 0
    _, second = made([*words, "verify.seconds=20", "distill.min_characters=1"])
    assert len(server.requests) == 20 and second.key != first.key
    assert second.facts["judge"]["own"]["responses"] == 0
    both = Ledger([first, second], stages.config.prices).behind(first, second)
    assert both.tokens == first.facts["teacher"]["tokens"] + judge["tokens"]
    assert both.money == pytest.approx(judge["cost"], abs=0.01)
