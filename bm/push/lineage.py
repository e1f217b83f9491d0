"""What a folder was made from, as far as manifests tell, and what the cards of all that say of licences."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from bm.store import MANIFEST

FRONT = re.compile(r"\A---\n(.*?)\n---\n?", re.DOTALL)
"""What a card has in YAML above its text."""


@dataclass(frozen=True)
class Part:
    """A folder in the lineage."""

    path: Path
    manifest: Mapping[str, Any]
    """Empty where there is none."""

    @property
    def stage(self) -> str:
        return str(self.manifest.get("stage", "folder"))

    @property
    def label(self) -> str:
        return str(self.manifest.get("label", self.path.resolve().name))

    @property
    def key(self) -> str:
        return str(self.manifest.get("key", ""))

    @property
    def command(self) -> str:
        """What made it; "" where it was no command of `bm`."""
        stage, *words = self.manifest.get("command", [""])
        return f"{stage} {shlex.join(words)}" if stage.startswith("bm ") else ""

    @property
    def licence(self) -> str:
        """As its card states it; "" where it does not."""
        card = self.path / "README.md"
        stated = front(card.read_text()).get("license") if card.is_file() else None
        return ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")


def front(card: str) -> dict[str, Any]:
    """The metadata above a card's text; empty where there is none."""
    found = FRONT.match(card)
    metadata = yaml.safe_load(found[1]) if found else None
    return metadata if isinstance(metadata, dict) else {}


def lineage(folder: Path, store: Path) -> list[Part]:
    """The folder itself, and every folder that it was made from and that is still there, nearest first."""
    found: dict[Path, Part] = {}
    ahead = [folder]
    while ahead:
        path = ahead.pop(0)
        if path.resolve() in found:
            continue
        file = path / MANIFEST
        part = Part(path, json.loads(file.read_text()) if file.is_file() else {})
        found[path.resolve()] = part
        ahead += [one for one in _inputs(part, store) if one.is_dir()]
    return list(found.values())


def _inputs(part: Part, store: Path) -> Iterator[Path]:
    """Artefacts of the store that it is in, or of `store`; of `bm merge`'s folders those that its settings name."""
    inside = part.path.parent.parent
    home = inside if part.path.parent.name == part.stage else store
    yield from (home / one["stage"] / one["key"] for one in part.manifest.get("inputs", ()))
    settings = part.manifest.get("config", {}) if part.stage == "folder" else {}
    named = [settings.get("base"), *settings.get("models", ())] if isinstance(settings, Mapping) else []
    yield from (Path(name) for name in named if name and name != "None")
