"""Every merge method against the soup in every regime: paired by seed, and with Holm's allowance for all of them."""

from pathlib import Path

import pytest
from rich.console import Console

from bm.report.findings.contest import contest
from bm.report.findings.grid import gather
from bm.report.pages.tables import contested
from bm.report.pages.terminal import _models
from bm.statistics import holm, over_seeds
from tests.report.grids import cell, shared

SKILLS = {"linear": 0.4, "ties": 0.42, "ties_tuned": 0.6, "sce": 0.4, "regmean": 0.55, "karcher": 0.2}


def grid(outputs: Path, regimes=(0.5, 5.5), methods=SKILLS):
    for seed in (1, 2, 3, 4):
        for at in regimes:
            merges = {
                name: {"kind": "merge", "skill": skill + 0.02 * at, "made_of": at} for name, skill in methods.items()
            }
            cell(outputs, "contest", seed, shared(seed) | merges, student={"branch": {"at": at}})
    return gather(outputs, "contest", None)


def test_differences_are_paired_by_seed_and_allowed_for_being_many(tmp_path: Path) -> None:
    measured = grid(tmp_path)
    whole = contest(measured)
    assert whole is not None and whole.axis == "student.branch.at" and whole.regimes == (0.5, 5.5)
    assert len(whole.standings) == len(SKILLS) * 2
    raw, told = [], []
    for standing in whole.standings:
        if standing.method == "linear":
            assert standing.difference is None and standing.p is None
            continue
        pairs = []
        for seed_cell in measured.cells:
            if seed_cell.settings["student.branch.at"] == standing.regime:
                mean = {row.method: seed_cell.results.mean(row) for row in seed_cell.results.rows}
                pairs.append(mean[standing.method] - mean["linear"])
        assert standing.difference is not None
        assert standing.difference.mean == pytest.approx(sum(pairs) / len(pairs))
        over = over_seeds(pairs)
        assert (
            standing.difference.high - standing.difference.low
            >= over.interval(0.95).high - over.interval(0.95).low - 1e-12
        )
        told.append(standing.p)
        reach = (standing.difference.high - standing.difference.low) / (
            over.interval(0.95).high - over.interval(0.95).low
        )
        raw.append(over_seeds([sum(pairs) / len(pairs) + (x - sum(pairs) / len(pairs)) * reach for x in pairs]).p(0.0))
    assert told == pytest.approx(holm(raw))


def test_the_table_has_a_row_a_method_best_first(tmp_path: Path) -> None:
    table = contested(grid(tmp_path))
    names = [line.cells[0].text for line in table.rows]
    assert set(names) == set(SKILLS) and names[0] == "ties_tuned" and names[-1] == "karcher"
    assert [c.name for c in table.columns[1:]] == ["at=0.5", "at=0.5, from the soup", "at=5.5", "at=5.5, from the soup"]
    assert all(line.cells[2].text.startswith("↓") for line in table.rows if line.cells[0].text == "karcher")
    console = Console(record=True, width=120)
    console.print(_models(table, range(1, len(table.columns))))
    assert "ties_tuned" in console.export_text()


def test_few_methods_are_no_contest(tmp_path: Path) -> None:
    few = {"linear": 0.4, "ties": 0.5}
    assert contest(grid(tmp_path, methods=few)) is None and not contested(grid(tmp_path, methods=few)).rows
