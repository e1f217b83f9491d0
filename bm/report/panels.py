"""Figures made of labelled lines, one below the other: scores, differences, costs, funnels. Each is one panel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bm.report.drawing import LIGHT, MARKERS, SMALL, WIDTH, canvas, shorten, ticks, tip
from bm.report.evidence import Funnel
from bm.report.results import Kind, Results, Row, Verdict
from bm.report.wording import MARKS, duration, percent, points, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PITCH = 34
"""Height of a line with its label above."""


@dataclass(frozen=True)
class Line:
    """A labelled line of a panel: a point with its interval, or a bar."""

    label: str
    value: str
    kind: Kind | None
    at: float
    low: float
    high: float


def _panel(lines: Sequence[Line], show: Callable[[float], str], start: float | None = None, unit: float = 1) -> "tuple[Axes, Callable[[float], float]]":
    """Labels and values of lines one below the other, over an axis with round ticks in `unit`; and the axis, value → x."""
    low, high = min(line.low for line in lines), max(line.high for line in lines)
    room = 0.06 * ((high - low) or 1)
    low, high = (low - room if start is None else start), high + room
    bottom = PITCH * len(lines) + 6

    def x(value: float) -> float:
        return 2 + (WIDTH - 4) * (value - low) / (high - low)

    axes = canvas(bottom + 20)
    for tick in ticks(low / unit, high / unit):
        place = x(tick * unit)
        axes.plot([place, place], [4, bottom], color=LIGHT["line"], linewidth=0.7, zorder=0)
        axes.text(min(max(place, 10), WIDTH - 10), bottom + 14, show(tick * unit), ha="center", fontsize=SMALL, color=LIGHT["muted"])
    for row, line in enumerate(lines):
        y = PITCH * row + 13
        axes.text(0, y, shorten(line.label, WIDTH - 8 - 6.6 * len(line.value)), color=LIGHT["ink"])
        axes.text(WIDTH, y, line.value, ha="right", color=LIGHT["ink"], fontweight="bold")
    return axes, x


def _through(axes: "Axes", lines: int, x: float, colour: str, dashes: tuple[float, float] | None = None) -> None:
    """A vertical line at `x` that passes each of the panel's lines and leaves their labels free."""
    for row in range(lines):
        axes.plot([x, x], [PITCH * row + 17, PITCH * row + 33], color=colour, linewidth=1, dashes=dashes or (None, None))


def scores(results: Results, task: str) -> "Figure":
    """Every model's pass@1 on one task with its interval; the student's and the mixture's means as thin lines through all."""
    rows = [row for row in results.rows if task in row.scores]
    lines = [Line(r.name, f"{100 * s.mean:.1f}", r.kind, s.mean, s.low, s.high) for r in rows for s in [r.scores[task]]]
    axes, x = _panel(lines, percent_tick)
    for line in lines:
        if line.kind in ("student", "mixture"):
            _through(axes, len(lines), x(line.at), LIGHT[line.kind], (1.5, 1.5))
    return _points(axes, lines, x)


def means(results: Results) -> "Figure":
    """Every model's mean over tasks."""
    pairs = [(row, mean) for row in results.rows if (mean := results.mean(row)) is not None]
    return _bars([Line(row.name, f"{100 * mean:.1f}", row.kind, mean, 0, mean) for row, mean in pairs], percent_tick)


def differences(verdicts: Sequence[Verdict], kind: Kind) -> "Figure":
    """Paired differences in percentage points with their intervals, against zero."""
    lines = [Line(v.name, f"{points(v.difference)} {MARKS[v.verdict]}", kind, v.difference, min(v.low, 0), max(v.high, 0)) for v in verdicts]
    axes, x = _panel(lines, lambda value: f"{100 * value:+.3g}".replace("-", "−") if value else "0")
    _through(axes, len(lines), x(0), LIGHT["muted"])
    return _points(axes, [replace(line, low=v.low, high=v.high) for line, v in zip(lines, verdicts, strict=True)], x, points)


def percent_tick(value: float) -> str:
    return f"{100 * value:.3g} %"


def _points(axes: "Axes", lines: Sequence[Line], x: Callable[[float], float], show: Callable[[float], str] = percent) -> "Figure":
    for row, line in enumerate(lines):
        y, kind = PITCH * row + 25, line.kind or "student"
        note = tip([line.label, f"{show(line.at)} ({show(line.low)} to {show(line.high)})"])
        axes.plot([x(line.low), x(line.high)], [y, y], color=LIGHT[kind], linewidth=3, alpha=0.35, gid=note)
        axes.plot([x(line.at)], [y], MARKERS[kind], color=LIGHT[kind], markersize=7, markeredgewidth=0, gid=note)
    return axes.figure


def costs(rows: Sequence[Row], totals: Mapping[str, float]) -> "Figure":
    """Seconds of each model's last step (full colour) and of all that it was made from (pale)."""
    lines = []
    for row in rows:
        total = max(totals.get(row.name, 0), row.cost.seconds)
        value = duration(row.cost.seconds) + (f" of {duration(total)}" if duration(total) != duration(row.cost.seconds) else "")
        lines.append(Line(row.name, value, row.kind, row.cost.seconds, 0, total))
    longest = max(line.high for line in lines)
    return _bars(lines, duration, next((unit for unit in (3600, 60) if longest >= 2 * unit), 1))


def funnel(domain: Funnel) -> "Figure":
    """Traces asked for, rejected by reason, and kept."""
    total = max(domain.asked, 1)
    pairs: list[tuple[str, int, Kind]] = [("asked", domain.asked, "student")]
    pairs += [(reason, number, "student") for reason, number in domain.rejected.items()]
    pairs += [("kept", domain.kept, "expert")]
    lines = [Line(label, f"{n:,}" + (f" · {share(n / total)}" if label != "asked" else ""), kind, n, 0, n) for label, n, kind in pairs]
    return _bars(lines, lambda v: f"{v:,.0f}")


def _bars(lines: Sequence[Line], show: Callable[[float], str], unit: float = 1) -> "Figure":
    axes, x = _panel(lines, show, 0, unit)
    for row, line in enumerate(lines):
        y, colour, note = PITCH * row + 24, LIGHT[line.kind or "student"], tip([line.label, line.value])
        if line.high > line.at:
            axes.barh(y, x(line.high) - x(0), 8, left=x(0), color=colour, alpha=0.25, gid=note)
        axes.barh(y, max(x(line.at) - x(0), 1), 8, left=x(0), color=colour, gid=note)
    return axes.figure
