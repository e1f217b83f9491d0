"""What a run tells its tracker, as W&B's own file holds it afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest

from bm.config import Component, Prices
from bm.report import results
from bm.report.pages.tracking import scores, track
from bm.track import About, tracked
from bm.track.wandb_log import ended, held, logs
from tests.report.conftest import SETTINGS, SKILLS, TASKS, Fixture

TARGET = "bm.track.backends.weights_and_biases"


def test_scores_samples_costs_and_lineage(
    experiment: Fixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = Prices(gpus={"H800": 2.0}, machine=0.1)
    outcome = results(experiment.subjects, experiment.artefacts, replace(SETTINGS, prices=prices))
    to = {"mode": "offline", "dir": str(tmp_path), "project": "bm", "group": None, "tags": []}
    with tracked(Component(TARGET, to), About("run1", "tiny", "run", {"seed": 1}, step="round")) as run:
        track(run, outcome, experiment.subjects, experiment.artefacts, 1)
    [file] = logs(tmp_path, "run1")
    assert ended(file)
    it = held([file], "round")
    assert (
        it.rows[1][f"score/math/{TASKS[0]}"] == next(r for r in outcome.rows if r.name == "math").scores[TASKS[0]].mean
    )
    assert it.rows[1]["cost/mixture proportional/seconds"] > 0 and it.summary["spent/seconds"] == outcome.spent.seconds
    assert it.summary["merge over mixture/cost"] < 1
    assert it.used == {f"bm:distill/{a.key}" for a in experiment.artefacts}
    assert {f"bm:evaluate/{s.evaluation.key}" for s in experiment.subjects} <= it.made
    figures = {f"figures/{name}" for name in ("mean", "time", "mean against time")}
    assert it.media.keys() == {"scores", "samples", *figures} and it.exits == [0]
    assert len(scores(outcome).rows) == len(SKILLS) * len(TASKS)
    assert "tracker" not in capsys.readouterr().err


def test_totals_count_each_artefact_once(experiment: Fixture) -> None:
    """What is behind a merge: its experts, their student and traces; what two of them used counts once."""
    prices = Prices(gpus={}, machine=1.0)
    outcome = results(experiment.subjects, experiment.artefacts, replace(SETTINGS, prices=prices))
    models = {s.name: s.model for s in experiment.subjects}
    everything = {
        a.key: a for a in [*experiment.artefacts, *models.values(), *(s.evaluation for s in experiment.subjects)]
    }
    assert outcome.spent.seconds == pytest.approx(sum(a.manifest["seconds"] for a in everything.values()))
    merge = next(r for r in outcome.rows if r.name == "linear (math & science) & coding")
    parts = [models[n] for n in ("student", "math", "coding", "science", merge.name)]
    traces = {a.key: a for a in experiment.artefacts}
    behind = {a.key: a for a in parts} | {
        i["key"]: traces[i["key"]] for a in parts for i in a.manifest["inputs"] if i["key"] in traces
    }
    assert merge.total.seconds == pytest.approx(sum(a.manifest["seconds"] for a in behind.values()))
    assert merge.total.money == pytest.approx(merge.total.seconds / 3600)
