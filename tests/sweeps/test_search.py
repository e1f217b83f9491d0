"""A search of three candidates' batches: killed, resumed, and held to what a run from disk finds."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bm.sweeps.search import distribution
from bm.trials import loses
from tests.conftest import Bm
from tests.forked import Forked
from tests.sweeps.conftest import CHEAP

SEARCH = [
    "run", "-m", *CHEAP, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2",
    "merge.methods.linear.weights=[1,1,1]", "merge.methods.linear.weights.0=interval(0,1)",
    "merge.methods.linear.weights.1=interval(0,1)",
]  # fmt: skip


def recorded(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("outputs/sweeps/*/search.json")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_a_search_over_several_merges_is_refused_before_anything_is_made(tmp_path: Path, bm: Bm) -> None:
    words = ["hydra/sweeper=optuna", "merge=[linear,arcee_fusion]", "merge.methods.arcee_fusion.lam=interval(0.5,3)"]
    said = bm("run", "-m", *[word for word in CHEAP if word != "merge=linear"], *words, cwd=tmp_path)
    assert (said.returncode, said.stderr.splitlines()[-1].count("one merge, by one method in one order")) == (2, 1)
    assert not (tmp_path / "outputs/store").exists()


def test_what_a_search_finds_a_run_finds(trained: Path, bm: Bm) -> None:
    undisturbed = bm(*SEARCH, cwd=trained)
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole = recorded(trained)
    assert sum(whole["candidates"].values()) == 4
    assert whole["front"]
    assert "Pareto front" in undisturbed.stdout

    best = whole["front"][0]
    repeated = bm(*shlex.split(best["command"])[1:], "output=outputs/best", cwd=trained)
    assert repeated.returncode == 0, repeated.stderr
    rows = json.loads((trained / "outputs/best/results.json").read_text())["rows"]
    (merge,) = (row for row in rows if row["kind"] == "merge")
    assert {t: s["mean"] for t, s in merge["scores"].items()} == {t: s["mean"] for t, s in best["scores"].items()}


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_front(trained: Path, tmp_path: Path, bm: Bm, forked: Forked) -> None:
    undisturbed = bm(*SEARCH, cwd=trained)
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole = recorded(trained)

    (tmp_path / "outputs").mkdir()
    os.symlink(trained / "outputs/store", tmp_path / "outputs/store")
    forked.killed(["bm", *SEARCH], "[*Path('outputs/sweeps').glob('*/candidates/*/scores.json')]", cwd=tmp_path)
    resumed = bm(*SEARCH, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    values = [
        [(point["settings"], point["values"]) for point in search["front"]] for search in (whole, recorded(tmp_path))
    ]
    assert values[0] == values[1]


def test_hydras_grammar_says_what_is_drawn() -> None:
    parser = OverridesParser.create()

    def of(word: str) -> Any:
        return distribution(parser.parse_override(word))

    assert of("a=interval(0,1)") == FloatDistribution(0, 1)
    assert of("a=tag(log,interval(0.001,1))") == FloatDistribution(0.001, 1, log=True)
    assert of("a=int(interval(1,5))") == IntDistribution(1, 5)
    assert of("a=range(1,9,2)") == IntDistribution(1, 7, step=2)
    assert of("merge=linear,ties") == CategoricalDistribution(["linear", "ties"])


def test_a_candidate_leaves_only_when_it_is_worse_and_ahead_nowhere() -> None:
    def graded(**means: float) -> Any:
        return {
            t: ([f"{i:03}" for i in range(64)], np.repeat([[m]], 64, 0) + np.zeros((64, 2))) for t, m in means.items()
        }

    def leaves(candidate: Any, rival: Any) -> bool:
        return loses(candidate, rival, ["coding", "math"], 0.01)

    good = graded(math=0.9, coding=0.5)
    assert leaves(graded(math=0.2, coding=0.5), good)
    assert not leaves(graded(math=0.2, coding=0.6), good), "ahead on coding: perhaps the best on its worst task"
    assert not leaves(graded(math=0.899, coding=0.5), good), "not certainly worse"
    first = {task: (ids[:16], scores[:16]) for task, (ids, scores) in graded(math=0.1, coding=0.1).items()}
    assert leaves(first, good), "on the questions that both were asked"
