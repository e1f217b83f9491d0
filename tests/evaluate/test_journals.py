"""Every sample is kept by what the model is: a kill, a longer evaluation or another name repeats nothing."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bm.errors import UserError
from bm.evaluate import evaluate, likelihood
from bm.evaluate.model import LIKELIHOODS, RESPONSES
from bm.generate import Sampling, sample
from bm.generate.engines import openai
from bm.generate.openai_engine import TEMPLATE
from bm.generate.price import Price
from bm.store import Store, external, model_digest
from tests.evaluate.conftest import scripted, tiny
from tests.evaluate.scripted import Scripted
from tests.evaluate.test_parity import COMMON, KINDS
from tests.forked import Forked
from tests.generate.conftest import ARCHITECTURES, server
from tests.verify.conftest import verifying

__all__ = ["server"]

FILES = ("samples.parquet", "scores.json")


def run(work: Path, config, questions, journals=None, model=Path("not looked at")):
    work.mkdir()
    return evaluate(model, config, verifying(), ["math"], {"math": questions}, work, journals)


def lines(journals: Path, name: str = RESPONSES) -> list[dict]:
    return [json.loads(line) for path in journals.rglob(name) for line in path.read_text().splitlines()]


def test_a_limit_and_then_all_draws_each_sample_once(tmp_path, sums):
    path, script = sums
    config = tiny(engine=scripted(script))
    run(tmp_path / "alone", config, path)
    Scripted.asked = 0
    run(tmp_path / "part", tiny(engine=scripted(script), limit=7), path, tmp_path / "journals")
    assert Scripted.asked == 28
    run(tmp_path / "all", config, path, tmp_path / "journals")
    assert Scripted.asked == 80
    run(tmp_path / "again", config, path, tmp_path / "journals")
    assert Scripted.asked == 80
    for name in FILES:
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(FILES)


def test_other_sampling_or_another_engine_draws_its_own(tmp_path, sums, monkeypatch):
    path, script = sums
    run(tmp_path / "a", tiny(engine=scripted(script)), path, tmp_path / "journals")
    run(tmp_path / "b", tiny(engine=scripted(script), temperature=1.0), path, tmp_path / "journals")
    assert Scripted.asked == 160
    monkeypatch.setattr(Scripted, "facts", lambda self: {"engine": "scripted", "dtype": "float16"})
    run(tmp_path / "c", tiny(engine=scripted(script)), path, tmp_path / "journals")
    assert Scripted.asked == 240
    assert len(list((tmp_path / "journals").glob("*/engine.json"))) == 2


def test_first_questions_are_the_same_for_all_and_grow(tmp_path, sums):
    path, script = sums
    config, asked = tiny(engine=scripted(script)), []
    for first in (3, 8, None):
        work = tmp_path / str(first)
        work.mkdir()
        evaluate(Path("x"), config, verifying(), ["math"], {"math": path}, work, tmp_path / "journals", first)
        rows = pq.read_table(work / "samples.parquet").to_pylist()
        asked.append({row["question"] for row in rows})
        for row in rows:
            assert row["accepted"] == (row["sample"] < int(row["question"].removeprefix("sum")) % 5)
    assert [len(questions) for questions in asked] == [3, 8, 20]
    assert asked[0] < asked[1] < asked[2]
    assert Scripted.asked == 80


SCRIPT = """
import json, sys, time
from pathlib import Path
from bm.evaluate import evaluate
from tests.evaluate.conftest import scripted, tiny
from tests.evaluate.scripted import Scripted
from tests.verify.conftest import verifying
folder = Path(sys.argv[1])
script = json.loads((folder / "script.json").read_text())
generate = Scripted.generate
def slowly(self, prompts, sampling, known=()):
    for batch in generate(self, prompts, sampling, known):
        with (folder / "drawn").open("a") as file:
            file.writelines(f"{prompts[s.prompt]} {s.index}\\n" for s in batch)
        yield batch
        time.sleep(0.02)
Scripted.generate = slowly
work = Path(sys.argv[2])
work.mkdir(exist_ok=True)
evaluate(Path("x"), tiny(engine=scripted(script)), verifying(), ["math"], {"math": folder / "questions.parquet"}, work,
         folder / "journals")
"""


def words(folder: Path, work: str) -> list[object]:
    return ["-c", SCRIPT, folder, folder / work]


@pytest.fixture
def place(tmp_path, sums):
    (tmp_path / "script.json").write_text(json.dumps(sums[1]))
    return tmp_path


def test_kill_9_and_resume_draw_nothing_twice(place, sums, forked: Forked):
    run(place / "undisturbed", tiny(engine=scripted(sums[1])), sums[0])
    enough = f"sum(map(lines, Path({str(place / 'journals')!r}).rglob({RESPONSES!r}))) >= 20"
    forked.killed(words(place, "halted"), enough)
    kept = len(lines(place / "journals"))
    assert 20 <= kept < 80
    assert forked.run(words(place, "halted")) == 0
    drawn = (place / "drawn").read_text().splitlines()
    assert len(drawn) == len(set(drawn)) == len(lines(place / "journals")) == 80
    for name in FILES:
        assert (place / "halted" / name).read_bytes() == (place / "undisturbed" / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_a_journal_without_harm(place, forked):
    both = [forked.start(words(place, work)) for work in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0]
    times = Counter((line["key"], line["index"]) for line in lines(place / "journals"))
    assert (len(times), set(times.values())) == (80, {1})
    assert len((place / "drawn").read_text().splitlines()) == 80
    for name in FILES:
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()


@pytest.fixture
def model(tmp_path, tokenizer) -> Path:
    ARCHITECTURES["qwen2"]().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_is_known_by_its_weights_whatever_it_is_called(tmp_path, model):
    shutil.copytree(model, tmp_path / "renamed")
    (tmp_path / "renamed" / "README.md").write_text("another card")
    store = Store(tmp_path / "store")
    assert external(model).key != external(tmp_path / "renamed").key
    assert store.journals(external(model)) == store.journals(external(tmp_path / "renamed"))
    made = store.make("branch", "m", {}, [], [], lambda work: shutil.copytree(model, work, dirs_exist_ok=True) and {})
    assert model_digest(made) == model_digest(external(model))
    with (tmp_path / "renamed" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert model_digest(external(tmp_path / "renamed")) != model_digest(external(model))


def test_likelihoods_are_kept_too(tmp_path, model, monkeypatch):
    """Interrupted after two pieces, then resumed: only the rest is computed, and the numbers are the same."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    with (tasks / "data.jsonl").open("w") as file:
        for k in range(24):
            row = {"a": "ab" * (1 + k % 5), "b": str(k), "options": [str(k + j) for j in range(3)], "gold": k % 3,
                   "text": "ab " * (1 + k), "first": "-"}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    for kind in ("choice", "rolling"):
        (tasks / f"{kind}.yaml").write_text(
            f"task: {kind}\n" + (COMMON + KINDS[kind]).format(data=tasks / "data.jsonl")
        )
    engine = {"_target_": "bm.generate.engines.transformers", "batch": 1, "dtype": "float32", "device": "cpu"}
    config = tiny(samples=1, chat_template=False, include_path=tasks, engine=engine)
    asked: list[int] = []
    original = likelihood.write

    def counted(file, entries):
        original(file, entries)
        asked.append(len(entries))
        if len(asked) == patience:
            raise KeyboardInterrupt

    def scored(work):
        (tmp_path / work).mkdir(exist_ok=True)
        evaluate(model, config, verifying(), ["choice", "rolling"], {}, tmp_path / work)

    monkeypatch.setattr(likelihood, "write", counted)
    patience = 0
    scored("whole")
    total, asked = sum(asked), []
    patience = 2
    with pytest.raises(KeyboardInterrupt):
        scored("halted")
    assert len(lines(tmp_path / "halted", LIKELIHOODS)) == sum(asked) == 32
    patience = 0
    scored("halted")
    assert sum(asked) == total
    for name in FILES:
        assert (tmp_path / "halted" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


ENDPOINT = {"_target_": "bm.generate.engines.openai", "served": "r1", "key": None, "timeout": 60, "retries": 0,
            "refused": "stop", "price": {"input": 1.0, "output": 100.0}}  # fmt: skip


def at(server, **settings):
    return tiny(engine=ENDPOINT | {"base_url": server.url, "parallel": 4, "budget": None} | settings, samples=1)


def test_an_endpoint_is_asked_once_however_it_is_reached(tmp_path, sums, server):
    """By another address, with more requests at a time, for more questions, or within another budget."""
    path, _ = sums
    first = at(server)
    run(tmp_path / "a", replace(first, limit=15), path, tmp_path / "journals")
    assert len(server.requests) == 15
    other = at(server, base_url=server.url.replace("127.0.0.1", "localhost"), parallel=16, timeout=9, budget=99)
    run(tmp_path / "b", replace(other, limit=15), path, tmp_path / "journals")
    run(tmp_path / "c", other, path, tmp_path / "journals")
    assert len(server.requests) == 20


def test_a_budget_is_one_for_all_samplings_of_an_evaluation(tmp_path, server):
    """lm-eval's tasks differ in their sampling, and an evaluation asks for each kind by itself."""
    worst = Price(1.0, 100.0).of(len("q1") + TEMPLATE, 256)
    prompts, settings = ["q1", "q2"], {k: v for k, v in ENDPOINT.items() if k not in ("_target_", "price")}
    engine = openai(None, **settings, base_url=server.url, parallel=1, price=Price(1.0, 100.0), budget=1.1 * worst)
    server.message = lambda body: {"content": "x" * 120}
    sample(engine, prompts[:1], Sampling(1, 0, 1, 256, 0), tmp_path / "j.jsonl")
    with pytest.raises(UserError, match=r"the budget of .* has no room"):
        sample(engine, prompts[1:], Sampling(1, 0.5, 1, 256, 0), tmp_path / "j.jsonl")
    assert len(server.requests) == 1
