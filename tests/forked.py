"""Real processes in a tenth of a second: forked from one that has imported everything, where Python would take seconds.

Tests that kill, lock or count processes need real ones; what they import is under test elsewhere. `Forked` starts one
server for all workers, which computes nothing, so that no thread is lost in a fork. `start` has it fork a process:

    process = forked.start(["bm", "run", ...], cwd=tmp_path)      # or "-c", SOURCE, ... or "-m", MODULE, ...
    forked.killed(["bm", "run", ...], "Path('outputs').exists()", cwd=tmp_path)

and `trainer.launch=forked.launch(2)` has it fork ranks, with the variables that torchrun sets. Real torchrun starts the
ranks of tests/branch/test_parallel.py of which one is killed.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTED = (
    "bm.branch.training", "bm.cli", "bm.evaluate", "bm.merge", "bm.sweeps.search", "bm.sweeps.sweeper", "lm_eval.tasks",
    "peft", "torch.distributed.fsdp", "transformers.models.llama.modeling_llama", "tests.generate.conftest",
)  # fmt: skip
"""What takes seconds to import."""


@dataclass
class Process:
    """A forked process, with the methods of `subprocess.Popen` that tests use."""

    pid: int
    server: socket.socket
    status: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The same as `wait`, or None while the process runs."""
        try:
            return self.wait(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def wait(self, how: int = 0) -> int:
        """The exit status; of a process that was killed by a signal, minus its number."""
        if self.status is None:
            self.status = int(self.server.recv(64, how) or 1)
            self.server.close()
        return self.status


@dataclass(frozen=True)
class Forked:
    """The address of the server."""

    path: Path

    def start(
        self, words: Sequence[object], cwd: Path | None = None, env: Mapping[str, str] | None = None,
        said: Path | str = os.devnull,
    ) -> Process:  # fmt: skip
        """`bm ...`, `-m MODULE ...` or `-c SOURCE ...`; what it says goes into the file `said`."""
        with open(said, "w") as file:
            return request(str(self.path), 1, [str(word) for word in words], cwd, env, [file.fileno()] * 2)

    def run(self, words: Sequence[object], **settings: Any) -> int:
        """The exit status of the same."""
        return self.start(words, **settings).wait()

    def killed(self, words: Sequence[object], when: str, **settings: Any) -> None:
        """The same, killed (-9) once `when` is true: a Python expression, in which `lines(PATH)` counts a file's lines.

        A thread of the process itself watches for that, so that it gets its turn however busy the machine is.
        """
        assert self.run(["killed", when, *words], **settings) == -signal.SIGKILL, f"it ended before {when}"

    def launch(self, ranks: int) -> str:
        """The `trainer.launch` of that many ranks."""
        return f"{sys.executable} {Path(__file__)} {self.path} {ranks}"


def request(
    path: str, ranks: int, words: list[str], cwd: Path | None, env: Mapping[str, str] | None, speaks: Sequence[int]
) -> Process:
    """Ask the server; the process is the first of the ranks."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(path)
    wanted = {"ranks": ranks, "words": words, "cwd": str(cwd or os.getcwd()), "env": dict(env or os.environ)}
    socket.send_fds(server, [json.dumps(wanted).encode()], list(speaks))
    return Process(int(server.recv(64)), server)


def started(path: Path, session: int) -> None:
    """Start the server, which ends when the process `session` has ended, and wait until it answers."""
    command = [sys.executable, "-m", "tests.forked", str(path), "serve", str(session)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = path.with_suffix(".log").open("w")
    server = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=alone, stdout=said, stderr=said)
    while not path.exists():
        assert server.poll() is None, path.with_suffix(".log").read_text()
        time.sleep(0.01)


def serve(path: str, session: int) -> None:
    """Answer requests, each in a process of its own, which is the parent of what it forks."""
    for module in IMPORTED:
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.settimeout(1.0)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # whoever sees it can connect
    while alive(session):
        try:
            client, _ = listener.accept()
        except TimeoutError:
            continue
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(client)
            os._exit(0)
        client.close()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def processes(file: str) -> Iterator[tuple[int, str]]:
    """The id of each process of this machine and its `file` in /proc; any of them may end at any time."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield int(name), Path("/proc", name, file).read_text()


def answer(client: socket.socket) -> None:
    """Fork what is asked for, say its process id, and when all have ended the first status that is not 0."""
    line, descriptors, _, _ = socket.recv_fds(client, 1 << 20, 2)
    wanted = json.loads(line)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if wanted["ranks"] > 1 else {}
    children = [fork(rank, wanted, address, descriptors) for rank in range(wanted["ranks"])]
    client.sendall(str(children[0]).encode())
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    client.sendall(str(next((status for status in statuses if status), 0)).encode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork(rank: int, wanted: dict[str, Any], address: dict[str, str], descriptors: Sequence[int]) -> int:
    """The process id of one rank, which does what is wanted."""
    if child := os.fork():
        return child
    status = 1
    try:
        for target, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, target)
        count = str(wanted["ranks"])
        places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.clear()
        os.environ.update(wanted["env"] | (address and address | places))
        os.chdir(wanted["cwd"])
        behave(wanted["words"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def behave(words: list[str]) -> None:
    """As `bm WORDS`, `python -m MODULE WORDS` or `python -c SOURCE WORDS`; `killed WHEN` before it: not to its end."""
    if words[0] == "killed":
        threading.Thread(target=end, args=[words[1]], daemon=True).start()
        words = words[2:]
    if words[0] == "bm":
        sys.argv = words
        import_module("bm.cli").main()
        return
    how, what, *sys.argv[1:] = words
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<words>", "exec"), {"__name__": "__main__"})


def end(when: str) -> None:
    """Kill this process once the expression is true."""
    while not eval(when, {"Path": Path, "lines": lines}):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def lines(path: str) -> int:
    """How many lines a file has by now; 0 where there is none yet."""
    try:
        return Path(path).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    _, address_, count_, *words_ = sys.argv
    if count_ == "serve":
        serve(address_, int(words_[0]))
    else:
        sys.exit(request(address_, int(count_), words_, None, None, (1, 2)).wait())
