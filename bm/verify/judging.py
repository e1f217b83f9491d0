"""What libraries judge, in the sandbox. Sandboxes are lent to threads, and kept for the next response."""

import atexit
import os
import queue
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bm.config import Verify
from bm.verify import scorers
from bm.verify.sandbox import LostError, Sandbox, TimeLimitError, sandbox

SOURCE = Path(scorers.__file__)
LIBRARIES = ("sympy", "math_verify", "latex2sympy2_extended", "antlr4", "reasoning_gym", "numpy")
MEMORY_MB = 4096
"""Address space of one judgement, libraries included."""


class NoJudgementError(Exception):
    """A library could not judge a response: the time or memory limit, or its own exception."""


class Scoring:
    """Sandboxes that judge; there are never more than there were threads at once."""

    def __init__(self) -> None:
        self._forget()
        atexit.register(self._close)
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, function: str, arguments: Sequence[Any], settings: Verify) -> bool:
        """`equal` or `score` of `scorers` on JSON values. NoJudgementError; UserError where there is no sandbox."""
        settings = replace(settings, memory_mb=MEMORY_MB)
        idle = self._idle[function, settings.limits]
        try:
            stack, running = idle.get_nowait()
        except queue.Empty:
            # a sandbox dies with the thread that started it, so threads that stay start them
            stack, running = self._starters.submit(_start, function, settings).result()
        try:
            reply = running.ask({"arguments": list(arguments)})
        except BaseException as problem:
            stack.close()
            if isinstance(problem, TimeLimitError | LostError):
                raise NoJudgementError("time limit" if isinstance(problem, TimeLimitError) else "lost") from problem
            raise
        idle.put((stack, running))
        if reply["status"] != 0 or reply["result"] not in ("true", "false"):
            memory = "MemoryError" in str(reply["error"])
            raise NoJudgementError("memory limit" if memory else f"scorer failed: {reply['error'] or reply['status']}")
        return bool(reply["result"] == "true")

    def _forget(self) -> None:
        """A fork has sandboxes of its own: two at one pipe would read each other's answers."""
        self._idle: defaultdict[Any, queue.LifoQueue[tuple[ExitStack, Sandbox]]] = defaultdict(queue.LifoQueue)
        self._starters = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="sandbox")

    def _close(self) -> None:
        for idle in self._idle.values():
            while not idle.empty():
                idle.get()[0].close()


def _start(function: str, settings: Verify) -> tuple[ExitStack, Sandbox]:
    stack = ExitStack()
    source = f"{SOURCE.read_text()}\n\nprepare({function})\n"
    return stack, stack.enter_context(sandbox(source, function, settings, _libraries()))


@cache
def _libraries() -> tuple[str, ...]:
    """The folders that the libraries are installed in."""
    specs = [find_spec(name) for name in LIBRARIES]
    return tuple(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))


judgement = Scoring()
