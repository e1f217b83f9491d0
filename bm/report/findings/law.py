"""When a merge matches the mixture: the gap between them against what the experts gained, over a grid of regimes.

The grid has students of several strengths and experts of several lengths. Cells of one student share its training, so
every interval is a bootstrap over students (a strength and a seed), each with all of its cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from bm.report.findings.grid import CONFIDENCE, Grid
from bm.report.findings.regimes import MEASURES, Regime, regimes
from bm.statistics import Array, Interval

STRENGTH, LENGTH = "student.branch.at", "branch.at"
"""The settings that make a grid one of regimes."""
MARGIN = 0.02
"""A merge that is at most so far below the mixture is not inferior to it: 2 points of pass@1."""
RESAMPLES, SEED = 4000, 0
LEAST = 10
"""Cells below which nothing is fitted."""


Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Observation:
    """A merge of the grid: its regime, and which student, training length and seed it is of."""

    regime: Regime
    strength: float
    length: float
    seed: int

    @property
    def student(self) -> tuple[float, int]:
        return self.strength, self.seed


@dataclass(frozen=True)
class Law:
    """gap = intercept + slope · gain for the merges of one method, scores as shares."""

    method: str
    cells: int
    intercept: Interval
    slope: Interval
    spread: float
    """Standard deviation of a cell around the line."""
    safe: float | None
    """The largest gain, within what was seen, up to which the whole interval of the line is above −MARGIN."""
    crossing: Interval | None
    """The gain at which the line falls below −MARGIN; None where it does not fall."""
    lines: Array
    """[resamples, 2]: intercept and slope of each bootstrap sample."""

    def band(self, gain: float) -> Interval:
        drawn = self.lines @ np.array([1.0, gain])
        return Interval(self.intercept.mean + self.slope.mean * gain, *_ends(drawn))


def measured(grid: Grid) -> list[Observation]:
    """Every merge of a grid that varies strength and length and has a mixture beside it; of another grid none."""
    return [
        Observation(regime, float(cell.settings[STRENGTH]), float(cell.settings[LENGTH]), cell.seed)
        for cell in grid.cells
        if {STRENGTH, LENGTH} <= cell.settings.keys()
        for regime in regimes(cell.results)
        if regime.gap is not None and regime.gain is not None
    ]


def laws(merges: Sequence[Observation]) -> list[Law]:
    """A law for each method, the one that stays above −MARGIN furthest first."""
    methods = dict.fromkeys(merge.regime.method for merge in merges)
    by_method = [[merge for merge in merges if merge.regime.method == method] for method in methods]
    fitted = [_law(of) for of in by_method if len(of) >= LEAST]
    return sorted(fitted, key=lambda law: (-(law.crossing.mean if law.crossing else inf), law.method))


def _law(merges: Sequence[Observation]) -> Law:
    gains, gaps = _columns(merges, "gain"), _columns(merges, "gap")

    def line(chosen: Indices) -> Array:
        design = np.stack([np.ones(len(chosen)), gains[chosen]], 1)
        return np.asarray(np.linalg.lstsq(design, gaps[chosen], rcond=None)[0], np.float64)

    best, lines = line(np.arange(len(merges))), bootstrapped(merges, line)
    spread = float(np.sqrt(((gaps - best[0] - best[1] * gains) ** 2).sum() / max(1, len(merges) - 2)))
    intercept, slope = (Interval(float(best[i]), *_ends(lines[:, i])) for i in (0, 1))
    crossing = None
    if best[1] < 0:
        crossings = (-MARGIN - lines[:, 0]) / np.minimum(lines[:, 1], -1e-9)
        crossing = Interval(float((-MARGIN - best[0]) / best[1]), *_ends(crossings))
    return Law(merges[0].regime.method, len(merges), intercept, slope, spread, _safe(lines, gains), crossing, lines)


def _safe(lines: Array, gains: Array) -> float | None:
    """How far from the smallest gain on the lower end of the band is above −MARGIN."""
    steps = np.linspace(float(gains.min()), float(gains.max()), 401)
    drawn = lines[:, :1] + lines[:, 1:] * steps
    above = np.quantile(drawn, (1 - CONFIDENCE) / 2, axis=0) >= -MARGIN
    if not above[0]:
        return None
    return float(steps[-1] if above.all() else steps[int(np.argmin(above)) - 1])


def explained(merges: Sequence[Observation]) -> dict[str, Interval]:
    """By measure, the strongest first, how much of the gap of a method's merges it tells alone: Spearman's rank
    correlation, and its interval. Measures that were not taken are absent."""
    from scipy.stats import rankdata

    gaps, correlations = _columns(merges, "gap"), {}
    for measure in MEASURES:
        if all(merge.regime.known(measure) for merge in merges):
            values = _columns(merges, measure)

            def correlation(chosen: Indices, values: Array = values) -> Array:
                first, second = (ranks - ranks.mean() for ranks in (rankdata(values[chosen]), rankdata(gaps[chosen])))
                return np.array([first @ second / max(1e-12, float(np.sqrt((first @ first) * (second @ second))))])

            whole = float(correlation(np.arange(len(merges)))[0])
            drawn = bootstrapped(merges, correlation, RESAMPLES // 4)
            correlations[measure] = Interval(whole, *_ends(drawn[:, 0]))
    return dict(sorted(correlations.items(), key=lambda item: -abs(item[1].mean)))


def bootstrapped(
    merges: Sequence[Observation], statistic: Callable[[Indices], Array], resamples: int = RESAMPLES
) -> Array:
    """[resamples, k]: a statistic of the indices of cells, whole students drawn with replacement."""
    of = [merge.student for merge in merges]
    members = [np.array([i for i, own in enumerate(of) if own == student]) for student in dict.fromkeys(of)]
    draw = np.random.default_rng(SEED)
    samples = (draw.integers(len(members), size=len(members)) for _ in range(resamples))
    return np.stack([statistic(np.concatenate([members[i] for i in sample])) for sample in samples])


def by_strength_and_length(merges: Sequence[Observation]) -> Iterator[tuple[float, float, list[Observation]]]:
    """The cells of each strength and length, over seeds."""
    for strength in sorted({merge.strength for merge in merges}):
        for length in sorted({merge.length for merge in merges}):
            if of := [merge for merge in merges if (merge.strength, merge.length) == (strength, length)]:
                yield strength, length, of


def _columns(merges: Sequence[Observation], name: str) -> Array:
    return np.array([getattr(merge.regime, name) for merge in merges], float)


def _ends(drawn: Array) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
