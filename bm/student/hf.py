"""A ready student: a Hugging Face folder from disk or from the hub."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from bm.config import Content
from bm.errors import UserError
from bm.store import MANIFEST

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*", "README.md")
"""Weights as safetensors alone: nothing that would have to be unpickled or run."""


def build(output: Path, *, name: Annotated[str, Content], revision: str | None) -> dict[str, Any]:
    """`name`, a folder or a model of the hub, copied into `output`; `revision` is the hub's commit, branch or tag.

    What the hub's own cache has is not fetched again, so a model that is there serves offline too. Returns {"name",
    "revision"}, the revision as the commit that was taken. UserError if there are no safetensors, or not all of them.
    """
    local = Path(name).is_dir()
    folder = Path(name) if local else _fetched(name, revision)
    for pattern in FILES:
        for file in folder.glob(pattern):
            if file.name != MANIFEST:  # of an artefact: it says what that folder is, not what this one will be
                shutil.copy2(file, output / file.name)
    if not any(output.glob("*.safetensors")) or not (output / "config.json").exists():
        raise UserError(f"{name}: needs config.json and weights as safetensors")
    for index in output.glob("*.safetensors.index.json"):
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not (output / shard).exists():
                raise UserError(f"{name}: {shard}, which its index names, is missing")
    return {"name": name, "revision": revision if local else folder.name}


def _fetched(name: str, revision: str | None) -> Path:
    """The model's folder in the hub's cache, which its commit names; resumes an interrupted download."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except (RepositoryNotFoundError, HFValidationError) as problem:
        raise UserError(f"student `{name}` is neither a folder nor a model of the Hugging Face hub") from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        cause = problem.__cause__ or problem
        raise UserError(f"student `{name}` cannot be fetched from the hub: {str(cause).splitlines()[0]}") from problem
