"""A ready student: a Hugging Face folder from disk or from the hub."""

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from bm.errors import UserError

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "LICENSE*", "README.md")
"""Weights as safetensors alone: nothing that would have to be unpickled or run."""


def build(output: Path, *, name: str, revision: str | None) -> dict[str, Any]:
    """`name`, a folder or a model of the hub, copied into `output`; `revision` is the hub's commit, branch or tag.

    Returns {"name", "revision"}, the revision as the commit that was fetched. UserError if there are no safetensors.
    """
    if Path(name).is_dir():
        for pattern in FILES:
            for file in Path(name).glob(pattern):
                shutil.copy2(file, output / file.name)
        fetched = revision
    else:
        fetched = _fetch(output, name, revision)
    if not any(output.glob("*.safetensors")) or not (output / "config.json").exists():
        raise UserError(f"{name}: needs config.json and weights as safetensors")
    return {"name": name, "revision": fetched}


def _fetch(output: Path, name: str, revision: str | None) -> str:
    """Goes on where an interrupted download stopped; the commit that was fetched."""
    try:
        snapshot_download(name, revision=revision, local_dir=output, allow_patterns=list(FILES))
    except (RepositoryNotFoundError, HFValidationError) as problem:
        raise UserError(f"student `{name}` is neither a folder nor a model of the Hugging Face hub") from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise UserError(f"student `{name}` cannot be fetched: {str(problem).splitlines()[0]}") from problem
    metadata = output / ".cache" / "huggingface" / "download" / "config.json.metadata"
    commit = metadata.read_text().splitlines()[0] if metadata.exists() else str(revision)
    shutil.rmtree(output / ".cache", ignore_errors=True)
    return commit
