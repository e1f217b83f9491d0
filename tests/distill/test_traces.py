import itertools
import os
import signal
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from bm.distill import distill, questions
from bm.distill.traces import QUESTION, TRACE
from bm.generate import Sample
from bm.verify import Case, verify
from bm.yaml import read_yaml
from tests.distill.conftest import CONF, distilling
from tests.forked import Forked
from tests.verify.conftest import verifying


def distilled(domain, teacher, part, count, work, **settings):
    """A domain's own traces, held against no evaluation task."""
    return distill(domain, teacher, distilling(domain, **settings), verifying(), part, count, 42, {}, work)


def rows(path):
    return pq.read_table(path).to_pylist()


def test_the_funnel_adds_up_and_names_every_rejection(domain, teacher, tmp_path):
    funnel = distilled(domain, teacher, "train", 600, tmp_path)
    kept, rejected = rows(tmp_path / "traces.parquet"), rows(tmp_path / "rejected.parquet")
    assert funnel["asked"] == funnel["answered"] == len(kept) + len(rejected) == 600
    assert funnel["verified"] == funnel["kept"] == len(kept)
    assert sum(funnel["rejected"].values()) == len(rejected) > 0
    assert all(row["reason"] in funnel["rejected"] for row in rejected)
    assert funnel["duplicates"] >= 0


def test_kept_traces_verify_again_and_rejected_ones_do_not(domain, teacher, tmp_path):
    distilled(domain, teacher, "train", 300, tmp_path)
    for name, accepted in (("traces", True), ("rejected", False)):
        for row in rows(tmp_path / f"{name}.parquet"):
            case = Case(row["verifier"], row["response"], row["answer"], row["metadata"])
            assert verify(case, verifying()).accepted is accepted


def test_files_hold_the_documented_columns_as_strings_and_nothing_else_is_left(domain, teacher, tmp_path):
    distilled(domain, teacher, "student", 50, tmp_path)
    questions(replace(domain, questions=40), 42, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "questions.parquet",
        "rejected.parquet",
        "traces.parquet",
    ]
    for name, columns in (("questions", QUESTION), ("traces", TRACE), ("rejected", (*TRACE, "reason"))):
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert schema.names == list(columns)
        assert {str(kind) for kind in schema.types} == {"string"}


def test_evaluation_questions_are_as_many_as_asked_and_in_no_trace(domain, teacher, tmp_path):
    assert questions(domain, 42, tmp_path)["questions"] == domain.questions
    evaluation = {row["id"] for row in rows(tmp_path / "questions.parquet")}
    assert len(evaluation) == domain.questions
    for part in ("student", "train"):
        distilled(domain, teacher, part, 500, tmp_path)
        assert not evaluation & {row["id"] for row in rows(tmp_path / "traces.parquet")}


def test_the_same_arguments_give_the_same_bytes(domain, teacher, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        distilled(domain, teacher, "train", 200, tmp_path / name)
    for file in ("traces.parquet", "rejected.parquet", "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("domain", ["math"], indirect=True)
def test_a_killed_run_goes_on_and_asks_nothing_twice(domain, teacher, tmp_path, monkeypatch, forked: Forked):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir(), killed.mkdir()
    expected = distilled(domain, teacher, "train", 1000, undisturbed)
    code = f"""
import os, signal
from pathlib import Path
from bm.config import Component, Domain, typed
from bm.distill.teachers.worked import WorkedSolutions
from tests.distill.test_traces import distilled
work, drawn = WorkedSolutions._solution, []
def fatal(self, *arguments):
    drawn.append(arguments)
    if len(drawn) > 700:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(self, *arguments)
WorkedSolutions._solution = fatal
domain = typed(Domain, {config_of(domain)!r})
teacher = Component({teacher.target!r}, {dict(teacher.parameters)!r})
distilled(domain, teacher, "train", 1000, Path({str(killed)!r}))
"""
    assert forked.run(["-c", code]) == -signal.SIGKILL
    survived = (killed / "responses.jsonl").read_bytes().splitlines()
    assert 500 <= len(survived) < 1000
    with (killed / "responses.jsonl").open("ab") as file:
        file.write(survived[0][:20])  # a response that the crash cut short

    from bm.distill.teachers.worked import WorkedSolutions

    solution, again = WorkedSolutions._solution, itertools.count()
    monkeypatch.setattr(WorkedSolutions, "_solution", lambda *a: (next(again), solution(*a))[1])
    assert distilled(domain, teacher, "train", 1000, killed) == expected
    assert next(again) == 1000 - len(survived)
    assert sorted(os.listdir(killed)) == sorted(os.listdir(undisturbed))
    for file in os.listdir(undisturbed):
        assert (killed / file).read_bytes() == (undisturbed / file).read_bytes()


def config_of(domain):
    from bm.config import resolved

    return resolved(domain)


def test_a_teacher_that_never_closes_its_reasoning_keeps_nothing(domain, teacher, tmp_path, monkeypatch):
    from bm.distill.teachers.worked import WorkedSolutions

    def rambling(self, prompts, sampling, known=()):
        yield [Sample(p, 0, "<think>\nand so on, and so", tokens=5, finished=False) for p in range(len(prompts))]

    monkeypatch.setattr(WorkedSolutions, "generate", rambling)
    funnel = distilled(domain, teacher, "train", 20, tmp_path)
    assert funnel["kept"] == 0
    assert funnel["rejected"] == {"unclosed reasoning": 20}
    assert rows(tmp_path / "traces.parquet") == []


@pytest.mark.parametrize("domains", [("math", "coding", "science")])
def test_domains_draw_on_different_generators(domains):
    used = [set(read_yaml(CONF / "domain" / f"{name}.yaml")["source"]["generators"]) for name in domains]
    for generators, others in itertools.combinations(used, 2):
        assert not generators & others
