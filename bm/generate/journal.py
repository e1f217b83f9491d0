"""Samples that survive a crash: written to disk as they come, found again by what was asked."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bm.generate.samples import Engine, Sample, Sampling
from bm.progress import Bar


def sample(
    engine: Engine, prompts: Sequence[str], sampling: Sampling, journal: Path, bar: Bar | None = None
) -> list[list[Sample]]:
    """`n` samples of every prompt, in order. What `journal` (JSON Lines) already holds is not generated again.

    Every batch is flushed to the disk before the next begins. One engine a journal: its identity is not in the key.
    """
    keys = [sampling.key(prompt) for prompt in prompts]
    found = _read(journal)
    known = {(p, i): s for p, key in enumerate(keys) for i in range(sampling.n) if (s := found.get((key, i)))}
    with _appending(journal) as file:
        for batch in engine.generate(prompts, sampling, known):
            lines = [{"key": keys[s.prompt], "index": s.index, "response": s.response, "tokens": s.tokens,
                      "finished": s.finished} for s in batch if (s.prompt, s.index) not in known]  # fmt: skip
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
            known.update({(s.prompt, s.index): _fields(s) for s in batch if (s.prompt, s.index) not in known})
            if bar:
                bar.advance(len(lines), f"{sum(s.tokens for s in batch) / len(batch):.0f} tokens a response")
    return [[Sample(p, i, *known[p, i]) for i in range(sampling.n)] for p in range(len(prompts))]


def _fields(sample: Sample) -> tuple[str, int, bool]:
    return sample.response, sample.tokens, sample.finished


def _read(journal: Path) -> dict[tuple[str, int], tuple[str, int, bool]]:
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    entries = map(json.loads, lines)
    return {(e["key"], e["index"]): (e["response"], e["tokens"], e["finished"]) for e in entries}


@contextmanager
def _appending(journal: Path) -> Iterator[IO[str]]:
    """Opened at the end of the last whole line: a crash may have left half of one."""
    journal.touch()
    with journal.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
    with journal.open("a", encoding="utf-8") as file:
        yield file
