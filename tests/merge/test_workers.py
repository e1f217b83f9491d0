"""Which task a merge's threads take next, how they share one, and how they end."""

import threading
import time

import pytest

from bm.merge.workers import Urgency, Workers


def nothing():
    pass


def busy(workers):
    """Occupies every thread until the event that is handed back is set."""
    go, taken = threading.Event(), threading.Semaphore(0)

    def hold():
        taken.release()
        assert go.wait(30)

    for _ in range(workers.size):
        workers.submit(Urgency.WRITE, hold)
    for _ in range(workers.size):
        assert taken.acquire(timeout=30)
    return go


def test_the_most_urgent_task_is_taken_first_and_of_these_the_oldest():
    done = []
    with Workers(1, nothing) as workers:
        go = busy(workers)
        tasks = [
            (urgency, i)
            for i in range(2)
            for urgency in (Urgency.SCORE, Urgency.WRITE_PART, Urgency.WRITE, Urgency.SCORE_PART)
        ]
        futures = [workers.submit(urgency, lambda task=(urgency, i): done.append(task)) for urgency, i in tasks]
        go.set()
        for future in futures:
            future.result(30)
    assert done == sorted(tasks)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_task_may_share_its_own_work(size):
    """Every thread is within such a task, and none waits for one that has not begun."""

    def outer(i):
        return sum(workers.map(Urgency.SCORE_PART, lambda j: 10 * i + j, range(7)))

    with Workers(size, nothing) as workers:
        assert workers.map(Urgency.SCORE, outer, range(9)) == [70 * i + 21 for i in range(9)]
        futures = [workers.submit(Urgency.SCORE, lambda i=i: outer(i)) for i in range(9)]
        assert [future.result(30) for future in futures] == [70 * i + 21 for i in range(9)]
        assert workers.map(Urgency.SCORE, outer, []) == []


def test_idle_threads_help():
    meeting = threading.Barrier(3, timeout=30)  # passed when three are about it at once
    with Workers(3, nothing) as workers:
        names = workers.map(
            Urgency.SCORE_PART, lambda _: (meeting.wait(), threading.current_thread().name)[1], range(3)
        )
    assert len(set(names)) == 3


def test_a_helper_turns_to_what_is_more_urgent_between_two_inputs():
    seen, first, caller = [], threading.Event(), threading.current_thread()

    def slow(i):
        if threading.current_thread() is caller:
            assert first.wait(30)
            time.sleep(0.05)
        else:
            if not first.is_set():
                urgent.append(workers.submit(Urgency.WRITE, lambda: seen.append("urgent")))
                first.set()
            seen.append(i)

    urgent = []
    with Workers(2, nothing) as workers:
        go = threading.Event()
        workers.submit(Urgency.WRITE, lambda: go.wait(30))  # one thread is left to help
        workers.map(Urgency.WRITE_PART, slow, range(40))
        go.set()
        urgent[0].result(30)
    assert seen[1] == "urgent"


@pytest.mark.parametrize("size", [1, 4])
def test_a_mistake_ends_the_task_and_comes_to_the_caller(size):
    done = []

    def task(i):
        if i == 5:
            raise ValueError("the fifth")
        done.append(i)

    with Workers(size, nothing) as workers:
        with pytest.raises(ValueError, match="the fifth"):
            workers.map(Urgency.SCORE_PART, task, range(10_000))
        assert len(done) < 10_000
        with pytest.raises(ValueError, match="the fifth"):
            workers.submit(Urgency.SCORE, lambda: task(5)).result(30)
        assert workers.submit(Urgency.SCORE, lambda: "still at work").result(30) == "still at work"


def test_the_end_leaves_undone_what_has_not_begun():
    """An interrupted merge does not first score what was to come."""
    with Workers(1, nothing) as workers:
        go = busy(workers)
        futures = [workers.submit(Urgency.WRITE, lambda: None) for _ in range(3)]
        threading.Timer(0.1, go.set).start()
    assert not any(future.done() for future in futures)
    assert not any(thread.name.startswith("merge-") for thread in threading.enumerate())


def test_every_thread_begins_with_what_it_is_told():
    begun = []
    with Workers(3, lambda: begun.append(threading.current_thread().name)) as workers:
        workers.submit(Urgency.WRITE, nothing).result(30)
    assert sorted(begun) == ["merge-0", "merge-1", "merge-2"]
