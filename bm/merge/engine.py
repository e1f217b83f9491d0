"""Runs merges: tiles are read, merged and written by worker threads, tensor after tensor in the order of the output."""

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from bm.errors import UserError
from bm.garbage import set_aside
from bm.merge.arrays import Array, from_torch, stored
from bm.merge.checkpoint import Entry, layout
from bm.merge.fused import beyond
from bm.merge.lazy import alone, single_threaded, torch
from bm.merge.names import Place
from bm.merge.sinks import Rows, Sink
from bm.merge.sources import Forgetting, is_finite
from bm.merge.steps import Item, Node, Step
from bm.merge.tensors import Compute, Source, Tensors, Tiling
from bm.merge.tiling import Allowance
from bm.merge.workers import Urgency, Workers
from bm.progress import Bar, progress

SCORED = 1 << 29  # entries, read and made, of the tensors scored while others are written: work for every thread
WRITTEN = 1 << 26  # of the tensors written while an earlier one is: their bytes wait until all bytes before are hashed
MAPPED = 1 << 26  # of scored tensors that stay mapped until they are written

Root: TypeAlias = Step | Source
"""The last step of a tensor's merge tree, or the source that is copied."""
I = TypeVar("I", "Item", "Scored")  # noqa: E741
O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class Merged:
    """One finished merge: what was measured of each tensor and step, and the digest of each file."""

    rows: Rows
    digests: dict[str, str]

    @property
    def kept_share(self) -> float | None:
        """Share of entries taken from the other models over all steps; None when no method selects."""
        selected = [row for row in self.rows if row["kept_share"] is not None]
        entries = sum(row["elements"] for row in selected)
        return sum(row["kept_share"] * row["elements"] for row in selected) / entries if entries else None


@dataclass(frozen=True)
class Scored:
    """A tensor that can be written."""

    item: Item
    roots: Sequence[Root]
    mapped: int
    """How many of its entries stay mapped until then."""

    @property
    def entries(self) -> int:
        return self.item.entries


def execute(
    items: Sequence[Item], sinks: Sequence[Sink], run: Compute, max_shard_size: int, threads: int = 0
) -> list[Merged]:
    """Makes the k-th tree of every item and gives it to sink k, all in one pass over the inputs.

    While a tensor is merged and written, the next ones are already being scored.
    """
    shards = layout([Entry(item.name, item.shape, item.dtype) for item in items], max_shard_size)
    by_name = {item.name: item for item in items}
    ordered = [by_name[entry.name] for shard in shards for entry in shard.entries]
    threads = threads or run.threads
    finished = [sink.open(shards) for sink in sinks]
    todo = [item for item in ordered if not all(item.name in done for done in finished)]
    layers = 1 + max((Place.of(item.name).layer for item in items), default=-1)
    rows: list[dict[str, Rows]] = [dict(done) for done in finished]
    total = sum(entry.bytes for shard in shards for entry in shard.entries)
    left = sum(Entry(item.name, item.shape, item.dtype).bytes for item in todo)
    with (
        _abandoned_if_refused(sinks),
        pool(run, threads) as (run, workers),
        progress("merge", total, "bytes", done=total - left) as bar,
    ):
        mapped = Allowance(MAPPED)
        scored = _ordered(partial(_score, layers=layers, run=run, mapped=mapped), todo, workers, Urgency.SCORE, SCORED)
        written = _ordered(partial(_write, sinks=sinks, run=run, bar=bar), scored, workers, Urgency.WRITE, WRITTEN)
        for tensor in written:
            for k, (root, sink) in enumerate(zip(tensor.roots, sinks, strict=True)):
                rows[k][tensor.item.name] = root.rows() if isinstance(root, Step) else []
                sink.done(tensor.item.name, rows[k][tensor.item.name])
            for root in tensor.roots:
                if isinstance(root, Step):
                    root.release()
            mapped.give(tensor.mapped)
    return [
        Merged([{"step": i, **row} for item in ordered for i, row in enumerate(measured[item.name])], sink.close())
        for sink, measured in zip(sinks, rows, strict=True)
    ]


@contextmanager
def _abandoned_if_refused(sinks: Sequence[Sink]) -> Iterator[None]:
    """A merge that its inputs do not allow never resumes, so nothing is left to resume from."""
    try:
        yield
    except UserError:
        for sink in sinks:
            sink.abandon()
        raise


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks: by default every block read or written would be mapped and zeroed anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)


@contextmanager
def pool(run: Compute, count: int) -> Iterator[tuple[Compute, Workers]]:
    """`run` with threads for its tiles, and the same threads for whole tensors. In each, torch has one thread."""
    _keep_freed_memory()
    patience = sys.getswitchinterval()
    sys.setswitchinterval(5e-4)  # a thread back from a tensor operation waits for the interpreter at most so long
    count = count or run.threads
    try:
        with (
            set_aside(),  # all threads wait for each collection
            single_threaded(),
            Workers(count, alone) as workers,
        ):
            yield replace(run, workers=workers), workers
    finally:
        sys.setswitchinterval(patience)


def _ordered(
    work: Callable[[I], O], inputs: Iterable[I], workers: Workers, urgency: Urgency, ahead: int
) -> Iterator[O]:
    """work(input) for each, in order, while the next inputs, of at most `ahead` entries together, are worked on."""
    coming = deque[tuple[int, Future[O]]]()
    beside = 0  # entries of all that are coming but the first
    for each in inputs:
        while coming and beside + each.entries > ahead:
            yield coming.popleft()[1].result()
            beside -= coming[0][0] if coming else 0
        beside += each.entries if coming else 0
        coming.append((each.entries, workers.submit(urgency, partial(work, each))))
    while coming:
        yield coming.popleft()[1].result()


def _score(item: Item, layers: int, run: Compute, mapped: Allowance) -> Scored:
    """One tensor's merges, ready to be applied: their reductions and thresholds are known."""
    shared: dict[Any, Tensors] = {}
    roots = [Step(tree, item, layers, run, shared) if isinstance(tree, Node) else tree for tree in item.trees]
    if mapped.take(item.entries):
        return Scored(item, roots, item.entries)
    for tensors in shared.values():
        tensors.forget(0, tensors.elements)
    return Scored(item, roots, 0)


def _write(scored: Scored, sinks: Sequence[Sink], run: Compute, bar: Bar) -> Scored:
    """Merges a tensor into every sink; hands back what it was given.

    What kernels make is one task for each block and sink, so that threads hash for different sinks and need not wait.
    """
    item, roots = scored.item, scored.roots
    tiling = Tiling.of(item.shape, run.tile_size)
    pairs = list(zip(roots, sinks, strict=True))
    tiled = [pair for pair in pairs if _is_tiled(pair[0])]
    groups = [*([tiled] if tiled else []), *([pair] for pair in pairs if not _is_tiled(pair[0]))]

    def part(task: tuple[range, list[tuple[Root, Sink]]]) -> None:
        tiles, group = task
        start, stop = tiling.span(tiles)
        made = _made([root for root, _ in group], item, tiles, start, stop)
        for values, (_, sink) in zip(made, group, strict=True):
            sink.write(item.name, start, values)
        if group is groups[-1]:
            for root in roots:
                if isinstance(root, Forgetting):
                    root.forget(start, stop)
            bar.advance((stop - start) * item.dtype.itemsize)

    read = max((len(root.tensors.models) + 1 for root in roots if isinstance(root, Step)), default=1)
    blocks = run.blocks(tiling, read + max(map(len, groups)))
    run.map(part, [(tiles, group) for tiles in blocks for group in groups], Urgency.WRITE_PART)
    return scored


def _is_tiled(root: Root) -> bool:
    """Whether a root is made tile by tile, for want of a kernel."""
    return isinstance(root, Step) and root.kernel is None


def _made(roots: Sequence[Root], item: Item, tiles: range, start: int, stop: int) -> list[Array]:
    """Elements [start, stop) of each root: of tiled ones together, or of one by its kernel, or copied."""
    steps = [root for root in roots if isinstance(root, Step) and root.kernel is None]
    if steps:
        return _tiled(steps, tiles)
    (root,) = roots
    return [
        stored(root, start, stop)
        if root.dtype == item.dtype
        else from_torch(root.read(start, stop).to(item.dtype.torch))
    ]


def _tiled(steps: Sequence[Step], tiles: range) -> list[Array]:
    """The steps' merged elements of these tiles, one by one, so that each is read and scored once for all."""
    start, stop = steps[0].tensors.tiling.span(tiles)
    out = [torch.empty(stop - start, dtype=step.dtype.torch) for step in steps]
    for tensors in {step.tensors: None for step in steps}:
        for tile in tensors.tiles(tiles):
            for merged, step in zip(out, steps, strict=True):
                if step.tensors is tensors:
                    merged[tile.start - start : tile.stop - start] = step.merged(tile).reshape(-1)
    for merged, step in zip(out, steps, strict=True):
        if not is_finite(merged):
            raise beyond(step.tensors.name)
    return [from_torch(merged) for merged in out]
