"""The store: one key, one artefact, whole or absent."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bm.errors import UserError
from bm.store import MANIFEST, Artefact, Store, folder


def make(
    store: Store, build: Callable[[Path], dict], inputs: list[Artefact] | None = None, **config: object
) -> Artefact:
    return store.make("branch", "math", config, inputs or [], [], build)


def write(text: str) -> Callable[[Path], dict]:
    def build(work: Path) -> dict:
        (work / "folder").mkdir(exist_ok=True)
        (work / "folder" / "model").write_text(text)
        return {"tokens": len(text)}

    return build


def unreachable(work: Path) -> dict:
    raise AssertionError("an artefact that exists was made again")


def test_made_once_and_found_again(tmp_path: Path) -> None:
    made = make(Store(tmp_path), write("abc"), lr=1)
    again = make(Store(tmp_path), unreachable, lr=1)
    assert again == made
    assert again.facts == {"tokens": 3}
    assert (again.path / "folder" / "model").read_text() == "abc"
    assert [p.name for p in again.path.parent.iterdir() if p.name.endswith(".work")] == []


def test_key_depends_on_config_and_inputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = make(store, write("a"), lr=1), make(store, write("b"), lr=2)
    above_first, above_second = make(store, write("c"), [first], lr=1), make(store, write("d"), [second], lr=1)
    assert len({a.key for a in (first, second, above_first, above_second)}) == 4
    (made_from,) = above_first.manifest["inputs"]
    assert (made_from["stage"], made_from["key"], made_from["label"]) == ("branch", first.key, "math")


def test_manifest_says_where_it_came_from(tmp_path: Path) -> None:
    manifest = json.loads((make(Store(tmp_path), write("abc"), lr=1).path / MANIFEST).read_text())
    assert manifest["config"] == {"lr": 1}
    assert manifest["files"]["folder/model"]["sha256"].startswith("ba7816bf")
    assert manifest["versions"]["torch"].startswith("2.")
    assert manifest["hardware"]["cores"] == os.cpu_count()
    assert manifest["seconds"] >= 0
    assert len(manifest["code"]) == 16


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: (path / "folder/model").write_text("abd"), "content of folder/model has changed"),
        (lambda path: (path / "folder/model").write_text("ab"), "folder/model has 2 bytes and should have 3"),
        (lambda path: (path / "folder/model").unlink(), "folder/model is missing"),
        (lambda path: (path / MANIFEST).write_text("{"), "manifest cannot be read"),
        (lambda path: (path / MANIFEST).unlink(), "manifest cannot be read"),
    ],
)
def test_damage_is_named_and_refused(tmp_path: Path, harm: Callable[[Path], object], what: str) -> None:
    made = make(Store(tmp_path), write("abc"), lr=1)
    harm(made.path)
    with pytest.raises(UserError, match=what) as refused:
        make(Store(tmp_path), unreachable, lr=1)
    assert str(made.path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_failed_build_publishes_nothing(tmp_path: Path) -> None:
    def fail(work: Path) -> dict:
        (work / "half").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        make(Store(tmp_path), fail, lr=1)
    assert Store(tmp_path).all() == []
    assert [a.label for a in [make(Store(tmp_path), write("abc"), lr=1)]] == ["math"]


SLOW = """
import sys, time
from pathlib import Path
from bm.store import Store

def build(work):
    with open(sys.argv[2], "a") as log: log.write("built\\n")
    for i in range(5):
        part = work / f"part{i}"
        if not part.exists():
            part.write_text(str(i))
            time.sleep(float(sys.argv[3]))
    return {}

print(Store(Path(sys.argv[1])).make("branch", "math", {}, [], [], build).key)
"""


def start(store: Path, log: Path, pause: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(store), str(log), str(pause)], stdout=subprocess.PIPE, text=True
    )


def test_processes_at_once_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = [start(tmp_path / "store", log, 0.1) for _ in range(4)]
    keys = {process.communicate()[0].strip() for process in running}
    assert len(keys) == 1
    assert log.read_text() == "built\n"


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    process = start(store, log, 1)
    while not list(store.glob("branch/*.work/part1")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Store(store).all() == []
    again = start(store, log, 0)
    assert again.communicate()[0].strip()
    (artefact,) = Store(store).all()
    assert sorted(artefact.manifest["files"]) == [f"part{i}" for i in range(5)]
    assert artefact.manifest["seconds"] > 0.9, "the time of the killed attempt counts"


def test_a_model_that_was_copied_with_its_manifest_is_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = make(store, write("abc"), lr=1)

    def copy(work: Path) -> dict:
        shutil.copy(made.path / MANIFEST, work / MANIFEST)
        (work / "weights").write_text("w")
        return {}

    copied = make(store, copy, lr=2)
    assert set(copied.manifest["files"]) == {"weights"}
    assert make(Store(tmp_path), unreachable, lr=2) == copied


def test_one_damaged_artefact_is_named_and_the_others_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    whole, damaged = make(store, write("abc"), lr=1), make(store, write("def"), lr=2)
    (damaged.path / "folder/model").write_text("")
    assert Store(tmp_path).all() == [whole]
    assert f"left out: {damaged.path}" in capsys.readouterr().err


def test_a_fresh_stage_is_made_again_once_and_what_follows_only_if_it_came_out_otherwise(tmp_path: Path) -> None:
    def below(store: Store, build: Callable[[Path], dict]) -> Artefact:
        return store.make("merge", "m", {}, [make(store, build, lr=1)], [], write(str(time.time_ns())))

    first = below(Store(tmp_path), write("abc"))
    assert below(Store(tmp_path), unreachable) == first

    again = Store(tmp_path, fresh=["branch"])
    same = below(again, write("abc"))
    assert same == first, "the branch has the same content"
    assert make(again, unreachable, lr=1).manifest["created"]

    other = below(Store(tmp_path, fresh=["branch"]), write("xyz"))
    assert other.key == first.key and other != first
    assert (make(Store(tmp_path), unreachable, lr=1).path / "folder/model").read_text() == "xyz"
    assert below(Store(tmp_path), unreachable) == other
    assert not list(tmp_path.glob("*/*.old"))


def full(work: Path) -> dict:
    (work / "half").write_text("x")
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work / "half"))
    except OSError as problem:
        raise RuntimeError("writing failed") from problem  # as torch wraps it


def test_a_full_disk_is_one_line_and_the_work_remains(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"branch math: the disk of .* is full; make room, then rerun the command"):
        make(Store(tmp_path), full, lr=1)
    assert list(tmp_path.glob("branch/*.work/half"))


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match="outputs/branch cannot be written"):
        make(Store(tmp_path / "outputs"), unreachable, lr=1)

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        make(Store(tmp_path / "readonly"), unreachable, lr=1)


def test_a_programs_own_mistake_stays_one(tmp_path: Path) -> None:
    def build(work: Path) -> dict:
        return {"text": Path("/nowhere").read_text()}

    with pytest.raises(FileNotFoundError):
        make(Store(tmp_path), build, lr=1)


def test_a_folder_that_is_refused_or_made_of_other_inputs_leaves_nothing(tmp_path: Path) -> None:
    def refuse(work: Path) -> dict:
        (work / "half").write_text("x")
        raise UserError("the models do not fit")

    def die(work: Path) -> dict:
        (work / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(UserError):
        folder(tmp_path / "merged", {}, [], refuse)
    assert not list(tmp_path.glob("**/half"))
    with pytest.raises(RuntimeError):
        folder(tmp_path / "merged", {"lam": 1}, [], die)
    assert len(list(tmp_path.glob("**/half"))) == 1
    folder(tmp_path / "merged", {"lam": 2}, [], write("abc"))
    assert not list(tmp_path.glob("**/half"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["merged"]


def test_without_flock_a_lock_file_keeps_two_from_making_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no flock: two threads of one process stand for two nodes."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("filelock._unix.fcntl.flock", missing)
    built: list[int] = []

    def build(work: Path) -> dict:
        built.append(1)
        time.sleep(0.3)
        return write("abc")(work)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda _: make(Store(tmp_path), build, lr=1).key, range(3)))
    assert len(set(made)) == 1 and built == [1]


def test_a_file_is_read_once_as_long_as_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(Store(tmp_path), write("abc"), lr=1)
    make(Store(tmp_path), unreachable, lr=1)
    monkeypatch.setattr(hashlib, "file_digest", unreachable)
    make(Store(tmp_path), unreachable, lr=1)
    os.utime(made.path / "folder/model")
    with pytest.raises(TypeError):
        make(Store(tmp_path), unreachable, lr=1)


def test_a_kill_at_the_first_moment_of_a_build_does_no_harm(tmp_path: Path) -> None:
    def die(work: Path) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Store(tmp_path), die, lr=1)
    (begun,) = tmp_path.glob("branch/*.work/.begun")
    begun.write_text("")  # made, and nothing in it yet
    assert make(Store(tmp_path), write("abc"), lr=1).facts == {"tokens": 3}
