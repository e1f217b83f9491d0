"""Where a model's code runs: bubblewrap's namespaces, limits on everything, and death from outside."""

import json
import os
import select
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bm.config import Verify
from bm.errors import UserError

RUNNER = Path(__file__).with_name("runner.py")
START = 120.0
"""Seconds in which an interpreter must have started and answered, libraries imported."""
Reply = Mapping[str, Any]


class TimeLimitError(Exception):
    """The program did not end in time, and was killed."""


class LostError(Exception):
    """Nothing of use comes from the sandbox any more: the program ended it, or wrote into its channel."""


class Sandbox:
    """A program in its confinement. `ask` runs it once; what comes back is the program's word, and never trusted."""

    def __init__(self, process: "subprocess.Popen[bytes]", settings: Verify) -> None:
        self._process, self._settings = process, settings
        self._cap = 8 * settings.output_kb * 1024 + (1 << 16)  # JSON may write a character as six

    def ask(self, test: Mapping[str, Any]) -> Reply:
        """Run one test: see `runner` for both messages. TimeLimitError, LostError."""
        line = self._exchange(json.dumps(test).encode() + b"\n", self._settings.seconds)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise LostError from problem
        if not isinstance(reply, dict) or not reply.keys() >= {"status", "stdout", "overflow", "result", "error"}:
            raise LostError
        return reply

    def begin(self, setup: Mapping[str, Any]) -> None:
        """The first message, answered before any of the program has run. UserError if nothing answers."""
        try:
            self._exchange(json.dumps(setup).encode() + b"\n", START)
        except (TimeLimitError, LostError) as problem:
            raise UserError("the sandbox does not start: this machine may be out of memory or processes") from problem

    def _exchange(self, request: bytes, seconds: float) -> bytes:
        """Write a line and read one, both within the time: the other side may do neither."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        received, end = bytearray(), time.monotonic() + seconds
        poll = select.poll()  # select() knows no more than 1,024 files
        poll.register(stdout, select.POLLIN)
        poll.register(stdin, select.POLLOUT)
        while not received.endswith(b"\n"):
            ready = dict(poll.poll(max(0, end - time.monotonic()) * 1000))
            if not ready:
                raise TimeLimitError
            if stdin.fileno() in ready:
                request = request[_written(stdin.fileno(), request) :]
                if not request:
                    poll.unregister(stdin)
            if stdout.fileno() in ready:
                part = os.read(stdout.fileno(), 1 << 20)
                received += part
                if not part or len(received) > self._cap:
                    raise LostError
        return bytes(received)


def _written(file: int, data: bytes) -> int:
    try:
        return os.write(file, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError as problem:
        raise LostError from problem


@contextmanager
def sandbox(source: str, function: str | None, settings: Verify, libraries: Sequence[str] = ()) -> Iterator[Sandbox]:
    """A sandbox that holds a Python program (or the function of that name in it) and ends with the block, all of it.

    libraries: folders from which a program of our own imports; it is then run once, and each test calls its function.
    UserError where bubblewrap is wanted and there is none that works.
    """
    confined = settings.sandbox == "bubblewrap"
    if confined:
        check()
    home = None if confined else tempfile.mkdtemp(prefix="bm-unsafe-")
    command = [*_bubblewrap(settings.disk_mb, libraries), *_python()] if confined else _python()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        cwd=home or "/", env={}, start_new_session=True,
    )  # fmt: skip
    assert process.stdin
    owner = os.getpid()
    os.set_blocking(process.stdin.fileno(), False)
    try:
        running = Sandbox(process, settings)
        running.begin(_setup(source, function, settings, libraries))
        yield running
    finally:
        if os.getpid() == owner:  # no fork ends what is not its own
            os.killpg(process.pid, signal.SIGKILL)  # bubblewrap takes its whole process namespace with it
            process.communicate()
        if home:
            shutil.rmtree(home, ignore_errors=True)


def _setup(source: str, function: str | None, settings: Verify, libraries: Sequence[str]) -> dict[str, Any]:
    return {"source": source, "function": function, "memory": settings.memory_mb << 20, "libraries": list(libraries),
            "output": settings.output_kb << 10, "seconds": settings.seconds}  # fmt: skip


def check() -> None:
    """UserError unless bubblewrap works here."""
    if problem := _trial(shutil.which("bwrap")):
        raise UserError(
            f"a model's code needs a sandbox, and {problem}; install bubblewrap 0.7 or newer (apt install bubblewrap),"
            " or set verify.sandbox=unsafe to run it without"
        )


@cache
def _trial(bwrap: str | None) -> str:
    """What is wrong with it, "" if nothing is."""
    if bwrap is None:
        return "there is no bubblewrap (bwrap)"
    command = [*_bubblewrap(1, ()), *_python()[:-1], "pass"]
    tried = subprocess.run(  # Ctrl-C in the midst of it would leave one half of bubblewrap waiting for the other
        command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True
    )
    return (
        ""
        if tried.returncode == 0
        else f"bubblewrap fails: {(tried.stderr.strip() or 'no reason given').splitlines()[0]}"
    )


def _python() -> list[str]:
    """The base interpreter, isolated, on the runner: a virtual environment's packages are none of the program's."""
    return [_interpreter(), "-I", "-X", "utf8", "-c", RUNNER.read_text()]


def _interpreter() -> str:
    base: str = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(base)


def _bubblewrap(disk_mb: int, libraries: Sequence[str]) -> list[str]:
    """The command up to the program: new namespaces of every kind; interpreter and system libraries read-only; one
    folder of its own in memory; no environment, no capabilities, nobody's user."""
    view: list[str] = []
    for path in dict.fromkeys(("/lib", "/lib64", "/usr/lib", "/usr/lib64", sys.base_prefix)):
        view += ["--ro-bind-try", path, path]
    for path in site.getsitepackages([sys.base_prefix]):
        view += ["--tmpfs", path] if os.path.isdir(path) else []
    for path in libraries:
        view += ["--ro-bind", path, path]
    return [
        shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
        "--clearenv", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox", *view,
        "--proc", "/proc", "--dev", "/dev", "--size", str(disk_mb << 20), "--tmpfs", "/box", "--chdir", "/box",
        "--remount-ro", "/dev", "--remount-ro", "/", "--",
    ]  # fmt: skip
