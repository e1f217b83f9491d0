"""Whether a run has nothing to do, by the sizes and dates of what it rests on: known before anything heavy is imported.

A run that ended notes below `outputs/runs/.finished/`, under its composed settings, what it rests on: `bm` itself,
modules of yours that were imported, the folders of installed packages, the files that settings name, its artefacts and
its results. While none of them has another size or date, everything would be kept. Of anything else keys decide.
"""

import json
import os
import platform
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bm import __version__
from bm.store import digest, write_json

NOTES = Path("runs") / ".finished"
"""Below the outputs folder."""
PACKAGE = Path(__file__).parent
BYTECODE = "__pycache__"
INSTALLED = ("site-packages", "dist-packages")


def find(composed: DictConfig) -> dict[str, Any] | None:
    """What `note` was told of the run with these settings (`home`, `mean`), if nothing it rests on has changed."""
    if composed.fresh:
        return None
    try:
        noted: dict[str, Any] = json.loads(_note(composed).read_text())
    except (OSError, ValueError):
        return None
    same = all(_stamp(Path(path)) == stamp for path, stamp in noted.pop("rests_on").items())
    return noted if same else None


def note(composed: DictConfig, began: float, home: Path, mean: float | None, rests_on: Iterable[Path]) -> None:
    """Note that the run with these settings ended; `rests_on`: its artefacts, and the files that its settings name.

    began: when it did, `time.time()`. Where code was edited since, what ran is not what is there now: nothing is noted.
    """
    yours, installed = _modules()
    code = [*yours, *_files(PACKAGE)]
    if any(file.stat().st_mtime > began for file in [*code, *installed] if file.exists()):
        return
    results = (home / "results.json", home / "report" / "index.html")
    stamps = {str(path.absolute()): _stamp(path) for path in [*rests_on, *results, PACKAGE, *yours, *installed]}
    path = _note(composed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"home": str(home), "mean": mean, "rests_on": stamps})


def _note(composed: DictConfig) -> Path:
    """The place of a run's note: by its settings as composed, the folder they are read in, and the machine."""
    settings = OmegaConf.to_container(composed, resolve=True)
    of = [settings, os.getcwd(), platform.node(), sys.version, __version__]
    return Path(composed.paths.outputs) / NOTES / f"{digest(json.dumps(of, sort_keys=True, default=str).encode())}.json"


def _stamp(path: Path) -> str:
    """Sizes and dates of a file, or of all files of a folder.

    For installed packages the date of their folder counts, which changes when a package is installed or removed.
    """
    if path.name in INSTALLED or not path.is_dir():
        return _dated({"": path})
    return _dated({str(file.relative_to(path)): file for file in _files(path)})


def _dated(files: Mapping[str, Path]) -> str:
    stamps = []
    for name, file in sorted(files.items()):
        try:
            status = file.stat()
        except OSError:
            stamps.append((name, -1, -1))  # it is not there
            continue
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        stamps.append((name, size, status.st_mtime_ns))
    return digest(json.dumps(stamps).encode())[:16]


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != BYTECODE]
        yield from (Path(place, name) for name in names)


def _modules() -> tuple[set[Path], set[Path]]:
    """The files of modules that are neither Python's nor installed nor `bm`'s, and the folders of installed ones."""
    python = sysconfig.get_paths()
    others = (PACKAGE, *(Path(python[name]) for name in ("stdlib", "platstdlib")))
    yours, installed = set[Path](), {Path(python[name]) for name in ("purelib", "platlib")}
    for module in list(sys.modules.values()):
        file = Path(name) if isinstance(name := getattr(module, "__file__", None), str) else None
        folder = next((place for place in file.parents if place.name in INSTALLED), None) if file else None
        if folder:
            installed.add(folder)
        elif file and not any(file.is_relative_to(place) for place in others):
            yours.add(file)
    return yours, installed
