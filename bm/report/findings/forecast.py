"""Whether a merge will match the mixture, told before one is trained: a regression fitted on the grid of regimes.

experiments/phase/law.json holds what was fitted (`bm report experiment=phase record=true` writes it). A forecast is
linear in measures of the regime, with the prediction interval of least squares. How good it is was measured on regimes
that it was not fitted on: each strength and seed in turn, from other strengths and other seeds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from bm.report.findings.law import LEAST, MARGIN, Observation
from bm.report.findings.published import experiments_dir
from bm.report.findings.regimes import MEASURES, Regime
from bm.statistics import NORMAL, Array

FILE = "law.json"
NOMINAL = 0.9
"""Confidence of the intervals."""
ENOUGH = 0.8
"""Coverage on regimes left out from which on intervals are believed."""
SURE = NORMAL.inv_cdf((1 + NOMINAL) / 2)
KINDS: Mapping[str, tuple[str, ...]] = {
    "scores and losses": ("strength", "gain", "deficit", "learned", "lost"),
    "scores": ("strength", "gain", "deficit"),
    "losses": ("learned", "forgotten", "lost"),
    "weights": ("distance", "cosine", "conflict"),
}
"""What a forecast rests on, by what is known: models that were tested, with their losses or not; or weights alone."""
BEYOND = 0.1
"""A measure may lie outside of what was seen by this share of the range."""


@dataclass(frozen=True)
class Fit:
    """Least squares of the gap on measures: mean = coefficients · (1, measures)."""

    kind: str
    measures: tuple[str, ...]
    coefficients: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]
    """(XᵀX)⁻¹."""
    spread: float
    """Standard deviation of a merge around the mean."""
    quantile: float
    """The quantile of Student's t at NOMINAL, with a degree of freedom for each cell less the coefficients."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """The range of each measure."""
    coverage: float | None = None
    """Share of the gaps of left-out regimes within their intervals; nominally NOMINAL."""
    error: float | None = None
    """Root mean square error there, as a share."""


@dataclass(frozen=True)
class Forecast:
    """The gap of one merge to a mixture that was not looked at."""

    method: str
    kind: str
    gap: float
    low: float
    high: float
    within: float
    """The chance that the gap is above −MARGIN."""
    outside: tuple[str, ...]
    """Measures that are outside of what the law was fitted on, which makes the rest a guess."""
    measured: float | None
    """The gap, where there is a mixture after all."""


def fit(merges: Sequence[Observation], kind: str) -> Fit | None:
    """None where there are too few cells, three for each coefficient at least, or some lack a measure."""
    from scipy import stats

    measures = KINDS[kind]
    known = [merge.regime.known(*measures) for merge in merges]
    cells = len({(merge.student, merge.length) for merge in merges})
    if cells < max(LEAST, 3 * (1 + len(measures))) or not all(known):
        return None
    values = np.array(known, float)
    design, gaps = _design(values), np.array([merge.regime.gap for merge in merges], float)
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ gaps
    freedom = cells - design.shape[1]  # merges of one cell share experts and mixture
    spread = float(np.sqrt(((gaps - design @ coefficients) ** 2).mean() * cells / freedom))
    low, high = (tuple(map(float, of(values, axis=0))) for of in (np.min, np.max))
    rows = tuple(tuple(map(float, row)) for row in inverse)
    quantile = float(stats.t.ppf((1 + NOMINAL) / 2, freedom))
    return Fit(kind, measures, tuple(map(float, coefficients)), rows, spread, quantile, low, high)


def fits(merges: Sequence[Observation]) -> list[Fit]:
    """Every kind that can be fitted, with its coverage and error on regimes that were left out."""
    made = [fitted for kind in KINDS if (fitted := fit(merges, kind))]
    tried = [_tried(merges, fitted.kind) for fitted in made]
    return [
        replace(fitted, coverage=of[0], error=of[1], spread=max(fitted.spread, of[1])) if of else fitted
        for fitted, of in zip(made, tried, strict=True)
    ]


def left_out(merges: Sequence[Observation], kind: str) -> list[tuple[Observation, Forecast]]:
    """Each strength and seed, predicted from other strengths and other seeds alone; also from the same seed's other
    strengths while there are too few cells of other seeds."""
    told: list[tuple[Observation, Fit]] = []
    for student in dict.fromkeys(merge.student for merge in merges):
        strength, seed = student
        stronger_or_weaker = [merge for merge in merges if merge.strength != strength]
        others = [merge for merge in stronger_or_weaker if merge.seed != seed]
        if fitted := fit(others, kind) or fit(stronger_or_weaker, kind):
            told += [(merge, fitted) for merge in merges if merge.student == student]
    errors = np.array([(merge.regime.gap or 0.0) - predict(merge.regime, fitted).gap for merge, fitted in told])
    return [
        (
            merge,
            predict(
                merge.regime,
                _widened(fitted, errors[[other.student != merge.student for other, _ in told]]),
            ),
        )
        for merge, fitted in told
    ]


def _widened(fitted: Fit, errors: Array) -> Fit:
    """A new regime is further off than what was fitted: the spread is at least the error on regimes left out."""
    seen = float(np.sqrt((errors**2).mean())) if len(errors) else 0.0
    return replace(fitted, spread=max(fitted.spread, seen))


def _tried(merges: Sequence[Observation], kind: str) -> tuple[float, float] | None:
    """Coverage and error of the forecasts of left-out regimes."""
    told = left_out(merges, kind)
    if not told:
        return None
    gaps = np.array([merge.regime.gap for merge, _ in told], float)
    low, high, mean = (np.array([getattr(f, name) for _, f in told]) for name in ("low", "high", "gap"))
    covered = (low <= gaps) & (gaps <= high)
    return float(covered.mean()), float(np.sqrt(((gaps - mean) ** 2).mean()))


def predict(regime: Regime, fitted: Fit) -> Forecast:
    """A forecast from the measures that a fit needs, which must be known."""
    values = np.array(regime.known(*fitted.measures), float)
    row = _design(values[None])[0]
    mean = float(row @ np.array(fitted.coefficients))
    scale = fitted.spread * float(np.sqrt(1 + row @ np.array(fitted.inverse) @ row))
    reach, within = fitted.quantile * scale, NORMAL.cdf((mean + MARGIN) / (scale * fitted.quantile / SURE))
    room = BEYOND * (np.array(fitted.high) - np.array(fitted.low))
    far = (values < np.array(fitted.low) - room) | (values > np.array(fitted.high) + room)
    outside = tuple(MEASURES[name] for name, beyond in zip(fitted.measures, far, strict=True) if beyond)
    return Forecast(regime.method, fitted.kind, mean, mean - reach, mean + reach, within, outside, regime.gap)


def forecast(regime: Regime, known: Sequence[Fit] | None = None) -> Forecast | None:
    """By the best of the fits whose measures are known; None where there is none."""
    usable = best([fitted for fitted in (recorded() if known is None else known) if regime.known(*fitted.measures)])
    return predict(regime, usable[0]) if usable else None


def best(known: Sequence[Fit]) -> list[Fit]:
    """The least error first; behind them those whose intervals held too few of the gaps left out, or were not tried."""

    def place(fitted: Fit) -> tuple[bool, float]:
        return (fitted.coverage or 0.0) < ENOUGH, fitted.error if fitted.error is not None else np.inf

    return sorted(known, key=place)


@cache
def recorded() -> tuple[Fit, ...]:
    """The fits that come with the package; none before they were made."""
    path: Path = experiments_dir() / "phase" / FILE
    fits = json.loads(path.read_bytes())["forecasts"] if path.is_file() else []
    return TypeAdapter(tuple[Fit, ...]).validate_python(fits)


def told(fitted: Sequence[Fit]) -> list[dict[str, object]]:
    """The fits as JSON has them."""
    return [asdict(entry) for entry in fitted]


def _design(values: Array) -> Array:
    return np.concatenate([np.ones((len(values), 1)), values], 1)
