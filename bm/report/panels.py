"""Figures made of labelled lines, one below the other: scores, differences, costs, funnels. Each is one panel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bm.report.drawing import LIGHT, MARKERS, SMALL, WIDTH, canvas, shorten, ticks, tip
from bm.report.evidence import Funnel
from bm.report.results import Kind, Results, Row, Verdict
from bm.report.wording import MARKS, duration, points, share

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


def _panel(lines: Sequence[Line], show: Callable[[float], str], start: float | None = None) -> "tuple[Figure, Axes, Callable[[float], float]]":
    """Labels and values of lines one below the other, over an axis; returns also the axis, value → x."""
    low, high = min(line.low for line in lines), max(line.high for line in lines)
    room = 0.06 * ((high - low) or 1)
    low, high = (low - room if start is None else start), high + room
    height = PITCH * len(lines) + 26

    def x(value: float) -> float:
        return 8 + (WIDTH - 16) * (value - low) / (high - low)

    figure, axes = canvas(height)
    for tick in ticks(low, high):
        axes.plot([x(tick)] * 2, [4, height - 20], color=LIGHT["line"], linewidth=0.7, zorder=0)
        axes.text(x(tick), height - 6, show(tick), ha="center", fontsize=SMALL, color=LIGHT["muted"])
    for row, line in enumerate(lines):
        y = PITCH * row + 13
        axes.text(8, y, shorten(line.label, WIDTH - 20 - 7 * len(line.value)), color=LIGHT["ink"])
        axes.text(WIDTH - 8, y, line.value, ha="right", color=LIGHT["ink"], fontweight="bold")
    return figure, axes, x


def scores(results: Results, task: str) -> "Figure":
    """Every model's pass@1 on one task with its interval; the student's and the mixture's means as thin lines through all."""
    rows = [row for row in results.rows if task in row.scores]
    lines = [Line(r.name, f"{100 * s.mean:.1f}", r.kind, s.mean, s.low, s.high) for r in rows for s in [r.scores[task]]]
    figure, axes, x = _panel(lines, lambda v: f"{100 * v:.0f} %")
    for line in lines:
        if line.kind in ("student", "mixture"):
            axes.plot([x(line.at)] * 2, [4, PITCH * len(lines) + 6], color=LIGHT[line.kind], linewidth=1, linestyle=(0, (2, 2)), alpha=0.7)
    _points(axes, lines, x)
    return figure


def means(results: Results) -> "Figure":
    """Every model's mean over tasks, as points: their differences are the verdicts', with intervals."""
    pairs = [(row, mean) for row in results.rows if (mean := results.mean(row)) is not None]
    lines = [Line(row.name, f"{100 * mean:.1f}", row.kind, mean, mean, mean) for row, mean in pairs]
    figure, axes, x = _panel(lines, lambda v: f"{100 * v:.0f} %")
    _points(axes, lines, x)
    return figure


def differences(verdicts: Sequence[Verdict], kind: Kind) -> "Figure":
    """Paired differences in percentage points with their intervals, against zero."""
    lines = [Line(v.name, f"{points(v.difference)} {MARKS[v.verdict]}", kind, v.difference, min(v.low, 0), max(v.high, 0)) for v in verdicts]
    figure, axes, x = _panel(lines, points)
    axes.plot([x(0)] * 2, [4, PITCH * len(lines) + 6], color=LIGHT["muted"], linewidth=1.2)
    _points(axes, [Line(ln.label, ln.value, kind, v.difference, v.low, v.high) for ln, v in zip(lines, verdicts, strict=True)], x, points)
    return figure


def _points(axes: "Axes", lines: Sequence[Line], x: Callable[[float], float], show: Callable[[float], str] = lambda v: f"{100 * v:.1f}") -> None:
    for row, line in enumerate(lines):
        y, kind = PITCH * row + 25, line.kind or "student"
        note = tip([line.label, f"{show(line.at)} ({show(line.low)} to {show(line.high)})"])
        axes.plot([x(line.low), x(line.high)], [y, y], color=LIGHT[kind], linewidth=3, alpha=0.35, gid=note)
        axes.plot([x(line.at)], [y], MARKERS[kind], color=LIGHT[kind], markersize=7, markeredgewidth=0, gid=note)


def costs(rows: Sequence[Row], totals: Mapping[str, float]) -> "Figure":
    """Seconds of each model's last step (full colour) and of all that it was made from (pale)."""
    lines = []
    for row in rows:
        total = max(totals.get(row.name, 0), row.cost.seconds)
        value = duration(row.cost.seconds) + (f" of {duration(total)}" if total > row.cost.seconds else "")
        lines.append(Line(row.name, value, row.kind, row.cost.seconds, 0, total))
    return _bars(lines, duration)


def funnel(domain: Funnel) -> "Figure":
    """Traces asked for, rejected by reason, and kept."""
    total = max(domain.asked, 1)
    pairs: list[tuple[str, int, Kind]] = [("asked", domain.asked, "student")]
    pairs += [(reason, number, "student") for reason, number in domain.rejected.items()]
    pairs += [("kept", domain.kept, "expert")]
    lines = [Line(label, f"{n:,}  {share(n / total)}", kind, n, 0, n) for label, n, kind in pairs]
    return _bars(lines, lambda v: f"{v:,.0f}")


def _bars(lines: Sequence[Line], show: Callable[[float], str]) -> "Figure":
    figure, axes, x = _panel(lines, show, start=0)
    for row, line in enumerate(lines):
        y, colour, note = PITCH * row + 20, LIGHT[line.kind or "student"], tip([line.label, line.value])
        if line.high > line.at:
            axes.barh(y + 4, x(line.high) - x(0), 8, left=x(0), color=colour, alpha=0.25, gid=note)
        axes.barh(y + 4, max(x(line.at) - x(0), 1), 8, left=x(0), color=colour, gid=note)
    return figure
