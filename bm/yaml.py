"""YAML as OmegaConf reads it, parsed in C: in Python that takes most of the time in which a command is composed."""

from pathlib import Path
from typing import IO, Any

import yaml  # type: ignore[import-untyped]
from omegaconf._utils import get_yaml_loader
from yaml.constructor import SafeConstructor  # type: ignore[import-untyped]
from yaml.cyaml import CParser  # type: ignore[import-untyped]
from yaml.resolver import Resolver  # type: ignore[import-untyped]


class _Loader(CParser, get_yaml_loader()):  # type: ignore[misc]  # the libraries have no types
    """OmegaConf's loader, which is a safe one, behind the parser in C."""

    def __init__(self, stream: IO[str]) -> None:
        CParser.__init__(self, stream)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


def read_yaml(path: Path) -> Any:
    """What a file holds, in plain dicts, lists and scalars; yaml.YAMLError where it is not YAML."""
    with path.open(encoding="utf-8") as file:
        try:
            return yaml.load(file, _Loader)
        except yaml.YAMLError:  # Python's parser says better where the mistake is
            file.seek(0)
            return yaml.load(file, get_yaml_loader())
