"""A teacher's answers are kept by what was asked of whom: nothing that changes around them is paid for again."""

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from bm.cli import conf_dir
from bm.config import Experiment, load
from bm.distill.selection import Question, part_of
from bm.errors import UserError
from bm.ledger import Ledger
from bm.stages import Stages
from bm.store import Artefact, Store
from tests.conftest import Bm
from tests.forked import Forked
from tests.generate.server import Server, serving

Asked = Callable[..., int]
ROWS = 40


def row(n: int) -> str:
    return json.dumps({"question": f"What is {n} + {n}?", "answer": 2 * n}) + "\n"


def doubled(body: dict) -> dict:
    """The right answer, with its reasoning apart."""
    (n, _) = re.findall(r"\d+", body["messages"][-1]["content"])
    return {"reasoning_content": "It is known.", "content": str(2 * int(n))}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.message = doubled
        yield running


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A source of 40 rows."""
    (tmp_path / "set.jsonl").write_text("".join(map(row, range(ROWS))))
    return tmp_path / "set.jsonl"


@pytest.fixture
def words(server: Server, rows: Path) -> list[str]:
    return [f"paths.outputs={rows.parent / 'outputs'}", "domain=jsonl", f"domains.jsonl.source.path={rows}",
            "domains.jsonl.traces=10", "domains.jsonl.questions=2", "teacher=server", "teacher.engine.served=m",
            f"teacher.engine.base_url={server.url}"]  # fmt: skip


def stages(words: list[str]) -> Stages:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(Experiment, compose("distill", words))
    return Stages(Store(config.paths.outputs / "store"), config)


def made(words: list[str]) -> Artefact:
    pipeline = stages(words)
    return pipeline.distill(pipeline.config.domains["jsonl"])


@pytest.fixture
def asked(server: Server, words: list[str]) -> Asked:
    """How many requests a distillation with these overrides sends."""

    def run(*overrides: str) -> int:
        before = len(server.requests)
        made([*words, *overrides])
        return len(server.requests) - before

    return run


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        (["domains.jsonl.traces=12"], 2),
        (["verify.seconds=20"], 0),
        (["distill.min_characters=1"], 0),
        (["distill.policy=all_correct"], 0),
        (["teacher.samples=3"], 20),
        (["teacher.engine.key=SOME_KEY", "verify.seconds=20"], 0),
        (["teacher.engine.base_url=http://127.0.0.1:9/v1", "verify.seconds=20"], 0),
        (["teacher.engine.served=another"], 10),
        (["teacher.temperature=1"], 10),
        (["teacher.prompt.system=Think."], 10),
    ],
)
def test_only_what_is_new_is_asked(asked: Asked, changes: list[str], new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    assert asked() == 10
    assert asked(*changes) == new


def test_another_evaluation_task_asks_nothing(asked: Asked, tmp_path: Path) -> None:
    aime = tmp_path / "aime.jsonl"
    aime.write_text(json.dumps({"id": 1, "problem": "In how many ways can seven sit at a table?", "answer": "36"}))
    assert asked() == 10
    assert asked("evaluate.tasks=[aime24]", f"evaluate.data.aime24={aime}") == 0


def test_an_appended_row_asks_one(asked: Asked, rows: Path) -> None:
    """All questions of a set, or the first of its order: a row at its end moves none of those before it."""
    everything = "domains.jsonl.traces=null"
    first = asked(everything)
    numbers = (
        n for n in range(ROWS, 99) if part_of(Question("", "", "", f"What is {n} + {n}?", "", "", "")) == "train"
    )
    for _ in range(3):
        with rows.open("a") as file:
            file.write(row(next(numbers)))
        assert asked(everything) == 1
        assert asked() == 0, "the first ten are among all that were asked"
    assert first > 20


def test_an_artefact_bears_the_cost_of_what_it_asked_itself(words: list[str]) -> None:
    priced = [*words, "teacher.engine.price={input: 1, output: 1e4}"]
    narrow, wide = made(priced), made([*priced, "domains.jsonl.traces=12"])
    teacher = wide.facts["teacher"]
    assert (teacher["responses"], teacher["own"]["responses"]) == (12, 2)
    assert narrow.facts["teacher"]["own"]["cost"] == narrow.facts["teacher"]["cost"] > 0
    total = Ledger([narrow, wide], wide_prices(words)).behind(narrow, wide)
    assert total.tokens == teacher["tokens"]
    assert total.money == pytest.approx(teacher["cost"], abs=0.01)


def wide_prices(words: list[str]) -> Any:
    return stages(words).config.prices


@pytest.mark.slow
def test_two_processes_at_once_ask_each_question_once(
    server: Server, words: list[str], tmp_path: Path, forked: Forked
) -> None:
    server.message = lambda body: (time.sleep(0.1), doubled(body))[1]
    others = [*words, "teacher.engine.parallel=1"]
    running = [forked.start(["bm", "distill", *others, f"distill.min_characters={n}"], cwd=tmp_path) for n in (1, 2)]
    assert [process.wait() for process in running] == [0, 0]
    assert len(list((tmp_path / "outputs/store/distill").glob("*/manifest.json"))) == 2
    assert len(server.requests) == 10
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize("stage", ["distill", "run"])
def test_no_trace_at_all_ends_with_one_line_and_keeps_the_responses(
    bm: Bm, server: Server, words: list[str], tmp_path: Path, stage: str
) -> None:
    server.message = lambda body: {"content": "42"}
    asked, more = ("math student", ["student.domains.math.traces=10"]) if stage == "run" else ("jsonl train", [])
    said = bm(stage, *words, *more, cwd=tmp_path)
    last = said.stderr.strip().splitlines()[-1]
    assert said.returncode == 2, said.stderr
    assert last.startswith(f"bm: {asked}: none of 10 responses became traces (no reasoning: 10); a trace is <think>")
    assert "teacher.reasoning=wrapped" in last
    assert Path(last.split("; ")[-1].split(" has every")[0]).is_file()
    assert "Traceback" not in said.stderr


def test_hardly_any_traces_are_told_with_the_reason(server: Server, words: list[str], capsys) -> None:
    server.message = lambda body: doubled(body) if len(server.requests) == 1 else {"content": "42"}
    more = [
        "teacher.samples=6",
        "teacher.engine.parallel=1",
        f"paths.outputs={Path(words[0].split('=')[1]).parent / 'o'}",
    ]
    assert made([*words, *more]).facts["kept"] == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "jsonl: 1 of 60 responses became traces (no reasoning: 59); a trace is <think>" in said


@pytest.mark.parametrize("file", ["README.md", "manifest.json", "traces.parquet"])
def test_a_full_disk_is_one_line_and_costs_nothing_again(
    bm: Bm, server: Server, words: list[str], tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == file and ".work" in str(target) and "distill" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        said = bm("distill", *words, cwd=tmp_path)
    last = said.stderr.strip().splitlines()[-1]
    assert said.returncode == 2, said.stderr
    assert last.startswith("bm: ") and ("is full" in last or (file in last and "No space left" in last))
    assert "Traceback" not in said.stderr
    assert not list(tmp_path.glob("outputs/store/distill/*[!k]/manifest.json"))
    assert bm("distill", *words, cwd=tmp_path).returncode == 0
    assert len(server.requests) == 10


@pytest.mark.parametrize("stage", ["distill", "run"])
@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "bm: teacher.model: must be given"),
        (["teacher.model=nowhere"], "bm: teacher.model: nowhere is not a model"),
    ],
)
def test_a_local_teacher_without_its_model_is_one_line_before_anything(
    bm: Bm, tmp_path: Path, stage: str, given: list[str], line: str
) -> None:
    said = bm(stage, "teacher=transformers", "domain=math", *given, cwd=tmp_path)
    assert (said.returncode, said.stderr.strip().count("\n")) == (2, 0), said.stderr
    assert said.stderr.startswith(line)
    assert not list(tmp_path.rglob("*.work"))
    assert not (tmp_path / "outputs/store").exists()


def test_a_source_without_responses_is_named_for_the_published_teacher(words: list[str]) -> None:
    published = [word for word in words if not word.startswith("teacher")]
    with pytest.raises(UserError, match=r"the source of jsonl has no published responses.*student\.domains"):
        made([*published, "teacher=published"])
