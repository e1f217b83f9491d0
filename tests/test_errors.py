"""Every wrong input of mistakes.yaml is one clear line and the right status, and leaves nothing that is not whole."""

import errno
import fcntl
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from bm import store
from bm.store import Store
from tests.conftest import Bm
from tests.mistakes import Mistake, mistakes, model

TABLE = mistakes()
HERE = [mistake for mistake in TABLE if not mistake.when]
"""Those that need no process of their own."""
NOBODY = "http://127.0.0.1:9"
"""An address where nothing listens."""


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No hub, and no modules of a mistake's own folder afterwards."""
    monkeypatch.setenv("HF_ENDPOINT", NOBODY)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", NOBODY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("own", "own2", "own3"):
        sys.modules.pop(name, None)


def test_there_are_a_hundred_of_them_of_every_kind() -> None:
    assert len(TABLE) >= 100
    assert {mistake.kind for mistake in TABLE} == {"settings", "data", "files", "models", "network", "mishaps"}
    assert {mistake.when for mistake in TABLE} == {"", "full", "read-only", "interrupted", "twice"}
    assert len({(m.command, m.when, str(m.given)) for m in TABLE}) == len(TABLE)
    assert all(mistake.says for mistake in TABLE)


@pytest.mark.parametrize("mistake", HERE, ids=[f"{mistake.kind}: {mistake.command}" for mistake in HERE])
def test_a_wrong_input_is_one_clear_line(
    mistake: Mistake, tmp_path: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake.prepare(tmp_path)
    if mistake.kind == "network":
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between one attempt and the next
    given = files(tmp_path)
    said = bm(*shlex.split(mistake.command), cwd=tmp_path)
    line = said.stderr.splitlines()[-1]
    assert said.returncode == 2, said.stderr
    assert line.startswith("bm: ") and mistake.says in line
    assert "Traceback" not in said.stderr and len(said.stderr.splitlines()) <= mistake.lines
    whole(tmp_path, given)


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}


def whole(folder: Path, given: dict[Path, bytes]) -> None:
    """What was given is as it was; all else belongs to complete artefacts, is a lock, or is gone on with."""
    now = files(folder)
    assert {file: now.get(file) for file in given} == given
    made = [artefact.path for artefact in Store(folder / "outputs/store").all()]
    rest = [file for file in now.keys() - given.keys() if file.suffix != ".lock"]
    rest = [file for file in rest if ".work/" not in str(file) and "/store/samples/" not in str(file)]
    assert [file for file in rest if not any(file.is_relative_to(path) for path in made)] == []


MERGE = ("merge", "merge=linear", "models=[a,b]", "output=x")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in "ab":
        model(tmp_path / name)
    return tmp_path


def test_a_full_disk(models: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    given = files(models)
    with monkeypatch.context() as patched:
        patched.setattr(store, "_flush", full)
        said = bm(*MERGE, cwd=models)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "is full; make room, then rerun the command to resume" in said.stderr and not (models / "x").exists()
    assert bm(*MERGE, cwd=models).returncode == 0
    assert {file: data for file, data in files(models).items() if file in given} == given


def test_an_interrupted_command(tmp_path: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bm.verify.file.grade", interrupted)
    (tmp_path / "r.jsonl").write_text('{"response": "4", "answer": "4"}\n')
    said = bm("verify", "verifier=math", "file=r.jsonl", "output=g.jsonl", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (130, "bm: interrupted; rerun the command to resume\n")


def test_two_processes_want_the_same(models: Path, bm: Bm, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (models / ".x.lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    say = store.say

    def said_and_let_go(text: str) -> None:
        say(text)
        other.close()

    monkeypatch.setattr(store, "say", said_and_let_go)
    said = bm(*MERGE, cwd=models)
    assert said.returncode == 0 and "waiting for another process that is making x" in said.stderr
    said = bm(*MERGE, cwd=models)
    assert said.returncode == 2 and said.stderr == "bm: x exists; choose another output or remove it\n"
