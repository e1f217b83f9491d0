"""The OpenAI-compatible engine against a server on the loopback that behaves, misbehaves, and thinks aloud."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bm.errors import UserError
from bm.generate import Sampling, sample
from bm.generate.engines import openai

SAMPLING = Sampling(n=3, temperature=0.6, top_p=0.95, max_new_tokens=64, seed=1)


class Server(ThreadingHTTPServer):
    """Answers with the question in capitals; keeps every request; fails the first `failures` with 503."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.failures, self.together, self.most = [], 0, 0, 0
        self.message = lambda body: {"content": body["messages"][-1]["content"].upper()}
        self.finish, self.lock = "stop", threading.Lock()
        self.gate = threading.Barrier(1)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(body)
            server.secret = self.headers["Authorization"]
            server.failures -= 1
            fail = server.failures >= 0
        server.gate.wait(10)
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                  "choices": [{"index": 0, "finish_reason": server.finish,
                               "message": {"role": "assistant"} | server.message(body)}],
                  "usage": {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}}  # fmt: skip
        data = json.dumps({"error": {"message": "busy"}} if fail else answer).encode()
        self.send_response(503 if fail else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def engine(server, **changes):
    settings = {"served": "r1", "base_url": server.url, "key": None, "parallel": 4, "timeout": 5, "retries": 2}
    return openai(None, **(settings | changes))


def test_conversations_sampling_and_seeds_reach_the_endpoint(server, tmp_path):
    asked = engine(server)
    prompts = [asked.render([{"role": "system", "content": "Think."}, {"role": "user", "content": q}]) for q in "ab"]
    got = sample(asked, [*prompts, "plain"], SAMPLING, tmp_path / "j.jsonl")
    assert [[s.response for s in row] for row in got] == [["A"] * 3, ["B"] * 3, ["PLAIN"] * 3]
    assert {(s.tokens, s.finished) for row in got for s in row} == {(7, True)}
    first = next(r for r in server.requests if r["messages"][-1]["content"] == "a")
    assert first["messages"][0] == {"role": "system", "content": "Think."}
    expected = {"model": "r1", "temperature": 0.6, "top_p": 0.95, "max_tokens": 64}
    assert first | expected == first
    assert "stop" not in first
    assert len({r["seed"] for r in server.requests}) == 9
    assert all(0 <= r["seed"] < 2**31 for r in server.requests)
    seeds = Counter((json.dumps(r["messages"]), r["seed"]) for r in server.requests)
    sample(asked, [*prompts, "plain"], SAMPLING, tmp_path / "again.jsonl")
    assert Counter((json.dumps(r["messages"]), r["seed"]) for r in server.requests[9:]) == seeds


def test_requests_are_under_way_together(server, tmp_path):
    server.gate = threading.Barrier(3)
    sample(engine(server, parallel=3), ["a", "b"], SAMPLING, tmp_path / "j.jsonl")
    assert len(server.requests) == 6


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_that_comes_apart_is_put_back(server, tmp_path, field):
    server.message = lambda body: {"content": "4", field: "two and two\n"}
    ((got,),) = sample(engine(server), ["2+2"], Sampling(1, 0, 1, 64, 0), tmp_path / "j.jsonl")
    assert got.response == "<think>\ntwo and two\n</think>\n\n4"
    server.message, server.finish = lambda body: {"content": None, field: "two and"}, "length"
    ((got,),) = sample(engine(server), ["2+3"], Sampling(1, 0, 1, 64, 0), tmp_path / "j.jsonl")
    assert (got.response, got.finished) == ("<think>\ntwo and", False)


def test_a_busy_endpoint_is_asked_again(server, tmp_path):
    server.failures = 2
    ((got,),) = sample(engine(server), ["a"], Sampling(1, 0, 1, 64, 0), tmp_path / "j.jsonl")
    assert got.response == "A"
    assert len(server.requests) == 3


def test_a_dead_endpoint_is_one_line_and_keeps_what_came(server, tmp_path):
    journal = tmp_path / "j.jsonl"
    sample(engine(server), ["a"], SAMPLING, journal)
    server.failures = 1000
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*r1.*503"):
        sample(engine(server, retries=0), ["a", "b"], SAMPLING, journal)
    server.failures, before = 0, len(server.requests)
    sample(engine(server), ["a", "b"], SAMPLING, journal)
    assert [r["messages"][0]["content"] for r in server.requests[before:]] == ["b"] * 3


def test_stop_strings_and_keys(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    sample(engine(server, key="SOME_KEY"), ["a"], Sampling(1, 0, 1, 64, 0, ("Q:",)), tmp_path / "j.jsonl")
    assert server.requests[0]["stop"] == ["Q:"]
    assert server.secret == "Bearer s3cret"
    assert "s3cret" not in json.dumps(engine(server, key="SOME_KEY").facts())
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(UserError, match="set the environment variable SOME_KEY"):
        engine(server, key="SOME_KEY")
