"""The command line as Hydra takes it, and Hydra's complaints about it in one line with the nearest valid name."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bm.errors import nearest

CHOSEN = ("experiment=", "recipe=")
"""Groups of `bm run`; to `bm report` they say which grid."""


def opened(stage: str, words: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: those that it would call additions are marked as such, as any domain may be given
    a ratio, and groups that a report does not compose become its settings."""
    words = [f"grid.{word}" if stage == "report" and word.startswith(CHOSEN) else word for word in words]
    words = [_quoted(word) for word in words]
    return [f"++{word}" if word.startswith("mixture.ratio.") else word for word in words]


def _quoted(word: str) -> str:
    """`merge.order=(a & b) & c` as it is written: Hydra would read its parentheses and `&`."""
    setting, _, orders = word.partition("=")
    if setting != "merge.order" or "&" not in orders or any(mark in orders for mark in "'\"["):
        return word
    return f"{setting}={','.join(repr(order.strip()) for order in orders.split(','))}"


def explain(problem: Exception, stage: str, conf: Path) -> str:
    """What is wrong with the overrides of `bm <stage>`, where, and what was probably meant."""
    text = str(problem)
    if match := re.search(r"Could not override '([^']+)'", text):
        path = match[1].split("@")[0]
        parent = path.rpartition(".")[0]
        valid = [f"{parent}.{n}" if parent else n for n in _names(stage, conf, parent)]
        return f"{path}: no such setting or group of `bm {stage}`{nearest(path, valid)}"
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        options = re.findall(r"^\t(\S+)$", text, re.MULTILINE)
        return f"{group}={option}: {group} has no option '{option}'{nearest(option, options)}"
    if "is not in struct" in text and (match := re.search(r"full_key: (\S+)", text)):
        return f"{match[1]}: no such setting of `bm {stage}`"
    first = text.strip().splitlines()[0] if text.strip() else type(problem).__name__
    return f"the overrides cannot be read: {first} (values with spaces, brackets or & need quotes)"


def _names(stage: str, conf: Path, parent: str) -> list[str]:
    """The names that are valid below `parent`, without the overrides that failed."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        node = OmegaConf.select(compose(stage), parent) if parent else compose(stage)
    groups = [] if parent else [d.name for d in conf.iterdir() if d.is_dir()]
    return [*groups, *(str(name) for name in node)] if isinstance(node, DictConfig) else groups
