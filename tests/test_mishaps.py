"""What befalls a machine is one clear line and the right status too: real processes on a full disk, in a read-only
folder, interrupted, and twice at once. What is there afterwards is whole, and the same command then does its work."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BM, SHRUNK, command
from tests.mistakes import Mistake, mistakes
from tests.test_errors import files, whole

MISHAPS = [
    pytest.param(one, id=f"{one.when}: {one.command.split()[0]}", marks=[pytest.mark.slow] * one.slow)
    for one in mistakes()
    if one.when
]
SMALLER = ["domain=[math,coding]", *(word for word in SHRUNK if not word.startswith("domains.science"))]
"""A run of two domains: what befalls it does so in its first stages."""
Ended = list[subprocess.CompletedProcess[str]]
"""The processes, the one that has something to say first."""


def words(mishap: Mistake) -> list[str]:
    given = shlex.split(mishap.command)
    return [str(BM), *given, *(SMALLER if given[0] == "run" else ())]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def full(mishap: Mistake, folder: Path) -> Ended:
    """On a disk of its own, of the size of what is given and `room_kb` beside it; what is on it comes back."""
    (disk := folder.parent / "disk").mkdir()
    pages = sum(4 * -(-len(data) // 4096) + 4 for data in files(folder).values()) + 16
    script = f'cp -a "$0/." . && {shlex.join(words(mishap))}; status=$?; cp -a . "$0"; exit $status'
    mounted = ["--dev-bind", "/", "/", "--size", str(1024 * (pages + mishap.room_kb)), "--tmpfs", str(disk)]
    return [run(["bwrap", *mounted, "--chdir", str(disk), "sh", "-c", script, str(folder)], folder)]


def read_only(mishap: Mistake, folder: Path) -> Ended:
    """For root too, who may write where permissions forbid it."""
    return [run(["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(folder), str(folder), *words(mishap)], folder)]


def interrupted(mishap: Mistake, folder: Path) -> Ended:
    """Ctrl-C once the file `until` is there."""
    given = words(mishap)
    process = subprocess.Popen(
        given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not list(folder.glob(mishap.until)) and process.poll() is None:
        time.sleep(0.1)
    assert process.poll() is None, "it was done before the interruption"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that the command has started
    out, err = process.communicate(timeout=60)
    return [subprocess.CompletedProcess(given, process.returncode, out, err)]


def twice(mishap: Mistake, folder: Path) -> Ended:
    """At once; the second of them is as likely to be the first."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    processes = [subprocess.Popen(words(mishap), **pipes) for _ in range(2)]  # type: ignore[call-overload]
    told = [(process, *process.communicate(timeout=600)) for process in processes]
    ended = [subprocess.CompletedProcess(words(mishap), process.returncode, out, err) for process, out, err in told]
    return sorted(ended, key=lambda process: -process.returncode)


WHEN: dict[str, Callable[[Mistake, Path], Ended]] = {
    "full": full, "read-only": read_only, "interrupted": interrupted, "twice": twice,
}  # fmt: skip


@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_mishap_is_one_clear_line_and_what_is_there_is_whole(mishap: Mistake, tmp_path: Path) -> None:
    (folder := tmp_path / "here").mkdir()
    mishap.prepare(folder)
    given = files(folder)
    first, *others = WHEN[mishap.when](mishap, folder)
    said = first.stderr.splitlines()
    assert first.returncode == mishap.status, first.stderr
    assert mishap.says in (said[-1] if mishap.status else first.stderr)
    assert "Traceback" not in first.stderr and len(first.stderr.splitlines()) <= mishap.lines
    assert [other.returncode for other in others] == [0] * len(others)
    if mishap.when != "twice":
        whole(folder, given)
        if mishap.until and mishap.command.startswith(("verify", "distill")):
            return  # they wait for what never comes
        again = command(*words(mishap)[1:], cwd=folder)
        assert again.returncode == 0, again.stderr
    assert {file: files(folder).get(file) for file in given} == given
