"""Ranks in a tenth of a second, forked from a process that has imported everything, where torchrun would take seconds.

A test's session starts `python -m tests.branch.forked serve SOCKET` once; its `trainer.launch` is then

    python tests/branch/forked.py SOCKET RANKS   -m MODULE ARGUMENTS...

which has the server fork RANKS processes with torchrun's variables and its own output, environment and folder, waits
for them, and ends with the first status that is not 0. The server itself computes nothing, so that no thread is lost
in a fork. Real torchrun starts the ranks of tests/branch/test_parallel.py::test_ranks_train_as_one and of the kills.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from importlib import import_module

IMPORTED = ("bm.branch.training", "transformers.models.llama.modeling_llama", "torch.distributed.fsdp", "peft")
"""What ranks import, and what takes them seconds."""


def ask(path: str, ranks: int, words: list[str]) -> int:
    """The client: imports nothing that takes long."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = {"ranks": ranks, "words": words, "cwd": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [1, 2])
        return int(server.makefile().readline() or 1)


def serve(path: str) -> None:
    """Fork what is asked for, a request at a time, until the process that started the server has ended."""
    from bm.branch.launch import end_with_parent

    end_with_parent()
    for module in IMPORTED:
        import_module(module)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    os.rename(f"{path}.new", path)  # whoever sees it can connect
    while True:
        client, _ = listener.accept()
        with client:
            line, descriptors, _, _ = socket.recv_fds(client, 1 << 20, 2)
            while not line.endswith(b"\n"):
                line += client.recv(1 << 20)
            request = json.loads(line)
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            children = [fork(rank, request, address, descriptors) for rank in range(request["ranks"])]
            for descriptor in descriptors:
                os.close(descriptor)
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            client.sendall(f"{next((s for s in statuses if s), 0)}\n".encode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork(rank: int, request: dict[str, object], address: dict[str, str], descriptors: list[int]) -> int:
    """The process id of one rank, which runs the request's module as `python -m` would."""
    if child := os.fork():
        return child
    status = 1
    try:
        for target, descriptor in enumerate(descriptors, start=1):
            os.dup2(descriptor, target)
        count = str(request["ranks"])
        places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.clear()
        os.environ.update({**request["environment"], **address, **places})  # type: ignore[dict-item]
        os.chdir(str(request["cwd"]))
        _, module, *sys.argv[1:] = request["words"]  # type: ignore[misc]
        runpy.run_module(str(module), run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
