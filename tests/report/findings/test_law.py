"""The law is found again where it is known, and a forecast is as sure as it says."""

import random
from dataclasses import replace

import numpy as np
import pytest

from bm.report.findings import forecast as forecasting
from bm.report.findings.forecast import KINDS, NOMINAL, fit, fits, forecast, left_out, predict
from bm.report.findings.law import MARGIN, Observation, explained, laws
from bm.report.findings.regimes import MEASURES, Regime, of_the_paper

STRENGTHS, LENGTHS, SEEDS = (0.5, 1.0, 2.0, 3.0, 4.0), (0.1, 0.5, 1.0, 2.0, 4.0), (1, 2, 3)


def grid(slope: float, noise: float, seed: int = 0) -> list[Observation]:
    """75 merges whose gap is 1 point + slope · gain + noise; every other measure but `lost` is noise alone."""
    draw, merges = random.Random(seed), []
    for strength in STRENGTHS:
        for at in SEEDS:
            for length in LENGTHS:
                gain = 0.05 * length * draw.uniform(0.5, 1.5)
                gap = 0.01 + slope * gain + draw.gauss(0, noise)
                measures = {name: draw.gauss(0, 1) for name in MEASURES}
                measures |= {"gain": gain, "lost": gap + draw.gauss(0, 0.002)}
                merges.append(Observation(Regime("linear", **measures, gap=gap), strength, length, at))
    return merges


def test_the_line_and_its_interval_are_those_of_the_law() -> None:
    (law,) = laws(grid(-0.5, 0.02))
    assert law.cells == 75
    assert law.slope.low < -0.5 < law.slope.high
    assert law.intercept.low < 0.01 < law.intercept.high
    assert law.spread == pytest.approx(0.02, rel=0.25)
    assert law.crossing is not None
    assert law.crossing.mean == pytest.approx(0.03 / 0.5, abs=0.02)
    assert law.safe is not None
    assert law.safe < law.crossing.mean
    assert law.band(law.safe).low >= -MARGIN > law.band(law.safe + 0.02).low


def test_where_merging_never_does_there_is_no_region() -> None:
    below = [replace(merge, regime=replace(merge.regime, gap=merge.regime.gap - 0.1)) for merge in grid(-0.5, 0.01)]  # type: ignore[operator]
    (law,) = laws(below)
    assert law.safe is None


def test_methods_come_in_the_order_of_how_far_they_hold() -> None:
    worse = [replace(merge, regime=replace(merge.regime, method="worse")) for merge in grid(-0.9, 0.01)]
    assert [law.method for law in laws([*worse, *grid(-0.3, 0.01)])] == ["linear", "worse"]


def test_what_tells_the_gap_comes_first() -> None:
    correlations = explained(grid(-0.5, 0.02))
    assert list(correlations)[:2] == ["lost", "gain"]
    assert correlations["lost"].mean > 0.9
    assert correlations["gain"].high < 0
    assert all(correlation.low < 0 < correlation.high for correlation in [*correlations.values()][4:])


def test_forecasts_of_left_out_regimes_cover_what_they_say() -> None:
    """Over several grids, of Gaussian noise: 90 % within a few points."""
    told = [pair for seed in range(6) for pair in left_out(grid(-0.5, 0.03, seed), "scores")]
    assert len(told) == 6 * 75
    inside = np.mean([f.low <= (merge.regime.gap or 0) <= f.high for merge, f in told])
    assert inside == pytest.approx(NOMINAL, abs=0.05)
    sure = [f.within for merge, f in told]
    assert np.mean(sure) == pytest.approx(np.mean([(merge.regime.gap or 0) > -MARGIN for merge, _ in told]), abs=0.05)


def test_a_left_out_regime_was_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not its strength with any seed, nor its seed with any strength; and never the gap itself."""
    merges, used = grid(-0.5, 0.02), []

    def spy(of: list[Observation], kind: str) -> object:
        used.append({(merge.strength, merge.seed) for merge in of})
        return fit(of, kind)

    monkeypatch.setattr(forecasting, "fit", spy)
    for (merge, _), _group in zip(left_out(merges, "scores")[:: len(LENGTHS)], used, strict=True):
        assert all(strength != merge.strength and seed != merge.seed for strength, seed in _group)
    assert all("gap" not in measures for measures in KINDS.values())


def test_the_best_known_forecast_is_taken_and_says_when_it_is_beyond() -> None:
    known = fits(grid(-0.5, 0.02))
    regime = grid(-0.5, 0.02)[7].regime
    told = forecast(regime, known)
    assert told is not None
    assert told.kind in ("scores and losses", "losses"), "`lost` tells the most"
    assert not told.outside
    only = forecast(replace(regime, lost=None), known)
    assert only is not None
    assert only.kind == "scores"
    far = forecast(replace(regime, gain=0.9, lost=None), known)
    assert far is not None
    assert far.outside == (MEASURES["gain"],)
    assert forecast(Regime("linear"), known) is None


def test_a_forecast_is_least_squares_with_its_prediction_interval() -> None:
    """Against statsmodels' textbook formula, worked by hand for one measure."""
    merges = grid(-0.5, 0.02)
    fitted = fit(merges, "scores")
    assert fitted is not None
    x = np.array([merge.regime.known(*KINDS["scores"]) for merge in merges], float)
    y = np.array([merge.regime.gap for merge in merges], float)
    design = np.column_stack([np.ones(75), x])
    best, residual, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert np.allclose(fitted.coefficients, best)
    assert fitted.spread == pytest.approx(float(residual[0] / (75 - 4)) ** 0.5)
    told = predict(merges[0].regime, fitted)
    scale = fitted.spread * float(1 + design[0] @ np.linalg.inv(design.T @ design) @ design[0]) ** 0.5
    assert told.high - told.low == pytest.approx(2 * 1.6666 * scale, rel=1e-3), "t of 71 degrees of freedom"


def test_the_papers_regime_is_that_of_its_tables() -> None:
    """Gains of +0.5, +6.2 and +2.4; the released merge against the mixture: +2.8, +0.6 and −0.7."""
    paper = of_the_paper()
    assert paper.gain == pytest.approx((0.005 + 0.062 + 0.024) / 3)
    assert paper.gap == pytest.approx((0.028 + 0.006 - 0.007) / 3)
    assert paper.strength == pytest.approx((0.726 + 0.572 + 0.621) / 3)
