"""Which models an ensemble's folder stands for."""

import json
from pathlib import Path

ENSEMBLE = "ensemble.json"
"""In the folder of several models that answer as one (`bm.generate.ensemble`)."""


def members(folder: Path) -> dict[str, Path]:
    """The folders of an ensemble's members by name; none where a folder is no ensemble."""
    file = folder / ENSEMBLE
    places = json.loads(file.read_text())["members"] if file.is_file() else {}
    return {name: folder / place for name, place in places.items()}
