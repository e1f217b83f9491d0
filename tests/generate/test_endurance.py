"""Five hundred questions, four samples each, an endpoint that fails one request in ten, and kill -9."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bm.generate import Sampling
from bm.generate.journal import entries
from bm.generate.price import Price
from tests.generate.server import FAULTS, Server

QUESTIONS, SAMPLING, PARALLEL = 500, Sampling(4, 0.6, 0.95, 64, 1), 16
PRICE = Price(0.55, 2.19)
SCRIPT = f"""
import sys
from pathlib import Path
from bm.generate import Sampling, endpoint, sample
from bm.generate.engines import openai
from bm.generate.price import Price
endpoint.FIRST_PAUSE = 0.01
engine = openai(None, "r1", sys.argv[1], "SOME_KEY", {PARALLEL}, 0.3, 8, "stop", {PRICE}, 1e6)
got = sample(engine, [f"question {{i}}" for i in range({QUESTIONS})], {SAMPLING}, Path(sys.argv[2]))
assert [[s.response for s in row] for row in got] == [[f"QUESTION {{i}}"] * 4 for i in range({QUESTIONS})]
print(engine.price.total(s for row in got for s in row))
"""


def faulty(number: int) -> str | None:
    draw = random.Random(number)
    return draw.choice(FAULTS) if draw.random() < 0.1 else None


def start(server: Server, journal: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"SOME_KEY": "sk-s3cret"}
    command = [sys.executable, "-c", SCRIPT, server.url, str(journal)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(journal: Path) -> int:
    return sum(1 for _ in answers(journal))


def answers(journal: Path) -> Iterator[dict]:
    """Without the attempts, which are in the journal too."""
    return (entry for entry in entries(journal) if "response" in entry)


def asked(entry: dict) -> tuple[str, int]:
    return entry["key"], entry["index"]


@pytest.mark.slow
def test_nothing_is_lost_or_asked_twice_and_the_costs_add_up(server: Server, tmp_path: Path) -> None:
    """Guaranteed: what is in the journal is never asked again, and a kill loses at most `PARALLEL` answers."""
    server.fault, journal = faulty, tmp_path / "responses.jsonl"
    for share in (0.3, 0.7):
        process = start(server, journal)
        while lines(journal) < share * QUESTIONS * SAMPLING.n:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        time.sleep(0.5)  # the server may still be sending to nobody
        answered = sum(server.answered.values())
        kept = {asked(e) for e in answers(journal)}
        assert answered - len(kept) <= (PARALLEL if share == 0.3 else 2 * PARALLEL)
    before, known = len(server.requests), len(kept)
    process = start(server, journal)
    said, problems = process.communicate()
    assert process.returncode == 0, problems

    journalled = list(answers(journal))
    assert len(journalled) == len({asked(e) for e in journalled}) == QUESTIONS * SAMPLING.n == len(server.answered)
    assert len({(r["messages"][0]["content"], r["seed"]) for r in server.requests[before:]}) == len(journalled) - known
    twice = sum(server.answered.values()) - len(journalled)
    assert 0 <= twice <= 2 * PARALLEL
    extra = [question for (question, _), times in server.answered.items() for _ in range(times - 1)]
    lost = sum(PRICE.of(len(question), 2 * len(question)) for question in extra)
    bill = PRICE.of(server.bill["prompt"], server.bill["output"])
    assert float(said) + lost == pytest.approx(bill, rel=1e-12)
    faults = sum(faulty(number) is not None for number in range(1, len(server.requests) + 1))
    assert faults > 150, "the endpoint did misbehave"
    assert not any(b"s3cret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "s3cret" not in said + problems
