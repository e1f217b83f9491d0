"""The threads of a merge. Each takes the most urgent task next; the standard library's pool would take the oldest."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from enum import IntEnum
from itertools import count
from queue import PriorityQueue
from threading import Thread
from typing import TypeVar

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


class Urgency(IntEnum):
    """How urgent a task is: the lowest value goes first. Bytes are hashed in order, so the next ones must not wait."""

    END = 0
    WRITE = 1
    """A tensor that is merged into the output."""
    SCORE_PART = 2
    """A part of a tensor that another thread scores."""
    SCORE = 3
    """A tensor that is written later."""
    WRITE_PART = 4
    """A part of a tensor that another thread writes: its bytes are hashed after those before them."""


class Workers:
    """Threads for the tasks of a merge. They end with the context, and tasks that have not begun are then dropped."""

    def __init__(self, size: int, begin: Callable[[], None]) -> None:
        """begin: called once in each thread before its first task."""
        self.size, self._begin = size, begin
        self._todo: PriorityQueue[tuple[Urgency, int, Callable[[], None] | None]] = PriorityQueue()
        self._numbers = count()  # among equally urgent tasks the oldest goes first
        self._threads = [Thread(target=self._work, name=f"merge-{i}", daemon=True) for i in range(size)]

    def __enter__(self) -> "Workers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        for _ in self._threads:
            self._todo.put((Urgency.END, next(self._numbers), None))
        for thread in self._threads:
            thread.join()

    def submit(self, urgency: Urgency, task: Callable[[], O]) -> "Future[O]":
        future: Future[O] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as problem:  # whoever waits for the result raises it
                    future.set_exception(problem)

        self._todo.put((urgency, next(self._numbers), run))
        return future

    def map(self, urgency: Urgency, task: Callable[[I], O], inputs: Sequence[I]) -> list[O]:
        """task(input) for each input, in order. The caller does the work, and idle threads help, one input at a time.

        A task may call this too, since a caller waits only for inputs that other threads are already working on.
        """
        made: dict[int, O] = {}
        left, helpers, begun = deque(range(len(inputs))), deque[Future[None]](), list[Future[None]]()

        def take() -> bool:
            try:
                place = left.popleft()
            except IndexError:
                return False
            try:
                made[place] = task(inputs[place])
            except BaseException:
                left.clear()
                raise
            return bool(left)

        def help_out() -> None:
            if take():  # a more urgent task may go before the next input
                helpers.append(self.submit(urgency, help_out))

        helpers.extend(self.submit(urgency, help_out) for _ in inputs[1 : self.size])
        try:
            while take():
                pass
        finally:
            while helpers:
                helper = helpers.popleft()
                if not helper.cancel():
                    wait([helper])
                    begun.append(helper)
        for helper in begun:
            helper.result()
        return [made[place] for place in range(len(inputs))]

    def _work(self) -> None:
        self._begin()
        while task := self._todo.get()[2]:
            task()
            del task  # or it would keep its result alive while this thread waits
