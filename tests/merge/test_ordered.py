"""Files made of pieces: whole and with their digests, in whatever order the pieces come, past the page cache or not."""

import errno
import fcntl
import hashlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bm.merge import ordered
from bm.merge.checkpoint import Entry, layout
from bm.merge.dtypes import Dtype
from bm.merge.ordered import File, Ordered


def shard_of(sizes):
    """One shard of tensors of these many bytes."""
    (shard,) = layout([Entry(f"t{i:03}", (size,), Dtype.uint8) for i, size in enumerate(sizes)], 1 << 40)
    return shard


def pieces(shard, data, length):
    """What is fed of a shard whose file is `data`: name, byte, bytes."""
    return [
        (name, start - first, data[start : min(start + length, end)])
        for name, first, end in shard.spans()
        for start in range(first, end, length)
    ]


@given(
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=5),
    length=st.integers(500, 20_000),
    done=st.integers(0, 5),
    large=st.sampled_from([0, 1 << 40]),
    seed=st.integers(0, 99),
)
def test_pieces_in_any_order_become_the_file(sizes, length, done, large, seed, tmp_path_factory):
    """From the start, and after a process that has finished the first tensors, of which nothing is written again."""
    shard = shard_of(sizes)
    whole = np.random.default_rng(seed).integers(0, 256, shard.size, np.uint8)
    whole[: len(shard.header)] = np.frombuffer(shard.header, np.uint8)
    begin = ([0, *(end for _, _, end in shard.spans())] + [0] * 5)[done]
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(whole[:begin].tobytes())
    todo = pieces(shard, whole, length)
    near = 8
    for i in range(0, len(todo), near):
        todo[i : i + near] = random.Random(seed).sample(todo[i : i + near], len(todo[i : i + near]))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(3) as feeders:
        patch.setattr(ordered, "LARGE", large)
        patch.setattr(ordered, "BUFFER", 2 * ordered.PAGE)
        file = File(path, shard.size, begin, writer)
        fed = Ordered([shard], {shard.name: file})
        for future in [feeders.submit(fed.feed, *piece) for piece in todo]:
            future.result()
        assert fed.result() == {shard.name: hashlib.sha256(whole).hexdigest()}
        assert file.written == shard.size
        os.close(file.number)
    assert path.read_bytes() == whole.tobytes()


def written(path, large, monkeypatch):
    """A file of a megabyte, and whether it went past the page cache."""
    monkeypatch.setattr(ordered, "LARGE", large)
    shard = shard_of([1 << 20])
    with ThreadPoolExecutor(1) as writer:
        file = File(path, shard.size, 0, writer)
        direct = bool(fcntl.fcntl(file.number, fcntl.F_GETFL) & os.O_DIRECT)
        Ordered([shard], {shard.name: file}).feed("t000", 0, np.ones(1 << 20, np.uint8))
    os.close(file.number)
    assert path.read_bytes() == shard.header + b"\1" * (1 << 20)
    return direct


def test_only_large_files_go_past_the_page_cache(tmp_path, monkeypatch):
    try:
        os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    assert [written(tmp_path / "file", large, monkeypatch) for large in (0, 1 << 30)] == [True, False]


@pytest.mark.parametrize("at", ["opening", "writing"])
def test_a_file_system_that_has_only_the_page_cache(at, tmp_path, monkeypatch):
    control, write = fcntl.fcntl, os.pwrite
    direct = []

    def refusing(number, command, flags=0):
        if command == fcntl.F_SETFL:
            direct.append(bool(flags & os.O_DIRECT))
            if at == "opening" and direct[-1]:
                raise OSError(errno.EINVAL, "Invalid argument")
            return 0
        return control(number, command, flags)

    def choosy(*arguments):
        if direct[-1] and at == "writing":
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(*arguments)

    monkeypatch.setattr(ordered.fcntl, "fcntl", refusing)
    monkeypatch.setattr(ordered.os, "pwrite", choosy)
    assert not written(tmp_path / "file", 0, monkeypatch)
    assert direct == ([True] if at == "opening" else [True, False])


def test_a_full_disk_is_told_to_whoever_brings_more(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ordered.os, "pwrite", full)
    shard = shard_of([ordered.BUFFER * 8])
    with ThreadPoolExecutor(1) as writer:
        fed = Ordered([shard], {shard.name: File(tmp_path / "file", shard.size, 0, writer)})
        with pytest.raises(OSError, match="No space left"):
            fed.feed("t000", 0, np.zeros(ordered.BUFFER * 8, np.uint8))


def test_whoever_brings_a_piece_does_not_wait_for_another_that_hashes(monkeypatch):
    """Unless much waits: then memory would grow."""
    monkeypatch.setattr(ordered, "WAITING", 1600)
    shard, hashing, go = shard_of([100] * 40), threading.Event(), threading.Event()
    fed = Ordered([shard])

    def slow(name):
        hashing.set()
        go.wait(30)

    monkeypatch.setattr(fed, "_take", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(fed.feed, "t000", 0, np.zeros(100, np.uint8))
        hashing.wait(30)
        for i in range(1, 16):
            fed.feed(f"t{i:03}", 0, np.zeros(100, np.uint8))
        crowded = threads.submit(fed.feed, "t039", 0, np.zeros(100, np.uint8))
        assert not crowded.done()
        go.set()
        first.result(30)
        crowded.result(30)


def test_pieces_that_never_come_are_noticed():
    shard = shard_of([100, 100])
    fed = Ordered([shard])
    fed.feed("t001", 0, np.zeros(100, np.uint8))
    with pytest.raises(RuntimeError, match="never reached"):
        fed.result()
