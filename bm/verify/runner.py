"""What runs inside the sandbox: a program once per test, in a process of its own that can neither fork nor connect.

Its source is handed to `python -c`; it knows neither `bm` nor any expected result. A message is one line of JSON.
First comes {"source", "function", "libraries", "memory", "output", "seconds"}, answered by "ready" before a model's
program begins; then for every test {"stdin"} or {"arguments"}, answered by {"status": exit status or -signal,
"stdout", "overflow", "result": JSON or null, "error": last line of stderr}. Where `libraries` (folders to import from)
are given, the source is ours: it is run once, before "ready", and each test calls its function in a fork.
"""

import ctypes
import fcntl
import gc
import json
import os
import platform
import resource
import select
import socket
import struct
import sys
import types
from typing import Any

CHANNEL_IN, CHANNEL_OUT = 60, 61
RESULT = 3
THREADS = 64
"""Threads of a program that may be alive at a time."""
ALLOW, ASK, REFUSE, MISSING, KILL = 0x7FFF0000, 0x7FC00000, 0x00050001, 0x00050026, 0x80000000
"""seccomp's answers: go on, ask the supervisor, EPERM, ENOSYS, end the process."""
FORBIDDEN = {  # machine: audit number, seccomp, clone, clone3, the others
    "x86_64": (0xC000003E, 317, 56, 435, [
        29, 41, 57, 58, 59, 62, 64, 68, 101, 155, 161, 165, 166, 175, 200, 240, 246, 248, 249, 250, 272, 298, 304, 308,
        310, 311, 313, 319, 321, 322, 323, 424, 425, 428, 429, 430, 438, 447]),
    "aarch64": (0xC00000B7, 277, 220, 435, [
        39, 40, 41, 51, 97, 104, 105, 117, 129, 130, 180, 186, 190, 194, 198, 217, 218, 219, 221, 241, 265, 268, 270,
        271, 273, 279, 280, 281, 282, 424, 425, 428, 429, 430, 438, 447]),
}  # fmt: skip
"""System calls that start processes or programs, signal or inspect others, mount, make sockets, keys, or memory that no
limit counts (memfd, System V). clone may make THREADS; clone3 does not exist, so that libraries fall back to clone."""
LIBC = ctypes.CDLL(None, use_errno=True)


def confine(channel: socket.socket) -> None:
    """Forbid those system calls to this process for good; on other machines the namespaces must do.

    The supervisor gets through `channel` what asks it about every new thread. Neither rlimits (root is exempt) nor
    control groups (not everywhere ours) limit threads on every machine. A kernel without that question (before 5.5)
    makes no threads at all.
    """
    if platform.machine() not in FORBIDDEN:
        return
    LIBC.prctl(38, 1, 0, 0, 0)  # no new privileges
    listener = _filter(ASK, listens=8)
    if listener >= 0:
        socket.send_fds(channel, [b"t"], [listener])
        os.close(listener)
    elif _filter(REFUSE) < 0:
        raise OSError(ctypes.get_errno(), "this kernel has no seccomp filters")


def _filter(threads: int, listens: int = 0) -> int:
    """Install the filter with that answer to a new thread: a file to listen at if asked for, else 0; -1 if it fails."""
    audit, seccomp, clone, clone3, numbers = FORBIDDEN[platform.machine()]

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load, equal, above, bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    rules = [step(load, 4), step(equal, audit, yes=1), step(answer, KILL), step(load, 0)]
    rules += [step(above, 0x40000000, no=1), step(answer, REFUSE)]
    rules += [part for number in numbers for part in (step(equal, number, no=1), step(answer, REFUSE))]
    rules += [step(equal, clone3, no=1), step(answer, MISSING), step(equal, clone, no=4)]
    rules += [step(load, 16), step(bit, 0x10000, yes=1), step(answer, REFUSE), step(answer, threads)]
    code = ctypes.create_string_buffer(b"".join([*rules, step(answer, ALLOW)]))
    program = ctypes.create_string_buffer(struct.pack("HL", len(rules) + 1, ctypes.addressof(code)))
    installed: int = LIBC.syscall(seccomp, 1, listens, program)
    return installed


def supervise(child: int, channel: socket.socket) -> None:
    """Answer the child's questions about threads until it has ended."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(channel, select.POLLIN)
    files = [ended]
    while ended not in (ready := dict(poll.poll())):
        if channel.fileno() in ready:
            poll.unregister(channel)
            files += (listeners := socket.recv_fds(channel, 1, 1)[1])
            for listener in listeners:
                poll.register(listener, select.POLLIN)
        for listener in files[1:]:
            if ready.get(listener, 0) & select.POLLIN:
                _thread(child, listener)
            elif listener in ready:
                poll.unregister(listener)
    for file in files:
        os.close(file)


def _thread(child: int, listener: int) -> None:
    """Let one new thread begin, or refuse it (EAGAIN) where there are enough."""
    question = bytearray(80)  # struct seccomp_notif
    try:
        fcntl.ioctl(listener, 0xC0502100, question)
        enough = len(os.listdir(f"/proc/{child}/task")) >= THREADS
        answer = struct.pack("=8sqiI", question[:8], 0, -11 * enough, not enough)  # struct seccomp_notif_resp
        fcntl.ioctl(listener, 0xC0182101, bytearray(answer))
    except OSError:
        pass  # the thread that asked was killed


def limit(setup: "dict[str, Any]") -> None:
    """Memory, CPU time, file size and open files of this process."""
    for kind, most in (
        (resource.RLIMIT_AS, setup["memory"]),
        (resource.RLIMIT_CPU, int(setup["seconds"]) + 2),
        (resource.RLIMIT_FSIZE, setup["output"]),
        (resource.RLIMIT_NOFILE, 50),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def serve(setup: "dict[str, Any]", requests: Any) -> "dict[str, Any] | None":
    """Answer test after test. Returns in the process of a test, confined, to run it; and None at the end."""
    for line in requests:
        test: dict[str, Any] = json.loads(line)
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr", "result")]
        with os.fdopen(os.dup(files[0]), "wb") as stdin:
            stdin.write(test.get("stdin", "").encode(errors="replace"))
        os.lseek(files[0], 0, os.SEEK_SET)
        if setup["prepared"]:
            setup["prepared"]["before"](*test["arguments"])
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            LIBC.prctl(4, 1, 0, 0, 0)
            limit(setup)
            confine(theirs)
            for place, file in enumerate(files):
                os.dup2(file, place)
            ours.detach(), theirs.detach()
            os.closerange(RESULT + 1, 4096)
            return test
        theirs.close()
        supervise(child, ours)
        ours.close()
        _, status = os.waitpid(child, 0)
        answer(os.waitstatus_to_exitcode(status), files, setup["output"])
        for file in files:
            os.close(file)
    return None


def answer(status: int, files: "list[int]", most: int) -> None:
    _, stdout, stderr, result = (os.pread(file, most, 0).decode(errors="replace") for file in files)
    overflow = max(os.fstat(file).st_size for file in files[1:]) >= most
    errors = stderr.strip().splitlines()
    told = {"status": status, "stdout": stdout, "overflow": overflow, "result": result or None,
            "error": errors[-1][:200] if errors else ""}  # fmt: skip
    data = json.dumps(told).encode() + b"\n"
    while data:
        data = data[os.write(CHANNEL_OUT, data) :]


def ambient() -> "dict[str, Any]":
    """What published solutions take for granted: names of the standard library that hide no built-in."""
    import bisect
    import builtins
    import collections
    import functools
    import heapq
    import itertools
    import math
    import operator
    import random
    import re
    import string
    import typing

    modules = (typing, math, itertools, functools, heapq, bisect, collections)
    names: dict[str, Any] = {}
    for module in modules:
        public = getattr(module, "__all__", [n for n in dir(module) if not n.startswith("_")])
        names.update({name: getattr(module, name) for name in public if not hasattr(builtins, name)})
    return names | {m.__name__: m for m in (*modules, operator, random, re, string, sys)}


def perform(setup: "dict[str, Any]", test: "dict[str, Any]") -> None:
    """Run the program on a test: as a script, or its function with the arguments."""
    if setup["function"] is None:
        exec(compile(setup["source"], "program.py", "exec"), {"__name__": "__main__"})
        return
    names = setup["prepared"] or loaded(setup["source"], setup["ambient"])
    owner = names["Solution"]() if "Solution" in names else None
    function = getattr(owner, setup["function"], None) or names[setup["function"]]
    data = json.dumps(function(*test["arguments"])).encode()
    while data:
        data = data[os.write(RESULT, data) :]


def judge(setup: "dict[str, Any]", test: "dict[str, Any]") -> None:
    """`perform`, and end at once: what libraries do at the end of a process is not for each fork to do."""
    try:
        perform(setup, test)
    except BaseException as problem:
        os.write(2, f"{type(problem).__name__}: {problem}".encode(errors="replace"))
        os._exit(1)
    os._exit(0)


def loaded(source: str, ambient: "dict[str, Any]") -> "dict[str, Any]":
    """The names of a program that was run as a module."""
    module = sys.modules["program"] = types.ModuleType("program")
    names = module.__dict__
    names.update(ambient)
    exec(compile(source, "program.py", "exec"), names)
    return names


def main() -> None:
    os.dup2(0, CHANNEL_IN)
    os.dup2(1, CHANNEL_OUT)
    LIBC.prctl(4, 0, 0, 0, 0)  # the program under test may not look into this process
    requests = os.fdopen(CHANNEL_IN, encoding="utf-8", closefd=False)
    setup = json.loads(requests.readline())
    sys.path[:0] = setup["libraries"]
    setup["prepared"] = loaded(setup["source"], {}) if setup["libraries"] else None
    gc.freeze()  # pages stay shared with the forks
    os.write(CHANNEL_OUT, b"ready\n")
    setup["ambient"] = ambient() if setup["function"] and not setup["libraries"] else {}
    test = serve(setup, requests)
    if test is not None and setup["prepared"]:
        judge(setup, test)
    elif test is not None:
        perform(setup, test)


if __name__ == "__main__":
    main()
