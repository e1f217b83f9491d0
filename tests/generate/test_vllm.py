"""The vLLM engine's replicas with a stand-in for vLLM, and the real one where there is a GPU."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bm.errors import UserError
from bm.generate import Sampling, sample, vllm_engine
from bm.generate.draw import stream
from bm.generate.engines import transformers, vllm

SAMPLING = Sampling(n=4, temperature=0.6, top_p=0.95, max_new_tokens=64, seed=1)
SETTINGS = {"dtype": "float32", "tensor_parallel": 2, "data_parallel": 2, "memory": 0.5, "parallel": 3, "timeout": 60,
            "python": Path(sys.executable)}  # fmt: skip


@pytest.fixture
def folder(qwen2, tokenizer, tmp_path):
    qwen2.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Where the stand-in's processes note which GPUs they see."""
    place = tmp_path / "seen"
    place.mkdir()
    beside = Path(__file__).parent / "stand_in"
    monkeypatch.syspath_prepend(str(beside))
    monkeypatch.setenv("PYTHONPATH", f"{beside}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("STAND_IN", str(place))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    return place


def alive(place):
    return [p for p in replicas(place) if Path(f"/proc/{p.name}").exists()]


def replicas(place):
    """Every replica that there has been."""
    return [p for p in place.iterdir() if not p.suffix]


@pytest.fixture(autouse=True)
def ended():
    """Replicas outlive a call; none outlives its test."""
    yield
    vllm_engine.installed.cache_clear()
    if vllm_engine._current is not None:
        vllm_engine._current.end()
        vllm_engine._current = None


def test_every_gpu_of_every_replica_counts(folder, stand_in):
    facts = vllm(folder, **SETTINGS).facts()
    assert (facts["gpus"], facts["version"]) == (4, "0.33.0")


def test_replicas_share_the_work_on_gpus_of_their_own(folder, stand_in, tmp_path):
    prompts = list("abcdef")
    got = sample(vllm(folder, **SETTINGS), prompts, SAMPLING, tmp_path / "j.jsonl")
    own = AutoTokenizer.from_pretrained(folder)
    for p, prompt in enumerate(prompts):
        for i, answer in enumerate(got[p]):
            seed = [10 + int(digit) for digit in str(stream(1, prompt, i) >> 1)]
            assert (answer.response, answer.finished) == (own.decode([*own.encode(prompt), *seed]), True)
            assert answer.tokens == 1 + len(seed)
    assert {p.read_text() for p in replicas(stand_in)} == {"4,5", "6,7"}
    assert all(int(p.read_text()) <= 3 for p in stand_in.glob("*.most"))


def test_replicas_stay_for_the_next_task_and_go_for_the_next_model(folder, stand_in, tmp_path):
    engine = vllm(folder, **SETTINGS)
    got = sample(engine, ["a", "b"], SAMPLING, tmp_path / "j.jsonl")
    first = alive(stand_in)
    again = sample(engine, ["a", "b", "c"], SAMPLING, tmp_path / "j.jsonl")
    assert again[:2] == got and len(again[2]) == 4
    assert alive(stand_in) == first == replicas(stand_in)
    sample(vllm(folder, **SETTINGS), ["d"], SAMPLING, tmp_path / "j.jsonl")
    assert len(replicas(stand_in)) == 4 and not set(first) & set(alive(stand_in))


def test_few_rows_go_to_every_replica(folder, stand_in, tmp_path):
    sample(vllm(folder, **SETTINGS | {"parallel": 256}), ["a"], SAMPLING, tmp_path / "j.jsonl")
    assert all(int(p.read_text()) <= 2 for p in stand_in.glob("*.most"))


def test_sequences_are_no_longer_than_asked(folder, stand_in, tmp_path, monkeypatch):
    """A cache for the whole of the model's context would not fit the card; one for prompt and response does."""
    monkeypatch.setenv("STAND_IN_BYTES", str(1 << 22))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 131072}))
    assert len(sample(vllm(folder, **SETTINGS), ["a"], SAMPLING, tmp_path / "j.jsonl")[0]) == 4
    with pytest.raises(UserError, match="more KV cache is needed"):
        sample(vllm(folder, **SETTINGS), ["a"], replace(SAMPLING, max_new_tokens=100_000), tmp_path / "j.jsonl")


def test_a_replica_that_dies_is_noticed_at_once(folder, stand_in, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"a replica has ended \(exit status -9\)"):
        sample(vllm(folder, **SETTINGS | {"timeout": 500}), ["a", "22"], SAMPLING, tmp_path / "j.jsonl")
    assert time.monotonic() - start < 120 and not alive(stand_in)


def test_a_failing_replica_is_one_line(folder, stand_in, tmp_path):
    with pytest.raises(UserError, match=r"^vLLM: CUDA out of memory$"):
        sample(vllm(folder, **SETTINGS), ["a", "00"], SAMPLING, tmp_path / "j.jsonl")
    assert not alive(stand_in)


def test_silence_ends_the_run(folder, stand_in, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"said nothing for 8 s though its replicas are alive"):
        sample(vllm(folder, **SETTINGS | {"timeout": 8.0}), ["11"], Sampling(1, 0, 1, 8, 0), tmp_path / "j.jsonl")
    assert time.monotonic() - start < 60
    assert not alive(stand_in)


def test_prompts_go_through_the_chat_template(folder, stand_in):
    engine = vllm(folder, **SETTINGS)
    assert engine.render([{"role": "user", "content": "hi"}]) == "u:hi\na:"


@pytest.mark.parametrize("python", [sys.executable, "nosuch/bin/python"])
def test_without_vllm_it_says_how_to_get_it(folder, python):
    vllm_engine.installed.cache_clear()
    with pytest.raises(UserError, match=r"finds no vLLM by .*python.*: `make vllm` installs it"):
        vllm(folder, **SETTINGS | {"python": Path(python)})


VLLM = Path(__file__).parents[2] / ".venv-vllm/bin/python"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not VLLM.exists(), reason="no CUDA device, or no `make vllm`")
def test_greedy_agrees_with_the_transformers_engine(folder, tmp_path):
    greedy = Sampling(1, 0, 1, 16, 0)
    engine = vllm(folder, **SETTINGS | {"tensor_parallel": 1, "data_parallel": 1, "python": VLLM})
    theirs = sample(engine, ["12+34", "ab"], greedy, tmp_path / "v.jsonl")
    ours = sample(transformers(folder, 2, "float32", "cuda"), ["12+34", "ab"], greedy, tmp_path / "t.jsonl")
    assert [row[0].response for row in theirs] == [row[0].response for row in ours]
