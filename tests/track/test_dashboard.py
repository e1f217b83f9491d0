"""The saved workspace is built without a server, and draws what runs log."""

import json
import re
from typing import Any

import pytest

from bm.branch.watch import COLUMNS
from bm.report import results
from bm.report.pages.tracking import summary
from tests.report.conftest import SETTINGS, Fixture, experiment  # noqa: F401

pytest.importorskip("wandb_workspaces", reason="needs the extra bm[dashboard]")

LOGGED = {*COLUMNS, "held_out_math", "cosine_math_coding", "scores"}


def test_every_panel_draws_what_runs_log(experiment: Fixture) -> None:  # noqa: F811
    from experiments.dashboard.workspace import definition, workspace

    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    known = {*summary(outcome), *LOGGED}
    stored = json.loads(definition(workspace("entity", "bm")))
    sections = stored["spec"]["section"]["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == ["Grid", "Merge against mixture", "Cost against score", "Curves"]
    drawn = [metric for s in sections for panel in s["panels"] for metric in metrics(panel["config"])]
    assert len(drawn) > 20 and not [metric for metric in drawn if not any(re.fullmatch(metric, k) for k in known)]


def metrics(config: dict[str, Any]) -> list[str]:
    """The names that a panel draws; those of a family, as the expression that finds them."""
    family = [config["metricRegex"]] if config.get("metricRegex") else []
    axes = [config[a].removeprefix("summary:") for a in ("xAxis", "yAxis") if isinstance(config.get(a), str)]
    return [*(config.get("metrics") or []), *family, *axes]
