"""`bm STAGE --help`: what a stage does, the groups and settings that matter to it, and examples, from the schema."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bm import commands
from bm.config import Component, Domain
from bm.overrides import opened, searched

WIDTH = 118
SECTIONS = {
    "run": "mixture merge evaluate rounds",
    "distill": "domains distill verify",
    "branch": "branch mixture trainer",
    "merge": "merge",
    "evaluate": "evaluate verify",
    "verify": "verify",
    "plan": "plan trainer prices",
    "doctor": "trainer",
    "report": "grid prices",
    "push": "",
}
"""The sections of settings that matter most to a stage; the rest are those of the stages it runs."""
GROUPS = {
    "run": "recipe experiment student teacher domain mixture optimizer loss adapter merge consolidate feedback"
    " evaluate engine judge trainer tracker",
    "distill": "recipe teacher engine domain judge",
    "branch": "recipe student domain mixture branch optimizer loss adapter trainer tracker",
    "merge": "merge",
    "evaluate": "domain evaluate engine judge",
    "verify": "judge",
    "plan": "recipe experiment student domain mixture adapter merge evaluate trainer",
    "doctor": "recipe student teacher domain adapter evaluate trainer tracker",
    "report": "",
    "push": "",
}
EXAMPLES = {
    "run": ["bm run recipe=tiny merge=[arcee_fusion,ties]", "bm run -m seed=1,2,3 merge=arcee_fusion,linear"],
    "distill": ["bm distill domain=math", "bm distill domain=jsonl domains.jsonl.source.path=problems.jsonl"],
    "branch": ["bm branch domain=math", "bm branch mixture=proportional branch.epochs=1"],
    "merge": ["bm merge merge=ties base=DIR models=[DIR,DIR] output=DIR", "bm merge mergekit=FILE.yml output=DIR"],
    "evaluate": [
        "bm evaluate model=DIR output=DIR",
        "bm evaluate model=DIR domain=[] evaluate.tasks=[aime24] output=D",
        "bm evaluate model=DIR evaluate=paper evaluate.engine=gpus output=DIR",
    ],
    "verify": ["bm verify verifier=math file=R.jsonl output=G.jsonl"],
    "plan": [
        "bm plan recipe=tinyr1 output=PLAN.json",
        "bm plan recipe=tinyr1 student=r1-distill-qwen-7b plan.gpu=A100",
    ],
    "doctor": ["bm doctor", "bm doctor recipe=tinyr1 trainer=slurm"],
    "push": ["bm push folder=DIR repo=NAME/REPO", "bm push folder=DIR repo=NAME/REPO licence=apache-2.0 public=true"],
    "report": ["bm report", "bm report experiment=table2", "bm report traces=DIR"],
}


NAMES = {bool: "true|false", int: "whole number", float: "number", str: "text", Path: "path", NoneType: "null",
         Component: "function", Mapping: "map", Sequence: "list"}  # fmt: skip
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def stage_help(stage: str, does: str, conf: Path, words: Sequence[str], yours: Sequence[Path | str]) -> str:
    """The help of a stage, with the defaults that `words` compose; yours: folders of `--config-dir`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose(stage, [*opened(stage, words), *searched(yours)])
    root = typing.get_type_hints(getattr(commands, stage))["config"]
    groups = "".join(f"  {name:<11} {_options(conf / name)}\n" for name in GROUPS[stage].split())
    title = "\nGroups (GROUP=OPTION; domain and merge take several, GROUP=[OPTION,OPTION]; evaluate.engine=OPTION):\n"
    chosen = title + groups if groups else ""
    lines, examples = "\n".join(_lines(stage, root, composed)), "\n".join(f"  {line}" for line in EXAMPLES[stage])
    return (
        f"bm {stage} - {does}\n\n{examples}\n{chosen}\n"
        f"Settings (SETTING=VALUE), each with its default, type and meaning:\n{lines}\n\n"
        f"`bm {stage} --cfg job` prints every setting as composed; the files are in {conf}."
    )


def _options(folder: Path) -> str:
    names = ", ".join(sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml")))
    return textwrap.fill(names, WIDTH, initial_indent=" " * 14, subsequent_indent=" " * 14).strip()


def _lines(stage: str, root: type, composed: DictConfig) -> Iterator[str]:
    """A line for each setting: those of the stage itself, then those of its sections."""
    sections = SECTIONS[stage].split()
    for name, hint, meaning in settings_of(root):
        if not isinstance(composed.get(name), DictConfig) and name != "mixture":
            yield _line(name, hint, meaning, composed)
    for section in sections:
        own = Domain if section == "domains" else section_of(typing.get_type_hints(root)[section])
        path = "domains.NAME" if section == "domains" else section
        for name, hint, meaning in settings_of(own):
            yield _line(f"{path}.{name}", hint, meaning, composed)


def section_of(hint: Any) -> Any:
    """The dataclass of a section, which may be null."""
    parts = (part for part in typing.get_args(hint) if isinstance(part, type) and dataclasses.is_dataclass(part))
    return next(parts, hint)


def settings_of(of: type) -> Iterator[tuple[str, Any, str]]:
    """Name, type and meaning of a dataclass's settings; the meaning is the text below each of them."""
    hints = typing.get_type_hints(of, include_extras=True)
    source = "\n".join(inspect.getsource(kind) for kind in of.__mro__ if dataclasses.is_dataclass(kind))
    for name, hint in hints.items():
        said = re.search(rf'^    {name}: [^\n]*\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        yield name, hint, " ".join(said[1].split()) if said else ""


def _line(path: str, hint: Any, meaning: str, composed: DictConfig) -> str:
    value = OmegaConf.select(composed, path, default="")
    default = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    default = "" if OmegaConf.is_dict(value) else default
    line = f"{f'{path}={default}':<38} {kind_of(hint)}" + (f": {meaning}" if meaning else "")
    return textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 43, break_on_hyphens=False)


def kind_of(hint: Any) -> str:
    """A type as a user would call it, with its bounds."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        limits = [limit for field in parts[1:] for limit in getattr(field, "metadata", ())]
        bounds = [f"{sign} {getattr(at, name)}" for at in limits for name, sign in BOUNDS.items() if hasattr(at, name)]
        return " ".join([kind_of(parts[0]), *bounds])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(kind_of, parts)))
    if origin is Literal:
        return "|".join(map(str, parts))
    return NAMES.get(origin or hint, "settings")
