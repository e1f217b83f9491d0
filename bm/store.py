"""Content-addressed artefacts: what a stage leaves on disk, named by the hash of everything that made it.

outputs/store/<stage>/<key>/            files and manifest.json, complete or absent
outputs/store/<stage>/<key>.work/       being made; survives a crash, and the next run resumes in it
outputs/store/<stage>/.<key>.lock       held by the one process that is making it
outputs/store/samples/<digest>/         every sample of a model, by what the model is
outputs/store/samples/endpoints/        every answer of a model behind an endpoint, by the model's name
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.markup import escape

from bm.code import code_version
from bm.errors import UserError
from bm.origin import origin
from bm.progress import say

MANIFEST = "manifest.json"
HASHED_EVERY_TIME = 64 << 20
"""Bytes up to which a file's digest is checked at each use; a larger file only if its size or time has changed."""


FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
"""What a Hugging Face folder keeps a model in; a model card or a training log beside it is no part of it."""


Build = Callable[[Path], Mapping[str, Any]]
"""Fills a work folder, going on from whatever an interrupted run left there; returns facts for the manifest."""


@dataclass(frozen=True)
class Artefact:
    """A complete, undamaged artefact on disk."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    @property
    def name(self) -> str:
        """Where it is in its store: `stage/key`."""
        return f"{self.manifest['stage']}/{self.key}"

    @property
    def label(self) -> str:
        return str(self.manifest["label"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the stage reported: tokens, counts, certificates."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts


class Store:
    """The artefacts below one folder."""

    def __init__(self, root: Path, fresh: Sequence[str] = ()) -> None:
        """fresh: stages whose artefacts are made again, once each, where they exist."""
        self.root, self._fresh = root, fresh
        self._renewed = set[str]()

    def make(
        self,
        stage: str,
        label: str,
        config: Mapping[str, Any],
        inputs: Sequence[Artefact],
        code: Sequence[str],
        build: Build,
    ) -> Artefact:
        """The artefact of `stage` for this config and these inputs: found, or built in a work folder and published.

        `code` names the functions that make the result (`bm.code`). UserError if the store cannot be written.
        """
        identity = {
            "stage": stage,
            "config": config,
            "inputs": [i.key for i in inputs],
            "code": code_version(tuple(code)),
        }
        key = digest(json.dumps(identity, sort_keys=True).encode())[:16]
        if (made := self._current(stage, key, inputs)) is not None:
            return made
        folder, name = self.root / stage, f"{stage} {label}"
        with _writing(self.root, name):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f".{key}.lock", f"is making {name}"):
                if (made := self._current(stage, key, inputs)) is not None:
                    return made
                described = {"key": key, "label": label, **identity}
                manifest = _build(folder / f"{key}.work", folder / key, described, inputs, build)
        self._renewed.add(key)
        return Artefact(folder / key, manifest)

    def _current(self, stage: str, key: str, inputs: Sequence[Artefact]) -> Artefact | None:
        """The artefact if it need not be made again, by wish or because an input has been and came out otherwise."""
        if stage in self._fresh and key not in self._renewed:
            return None
        artefact = self.find(stage, key)
        made_from = artefact.manifest["inputs"] if artefact else []
        same = all(
            was["content"] == _reference(i)["content"] for was, i in zip(made_from, inputs, strict=bool(artefact))
        )
        return artefact if same else None

    def find(self, stage: str, key: str) -> Artefact | None:
        """The artefact if it exists and is whole; UserError if it is damaged."""
        path = self.root / stage / key
        if not path.exists():
            return None
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            damage = _damage(path, manifest)
        except (OSError, ValueError, KeyError) as problem:
            manifest, damage = {}, f"its manifest cannot be read ({problem})"
        if damage:
            name = f"{stage} {manifest.get('label', '')}".strip()
            raise UserError(f"{path} ({name}) is damaged: {damage}; remove the folder and it is made again")
        return Artefact(path, manifest)

    def behind(self, model: Path, stage: str) -> list[Artefact]:
        """What of a stage went into a model, by its manifest and those before it, as far as this store holds them."""
        of_stage: dict[str, Artefact] = {}
        ahead, passed = [model / MANIFEST], set[str]()
        while ahead:
            manifest = ahead.pop()
            inputs = json.loads(manifest.read_text())["inputs"] if manifest.exists() else []
            for reference in (i for i in inputs if i["key"] not in passed):
                passed.add(reference["key"])
                artefact = self.find(reference["stage"], reference["key"])
                if artefact:
                    ahead.append(artefact.path / MANIFEST)
                    of_stage |= {artefact.key: artefact} if reference["stage"] == stage else {}
        return [of_stage[key] for key in sorted(of_stage)]

    def journals(self, model: Artefact) -> Path:
        """Where the samples of a model are kept, for whoever evaluates it next: `samples/<digest of the model>`."""
        return self.root / "samples" / model_digest(model)

    def all(self) -> list[Artefact]:
        """Every complete artefact, oldest first; of one that is damaged a line is said instead."""
        artefacts = []
        for path in self.root.glob(f"*/*/{MANIFEST}"):
            if path.parent.suffix:
                continue
            try:
                artefacts.append(self.find(path.parent.parent.name, path.parent.name))
            except UserError as damaged:
                say(escape(f"left out: {damaged}"))
        return sorted((a for a in artefacts if a), key=lambda a: str(a.manifest["created"]))


def external(path: Path) -> Artefact:
    """A folder outside any store as an input: its key is what is in it. UserError if it is not a directory."""
    if not path.is_dir():
        raise UserError(f"{path} is not a directory")
    files = sorted(p for p in path.iterdir() if p.is_file())
    content = [(p.name, file_digest(p)) for p in files if p.name != MANIFEST]
    key = digest(json.dumps(content).encode())[:16]
    described = {name: {"sha256": sha256} for name, sha256 in content}
    return Artefact(path, {"stage": "external", "key": key, "label": path.resolve().name, "files": described})


def model_digest(model: Artefact) -> str:
    """What a model is, whatever it is called and however it was made: of its weights, config, tokenizer, template."""
    files = sorted((name, about["sha256"]) for name, about in model.manifest["files"].items())
    parts = [pair for pair in files if Path(pair[0]).suffix in MODEL_FILES]
    return digest(json.dumps(parts).encode())[:16]


def folder(output: Path, config: Mapping[str, Any], inputs: Sequence[Path], build: Build) -> Artefact:
    """A folder of the user's own choice, built as artefacts are: complete with its manifest or absent.

    UserError if `output` exists already or cannot be written. An interrupted build resumes when the config and the
    inputs are the same; of one that was refused, or that was for other inputs, nothing remains.
    """
    present = [f for i in inputs for f in sorted(i.iterdir()) if f.is_file()]
    files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in present]
    key = digest(json.dumps([config, files], sort_keys=True).encode())[:16]
    work, lock = output.with_name(f".{output.name}.{key}.work"), output.with_name(f".{output.name}.lock")
    with _writing(output.parent, str(output)):
        output.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, f"is making {output}"):
            if output.exists():
                raise UserError(f"{output} exists; choose another output or remove it")
            for other in output.parent.glob(f".{glob.escape(output.name)}.*.work"):
                if other != work:
                    shutil.rmtree(other)
            identity = {"stage": "folder", "key": key, "label": output.name, "config": config}
            try:
                return Artefact(output, _build(work, output, identity, [], build))
            except UserError:
                shutil.rmtree(work, ignore_errors=True)
                raise


@contextmanager
def _writing(folder: Path, name: str) -> Iterator[None]:
    """A folder that cannot be written, or a full disk, as a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        chain: list[BaseException] = [problem]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
            chain.append(cause)
        if any(getattr(link, "errno", None) in FULL or "No space left" in str(link) for link in chain):
            raise UserError(
                f"{name}: the disk of {folder} is full; make room, then rerun the command to resume"
            ) from problem
        nowhere = isinstance(problem, FileNotFoundError) and not folder.is_dir()  # as below /proc
        if isinstance(problem, OSError) and (problem.errno in REFUSED or nowhere) and _below(problem.filename, folder):
            raise UserError(
                f"{problem.filename} cannot be written: {problem.strerror}; {name} belongs there"
            ) from problem
        raise


def _below(file: Any, folder: Path) -> bool:
    """Whether a file is in a folder, or is a part of the way there."""
    if not isinstance(file, str | os.PathLike):
        return False
    place, folder = Path(os.path.abspath(file)), Path(os.path.abspath(folder))
    return place.is_relative_to(folder) or folder.is_relative_to(place)


def _build(
    work: Path, final: Path, identity: Mapping[str, Any], inputs: Sequence[Artefact], build: Build
) -> dict[str, Any]:
    """Fill `work`, describe it in its manifest, and publish it as `final`, in place of what is there."""
    work.mkdir(exist_ok=True)
    spent = _Spent(work / ".seconds")
    try:
        facts = dict(build(work))
    except UserError:
        spent.forget()
        raise
    digests = facts.pop("digests", {})
    manifest = {**identity, "inputs": [_reference(i) for i in inputs], "facts": facts, "seconds": spent.stop(),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "files": _describe(work, digests),
                **origin()}  # fmt: skip
    write_json(work / MANIFEST, manifest)
    _flush(work)
    if final.exists():
        before = final.with_name(f"{final.name}.old")
        shutil.rmtree(before, ignore_errors=True)
        os.replace(final, before)
        os.replace(work, final)
        shutil.rmtree(before)
    else:
        os.replace(work, final)
    _flush(final.parent)
    return manifest


class _Spent:
    """Seconds spent on an artefact, over interruptions: what earlier attempts had spent is kept beside their work."""

    def __init__(self, file: Path) -> None:
        self._file, self._start = file, time.monotonic()
        self._before = sum(float(line) for line in file.read_text().split()) if file.exists() else 0.0
        begun = file.with_name(".begun")
        if begun.exists():  # an attempt that was killed: it worked until the last file it wrote
            started = begun.stat().st_mtime
            last = max((f.stat().st_mtime for f in file.parent.rglob("*") if f.is_file()), default=started)
            self._before += max(0.0, last - started)
            file.write_text(f"{self._before}\n")
        begun.write_bytes(b"")  # its time is when this attempt began; what it says could be half written

    def stop(self) -> float:
        """Seconds so far; nothing of the count remains in the folder."""
        self._file.unlink(missing_ok=True)
        self._file.with_name(".begun").unlink()
        return round(self._before + time.monotonic() - self._start, 3)

    def forget(self) -> None:
        """Remove the folder if the build was refused before it wrote anything."""
        if {f.name for f in self._file.parent.iterdir()} <= {".seconds", ".begun"}:
            self.stop()
            self._file.parent.rmdir()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file; it is read once as long as its size and time stay."""
    status = path.stat()
    return _digest_of(path.absolute(), status.st_size, status.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Written beside and renamed, so that a reader never sees half of it."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    os.replace(beside, path)


def locked(path: Path, doing: str) -> Any:
    """A lock file held by this process alone, once nobody else is `doing` the same; a context manager.

    Where the file system has no flock, the file's existence is the lock.
    """
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that {doing}")
        return lock.acquire()


def _reference(artefact: Artefact) -> dict[str, str]:
    """How an artefact is named as an input: by its key, and by what is in it, should its stage be made afresh."""
    files = artefact.manifest.get("files", {})
    described = sorted((name, file["sha256"]) for name, file in files.items())
    model = any(name.endswith(".safetensors") for name in files)
    content = model_digest(artefact) if model else digest(json.dumps(described).encode())[:16]
    return {"stage": artefact.manifest["stage"], "key": artefact.key, "label": artefact.label, "content": content}


def _describe(folder: Path, known: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size, time and digest of every file below `folder`; `known` digests were taken while writing.

    A manifest that was copied along with a model is left out, since this artefact's own takes its place.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        name, status = str(path.relative_to(folder)), path.stat()
        files[name] = {
            "bytes": status.st_size,
            "modified": status.st_mtime_ns,
            "sha256": known.get(name) or file_digest(path),
        }
    return files


def _damage(path: Path, manifest: Mapping[str, Any]) -> str:
    """What is wrong with the files of an artefact; empty if nothing is."""
    for name, was in manifest["files"].items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        status = file.stat()
        if status.st_size != was["bytes"]:
            return f"{name} has {status.st_size} bytes and should have {was['bytes']}"
        suspicious = status.st_size <= HASHED_EVERY_TIME or status.st_mtime_ns != was["modified"]
        if suspicious and file_digest(file) != was["sha256"]:
            return f"the content of {name} has changed"
    return ""


def whole(folder: Path) -> None:
    """UserError where a folder that `bm` made is not what its manifest says; of another folder nothing is known."""
    file = folder / MANIFEST
    try:
        damage = _damage(folder, json.loads(file.read_text())) if file.is_file() else ""
    except (OSError, ValueError, KeyError) as problem:
        damage = f"its manifest cannot be read ({problem})"
    if damage:
        raise UserError(f"{folder} is damaged: {damage}")


def _flush(folder: Path) -> None:
    """To the disk, files and then the folders that name them: a rename must never outlive what it published."""
    for path in [*folder.rglob("*"), folder] if folder.name.endswith(".work") else [folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
