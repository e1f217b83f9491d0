"""What an engine says of the traces' tokens: vLLM's replicas and an endpoint tell what a forward pass here tells."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bm.branch import Traces
from bm.branch.stored import ABOUT, About, shard
from bm.branch.telling import tell
from bm.config import Branch
from bm.errors import UserError
from bm.generate import vllm_engine
from bm.generate.likely import likely
from tests.branch.conftest import branch, trainer
from tests.branch.test_stored import teacher as teacher
from tests.branch.test_training import rows, trained
from tests.generate.server import Server, serving

K = 8
VLLM = {"_target_": "bm.generate.engines.vllm", "dtype": "float32", "tensor_parallel": 1, "data_parallel": 2,
        "memory": 0.5, "parallel": 3, "timeout": 120, "python": sys.executable}  # fmt: skip


def endpoint(url: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": "bm.generate.engines.openai", "served": "m", "base_url": url, "key": None, "parallel": 4,
            "timeout": 20, "retries": 2, "refused": "stop", "price": None, "budget": None, **settings}  # fmt: skip


def by(engine: dict[str, Any] | None, teacher: Path, **settings: Any) -> Branch:
    return branch(**{"loss": "kd", "teacher": teacher, "stored": K, "stored_by": engine, **settings})


def told(student: Path, source: Traces, folder: Path, config: Branch) -> tuple[Traces, dict[str, Any]]:
    folder.mkdir(parents=True)
    assert isinstance(config.teacher, Path)
    facts = tell(student, config.teacher, source, config, trainer(), folder)
    return Traces(source.path, source.domain, stored=folder), facts


def same(ours: Path, theirs: Path) -> None:
    """Equal records, but for what fp16 and another order of summing leave."""
    assert (ours / ABOUT).read_bytes() == (theirs / ABOUT).read_bytes()
    mine, expected = (np.load(shard(folder, 0)) for folder in (ours, theirs))
    assert len(mine) == About(**json.loads((ours / ABOUT).read_text())).labels
    for name in ("token", "entries"):
        assert (mine[name] == expected[name]).mean() > 0.999, name  # two tokens as likely may change places
    np.testing.assert_allclose(mine["log_p"].astype("f4"), expected["log_p"].astype("f4"), rtol=2e-3, atol=1e-3)


@pytest.fixture
def vllm_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    (place := tmp_path / "seen").mkdir()
    beside = Path(__file__).parents[1] / "generate" / "stand_in"
    monkeypatch.setenv("PYTHONPATH", f"{beside}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("STAND_IN", str(place))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.syspath_prepend(str(beside))
    yield place
    vllm_engine.installed.cache_clear()
    if vllm_engine._current is not None:
        vllm_engine._current.end()
        vllm_engine._current = None


def test_vllm_tells_what_a_forward_pass_tells(
    student: Path,
    teacher: Path,
    traces: list[Traces],
    tmp_path: Path,
    vllm_stand_in: Path,
) -> None:
    """Two replicas, by `prompt_logprobs`; and a training by it is the training by the other."""
    here, _ = told(student, traces[0], tmp_path / "here", by(None, teacher))
    there, facts = told(student, traces[0], tmp_path / "there", by(VLLM, teacher))
    same(tmp_path / "there", tmp_path / "here")
    assert facts["engine"]["engine"] == "vllm" and facts["engine"]["gpus"] == 2 and facts["flops"] > 0
    for source, name, config in ((here, "a", by(None, teacher, epochs=1)), (there, "b", by(VLLM, teacher, epochs=1))):
        trained(student, [source], tmp_path / name, config)
    for ours, theirs in zip(rows(tmp_path / "b"), rows(tmp_path / "a"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)


@pytest.fixture
def vllms_server(teacher: Path) -> Any:
    """An endpoint like vLLM's, whose completions tell of their prompts."""
    model = AutoModelForCausalLM.from_pretrained(teacher)

    def tell_(body: dict[str, Any]) -> list[Any]:
        ids, k = body["prompt"], body["prompt_logprobs"]
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        said: list[Any] = [None]
        for place, token in enumerate(ids[1:]):
            best = log_p[place].topk(k).indices.tolist()
            known = dict.fromkeys([token, *best])
            said.append({str(t): {"logprob": log_p[place, t].item(), "rank": 1, "decoded_token": "?"} for t in known})
        return said

    with serving() as running, torch.no_grad():
        running.tell = tell_
        yield running


def test_an_endpoint_tells_what_a_forward_pass_tells(
    student: Path,
    teacher: Path,
    traces: list[Traces],
    tmp_path: Path,
    vllms_server: Server,
) -> None:
    """Through a slow-down and a broken connection; its price for the prompts' tokens is in the facts."""
    faults = {3: "rate limit", 5: "busy"}
    vllms_server.fault = faults.get
    price = {"input": 2.0, "output": 0.0}
    told(student, traces[0], tmp_path / "here", by(None, teacher))
    _, facts = told(student, traces[0], tmp_path / "there", by(endpoint(vllms_server.url, price=price), teacher))
    same(tmp_path / "there", tmp_path / "here")
    assert facts["cost"] == pytest.approx(2e-6 * facts["tokens"])
    assert len(vllms_server.requests) == 24 + len(faults)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (lambda ids: None, "sends no prompt_logprobs; serve the teacher with vLLM"),
        (lambda ids: [None] * (len(ids) + 1), r"is of \d+ tokens and not of the \d+ that were sent"),
        (
            lambda ids: [None, *({"9": {"logprob": -1.0}} for _ in ids[1:])],
            "are not its 8 likeliest and the token itself",
        ),
    ],
)
def test_another_tokenizer_or_a_silent_endpoint_is_one_line(
    student: Path,
    teacher: Path,
    traces: list[Traces],
    tmp_path: Path,
    vllms_server: Server,
    said: Any,
    why: str,
) -> None:
    """The token ids are sent, and each must be among those that are told of: other numbers are noticed."""
    vllms_server.tell = lambda body: said(body["prompt"])
    with pytest.raises(UserError, match=why) as problem:
        told(student, traces[0], tmp_path / "there", by(endpoint(vllms_server.url), teacher))
    assert "\n" not in str(problem.value) and not (tmp_path / "there" / ABOUT).exists()


def test_the_likeliest_are_taken_by_their_probability() -> None:
    """vLLM tells k tokens and the text's own, which counts where it is among the k; ties go to the smaller number."""
    said = [None, {"7": -0.5, "3": -1.5, "9": -1.5, "4": -9.0}, {"5": {"logprob": -0.1}, "2": {"logprob": -3.0}}]
    assert likely(0, [1, 4, 5], 1, said, 2).entries == [[7, 3], [5, 2]]
    with pytest.raises(UserError, match="are not its 3 likeliest"):
        likely(0, [1, 4, 5], 1, said, 3)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"stored": None}, "stored_by: nothing is stored"),
        ({"stored": "hidden"}, "stored_by: an engine tells its likeliest tokens alone, at temperature 1"),
    ],
)
def test_what_engines_do_not_tell_is_refused(teacher: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        by(VLLM, teacher, **settings)


def test_an_engine_that_tells_nothing_is_named(
    student: Path,
    teacher: Path,
    traces: list[Traces],
    tmp_path: Path,
) -> None:
    here = {"_target_": "bm.generate.engines.transformers", "batch": 4, "dtype": "float32", "device": "cpu"}
    with pytest.raises(UserError, match="the engine transformers does not tell log-probabilities of a text"):
        told(student, traces[0], tmp_path / "there", by(here, teacher))
    with pytest.raises(UserError, match=r"engine\.budget: holds for samples alone"):
        price = {"input": 2.0, "output": 0.0}
        told(
            student, traces[0], tmp_path / "b", by(endpoint("http://127.0.0.1:9/v1", price=price, budget=1.0), teacher)
        )
