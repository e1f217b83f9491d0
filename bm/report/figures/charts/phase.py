"""Figures of a grid of regimes: the gap of merge to mixture against gain, by regime, what tells it, and forecasts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from bm.report.figures.charts.chart import Chart, Value, measured
from bm.report.figures.charts.heat import HeatCell, heat
from bm.report.figures.drawing import LIGHT, SMALL, TEXT, blank, tip
from bm.report.figures.ends import End, name_ends
from bm.report.figures.numbers import count, percent, points, signed
from bm.report.findings.forecast import NOMINAL, Fit, best, left_out
from bm.report.findings.grid import CONFIDENCE, Grid
from bm.report.findings.law import MARGIN, Law, Observation, by_strength_and_length, explained
from bm.report.findings.regimes import MEASURES, Regime
from bm.statistics import Interval, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 480
"""Units of the first figure's width: it stands alone."""
OTHERS = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)))
"""Dashes of the methods' lines."""


def phase(
    grid: Grid,
    merges: Sequence[Observation],
    laws: Sequence[Law],
    fits: Sequence[Fit],
    beside: Mapping[str, Regime],
) -> Iterator[Chart]:
    """`beside`: what is known elsewhere, by name, drawn into the first figure."""
    if not laws:
        return
    method = laws[0].method
    of = [merge for merge in merges if merge.regime.method == method]
    drawn = [_gap(of, laws, beside), *_regimes(of, method), _explained(explained(of), method)]
    if tried := [fit for fit in fits if fit.error is not None]:
        drawn.append(_forecasts(merges, best(tried)[0]))
    yield from (replace(chart, note=f"{chart.note} {measured(grid)}") for chart in drawn)


def _gap(of: Sequence[Observation], laws: Sequence[Law], beside: Mapping[str, Regime]) -> Chart:
    law = laws[0]
    rows: list[tuple[Value, ...]] = [
        (m.regime.method, m.strength, m.length, m.seed, m.regime.strength, m.regime.gain, m.regime.gap) for m in of
    ]
    rows += [(name, None, None, None, r.strength, r.gain, r.gap) for name, r in beside.items()]
    columns = ("method", "student epochs", "epochs", "seed", "student", "gain", "gap")
    note = (
        "How far a merge of three experts is from the mixture of the same tokens (mean pass@1, points), against what "
        f"the experts gained over their student on their own tasks. A dot: a {law.method} merge, darker from a "
        f"stronger student. Line and band: least squares with its {100 * CONFIDENCE:.0f} % interval by bootstrap over "
        f"students; dashed: other methods. Shaded: at most {100 * MARGIN:.0f} points below the mixture. Diamonds: "
        "measured elsewhere, and not in the fit."
    )
    return Chart(
        "gap-against-gain", "When a merge matches the mixture", note, _drawn(of, laws, beside), columns, rows, True
    )


def _drawn(of: Sequence[Observation], laws: Sequence[Law], beside: Mapping[str, Regime]) -> "Figure":
    figure = blank(330, WIDE)
    axes = figure.add_axes((0.095, 0.125, 0.895, 0.855))
    gains = np.array([merge.regime.gain for merge in of], float)
    reach = np.linspace(gains.min(), gains.max(), 60)
    axes.axhspan(-100 * MARGIN, 100, color=LIGHT["mixture"], alpha=0.1, linewidth=0)
    axes.axhline(0, color=LIGHT["mixture"], linewidth=1.2)
    band = [laws[0].band(gain) for gain in reach]
    axes.fill_between(100 * reach, [100 * b.low for b in band], [100 * b.high for b in band],
                      color=LIGHT["merge"], alpha=0.18, linewidth=0)  # fmt: skip
    ends = []
    for law, dashes in zip(laws, OTHERS, strict=False):
        line = [100 * law.band(gain).mean for gain in reach]
        own = law is laws[0]
        colour = LIGHT["merge" if own else "muted"]
        axes.plot(100 * reach, line, color=colour, linewidth=2.2 if own else 1.1, linestyle=dashes)
        ends.append(End(100 * float(reach[-1]), line[-1], law.method, colour))
    strengths = sorted({merge.strength for merge in of})
    for merge in of:
        r = merge.regime
        shade = 0.25 + 0.75 * strengths.index(merge.strength) / max(1, len(strengths) - 1)
        told = tip([f"student {percent(r.strength or 0)}", _epochs(merge.length), f"seed {merge.seed}",
                    f"gain {points(r.gain or 0)}", f"gap {points(r.gap or 0)}"])  # fmt: skip
        axes.plot([100 * (r.gain or 0)], [100 * (r.gap or 0)], marker="o", markersize=6, markeredgewidth=0,
                  color=LIGHT["merge"], alpha=shade, gid=told)  # fmt: skip
    _beside(axes, beside)
    axes.set_xlabel("what the experts gained over their student on their own tasks, points", labelpad=2)
    axes.set_ylabel("merge − mixture, points", labelpad=2)
    axes.text(0.995, 0.985, f"not inferior: at most {100 * MARGIN:.0f} points below the mixture", ha="right", va="top",
              transform=axes.transAxes, fontsize=SMALL, color=LIGHT["mixture"])  # fmt: skip
    gaps = [100 * (merge.regime.gap or 0) for merge in of] + [100 * (r.gap or 0) for r in beside.values()]
    axes.set_ylim(min(gaps) - 3, max(*gaps, 4) + 3)
    axes.grid(axis="y")
    name_ends(axes, ends, float(axes.transData.transform((ends[0].x, 0))[0]) + 14)
    return figure


def _beside(axes: "Axes", beside: Mapping[str, Regime]) -> None:
    furthest = max([axes.get_xlim()[1], *(100 * (regime.gain or 0) for regime in beside.values())])
    for name, regime in beside.items():
        if regime.gain is not None and regime.gap is not None:
            x, y = 100 * regime.gain, 100 * regime.gap
            axes.plot([x], [y], marker="D", markersize=9, color=LIGHT["ink"], markeredgewidth=0,
                      gid=tip([name, f"gain {points(regime.gain)}", f"gap {points(regime.gap)}"]))  # fmt: skip
            right = x < furthest / 2
            axes.annotate(name, (x, y), (9 if right else -9, 0), textcoords="offset points", va="center",
                          ha="left" if right else "right", fontsize=TEXT, color=LIGHT["ink"])  # fmt: skip


def _regimes(of: Sequence[Observation], method: str) -> Iterator[Chart]:
    """The mean gap over seeds in each regime: of scores, and of held-out losses where they were measured."""
    seeds = len({merge.seed for merge in of})
    spread = f", small: {100 * CONFIDENCE:.0f} % intervals over {count(seeds, 'seed')}" if seeds > 1 else ""
    note = (
        f"Points of mean pass@1 of the {method} merge above (blue) or below (red) the mixture of the same tokens, by "
        f"the student's score and the epochs of the experts' training; mean over seeds{spread}."
    )
    yield _map(of, "gap-by-regime", "The gap by student and length", note, lambda r: r.gap or 0.0)
    if all(merge.regime.loss_gap is not None for merge in of):
        note = (
            f"How much higher the mixture's loss on held-out traces is than the {method} merge's (blue), in percent, "
            f"or lower (red), by the student's score and the epochs of the experts' training; mean over seeds{spread}."
        )
        yield _map(of, "loss-by-regime", "The same on held-out losses", note, lambda r: exp(r.loss_gap or 0) - 1)


def _map(of: Sequence[Observation], name: str, title: str, note: str, value: Callable[[Regime], float]) -> Chart:
    """A share of each regime, mean over seeds, told in hundredths."""
    cells, rows, names = {}, [], {}
    for strength, length, here in by_strength_and_length(of):
        student = fmean(merge.regime.strength or 0 for merge in of if merge.strength == strength)
        values = [value(merge.regime) for merge in here]
        gain = fmean(merge.regime.gain or 0 for merge in here)
        names[strength] = f"student {percent(student)}"
        over = over_seeds(values).interval(CONFIDENCE) if len(values) > 1 else None
        low, high = (over.low, over.high) if over else (None, None)
        said = f"{points(over.low)} to {points(over.high)}" if over else "one seed"
        small = f"{signed(100 * over.low, '.0f')} to {signed(100 * over.high, '.0f')}" if over else ""
        told = f"gain {points(gain)}, {said}"
        cells[names[strength], _epochs(length)] = HeatCell(fmean(values), points(fmean(values)), told, small)
        rows.append((strength, length, student, gain, fmean(values), low, high, len(values)))
    across = [_epochs(length) for length in sorted({merge.length for merge in of})]
    columns = ("student epochs", "epochs", "student", "gain", "gap", "low", "high", "seeds")
    return Chart(name, title, note, heat(list(names.values()), across, cells, around_zero=True), columns, rows)


def _epochs(length: float) -> str:
    return f"{length:g} epoch{'s' * (length != 1)}"


def _explained(correlations: Mapping[str, Interval], method: str) -> Chart:
    high = 20 * len(correlations)
    figure = blank(high + 34)
    axes = figure.add_axes((0.56, 26 / (high + 34), 0.42, high / (high + 34)))
    for place, (measure, c) in enumerate(reversed([*correlations.items()])):
        said = tip([MEASURES[measure], f"{c.mean:+.2f}", f"{c.low:+.2f} to {c.high:+.2f}"])
        axes.plot([c.low, c.high], [place, place], color=LIGHT["expert"], linewidth=3, alpha=0.3)
        axes.plot([c.mean], [place], marker="o", markersize=6, markeredgewidth=0, color=LIGHT["expert"], gid=said)
        axes.text(-0.02, place, MEASURES[measure], transform=axes.get_yaxis_transform(), ha="right",
                  va="center_baseline", fontsize=SMALL, color=LIGHT["ink"])  # fmt: skip
    axes.axvline(0, color=LIGHT["line"], linewidth=1)
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(-0.6, len(correlations) - 0.4)
    axes.set_yticks([])
    axes.set_xlabel("rank correlation", labelpad=1)
    rows = [(measure, c.mean, c.low, c.high) for measure, c in correlations.items()]
    note = (
        f"What tells how far the {method} merge is from the mixture: each measure's rank correlation with the gap, "
        f"with {100 * CONFIDENCE:.0f} % intervals by bootstrap over students."
    )
    return Chart("gap-explained", "What tells the gap", note, figure, ("measure", "correlation", "low", "high"), rows)


def _forecasts(merges: Sequence[Observation], fit: Fit) -> Chart:
    told = left_out(merges, fit.kind)
    figure = blank(300)
    axes = figure.add_axes((0.11, 0.13, 0.87, 0.85))
    ends = [100 * value for merge, f in told for value in (f.gap, merge.regime.gap or 0.0)]
    axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=LIGHT["muted"], linewidth=1)
    for merge, f in told:
        gap = merge.regime.gap or 0.0
        inside = f.low <= gap <= f.high
        colour = LIGHT["expert" if inside else "merge"]
        said = tip(
            [
                merge.regime.method,
                f"predicted {points(f.gap)} ({points(f.low)} to {points(f.high)})",
                f"measured {points(gap)}",
            ]
        )
        axes.plot([100 * f.low, 100 * f.high], [100 * gap] * 2, color=colour, linewidth=1, alpha=0.18)
        axes.plot(
            [100 * f.gap], [100 * gap], marker="o", markersize=4.5, markeredgewidth=0, color=colour, alpha=0.8, gid=said
        )
    axes.set_xlabel("gap predicted, points", labelpad=1)
    axes.set_ylabel("gap measured, points", labelpad=1)
    axes.grid()
    rows = [(m.regime.method, m.strength, m.length, m.seed, f.gap, f.low, f.high, m.regime.gap) for m, f in told]
    note = (
        f"The gap of merge and mixture as predicted and as measured, in points: {count(len(told), 'merge')}, each "
        f"predicted from other students and other seeds by {fit.kind}. Lines: {100 * NOMINAL:.0f} % intervals, of "
        f"which {100 * (fit.coverage or 0):.0f} % hold what was measured (red: not). Root mean square error: "
        f"{100 * (fit.error or 0):.1f} points."
    )
    columns = ("method", "student epochs", "epochs", "seed", "predicted", "low", "high", "measured")
    return Chart("gap-forecast", "Forecasts on regimes left out", note, figure, columns, rows)
