"""The vLLM engine's replicas with a stand-in for vLLM, and the real one where there is a GPU."""

import importlib.metadata
import os
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bm.errors import UserError
from bm.generate import Sampling, sample, vllm_engine
from bm.generate.draw import stream
from bm.generate.engines import transformers, vllm

SAMPLING = Sampling(n=4, temperature=0.6, top_p=0.95, max_new_tokens=64, seed=1)
SETTINGS = {"dtype": "float32", "tensor_parallel": 2, "data_parallel": 2, "memory": 0.5, "chunk": 3, "timeout": 60}


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
    return [p for p in place.iterdir() if Path(f"/proc/{p.name}").exists()]


def test_every_gpu_of_every_replica_counts(folder, stand_in, monkeypatch):
    monkeypatch.setattr(vllm_engine, "version", lambda name: "0")
    assert vllm(folder, **SETTINGS).facts()["gpus"] == 4


def test_replicas_share_the_work_on_gpus_of_their_own(folder, stand_in, tmp_path):
    prompts = list("abcdef")
    got = sample(vllm(folder, **SETTINGS), prompts, SAMPLING, tmp_path / "j.jsonl")
    own = AutoTokenizer.from_pretrained(folder)
    for p, prompt in enumerate(prompts):
        for i, answer in enumerate(got[p]):
            seed = [10 + int(digit) for digit in str(stream(1, prompt, i) >> 1)]
            assert (answer.response, answer.finished) == (own.decode([*own.encode(prompt), *seed]), True)
            assert answer.tokens == 1 + len(seed)
    assert {p.read_text() for p in stand_in.iterdir()} <= {"4,5", "6,7"}
    assert not alive(stand_in)
    again = sample(vllm(folder, **SETTINGS), [*prompts, "g"], SAMPLING, tmp_path / "j.jsonl")
    assert again[:6] == got
    assert len(again[6]) == 4


def test_a_failing_replica_is_one_line(folder, stand_in, tmp_path):
    with pytest.raises(UserError, match=r"^vLLM: CUDA out of memory$"):
        sample(vllm(folder, **SETTINGS), ["a", "00"], SAMPLING, tmp_path / "j.jsonl")
    assert not alive(stand_in)


def test_silence_ends_the_run(folder, stand_in, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"said nothing for 8 s; 1 of 1 replicas are alive"):
        sample(vllm(folder, **SETTINGS | {"timeout": 8.0}), ["11"], Sampling(1, 0, 1, 8, 0), tmp_path / "j.jsonl")
    assert time.monotonic() - start < 60
    assert not alive(stand_in)


def test_prompts_go_through_the_chat_template(folder, stand_in):
    engine = vllm(folder, **SETTINGS)
    assert engine.render([{"role": "user", "content": "hi"}]) == "u:hi\na:"


def test_without_vllm_it_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr("bm.generate.engines.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'bm\[vllm\]'"):
        vllm(folder, **SETTINGS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_greedy_agrees_with_the_transformers_engine(folder, tmp_path):
    assert importlib.metadata.version("vllm")
    greedy = Sampling(1, 0, 1, 16, 0)
    one = vllm(folder, **SETTINGS | {"tensor_parallel": 1, "data_parallel": 1})
    theirs = sample(one, ["12+34", "ab"], greedy, tmp_path / "v.jsonl")
    ours = sample(transformers(folder, 2, "float32", "cuda"), ["12+34", "ab"], greedy, tmp_path / "t.jsonl")
    assert [row[0].response for row in theirs] == [row[0].response for row in ours]
