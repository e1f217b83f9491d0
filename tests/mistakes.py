"""Wrong inputs: the table of mistakes.yaml, and the folder that each of them is made in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Mistake:
    kind: str
    command: str
    says: str
    """Part of the one line that `bm` must end with."""
    given: dict[str, Any] = field(default_factory=dict)
    """Files by name with their text, or with `rows` times the row `each`, or a small model."""
    lines: int = 1
    """How many lines it says at most: the last is the mistake."""
    when: str = ""
    """What befalls the machine meanwhile (tests/test_mishaps.py); "": nothing."""
    room_kb: int = 0
    """Room on the disk beside what is given, where it fills up."""
    until: str = ""
    """A file that is there when the interruption comes."""
    status: int = 2
    slow: bool = False

    def prepare(self, folder: Path) -> None:
        for name, what in self.given.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(what, str):
                file.write_text(what)
            elif "each" in what:
                file.write_text("".join(what["each"].replace("ROW", str(row)) + "\n" for row in range(what["rows"])))
            else:
                model(file, **what["model"])


def mistakes() -> list[Mistake]:
    table = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())
    return [Mistake(kind, **row) for kind, rows in table.items() for row in rows]


def model(
    folder: Path,
    shape: tuple[int, int] = (2, 4),
    names: tuple[str, ...] = ("model.layers.0.mlp.up_proj.weight",),
    value: float | str = 1.0,
    config: str = '{"model_type": "llama", "num_hidden_layers": 1}',
    damaged: bool = False,
) -> None:
    """A folder that a merge takes for a model."""
    folder.mkdir(parents=True)
    weights = folder / "model.safetensors"
    save_file({name: np.full(shape, float(value), np.float32) for name in names}, weights)
    if damaged:
        weights.write_bytes(weights.read_bytes()[:-8])
    (folder / "config.json").write_text(config)
