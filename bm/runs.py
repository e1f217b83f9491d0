"""What one run is: its key, where its results go, whether they are there, and the command that makes them again."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from bm.code import code_version
from bm.config import Experiment, components, contents, identity, resolved
from bm.store import Artefact, digest, write_json

if TYPE_CHECKING:
    from bm.report import Run

DONE = "done.json"
"""Beside a run's results, written last."""


def folder_of(config: Experiment) -> Path:
    """Where this run's results go: `output`, or a folder named by the recipe and all that decides the results."""
    return config.output or config.paths.outputs / "runs" / f"{config.recipe}-{key_of(config)}"


def key_of(config: Experiment) -> str:
    """The key of what decides the results: not where they go, who watches, or on how many machines they are made."""
    return digest(json.dumps(identity(config), sort_keys=True).encode())[:8]


def made_by(config: Experiment) -> str:
    """Hash of what decides a run: its settings, the files that they name, and the code."""
    code = sorted({"bm.commands:run", *(component.entry for component in components(config))})
    return digest(json.dumps([key_of(config), code_version(tuple(code))]).encode())[:16]


def rests_on(config: Experiment) -> list[Path]:
    """The artefacts of a run that is done, and the files that its settings name."""
    made: list[str] = json.loads((folder_of(config) / DONE).read_text())["artefacts"]
    return [*(config.paths.outputs / "store" / name for name in made), *contents(config)]


def done(config: Experiment) -> dict[str, Any] | None:
    """What this run has returned (`mean`), if the same code has made it from the same files already; None if not."""
    try:
        record: dict[str, Any] = json.loads((folder_of(config) / DONE).read_text())
    except (OSError, ValueError):
        return None
    whole = record.pop("made_by", None) == made_by(config) and (folder_of(config) / "results.json").exists()
    return record if whole else None


def finish(config: Experiment, began_by: str, mean: float | None, used: Sequence[Artefact]) -> None:
    """Notes that a run is done; `began_by` is what `made_by` said before it, `used` what it rests on."""
    artefacts = sorted({artefact.name for artefact in used})
    write_json(folder_of(config) / DONE, {"made_by": began_by, "mean": mean, "artefacts": artefacts})


def as_yaml(config: Experiment) -> str:
    """The settings, whole."""
    return OmegaConf.to_yaml(OmegaConf.create(resolved(config)))


def described(config: Experiment) -> "Run":
    """What a run says of itself; its command makes it again, also where it was one job of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    from bm.report import Run

    if HydraConfig.initialized():
        given = HydraConfig.get()
        overrides, sources = list(given.overrides.task), given.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        command = shlex.join(["bm", "run", *(f"--config-dir={folder}" for folder in folders), *overrides])
    else:  # called from Python
        overrides, folders, file = [], [], str(folder_of(config) / "config.yaml")
        command = f"run(load(Experiment, OmegaConf.load({file!r})))"
    return Run(config.experiment, config.recipe, config.seed, tuple(overrides), command, key_of(config), tuple(folders))
