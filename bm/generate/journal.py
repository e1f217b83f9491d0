"""Samples that survive a crash: written to disk as they come, found again by what was asked."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from bm.code import code_version
from bm.errors import UserError
from bm.generate.attempts import Attempts, Billed
from bm.generate.characters import whole_characters
from bm.generate.samples import Engine, Lasting, Row, Sample, Sampling
from bm.progress import Bar
from bm.store import digest, locked, write_json

LATER = ("prompt_tokens", "asked_by", "left_out")
"""What the first journals did not hold."""
BLOCK = 1 << 20
"""Bytes of a journal's end that are read at a time to find its last whole line."""


def of_engine(folder: Path, engine: Engine, entries: Sequence[str]) -> Path:
    """The part of a model's journals that this engine may share: what else its answers depend on is the same.

    entries: the functions (`bm.code`) that made an engine which does not say itself what that is.
    """
    facts = engine.facts()
    known = engine.identity() if isinstance(engine, Lasting) else [facts, code_version(tuple(entries))]
    own = folder / digest(json.dumps(known, sort_keys=True).encode())[:16]
    own.mkdir(parents=True, exist_ok=True)
    write_json(own / "engine.json", facts)
    return own


def sample(
    engine: Engine,
    prompts: Sequence[str],
    sampling: Sampling,
    journal: Path,
    bar: Bar | None = None,
    others: Sequence[Path] = (),
    asked_by: str = "",
) -> list[list[Sample]]:
    """`n` samples of every prompt, in order, or all that the engine has. What a journal holds is not asked again.

    Every batch is in `journal` on the disk before the engine is asked for the next; `others` are journals of the same
    engine that are only read. The engine's identity is not in the keys. Of two processes that want the same journal one
    waits, and then finds what the other has generated. The attempts of an engine that has a price are in the journal
    too. asked_by: who asks now; each sample says who asked for it first.
    """
    keys = [sampling.key(prompt) for prompt in prompts]
    rows = [(p, i) for p in range(len(prompts)) for i in range(sampling.n)]
    with appending(journal) as file:
        kept, begun = _read([journal, *(other for other in others if other != journal)], set(keys))
        known = {(p, i): _sample(p, i, e) for p, i in rows if (e := kept.get((keys[p], i)))}
        if bar and known:
            bar.advance(len(known))

        def note(row: Row, more: int) -> None:
            write(file, [{"key": keys[row[0]], "index": row[1], "attempts": more}])

        if isinstance(engine, Billed) and engine.price:
            engine.attempts = Attempts({(p, i): begun[keys[p], i] for p, i in rows if begun[keys[p], i]}, note)
        for batch in engine.generate(prompts, sampling, known):
            unknown = (s for s in batch if (s.prompt, s.index) not in known)
            new = [replace(s, response=whole_characters(s.response), asked_by=asked_by) for s in unknown]
            write(file, [_entry(keys[s.prompt], s) for s in new])
            known.update({(s.prompt, s.index): s for s in new})
            if bar:
                bar.advance(len(new), f"{sum(s.tokens for s in batch) / len(batch):.0f} tokens per response")
    return [[known[p, i] for i in range(sampling.n) if (p, i) in known] for p in range(len(prompts))]


def _read(journals: Sequence[Path], keys: set[str]) -> tuple[dict[tuple[str, int], Any], Counter[tuple[str, int]]]:
    """What journals have of these keys, by (key, index): answers, the first of several, and how many attempts."""
    answers: dict[tuple[str, int], Any] = {}
    begun = Counter[tuple[str, int]]()
    for entry in (e for journal in journals for e in entries(journal) if e["key"] in keys):
        place = entry["key"], entry["index"]
        if "attempts" in entry:
            begun[place] += entry["attempts"]
        else:
            answers.setdefault(place, entry)
    return answers, begun


def _entry(key: str, sample: Sample) -> dict[str, Any]:
    return {"key": key, **{name: value for name, value in asdict(sample).items() if name != "prompt"}}


def _sample(prompt: int, index: int, entry: Mapping[str, Any]) -> Sample:
    later = {name: entry[name] for name in LATER if name in entry}
    return Sample(prompt, index, entry["response"], entry["tokens"], entry["finished"], **later)


def entries(journal: Path) -> Iterator[Any]:
    """What a journal's whole lines hold; a full disk may have left half of one among them too."""
    if journal.exists():
        with journal.open("rb") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)


@contextmanager
def appending(journal: Path) -> Iterator[IO[bytes]]:
    """Opened at the end of the last whole line, for this process alone: a crash may have left half of one."""
    with locked(_lock(journal), f"writes {journal}"), journal.open("ab", buffering=0) as file:
        os.truncate(journal, _whole(journal))
        yield file


def _lock(journal: Path) -> Path:
    return journal.with_name(f".{journal.name}.lock")


def remove(journal: Path) -> None:
    """Delete a journal and its lock, in a folder of this process alone; where others may wait, the lock must stay."""
    for path in (journal, _lock(journal)):
        path.unlink(missing_ok=True)


def _whole(journal: Path) -> int:
    """Bytes of a journal up to the end of its last whole line."""
    end = journal.stat().st_size
    with journal.open("rb") as file:
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            if (at := file.read(end - start).rfind(b"\n")) >= 0:
                return start + at + 1
            end = start
    return 0


def write(file: IO[bytes], lines: Iterable[Any]) -> None:
    """Append entries, and have them on the disk before anything else happens; UserError if they do not fit there."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    data = text.encode("utf-8", "surrogatepass")
    try:
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except OSError as problem:
        kept = "what was written before is kept; rerun the command to resume"
        raise UserError(f"{file.name} cannot be written ({problem.strerror}): {kept}") from problem
