"""A map: numbers on cells whose colour tells them apart from afar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from bm.report.figures.drawing import LIGHT, SMALL, WIDTH, canvas, shorten, tip
from bm.report.figures.plots import PALEST, STRONGEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGH, NARROW, LETTER, TINY = 22, 34, 5.2, 7.5
"""Height of a row of one line; least width of a cell; width of a letter of small text; size of an interval's text."""


@dataclass(frozen=True)
class HeatCell:
    value: float
    """What its colour shows."""
    text: str
    note: str
    """Told when it is pointed at."""
    small: str = ""
    """Its interval, below the number."""


def heat(
    down: Sequence[str],
    across: Sequence[str],
    cells: Mapping[tuple[str, str], HeatCell],
    around_zero: bool = False,
    colours: Mapping[str, str] | None = None,
) -> "Figure":
    """Rows named on the left, in `colours` if given, columns above, slanted. Colour goes from the lowest to the highest
    value, or from zero to both sides. A place without a cell stays empty."""
    names = [shorten(name, 110, SMALL) for name in across]
    top, right = 16 + 3.6 * max(map(len, names)), 4 + 3.6 * len(names[-1])
    left = min(LETTER * max(map(len, down)) + 10, WIDTH - right - NARROW * len(across))
    lines = {name: wrap(name, max(8, int(left / LETTER)), max_lines=2, placeholder="…") for name in down}
    two = any(cell.small for cell in cells.values()) or max(map(len, lines.values())) > 1
    high, wide = HIGH + 8 * two, min(60.0, (WIDTH - left - right) / len(across))
    figure, axes = canvas(top + high * len(down) + 4)
    for column, name in enumerate(names):
        place = (left + wide * (column + 0.4), top - 6)
        axes.text(*place, name, rotation=40, rotation_mode="anchor", fontsize=SMALL, color=LIGHT["muted"])
    for row, name in enumerate(down):
        for line, text in enumerate(lines[name]):
            y = top + high * (row + 0.5) + 11 * (line - (len(lines[name]) - 1) / 2)
            axes.text(0, y, text, va="center_baseline", fontsize=SMALL, color=(colours or {}).get(name, LIGHT["ink"]))
    values = [cell.value for cell in cells.values()]
    for row, name in enumerate(down):
        for column, other in enumerate(across):
            if cell := cells.get((name, other)):
                x, y = left + wide * column, top + high * row
                colour, strength = _colour(cell.value, values, around_zero)
                note = tip([name, other, cell.text, cell.note])
                axes.bar(x + 1, high - 2, wide - 2, y + 1, align="edge", color=colour, alpha=strength, gid=note)
                middle: dict[str, Any] = {"ha": "center", "va": "center_baseline", "color": LIGHT["ink"]}
                axes.text(x + wide / 2, y + high / 2 - 5 * bool(cell.small), cell.text, fontsize=SMALL, **middle)
                axes.text(x + wide / 2, y + high / 2 + 7, cell.small, fontsize=TINY, **middle)
    return figure


def _colour(value: float, values: Sequence[float], around_zero: bool) -> tuple[str, float]:
    """A colour and its opacity, weak enough for text upon it."""
    low, high = (0.0, max(map(abs, values))) if around_zero else (min(values), max(values))
    share = ((abs(value) if around_zero else value) - low) / ((high - low) or 1)
    return LIGHT["expert" if around_zero and value > 0 else "merge"], PALEST + (STRONGEST - PALEST) * share
