"""Content-addressed artefacts: what a stage leaves on disk, named by the hash of everything that made it.

outputs/store/<stage>/<key>/            files and manifest.json, complete or absent
outputs/store/<stage>/<key>.work/       being made; survives a crash, and the next run goes on in it
outputs/store/<stage>/.<key>.lock       held by the one process that is making it
outputs/store/samples/<digest>/         every sample of a model, by what the model is
outputs/store/samples/endpoints/        every answer of a model behind an endpoint, by the model's name
"""

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bm.errors import UserError
from bm.progress import say

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "transformers", "lightning", "lm_eval", "reasoning-gym", "safetensors", "tokenizers", "numpy")
HASHED_EVERY_TIME = 64 << 20
"""Bytes up to which a file's digest is checked at each use; a larger file only if its size or time has changed."""


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

    def __init__(self, root: Path) -> None:
        self.root = root

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

        `code` names the rooms of `bm` whose code makes the result.
        """
        identity = {
            "stage": stage,
            "config": config,
            "inputs": [i.key for i in inputs],
            "code": code_version(tuple(code)),
        }
        key = digest(json.dumps(identity, sort_keys=True).encode())[:16]
        if (found := self.find(stage, key)) is not None:
            return found
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{key}.lock", f"{stage} {label}"):
            if (found := self.find(stage, key)) is not None:
                return found
            manifest = _build(
                folder / f"{key}.work", folder / key, {"key": key, "label": label, **identity}, inputs, build
            )
        return Artefact(folder / key, manifest)

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
        found: dict[str, Artefact] = {}
        ahead, passed = [model / MANIFEST], set[str]()
        while ahead:
            manifest = ahead.pop()
            inputs = json.loads(manifest.read_text())["inputs"] if manifest.exists() else []
            for one in (i for i in inputs if i["key"] not in passed):
                passed.add(one["key"])
                artefact = self.find(one["stage"], one["key"])
                if artefact:
                    ahead.append(artefact.path / MANIFEST)
                    found |= {artefact.key: artefact} if one["stage"] == stage else {}
        return [found[key] for key in sorted(found)]

    def journals(self, model: Artefact) -> Path:
        """Where the samples of a model are kept, for whoever evaluates it next: `samples/<digest of the model>`."""
        return self.root / "samples" / model_digest(model)

    def all(self) -> list[Artefact]:
        """Every complete artefact, oldest first."""
        found = (
            self.find(p.parent.parent.name, p.parent.name)
            for p in self.root.glob(f"*/*/{MANIFEST}")
            if not p.parent.suffix
        )
        return sorted((a for a in found if a), key=lambda a: str(a.manifest["created"]))


def external(path: Path) -> Artefact:
    """A folder that is no artefact of a store, as an input: its key is what is in it. UserError if it is no folder."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder")
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

    UserError if `output` exists already. An interrupted build goes on when the config and the inputs are the same.
    """
    if output.exists():
        raise UserError(f"{output} exists; choose another output or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for i in inputs for f in sorted(i.glob("*.safetensors"))]
    key = digest(json.dumps([config, files], sort_keys=True).encode())[:16]
    work = output.with_name(f".{output.name}.{key}.work")
    with _locked(output.with_name(f".{output.name}.lock"), str(output)):
        identity = {"key": key, "label": output.name, "config": config}
        return Artefact(output, _build(work, output, identity, [], build))


def _build(
    work: Path, final: Path, identity: Mapping[str, Any], inputs: Sequence[Artefact], build: Build
) -> dict[str, Any]:
    """Fill `work`, describe it in its manifest, and publish it as `final`."""
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
                **_origin()}  # fmt: skip
    write_json(work / MANIFEST, manifest)
    _flush(work)
    os.replace(work, final)
    _flush(final.parent)
    return manifest


class _Spent:
    """Seconds spent on an artefact, over interruptions: what earlier attempts had spent is kept beside their work."""

    def __init__(self, file: Path) -> None:
        self._file, self._start = file, time.monotonic()
        self._before = sum(float(line) for line in file.read_text().split()) if file.exists() else 0.0
        started = time.time()
        begun = file.with_name(".begun")
        if begun.exists():  # an attempt that was killed: it worked until the last file it wrote
            last = max((f.stat().st_mtime for f in file.parent.rglob("*") if f.is_file()), default=started)
            self._before += max(0.0, last - float(begun.read_text()))
            file.write_text(f"{self._before}\n")
        begun.write_text(f"{started}\n")

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
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Written beside and renamed, so that a reader never sees half of it."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    os.replace(beside, path)


@cache
def code_version(rooms: tuple[str, ...]) -> str:
    """Hash of what the code of some rooms does: formatting, comments and docstrings do not count."""
    package = Path(__file__).parent
    total = hashlib.sha256()
    for room in sorted(rooms):
        place = package / room
        files = [f for f in sorted(place.rglob("*")) if f.suffix in (".py", ".yaml")] if place.is_dir() else [place]
        for file in files:
            total.update(str(file.relative_to(package)).encode())
            total.update(_meaning(file).encode())
    return total.hexdigest()[:16]


def _meaning(file: Path) -> str:
    if file.suffix != ".py":
        return file.read_text()
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [b for b in node.body if not _is_text(b)]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _locked(path: Path, name: str) -> Any:
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that is making {name}")
        return lock.acquire()


def _reference(artefact: Artefact) -> dict[str, str]:
    return {"stage": artefact.manifest["stage"], "key": artefact.key, "label": artefact.label}


def _describe(folder: Path, known: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size, time and digest of every file below `folder`; `known` digests were taken while writing."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
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


def _flush(folder: Path) -> None:
    """To the disk, files and then the folders that name them: a rename must never outlive what it published."""
    for path in [*folder.rglob("*"), folder] if folder.name.endswith(".work") else [folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _origin() -> dict[str, Any]:
    """Where and with which versions."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except ImportError:
            continue
    return {"versions": installed, "git_commit": _git_commit(), "python": platform.python_version(),
            "hardware": hardware(), "command": sys.argv}  # fmt: skip


def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GB, and GPUs where torch has been loaded and sees some."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": round(memory, 1), "gpus": gpus}


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


@cache
def _git_commit() -> str | None:
    """The commit of the code if it runs from a checkout of its own, else None."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or None
