"""Figures made of labelled lines, one below the other: scores, differences, costs, funnels. Each is one panel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bm.report.figures.drawing import LIGHT, MARKERS, SMALL, WIDTH, canvas, shorten, ticks, tip
from bm.report.figures.numbers import MARKS, duration, percent, points, share, signed
from bm.report.findings.evidence import Funnel
from bm.report.findings.results import Kind, Results, Row, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PITCH = 34
"""Height of a line with its label above."""


@dataclass(frozen=True)
class PanelLine:
    """A labelled line of a panel: a point with its interval, or a bar."""

    label: str
    value: str
    kind: Kind
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """Labels and values over an axis from `low` to `high`; what stands at each line is drawn by the functions below."""

    figure: "Figure"
    axes: "Axes"
    lines: Sequence[PanelLine]
    low: float
    high: float

    def x(self, value: float) -> float:
        return 2 + (WIDTH - 4) * (value - self.low) / (self.high - self.low)


def scores(results: Results, task: str) -> "Figure":
    """Every model's pass@1 on one task with its interval; the student's and the mixture's means pass all lines."""
    pairs = [(row, row.scores[task]) for row in results.rows if task in row.scores and row.out_after is None]
    lines = [PanelLine(row.name, f"{100 * s.mean:.1f}", row.kind, s.mean, s.low, s.high) for row, s in pairs]
    panel = _panel(lines, _percent_tick)
    for line in lines:
        if line.kind in ("student", "mixture"):
            _through(panel, line.at, LIGHT[line.kind], ":")
    return _points(panel, lines, percent)


def means(results: Results) -> "Figure":
    """Every model's mean over tasks."""
    pairs = [(row, mean) for row in results.rows if (mean := results.mean(row)) is not None]
    lines = [PanelLine(row.name, f"{100 * mean:.1f}", row.kind, mean, 0, mean) for row, mean in pairs]
    return _bars(lines, _percent_tick)


def intervals(lines: Sequence[PanelLine]) -> "Figure":
    """Shares as bars from zero, each with a whisker over its interval."""
    panel = _panel([replace(line, low=0) for line in lines], _percent_tick, 0)
    for row, line in enumerate(lines):
        y, colour = PITCH * row + 24, LIGHT[line.kind]
        note = tip([line.label, f"{percent(line.at)} ({percent(line.low)} to {percent(line.high)})"])
        start, at, low, high = (panel.x(value) for value in (0, line.at, line.low, line.high))
        panel.axes.barh(y, max(at - start, 1), 8, left=start, color=colour, gid=note)
        if high > low:
            panel.axes.plot([low, high], [y, y], color=LIGHT["ink"], linewidth=1.2, gid=note)
            for end in (low, high):
                panel.axes.plot([end, end], [y - 3, y + 3], color=LIGHT["ink"], linewidth=1.2)
    return panel.figure


def differences(verdicts: Sequence[Verdict], kind: Kind) -> "Figure":
    """Paired differences in percentage points with their intervals, against zero."""
    lines = [
        PanelLine(v.name, f"{points(v.difference)} {MARKS[v.verdict]}", kind, v.difference, v.low, v.high)
        for v in verdicts
    ]
    return _around_zero(lines, lambda value: signed(100 * value, ".3g"), points)


def correlations(values: Sequence[tuple[str, float, float, float]]) -> "Figure":
    """Numbers in [-1, 1] with their labels and intervals, against zero."""
    lines = [PanelLine(label, signed(at), "merge", at, low, high) for label, at, low, high in values]
    return _around_zero(lines, lambda value: signed(value, ".3g"), signed)


def _around_zero(lines: Sequence[PanelLine], tick: Callable[[float], str], show: Callable[[float], str]) -> "Figure":
    """Points with their intervals against zero."""
    around_zero = [replace(line, low=min(line.low, 0), high=max(line.high, 0)) for line in lines]
    panel = _panel(around_zero, lambda value: tick(value) if value else "0")
    _through(panel, 0, LIGHT["muted"], "-")
    return _points(panel, lines, show)


def shares(values: Mapping[str, float]) -> "Figure":
    """Shares by their labels, of merges."""
    return _bars([PanelLine(label, percent(at), "merge", at, 0, at) for label, at in values.items()], _percent_tick)


def costs(rows: Sequence[Row]) -> "Figure":
    """Seconds of each model's last step (full colour) and of all that it was made from (pale)."""
    lines = []
    for row in rows:
        own, total = row.cost.seconds, row.seconds_in_all
        value = duration(own) if duration(own) == duration(total) else f"{duration(own)} of {duration(total)}"
        lines.append(PanelLine(row.name, value, row.kind, own, 0, total))
    longest = max(line.high for line in lines)
    return _bars(lines, duration, next((unit for unit in (3600, 60) if longest >= 2 * unit), 1))


def funnel(counts: Funnel) -> "Figure":
    """Questions asked, responses to them if those were several each, rejections by reason, and traces kept."""
    pairs: list[tuple[str, int, Kind]] = [("questions asked", counts.asked, "student")]
    pairs += [("responses", counts.answered, "student")] * (counts.answered != counts.asked)
    pairs += [(reason, number, "student") for reason, number in counts.rejected.items()]
    pairs += [("kept", counts.kept, "expert")]
    return _bars([_counted(*pair, counts.answered) for pair in pairs], lambda value: f"{value:,.0f}")


def _counted(label: str, number: int, kind: Kind, responses: int) -> PanelLine:
    value = f"{number:,}" if number >= responses else f"{number:,} · {share(number / responses)}"
    return PanelLine(label, value, kind, number, 0, number)


def _percent_tick(value: float) -> str:
    return f"{100 * value:.3g} %"


def _panel(
    lines: Sequence[PanelLine], show: Callable[[float], str], start: float | None = None, unit: float = 1
) -> Panel:
    """An axis that holds all lines, with ticks that are round in `unit`, and the lines' labels and values."""
    low, high = min(line.low for line in lines), max(line.high for line in lines)
    room = 0.06 * ((high - low) or 1)
    bottom = PITCH * len(lines) + 6
    figure, axes = canvas(bottom + 20)
    panel = Panel(figure, axes, lines, low - room if start is None else start, high + room)
    for tick in ticks(panel.low / unit, panel.high / unit):
        x = panel.x(tick * unit)
        axes.plot([x, x], [4, bottom], color=LIGHT["line"], linewidth=0.7, zorder=0)
        inside = min(max(x, 10), WIDTH - 10)
        axes.text(inside, bottom + 14, show(tick * unit), ha="center", fontsize=SMALL, color=LIGHT["muted"])
    for row, line in enumerate(lines):
        y = PITCH * row + 13
        axes.text(0, y, shorten(line.label, WIDTH - 8 - 6.6 * len(line.value)), color=LIGHT["ink"])
        axes.text(WIDTH, y, line.value, ha="right", color=LIGHT["ink"], fontweight="bold")
    return panel


def _through(panel: Panel, value: float, colour: str, dashes: str) -> None:
    """A vertical line at `value` that passes each of the panel's lines and leaves their labels free."""
    x = panel.x(value)
    for row in range(len(panel.lines)):
        panel.axes.plot([x, x], [PITCH * row + 17, PITCH * row + 33], color=colour, linewidth=1, linestyle=dashes)


def _points(panel: Panel, lines: Sequence[PanelLine], show: Callable[[float], str]) -> "Figure":
    """Markers with their intervals."""
    for row, line in enumerate(lines):
        y, colour = PITCH * row + 25, LIGHT[line.kind]
        note = tip([line.label, f"{show(line.at)} ({show(line.low)} to {show(line.high)})"])
        panel.axes.plot(
            [panel.x(line.low), panel.x(line.high)], [y, y], color=colour, linewidth=3, alpha=0.35, gid=note
        )
        marker: dict[str, Any] = {"marker": MARKERS[line.kind], "markersize": 7, "markeredgewidth": 0}
        panel.axes.plot([panel.x(line.at)], [y], color=colour, gid=note, **marker)
    return panel.figure


def _bars(lines: Sequence[PanelLine], show: Callable[[float], str], unit: float = 1) -> "Figure":
    """Bars from zero, pale beyond `at`."""
    panel = _panel(lines, show, 0, unit)
    for row, line in enumerate(lines):
        y, colour, note = PITCH * row + 24, LIGHT[line.kind], tip([line.label, line.value])
        start, at, high = panel.x(0), panel.x(line.at), panel.x(line.high)
        if high > at:
            panel.axes.barh(y, high - start, 8, left=start, color=colour, alpha=0.25, gid=note)
        panel.axes.barh(y, max(at - start, 1), 8, left=start, color=colour, gid=note)
    return panel.figure
