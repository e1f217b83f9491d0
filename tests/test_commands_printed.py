"""Every `bm` command that the README, the docs and the experiments print is composed and checked.

Those of the README and of the list of commands are run too, shrunk, one after the other in one folder, as a reader
would.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from omegaconf import OmegaConf

from bm.api import _composed
from bm.cli import STAGES
from bm.config import Experiment
from bm.overrides import opened
from bm.rounds import chosen_merges
from bm.sweeps.jobs import settings
from docs.generate import composing
from tests.conftest import SHRUNK, Bm

HOME = Path(__file__).parents[1]
PAGES = [HOME / "README.md", *sorted((HOME / "docs").rglob("*.md")), *(HOME / "experiments").glob("*/README.md")]
COMMAND = re.compile(rf"bm (?:{'|'.join(STAGES)})\b(?: +(?:-m|'[^']*'|[\w./@~+-]+=[^\s`;]*))*")
"""A stage and its words, up to what a page says of them."""
MISSPELT = "bm run branch.learning_rat=1e-4"
"""Printed to show what a mistake looks like."""

WHOLE = ("bm run", "bm report")
"""What needs no settings; the other stages are named in passing too."""


def printed() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            alone = line.startswith(("    ", "bm "))
            code = line.strip() if alone else " ".join(re.findall(r"`(bm [^`]*)`", line))
            for match in COMMAND.finditer(code):
                own = "--config-dir" in line  # composed with the files of its page: tests/docs/test_blocks.py
                if match[0] != MISSPELT and not own and ("=" in match[0] or match[0].strip() in WHOLE):
                    yield str(page.relative_to(HOME)), match[0].strip()


PRINTED = sorted((page, command) for command, page in {command: page for page, command in printed()}.items())
"""Every command once, with the last page that prints it."""


def composed(words: list[str]) -> object:
    """The settings of a command, of a sweep's first cell."""
    stage, *words = words
    swept, folders = "-m" in words, [word.partition("=")[2] for word in words if word.startswith("--config-dir=")]
    words = opened(stage, [word for word in words if word[0] != "-"])
    if swept:
        words = _first_cell(stage, words, [*map(Path, folders), HOME / "conf"])
    return settings(stage, _composed(stage, words, folders[0] if folders else None))


def _first_cell(stage: str, words: list[str], folders: list[Path]) -> list[str]:
    names = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    files = [file for name in names for folder in folders if (file := folder / f"experiment/{name}.yaml").exists()]
    sweeper = (OmegaConf.load(files[0]).get("hydra") or {}).get("sweeper", {}) if files else {}
    params = opened(stage, [f"{name}={value}" for name, value in (sweeper.get("params") or {}).items()])
    cell = {}
    for override in OverridesParser.create().parse_overrides([*params, *words]):
        value = override.value()
        if isinstance(value, IntervalSweep):
            cell[override.key_or_group] = f"{override.get_key_element()}={value.start}"
        elif override.is_sweep_override():
            cell[override.key_or_group] = f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        else:
            cell[override.key_or_group] = str(override.input_line)
    for name, condition in (sweeper.get("when") or {}).items():
        if not all(cell[other].partition("=")[2] in values for other, values in condition.items()):
            del cell[name]
    return list(cell.values())


def test_the_pages_print_many_commands() -> None:
    assert len(PRINTED) > 60
    assert {command.split()[1] for _, command in PRINTED} == set(STAGES)


@pytest.mark.parametrize(("page", "command"), PRINTED, ids=[f"{page}: {command}" for page, command in PRINTED])
def test_a_printed_command_can_be_run(page: str, command: str) -> None:
    config = composed(shlex.split(command)[1:])
    if isinstance(config, Experiment):
        assert isinstance(list(chosen_merges(config)), list)  # the order is one of the domains that are chosen


@pytest.mark.parametrize("domains", ["[math,coding]", "[coding,math]", "[math,coding,sorting]", "[math]"])
def test_domains_of_ones_own_choice_are_merged_as_they_are_listed(domains: str) -> None:
    config = composed(["run", f"domain={domains}", "merge=arcee_fusion"])
    assert isinstance(config, Experiment)
    orders = [str(order) for _, _, order in chosen_merges(config)]
    names = domains.strip("[]").split(",")
    assert orders == {1: [], 2: [" & ".join(names)], 3: ["(math & coding) & sorting"]}[len(names)]


def test_the_domains_of_the_recipe_are_merged_as_it_says() -> None:
    config = composed(["run", "merge=arcee_fusion"])
    assert isinstance(config, Experiment)
    assert [str(order) for _, _, order in chosen_merges(config)] == ["(math & science) & coding"]


READ = [c for page, c in printed() if page in ("README.md", "docs/guides/commands.md")]
RUN = [c for c in dict.fromkeys(READ) if composing.reason("README.md", c) is None]

REPORTS = {f"bm run -m experiment={name}": f"bm report experiment={name}" for name in ("table2", "lambda")}
"""What is reported must have been run."""


def test_hardly_any_printed_command_is_left_to_other_tests() -> None:
    assert len(RUN) > 20 and {*REPORTS, *REPORTS.values()} <= {*RUN}
    assert {command.split()[1] for command in RUN} == set(STAGES) - {"push"}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "command"), enumerate(c for c in RUN if c not in REPORTS.values()))
def test_a_printed_command_runs_shrunk(undisturbed: Path, bm: Bm, number: int, command: str) -> None:
    for line in filter(None, (command, REPORTS.get(command))):
        said = bm(*shrunk(shlex.split(line)[1:], undisturbed, number), cwd=undisturbed)
        lacks = "lacks something on this machine" in said.stderr  # bm doctor's status tells scripts so
        assert said.returncode == 0 or lacks, said.stderr


def shrunk(words: list[str], folder: Path, number: int | str) -> list[str]:
    """A printed command with a run's folders in place of DIR and FILE, and with less of everything."""
    made = [
        folder / "outputs/store" / name
        for name in json.loads((folder / "outputs/result/done.json").read_text())["artefacts"]
    ]
    models = {json.loads((of / "manifest.json").read_text())["label"]: of for of in made if of.parent.name == "branch"}
    linear = {"merge_method": "linear", "models": [{"model": str(models[m]), "parameters": {"weight": 1.0}}
                                                   for m in ("math", "coding")]}  # fmt: skip
    (folder / "FILE.yml").write_text(json.dumps(linear))
    (folder / "R.jsonl").write_text(json.dumps({"response": "It is 4.", "answer": "4"}) + "\n")
    fills = {
        "output=DIR": f"output=made{number}",
        "models=[DIR]": f"models=[{models['coding']}]",
        "models=[DIR,DIR]": f"models=[{models['coding']},{models['math']}]",
        "traces=DIR": f"traces={next(folder.glob('outputs/store/distill/*/traces.parquet')).parent}",
        "branch.teacher=DIR": f"branch.teacher={models['tiny']}",
    }
    stage, *words = [fills.get(word, word.replace("=DIR", f"={models['math']}")) for word in words]
    words = ["seed=42" if word.startswith("seed=") else word for word in words]
    if stage in ("merge", "verify", "report", "plan", "doctor"):
        return [stage, *words]
    chosen = next((re.findall(r"\w+", w.partition("=")[2]) for w in words if w.startswith("domain=")), None)
    left = [f"domains.{d}." for d in ("math", "coding", "science") if chosen is not None and d not in chosen]
    left += ["student."] * ("recipe=demo" in words)  # whose student is ready
    fewer = [word for word in SHRUNK if not word.startswith(tuple(left))]
    swept = ["seed=42"] * any(word.startswith("experiment=") for word in words)
    fewer += ["domains.jsonl.questions=12", "domains.jsonl.traces=48"] * (chosen == ["jsonl"])
    trials = ["hydra.sweeper.n_trials=2"] * ("hydra/sweeper=optuna" in words)
    trials += ["tune.trials=2"] * any(word.startswith("tune=") for word in words)
    return [stage, *words, *fewer, *swept, *trials]
