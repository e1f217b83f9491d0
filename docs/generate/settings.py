"""The reference of settings and of options: like `bm STAGE --help` from the schema and the YAML that `bm` reads."""

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bm.api import _composed
from bm.cli import STAGES, conf_dir
from bm.config import Component, Content, Device, Domain, Experiment, NoKey, commands
from bm.config.component import declared
from bm.config.loading import element, marks_of
from bm.help import EXAMPLES, kind_of, section_of, settings_of

GROUPS = {
    "student": "the initial model", "domain": "where questions come from", "teacher": "who answers them",
    "mixture": "the baseline's training set", "optimizer": "what steps", "loss": "what is minimised",
    "adapter": "what is trained in the place of all weights", "merge": "how experts become one model",
    "consolidate": "what finishes one model from the experts", "tune": "how merge methods are tuned",
    "feedback": "a second stage, on what experts get wrong",
    "evaluate": "what is asked, and how often", "engine": "what generates", "judge": "a model that grades",
    "trainer": "where training runs", "tracker": "who watches", "recipe": "a whole experiment",
    "experiment": "a table of the paper, or an ablation",
}  # fmt: skip
"""The groups of `conf/` in the order of an experiment, each with what it chooses."""
OWN = {
    "evaluate": "EvaluateFolder",
    "merge": "MergeFolders",
    "verify": "VerifyFile",
    "report": "Report",
    "push": "Push",
}
"""The stages that take something that `bm run` does not, and the class that says what."""
TARGET = re.compile(r"_target_: (bm[.\w]+)")
KEYLESS = ("verify", "report", "push")
"""Those of them that make nothing which a key finds again."""
COUNTS = {NoKey: "no", Content: "by its content", Device: "by its kind"}
HEAD = "| setting | type and range | default | meaning | counts in the key |\n| --- | --- | --- | --- | --- |"


def settings_page() -> str:
    """Every setting of an experiment by section, and those that other stages take besides."""
    composed, parts = _composed("run", [], None), [SETTINGS]
    sections: dict[str, list[str]] = {"": []}
    for name, hint, meaning in settings_of(Experiment):
        inner = section_of(typing.get_args(hint)[0] if NoKey in marks_of(hint) else hint)
        if name == "domains":
            sections["domains.NAME"] = list(_rows("domains.NAME", commands.Experiment, composed))
        elif _is_section(inner):
            sections[name] = list(_rows(_below(name, hint), inner, composed, NoKey in marks_of(hint)))
        else:
            sections[""].append(_row(name, hint, meaning, composed))
    for name, rows in sections.items():
        parts += [f"## {name or 'The experiment itself'}\n", HEAD, *rows, ""]
    for stage, kind in OWN.items():
        known = {name for name, *_ in settings_of(Experiment)} | {"merge", "verify", "prices"}
        own = [row for row in _rows("", getattr(commands, kind), None, stage in KEYLESS) if _section(row) not in known]
        parts += [f"## Only in `bm {stage}`\n", HEAD, *own, ""]
    return "\n".join(parts)


def _section(row: str) -> str:
    """The first part of the name of a row's setting."""
    return row.split("`")[1].partition(".")[0]


def _rows(path: str, of: Any, composed: DictConfig | None, apart: bool = False) -> Iterator[str]:
    """The rows of a section and of those within it; `apart`: of one that no key counts."""
    for name, hint, meaning in settings_of(Domain if path == "domains.NAME" else of):
        inner, here = section_of(hint), f"{path}.{name}".lstrip(".")
        yield _row(here, hint, meaning, composed, apart)
        if _is_section(inner):
            yield from _rows(_below(here, hint), inner, composed, apart)


def _below(path: str, hint: Any) -> str:
    """Where the settings of a section are: of a mapping, below each of its names."""
    return f"{path}.NAME" if typing.get_origin(hint) is Mapping else path


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind is not Component


def _row(path: str, hint: Any, meaning: str, composed: DictConfig | None, apart: bool = False) -> str:
    value = OmegaConf.select(composed, path, default="") if composed else ""
    shown = "" if OmegaConf.is_dict(value) else _yaml(value)
    marks = (*marks_of(hint), *marks_of(element(hint)))
    counts = "no" if apart else next((COUNTS[mark] for mark in marks if isinstance(mark, str)), "yes")
    return f"| `{path}` | {_cell(kind_of(hint))} | {f'`{shown}`' if shown else ''} | {_cell(meaning)} | {counts} |"


def _yaml(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value)).replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def options_page() -> str:
    """Every option of every group: what it says of itself, and its parameters."""
    parts = [OPTIONS]
    for group, chooses in GROUPS.items():
        parts.append(f"## {group}: {chooses}\n")
        for file in sorted((conf_dir() / group).rglob("*.yaml")):
            parts += _option(group, file)
    return "\n".join(parts)


def _option(group: str, file: Path) -> list[str]:
    name = str(file.relative_to(conf_dir() / group).with_suffix(""))
    text = file.read_text()
    told = [line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    said = [" ".join(told), *(line for target in targets(group, text) for line in _function(target, text))]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip()
    shown = [f"```yaml\n{body}\n```\n"] if body else []
    return [f"### {group}={name}\n", *(f"{line}\n" for line in said if line), *shown]


def targets(group: str, text: str) -> list[str]:
    """The functions that an option names; a whole experiment's are those of other groups."""
    return [] if group in ("recipe", "experiment") else list(dict.fromkeys(TARGET.findall(text)))


def _function(target: str, text: str) -> list[str]:
    """What a function says of itself, and the types of what it can be told."""
    function = function_of(target)
    first, _, more = (inspect.getdoc(function) or "").partition("\n\n")
    types = ", ".join(f"`{one.name}` {_cell(kind_of(one.annotation))}" for one in parameters(function, text))
    return [f"`{target}`: {' '.join(first.split())}", more, *([f"It takes {types}."] if types else [])]


def function_of(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def parameters(function: Callable[..., Any], text: str) -> list[inspect.Parameter]:
    """The parameters of a function that its YAML gives it, and not `bm` itself."""
    return [one for name, one in declared(function).items() if re.search(rf"\b{name}:", text)]


def commands_page() -> str:
    """The stages of the command line."""
    parts = [COMMANDS]
    for stage, does in STAGES.items():
        examples = "\n".join(f"    {line}" for line in EXAMPLES[stage])
        parts += [f"## bm {stage}\n", f"{does[0].upper()}{does[1:]}.\n", examples, ""]
    return "\n".join(parts)


SETTINGS = """\
# Settings

Every setting of an experiment, from the schema that checks it (`bm/config/`). The defaults are those that `bm run`
composes, which is `recipe=tiny`; another recipe has others, and `bm STAGE --cfg job` prints them all. A path is
`SECTION.NAME=VALUE` on the command line, as in `bm run branch.epochs=1`. Where the type is `function`, the choices
and their parameters are [options](options.md).

The last column says whether a setting counts in the [key](../contributing.md#keys) of what is made: if it does,
another value makes another artefact; if not, what exists is used again.
"""
OPTIONS = """\
# Options of the groups

`GROUP=OPTION` on the command line chooses a file of `conf/`; `domain` and `merge` take several, as
`merge=[linear,ties]`. The YAML is what is chosen, so its values are the defaults; `bm run` refuses a parameter that
the function does not take. A folder of your own (`--config-dir`) adds options to each group.
"""
COMMANDS = """\
# Commands

`bm STAGE --help` lists the groups and settings of a stage with their defaults, and `bm STAGE --cfg job` prints the
composed configuration. The exit status is 0 on success, 2 for a mistake in the input, 130 after an interruption,
and 1 for a failed job of a sweep or anything that nobody foresaw.
"""
