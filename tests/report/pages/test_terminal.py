import io

import pytest
from rich.console import Console

from bm.report import results
from bm.report.pages.terminal import show, show_comparison
from tests.report.conftest import SETTINGS, SKILLS, TASKS, Fixture


@pytest.fixture(scope="module")
def shown(experiment: Fixture) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="truecolor")
    show(results(experiment.subjects, experiment.artefacts, SETTINGS), console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_table_has_every_model_and_task(shown: str) -> None:
    assert all(name in shown for name in (*SKILLS, *TASKS))


def test_best_of_each_column_is_bold(experiment: Fixture, shown: str) -> None:
    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    for task in TASKS:
        top, *others = sorted((row.scores[task].mean for row in outcome.rows), reverse=True)
        assert f"\x1b[1m{100 * top:.1f}" in shown
        assert all(f"\x1b[1m{100 * mean:.1f}\x1b" not in shown.replace(f"{100 * top:.1f}", "") for mean in others[-2:])


def test_every_verdict_has_a_line(experiment: Fixture, shown: str) -> None:
    lines = [line for line in shown.splitlines() if line.startswith(("↑ ", "↓ ", "≈ "))]
    assert len(lines) == len(results(experiment.subjects, experiment.artefacts, SETTINGS).verdicts) == 9


def test_comparison_stands_runs_beside_the_paper(experiment: Fixture) -> None:
    console = Console(file=io.StringIO(), width=160)
    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    show_comparison({"seed 1": outcome, "seed [2]": outcome}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("  the paper ") == text.count("seed 1") == text.count("seed [2]") == 5
    assert "not values" in text


def test_the_machine_that_made_the_results_is_told(experiment: Fixture, shown: str) -> None:
    run = results(experiment.subjects, experiment.artefacts, SETTINGS).run
    assert run is not None
    assert run.hardware["processor"].split(",")[0] in " ".join(shown.split())
