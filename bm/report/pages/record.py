"""What was found, as a repository keeps it: measured.json, from which every claim can be judged again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from bm.report.findings.claims import Claim, claims
from bm.report.findings.evidence import HARDWARE
from bm.report.findings.grid import Cell, Grid
from bm.report.findings.published import published
from bm.report.findings.results import Results, Retained, row_of, row_values
from bm.report.pages.exports import export_table
from bm.report.pages.tables import claimed
from bm.store import write_json

FILE = "measured.json"


def measured(grid: Grid, judged: Sequence[Claim], made: Mapping[str, str]) -> dict[str, Any]:
    """`made`: versions, machine and commit behind the grid's models."""
    about = {name: made[name] for name in HARDWARE if name in made}
    return {
        "experiment": grid.experiment,
        "recipe": grid.recipe,
        "command": command(grid),
        "commit": made.get("commit", ""),
        "hardware": about,
        "versions": {name: value for name, value in made.items() if name not in {*about, "commit"}},
        "cells": [
            {
                "settings": dict(cell.settings),
                "seed": cell.seed,
                "domains": cell.results.domains,
                "cosines": cell.results.cosines,
                "meetings": cell.results.meetings,
                "retention": [asdict(kept) for kept in cell.results.retention],
            }
            for cell in grid.cells
        ],
        "rows": [
            {"settings": dict(cell.settings), "seed": cell.seed} | row_values(row)
            for cell in grid.cells
            for row in cell.results.rows
        ],
        "claims": [asdict(claim) for claim in judged],
    }


def command(grid: Grid) -> str:
    """What makes the grid again: with every `--config-dir` and every override, those that differ as a sweep.

    Overrides that were not crossed with each other are left to the experiment's own sweep.
    Where it was made (`paths`) is of one machine alone, and left out.
    """
    runs = [cell.results.run for cell in grid.cells if cell.results.run]
    told = [dict(word.partition("=")[::2] for word in run.overrides if not word.startswith("paths.")) for run in runs]
    values = {
        name: list(dict.fromkeys(overrides[name] for overrides in told if name in overrides))
        for overrides in told
        for name in overrides
    }
    common = {name: of for name, of in values.items() if all(name in overrides for overrides in told)}
    crossed = len(common) == len(values)  # a group that only some cells left out was not
    crossed = crossed and prod(map(len, values.values())) == len({tuple(sorted(of.items())) for of in told})
    kept = {name: of for name, of in common.items() if crossed or len(of) == 1}
    words = {"experiment": [grid.experiment], "recipe": [grid.recipe]} | kept
    folders = dict.fromkeys(f"--config-dir={folder}" for run in runs for folder in run.config_dirs)
    return shlex.join(["bm", "run", "-m", *folders, *(f"{name}={','.join(of)}" for name, of in words.items())])


def recorded(values: Mapping[str, Any]) -> Grid:
    """The grid of a measured.json, as far as its claims and figures need it."""
    rows = [((row["settings"], row["seed"]), row_of(row)) for row in values["rows"]]

    def results(cell: Mapping[str, Any]) -> Results:
        return Results(
            tuple(row for at, row in rows if at == (cell["settings"], cell["seed"])), (),
            tuple(Retained(**kept) for kept in cell.get("retention", ())),
            cosines=cell["cosines"], domains=cell["domains"], meetings=cell.get("meetings", {}),
        )  # fmt: skip

    cells = [Cell(None, cell["seed"], cell["settings"], results(cell)) for cell in values["cells"]]
    return Grid(values["experiment"], values["recipe"], tuple(cells))


def judge(folder: Path) -> list[Claim]:
    """Judge the claims of an experiment again from the rows in its folder, and write what they now say beside them."""
    values = json.loads((folder / FILE).read_text())
    judged = claims(recorded(values), published(values["experiment"]))
    write_json(folder / FILE, values | {"claims": [asdict(claim) for claim in judged]})
    export_table("claims", claimed(judged), folder / "figures")
    return judged
