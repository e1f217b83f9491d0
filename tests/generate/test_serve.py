"""A real server of Hugging Face's, asked as any endpoint: `transformers serve` on a folder."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bm.errors import UserError
from bm.generate import Sampling, sample
from bm.generate.engines import openai, transformers
from tests.generate.conftest import ARCHITECTURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {"key": None, "parallel": 4, "timeout": 120, "retries": 2, "refused": "stop", "price": None, "budget": None}
SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> Path:
    place = tmp_path_factory.mktemp("served") / "model"
    torch.manual_seed(3)
    # not qwen2: for that the server looks in the prompt for ChatML's marker of a turn, and repeats a prompt without one
    ARCHITECTURES["llama"]().save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory) -> Iterator[str]:
    """Where it answers, once it does."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "serve.log"
    command = [sys.executable, "-c", SERVE, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        while True:
            assert process.poll() is None, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_a_real_server_answers_as_the_engine_of_this_machine(address, folder, tmp_path):
    """Sixteen asked, sixteen answered, each with its counts; the greedy ones token by token as here."""
    engine = openai(None, served=str(folder), base_url=address, **SETTINGS)
    messages = [[{"role": "user", "content": f"{k}+{k}"}] for k in range(4)]
    warm = Sampling(n=4, temperature=0.7, top_p=0.9, max_new_tokens=12, seed=1)
    got = sample(engine, [engine.render(m) for m in messages], warm, tmp_path / "warm.jsonl")
    assert [len(row) for row in got] == [4] * 4
    assert all(s.response and 0 < s.tokens <= 13 and s.prompt_tokens > 0 for row in got for s in row)
    greedy, local = Sampling(1, 0, 1, 12, 0), transformers(folder, 4, "float32", "cpu")
    here = sample(local, [local.render(m) for m in messages], greedy, tmp_path / "here.jsonl")
    there = sample(engine, [engine.render(m) for m in messages], greedy, tmp_path / "there.jsonl")
    assert [t.response for (t,) in there] == [h.response for (h,) in here] and all(h.response for (h,) in here)


def test_what_a_real_server_refuses_is_one_line(address, folder, tmp_path):
    nobody = openai(None, served=str(folder), base_url=f"http://127.0.0.1:{free_port()}/v1", **SETTINGS)
    with pytest.raises(UserError, match=r"cannot be reached: .*; check its base_url"):
        sample(nobody, ["a"], Sampling(1, 0, 1, 4, 0), tmp_path / "j.jsonl")
    elsewhere = openai(None, served=str(folder), base_url=address.removesuffix("/v1") + "/v2", **SETTINGS)
    with pytest.raises(UserError, match="has no such model or address"):
        sample(elsewhere, ["a"], Sampling(1, 0, 1, 4, 0), tmp_path / "k.jsonl")
