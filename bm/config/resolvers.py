"""What the files in `conf/` may ask for beside what Hydra knows."""

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def order_of_domains(order: str, *, _root_: DictConfig) -> str | None:
    """A recipe's merge order where its domains are the ones chosen; else null, which takes them as they are listed."""
    return order if set(re.findall(r"[\w.-]+", order)) == set(_root_.domains) else None


def packaged(path: str) -> str:
    """The place of a file or folder that comes with the package."""
    return str(Path(__file__).parents[1] / path)


OmegaConf.register_new_resolver("order_of_domains", order_of_domains, replace=True)
OmegaConf.register_new_resolver("packaged", packaged, replace=True)
