"""Models as teachers: how they are asked, how their responses are read, what they cost, and what is published."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bm.cli import conf_dir
from bm.config import Component, Experiment, Target, identity, load, typed
from bm.distill.selection import Question
from bm.distill.teachers import Prompt, Teacher
from bm.distill.teachers.published import teacher as published
from bm.distill.teachers.reading import tagged, wrapped
from bm.errors import UserError
from bm.generate import Sample, Sampling, sample
from bm.stages import Stages
from bm.store import Store
from tests.conftest import Bm, Said
from tests.generate.conftest import ARCHITECTURES, characters
from tests.generate.server import Server, serving

QUESTION = Question("math", "set", "Be brief.", "1 + {x}?", "2", "math", "{}")
TEACHERS = sorted(path.stem for path in (conf_dir() / "teacher").glob("*.yaml"))
GIVEN = {"model": ["teacher.engine={_target_: bm.generate.engines.openai}", "teacher.model=null"],
         "openai": ["teacher.engine.served=m"],
         "vllm": ["teacher.model=folder"], "transformers": ["teacher.model=folder"]}  # fmt: skip


def configured(name: str, *overrides: str) -> Component:
    """A teacher as its YAML has it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("distill", [f"teacher={name}", *GIVEN.get(name, []), *overrides]).teacher
    return typed(Target, OmegaConf.to_container(node, resolve=True))


class Echo:
    """Renders as the last message, and keeps them all."""

    def facts(self):
        return {"engine": "echo"}

    def render(self, messages):
        self.messages = messages
        return messages[-1]["content"]


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_of_the_configuration_is_typed(name: str) -> None:
    assert configured(name).target.startswith("bm.distill.teachers.")


def test_what_does_not_change_the_responses_is_not_in_the_key() -> None:
    same = ("teacher.engine.parallel=3", "teacher.engine.price={input: 1, output: 2}", "teacher.engine.budget=7",
            "teacher.engine.timeout=9", "teacher.engine.retries=1",
            "teacher.engine.base_url=http://x.org/v1")  # fmt: skip
    other = ("teacher.samples=4", "teacher.temperature=1", "teacher.engine.served=x", "teacher.reasoning=wrapped",
             "teacher.prompt.system=x")  # fmt: skip
    key = identity(configured("server"))
    assert all(identity(configured("server", change)) == key for change in same)
    assert all(identity(configured("server", change)) != key for change in other)
    assert not {"price", "budget", "parallel", "key", "base_url"} & key["engine"].keys()


def test_questions_are_put_as_told_and_by_domain() -> None:
    sampling, engine = Sampling(1, 0, 1, 8, 0), Echo()
    boxed = Prompt("Think.", "{prompt} Use \\boxed{}.")
    asked = Teacher(engine, sampling, put_in={"math": boxed})
    assert asked.prompt(QUESTION) == "1 + {x}? Use \\boxed{}."
    assert engine.messages[0] == {"role": "system", "content": "Think."}
    assert asked.prompt(replace(QUESTION, domain="science")) == "1 + {x}?"
    assert engine.messages[0] == {"role": "system", "content": "Be brief."}


def test_a_template_without_the_question_is_refused() -> None:
    with pytest.raises(UserError, match=r"must have \{prompt\}"):
        configured("server", "teacher.prompt.template=hello")


@pytest.mark.parametrize(
    ("prompt", "response", "whole"),
    [
        ("a", "<think>\nb\n</think>\n\nc", "<think>\nb\n</think>\n\nc"),
        ("a<think>\n", "b\n</think>\n\nc", "<think>\nb\n</think>\n\nc"),
        ("a", "b\n</think>\n\nc", "<think>\nb\n</think>\n\nc"),
        ("a", "just c", "just c"),
    ],
)
def test_a_thought_whose_beginning_the_template_wrote_gets_it_back(prompt: str, response: str, whole: str) -> None:
    assert tagged(prompt, response) == whole


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("3 and 5 are 8.\nSo she has 8 apples.", "So she has 8 apples"),
        ("3 + 5 = 8. Then 8 - 2 = 6. He keeps 6", "He keeps 6"),
        ("3.5 + 1 = 4.5\nThe answer is 4.5. I hope this helps!", "4.5"),
        ("Since $x = \\frac{1}{2}$, we get \\boxed{\\frac{1}{2}}. Done.", "\\boxed{\\frac{1}{2}}"),
        ("Sort it:\n```python\nprint(1)\n```\nThis prints 1.", "```python\nprint(1)\n```"),
    ],
)
def test_a_plain_response_becomes_thought_and_conclusion(response: str, answer: str) -> None:
    assert wrapped(response).rstrip(".") == f"<think>\n{response}\n</think>\n\n{answer}"


@pytest.mark.parametrize("response", ["8", "She has 8 apples.", "<think>\na\n</think>\n\nb", ""])
def test_what_shows_no_reasoning_or_has_its_tags_is_not_wrapped(response: str) -> None:
    assert wrapped(response) == response


def test_a_response_that_was_cut_off_is_not_given_an_end() -> None:
    asked = Teacher(Echo(), Sampling(1, 0, 1, 8, 0), reasoning="wrapped")
    assert asked.response("p", Sample(0, 0, "One. Two.", 8, finished=False)) == "One. Two."
    assert asked.response("p", Sample(0, 0, "One. Two.", 8, finished=True)).endswith("Two")


def test_published_responses_are_handed_out_as_they_are(tmp_path: Path) -> None:
    asked = [replace(QUESTION, prompt=str(i), responses=tuple(f"r{i}{k}" for k in range(i))) for i in range(4)]
    for samples, most in ((None, 3), (2, 2)):
        given = published(asked, seed=0, samples=samples)
        got = sample(given.engine, [given.prompt(q) for q in asked], given.sampling, tmp_path / f"{most}.jsonl")
        assert [[s.response for s in row] for row in got] == [list(q.responses[:most]) for q in asked]
    with pytest.raises(UserError, match="no published responses"):
        published([QUESTION], seed=0, samples=None)


def test_a_model_of_this_machine_is_in_the_key_by_its_content_and_not_its_place(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = ARCHITECTURES["qwen2"]()
    for folder in ("one", "same", "other"):
        model.save_pretrained(tmp_path / folder)
        characters().save_pretrained(tmp_path / folder)
        if folder == "same":
            model.lm_head.weight.data[0] += 1
    made = []
    for folder in ("one", "same", "other"):
        given = [f"paths.outputs={tmp_path / 'outputs'}", f"teacher.model={tmp_path / folder}",
                 "teacher.max_new_tokens=8", "domain=math", "domains.math.traces=4", "teacher.samples=2"]  # fmt: skip
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = load(Experiment, compose("distill", ["teacher=transformers", *given]))
        stages = Stages(Store(config.paths.outputs / "store"), config)
        with pytest.raises(UserError, match="none of 8 responses became traces"):  # random weights know nothing
            stages.distill(config.domains["math"])
        made.append(stages.used[-1])
    first, same, other = made
    assert first.key == same.key != other.key
    assert first.facts["answered"] == 8
    assert first.facts["teacher"]["tokens"] > 0
    assert "cost" not in first.facts["teacher"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.message = lambda body: {"reasoning_content": "It is known.", "content": "42"}
        yield running


def test_distillation_from_an_endpoint_bills_it_stops_at_its_budget_and_keeps_its_key(
    server: Server, tmp_path: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command a user types, an endpoint that answers, and every file that it writes."""
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-s3cret")
    command = ["distill", "teacher=deepseek_r1", "domain=math", "domains.math.traces=6", "domains.math.questions=2",
               f"teacher.engine.base_url={server.url}", "teacher.engine.price={input: 1, output: 1e4}",
               "teacher.engine.parallel=2", "teacher.samples=2", "teacher.max_new_tokens=100"]  # fmt: skip

    def distill(budget: str) -> Said:
        return bm(*command, f"teacher.engine.budget={budget}", cwd=tmp_path)

    stopped = distill("1.2")
    assert stopped.returncode == 2
    assert "bm: the budget of 1.2 has no room for another response" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    paid = len(server.requests)
    assert 0 < paid < 12
    done = distill("50")
    assert done.returncode == 2, "42 is no answer to any of them"
    assert "none of 12 responses became traces (wrong answer: 12)" in done.stderr
    assert len(server.requests) == 12
    assert set(server.answered.values()) == {1}

    (manifest,) = (json.loads(p.read_text()) for p in tmp_path.glob("outputs/store/distill/*/manifest.json"))
    facts = manifest["facts"]["teacher"]
    assert (facts["tokens"], facts["prompt_tokens"]) == (server.bill["output"], server.bill["prompt"])
    assert facts["cost"] == pytest.approx((server.bill["prompt"] + 1e4 * server.bill["output"]) / 1e6, abs=1e-6)
    assert facts["model"] == "deepseek-reasoner"
    (rejected,) = tmp_path.glob("outputs/store/distill/*/rejected.parquet")
    assert pq.read_table(rejected)["response"][0].as_py() == "<think>\nIt is known.\n</think>\n\n42"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 3
    assert not any(b"s3cret" in p.read_bytes() for p in files)
    assert "s3cret" not in stopped.stdout + stopped.stderr + done.stdout + done.stderr
