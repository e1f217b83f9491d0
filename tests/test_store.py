"""The store: one key, one artefact, whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bm.errors import UserError
from bm.store import MANIFEST, Artefact, Store, _meaning


def make(
    store: Store, build: Callable[[Path], dict], inputs: list[Artefact] | None = None, **config: object
) -> Artefact:
    return store.make("branch", "math", config, inputs or [], ["store.py"], build)


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
    found = make(Store(tmp_path), unreachable, lr=1)
    assert found == made
    assert found.facts == {"tokens": 3}
    assert (found.path / "folder" / "model").read_text() == "abc"
    assert [p.name for p in found.path.parent.iterdir() if p.name.endswith(".work")] == []


def test_key_depends_on_config_and_inputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = make(store, write("a"), lr=1), make(store, write("b"), lr=2)
    above_first, above_second = make(store, write("c"), [first], lr=1), make(store, write("d"), [second], lr=1)
    assert len({a.key for a in (first, second, above_first, above_second)}) == 4
    assert above_first.manifest["inputs"] == [{"stage": "branch", "key": first.key, "label": "math"}]


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

print(Store(Path(sys.argv[1])).make("branch", "math", {}, [], ["store.py"], build).key)
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


def test_code_version_sees_meaning_only(tmp_path: Path) -> None:
    variants = [
        '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1\n',
        "def f(x):  # why\n\n    return x+1\n",
        "def f(x):\n    return x + 2\n",
    ]
    meanings = []
    for text in variants:
        (tmp_path / "module.py").write_text(text)
        meanings.append(_meaning(tmp_path / "module.py"))
    assert meanings[0] == meanings[1] != meanings[2]
