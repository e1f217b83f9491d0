"""The W&B workspace of a project of `bm` runs: the grid, merge against mixture, cost against score, curves.

python -m experiments.dashboard.workspace ENTITY [PROJECT]     saves it and prints its address
python -m experiments.dashboard.workspace                      prints its definition, without W&B
"""

import sys
from typing import Any

import wandb_workspaces.reports.v2 as panels
import wandb_workspaces.workspaces as workspaces
from wandb_workspaces.reports.v2 import SummaryMetric

BEST = "merge/mean"
"""Mean score of a run's best merge."""


def workspace(entity: str, project: str) -> workspaces.Workspace:
    best_first = workspaces.Ordering(workspaces.Summary(BEST), ascending=False)
    return workspaces.Workspace(
        entity=entity, project=project, name="Branch-Merge",
        sections=[overview(), against_mixture(), cost_against_score(), curves()],
        runset_settings=workspaces.RunsetSettings(order=[best_first]),
    )  # fmt: skip


def overview() -> workspaces.Section:
    means = [f"{kind}/mean" for kind in ("student", "mixture", "merge")]
    return _section(
        "Grid",
        panels.BarPlot(title="Mean score: student, mixture, best merge", metrics=means),
        panels.BarPlot(title="Best merge, by experiment or sweep", metrics=[BEST], groupby="group"),
        panels.WeavePanelSummaryTable(table_name="scores"),
        panels.RunComparer(diff_only=True),
    )


def against_mixture() -> workspaces.Section:
    return _section(
        "Merge against mixture",
        panels.ScatterPlot(title="Mean scores", x=SummaryMetric("mixture/mean"), y=SummaryMetric(BEST)),
        panels.BarPlot(title="Best merge less mixture", metrics=["merge over mixture/difference"]),
        panels.BarPlot(title="Merging, as a share of the mixture's time", metrics=["merge over mixture/cost"]),
    )


def cost_against_score() -> workspaces.Section:
    def over(cost: str, title: str) -> panels.ScatterPlot:
        return panels.ScatterPlot(title=title, x=SummaryMetric(cost), y=SummaryMetric(BEST), log_x=True)

    return _section(
        "Cost against score",
        over("merge/seconds", "Seconds of merging"),
        over("spent/seconds", "Seconds of the run, shared artefacts counted once"),
        over("spent/flops", "FLOPs of the run"),
        over("spent/money", "USD of the run"),
    )


def curves() -> workspaces.Section:
    return _section(
        "Curves",
        panels.LinePlot(title="Loss", x="tokens", y=["loss"], smoothing_type="exponential", smoothing_factor=0.6),
        panels.LinePlot(title="Held-out loss", x="tokens", metric_regex="held_out_.*"),
        panels.LinePlot(title="Cosine of the domains' gradients", x="tokens", metric_regex="cosine_.*"),
        *(panels.LinePlot(title=name.replace("_", " "), x="step", y=[name])
          for name in ("learning_rate", "gradient_norm", "tokens_per_second", "flop_utilisation")),
    )  # fmt: skip


def _section(name: str, *shown: Any) -> workspaces.Section:
    return workspaces.Section(name=name, panels=list(shown), is_open=True)


def definition(made: workspaces.Workspace) -> str:
    """As W&B stores it, in JSON."""
    text: str = made._to_model().model_dump_json(by_alias=True, indent=2)
    return text


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(definition(workspace("entity", "bm")))
    else:
        print(workspace(*sys.argv[1:], *["bm"] * (len(sys.argv) == 2)).save().url)
