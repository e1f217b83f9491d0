"""The page, the files and the record of a grid of regimes; and what a run says of its own regime."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bm.report import read, report_grid
from bm.report.findings import forecast as forecasting
from bm.report.pages import wording
from tests.report import grids

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("law")]  # one worker draws the page for all of them

STRENGTHS, LENGTHS, SEEDS = (0.5, 1.0, 2.0), (0.25, 1.0, 4.0), (1, 2, 3)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 cells; the mixture gains more on the merge the longer the experts are trained."""
    folder = tmp_path_factory.mktemp("regimes")
    for strength, length, seed in product(STRENGTHS, LENGTHS, SEEDS):
        student, far = 0.2 * strength, 0.04 * length
        made: dict[str, Any] = {"made_of": (strength, length)}
        models = {
            "student": {"kind": "student", "skill": student, "made_of": strength},
            **{domain: {"kind": "expert", "skill": student + far, **made} for domain in grids.TASKS},
            "mixture": {"kind": "mixture", "skill": student + 0.1 + far, **made},
            "linear (math & science) & coding": {"kind": "merge", "skill": student + 0.1, **made},
        }
        student_at, at = {"branch": {"at": strength}}, {"at": length}
        grids.cell(folder, "phase", seed, models, student=student_at, branch=at)
    return folder


@pytest.fixture(scope="module")
def reported(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the grid's `page`, and its record under `phase`, as experiments/ would have it."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "phase").mkdir()
    report_grid(outputs, "phase", None, grids.PRICES, folder / "page", folder / "phase")
    return folder


def test_a_record_holds_the_law_and_the_page_begins_with_it(reported: Path) -> None:
    law = json.loads((reported / "phase/law.json").read_text())
    assert law["cells"] == len(STRENGTHS) * len(LENGTHS) * len(SEEDS)
    assert [fitted["method"] for fitted in law["laws"]] == ["linear"]
    assert law["laws"][0]["slope"]["mean"] == pytest.approx(-1, abs=0.4)
    assert [forecast["kind"] for forecast in law["forecasts"]] == ["scores"], "nothing else was measured"
    assert 0.7 <= law["forecasts"][0]["coverage"] <= 1
    page = (reported / "page/index.html").read_text()
    assert page.index("each 10 points more that the experts gain cost it") < page.index("<figure")
    assert page.index('id="gap-against-gain"') < page.index('id="claims"')
    names = {path.stem for path in (reported / "phase/figures").glob("*.svg")}
    assert {"gap-against-gain", "gap-by-regime", "gap-explained", "gap-forecast"} <= names


def test_a_run_forecasts_its_gap(outputs: Path, reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was fitted; without it nothing is said."""
    results = read(next(outputs.glob("runs/*/results.json")))
    monkeypatch.setattr(forecasting, "experiments_dir", lambda: reported)
    forecasting.recorded.cache_clear()
    (line,) = wording.forecasts(results)
    assert line.startswith("linear: within 2 points of a mixture with a probability of ")
    assert "by scores, fitted at the tiny scale; measured " in line
    monkeypatch.setattr(forecasting, "experiments_dir", lambda: reported / "none")
    forecasting.recorded.cache_clear()
    assert wording.forecasts(results) == []
    forecasting.recorded.cache_clear()
