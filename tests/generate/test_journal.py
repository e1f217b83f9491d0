"""Samples on disk: complete, never twice, and the same after a kill as without one."""

import errno
import json
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from bm.generate import Sample, Sampling, sample
from bm.generate.journal import appending

SAMPLING = Sampling(n=3, temperature=1, top_p=1, max_new_tokens=8, seed=0)


class Counting:
    """Two prompts a batch; every response names what it answers and how many were made."""

    def __init__(self, fail_after=None):
        self.made, self.fail_after = 0, fail_after

    def facts(self):
        return {"engine": "counting"}

    def render(self, messages):
        return messages[-1]["content"]

    def generate(self, prompts, sampling, known=()):
        for start in range(0, len(prompts), 2):
            batch = [(p, i) for p in range(start, min(start + 2, len(prompts))) for i in range(sampling.n)]
            if all(row in known for row in batch):
                continue
            if self.fail_after is not None and self.made >= self.fail_after:
                raise KeyboardInterrupt
            self.made += len(batch)
            yield [Sample(p, i, f"{prompts[p]} – {i}\n", i, i != 1) for p, i in batch]


def test_samples_come_in_order_with_all_they_hold(tmp_path):
    got = sample(Counting(), ["a", "b", "c"], SAMPLING, tmp_path / "j.jsonl")
    assert got == [[Sample(p, i, f"{name} – {i}\n", i, i != 1) for i in range(3)] for p, name in enumerate("abc")]


def test_resume_repeats_nothing(tmp_path):
    prompts, journal = list("abcdefg"), tmp_path / "j.jsonl"
    whole = sample(Counting(), prompts, SAMPLING, tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        sample(Counting(fail_after=12), prompts, SAMPLING, journal)
    second = Counting()
    assert sample(second, prompts, SAMPLING, journal) == whole
    assert second.made == 9
    assert journal.read_text() == (tmp_path / "whole.jsonl").read_text()
    third = Counting()
    assert sample(third, prompts, SAMPLING, journal) == whole
    assert third.made == 0


def test_half_a_line_is_not_read(tmp_path):
    journal = tmp_path / "j.jsonl"
    whole = sample(Counting(), list("abcd"), SAMPLING, journal)
    text = journal.read_bytes()
    for cut in (1, 20, len(text.splitlines()[-1]) + 5):
        journal.write_bytes(text[:-cut])
        assert sample(Counting(), list("abcd"), SAMPLING, journal) == whole
        assert len({(e["key"], e["index"]) for e in map(json.loads, journal.read_text().splitlines())}) == 12


def test_other_sampling_is_not_taken_for_known(tmp_path):
    engine = Counting()
    sample(engine, ["a"], SAMPLING, tmp_path / "j.jsonl")
    sample(engine, ["a"], Sampling(3, 0.5, 1, 8, 0), tmp_path / "j.jsonl")
    assert engine.made == 6
    sample(engine, ["a"], Sampling(4, 0.5, 1, 8, 0), tmp_path / "j.jsonl")
    assert engine.made == 10


def test_equal_prompts_are_answered_alike(tmp_path):
    got = sample(Counting(), ["a", "b", "b"], SAMPLING, tmp_path / "j.jsonl")
    assert [s.response for s in got[1]] == [s.response for s in got[2]]


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from tests.generate.conftest import ARCHITECTURES
from pathlib import Path
from transformers import AutoTokenizer
from bm.generate import Sampling, sample
from bm.generate.transformers_engine import TransformersEngine
torch.manual_seed(3)
model = ARCHITECTURES["qwen2"]()
work = Path(sys.argv[1])
engine = TransformersEngine(model, AutoTokenizer.from_pretrained(work / "tokenizer"), 4)
sample(engine, [f"{i}+{i}" for i in range(40)], Sampling(3, 1.0, 0.9, 100, 1), work / sys.argv[2])
"""


@pytest.mark.timeout(180)  # three processes that load torch, on a machine that may be busy
def test_a_killed_process_goes_on_where_it_was(tmp_path, tokenizer, forked):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    command = ["-c", SCRIPT, tmp_path]
    killed = tmp_path / "killed.jsonl"
    forked.killed([*command, killed.name], f"lines({str(killed)!r}) > 15")
    before = killed.read_text().splitlines()
    assert 0 < len(before) < 120
    assert forked.run([*command, killed.name]) == forked.run([*command, "whole.jsonl"]) == 0
    assert killed.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_sample_says_who_asked_for_it_first(tmp_path):
    journal, engine = tmp_path / "j.jsonl", Counting()
    sample(engine, ["a"], SAMPLING, journal, asked_by="one")
    first, second = sample(engine, ["a", "b"], SAMPLING, journal, asked_by="two")
    assert {s.asked_by for s in first} == {"one"}
    assert {s.asked_by for s in second} == {"two"}
    ((again, *_),) = sample(engine, ["b"], SAMPLING, journal, asked_by="one")
    assert again.asked_by == "two"


def test_a_journal_without_prompt_tokens_is_read(tmp_path):
    """As version 0.1.0 wrote them."""
    engine, journal = Counting(), tmp_path / "j.jsonl"
    whole = sample(engine, ["a", "b"], SAMPLING, journal)
    old = [
        {k: v for k, v in json.loads(line).items() if k not in ("prompt_tokens", "asked_by")} for line in journal.open()
    ]
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    assert sample(engine, ["a", "b"], SAMPLING, journal) == whole
    assert engine.made == 6


def test_without_flock_a_lock_file_keeps_two_from_writing(tmp_path, monkeypatch):
    """As on some network file systems: the lock is the existence of a file, and it goes with the writer."""

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("filelock._unix.fcntl.flock", missing)
    journal, inside = tmp_path / "j.jsonl", []

    def write(index):
        with appending(journal) as file:
            inside.append(index)
            assert inside == [index]
            time.sleep(0.1)
            file.write(b"{}\n")
            inside.clear()

    with warnings.catch_warnings(), ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("ignore")
        list(pool.map(write, range(3)))
    assert journal.read_bytes() == b"{}\n" * 3
