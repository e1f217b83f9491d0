"""The command line as Hydra takes it, and Hydra's complaints about it in one line with the nearest valid name."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from bm.errors import nearest

CHOSEN = ("experiment=", "recipe=")
"""Groups of `bm run`; to `bm report` they say which grid."""
OPEN = re.compile(
    r"(merge\.(schedule|statistics)|mixture\.(ratio|branch)|evaluate\.data|student\.branch|prices\.gpus"
    r"|domains\.[\w-]+\.(branch|distill))[.=]"
)
"""Settings that hold names of the user's own choice, which Hydra would want to be marked with `+`."""


ENGINE = re.compile(r"^((?:evaluate|teacher|verify\.judge|rounds\.teacher)\.engine)=([\w-]+(?:,[\w-]+)*)$")
"""An engine by its name in `conf/engine/`, which Hydra would want to be written as `engine@evaluate.engine=NAME`."""


def opened(stage: str, words: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: those that it would call additions are marked as such, groups that a report
    does not compose become its settings, and an engine's or an adapter's name chooses its file."""
    words = [f"grid.{word}" if stage == "report" and word.startswith(CHOSEN) else word for word in words]
    words = [ENGINE.sub(r"engine@\1=\2", word) for word in words]
    words = [_quoted(word) for word in words]
    words = [re.sub(r"^branch\.adapter=(?!null\b)(?=[a-z])", "adapter=", word) for word in words]
    words = [re.sub(r"^branch\.stored_by=(?!null\b)(?=[a-z])", "+engine@branch.stored_by=", word) for word in words]
    return [f"++{word}" if OPEN.match(word) else word for word in words]


def _quoted(word: str) -> str:
    """`merge.order=(a & b) & c` as it is written: Hydra would read its parentheses and `&`."""
    setting, _, orders = word.partition("=")
    if setting != "merge.order" or "&" not in orders or any(mark in orders for mark in "'\"["):
        return word
    return f"{setting}={','.join(repr(order.strip()) for order in orders.split(','))}"


def explain(problem: Exception, stage: str, conf: Path, words: Sequence[str], yours: Sequence[Path | str] = ()) -> str:
    """What is wrong with the overrides of `bm <stage>`, where, and what was probably meant.

    yours: folders of `--config-dir`.
    """
    text = str(problem)
    first = text.strip().splitlines()[0] if text.strip() else type(problem).__name__
    if match := re.search(r"Could not override '([^']+)'", text):
        path = match[1].split("@")[0]
        parent, _, name = path.rpartition(".")
        hint = nearest(name, _names(stage, conf, words, yours, parent), f"{parent}." if parent else "")
        return f"{path}: no such setting or group of `bm {stage}`{hint}"
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        options = [file.stem for folder in (conf, *map(Path, yours)) for file in (folder / group).glob("*.yaml")]
        return f"{group}={option}: {group} has no option '{option}'{nearest(option, options)}"
    if "is not in struct" in text and (match := re.search(r"full_key: (\S+)", text)):
        return f"{match[1]}: no such setting of `bm {stage}`"
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        hint = nearest(match[1], _names(stage, conf, words, yours))
        return f"~{match[1]}: `bm {stage}` has nothing of that name to leave out{hint}"
    if match := re.search(r"(\S+) appears more than once in the final defaults list", text):
        return f"{match[1]} is chosen already; choose another option with {match[1]}=OPTION, without `+`"
    if match := re.search(r"Error merging override \+*(\S+?)=(.*)", text):
        return f"{match[1]}: a value of the wrong kind: {match[2]}"
    if isinstance(problem, OverrideParseException):
        return _unreadable(str(problem.override))
    return first


def _unreadable(word: str) -> str:
    """A word that is not in Hydra's grammar, and what usually makes it so."""
    name, equals, value = word.partition("=")
    if not equals:
        return f"`{word}` is not an override; write setting=value, or group=option"
    quoted = shlex.quote(f'{name}="{value}"')
    return f"`{word}` cannot be read; text with spaces, brackets or & needs quotes of its own: {quoted}"


def searched(yours: Sequence[Path | str]) -> list[str]:
    """An override that makes Hydra look for YAML in these folders too; none without a folder."""
    folders = ",".join(f"file://{Path(folder).resolve()}" for folder in yours)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def unreadable_yaml(problem: yaml.YAMLError) -> str:
    """Where a configuration file is not YAML."""
    mark, what = getattr(problem, "problem_mark", None), getattr(problem, "problem", None)
    if mark is None:
        return f"a configuration file is not YAML: {str(problem).splitlines()[0]}"
    return f"{mark.name}, line {mark.line + 1}: not YAML: {what}"


def _names(stage: str, conf: Path, words: Sequence[str], yours: Sequence[Path | str], parent: str = "") -> list[str]:
    """The names that are valid below `parent` with the groups that were chosen, the other overrides left out."""
    groups = [word for word in words if (conf / word.partition("=")[0]).is_dir()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose(stage, [*groups, *searched(yours)])
        node = OmegaConf.select(composed, parent) if parent else composed
    known = [] if parent else [d.name for d in conf.iterdir() if d.is_dir()]
    return [*known, *(str(name) for name in node)] if isinstance(node, DictConfig) else known
