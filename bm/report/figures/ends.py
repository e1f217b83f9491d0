"""Names of lines where the lines end, in place of a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from bm.report.figures.drawing import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 118
"""Units that names take beside the axes."""
LETTERS = 22
"""Letters of a name on one of its rows."""
ROW, GAP = 11.0, 3.0
"""Height of a row of a name, and least distance from one name to the next."""


@dataclass(frozen=True)
class End:
    """Where a line ends, in the units of its axes, and what it is called."""

    x: float
    y: float
    name: str
    colour: str

    @property
    def rows(self) -> list[str]:
        return wrap(self.name, LETTERS, max_lines=2, placeholder="…")

    @property
    def height(self) -> float:
        return ROW * len(self.rows) + GAP


def name_ends(axes: "Axes", ends: Sequence[End], left: float) -> None:
    """Each name at the height of its line's end, in its colour, or as near as the others let it, and a thin line to it.

    left: where names begin, in units from the figure's left edge. Call it when all else is drawn.
    """
    axes.autoscale_view()  # matplotlib puts it off until it draws, and ends are placed now
    box = axes.bbox
    at = axes.transData.inverted().transform
    tips = [axes.transData.transform((end.x, end.y)) for end in ends]
    middles = apart([float(y) for _, y in tips], [end.height for end in ends], box.y0, box.y1)
    for end, middle in zip(ends, middles, strict=True):
        (from_x, from_y), (x, y) = at((left - 6, middle)), at((left - 2, middle))
        axes.plot([end.x, from_x, x], [end.y, from_y, y], color=end.colour, linewidth=0.7, alpha=0.7, clip_on=False,
                  scalex=False, scaley=False)  # fmt: skip
        for row, text in enumerate(end.rows):
            x, y = at((left, middle - ROW * (row - (len(end.rows) - 1) / 2)))
            axes.text(x, y, text, va="center_baseline", fontsize=SMALL, color=end.colour)


def apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """The middles of things of these heights, nearest (least squares) to where each wants to be, that neither overlap
    nor leave [low, high]; where there is too little room they start at `low` and go on above `high`."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    order = np.argsort(wanted, kind="stable")
    sizes, own = np.asarray(heights, float)[order], np.asarray(wanted, float)[order]
    beneath = np.cumsum(sizes) - sizes / 2
    free = isotonic_regression(own - beneath).x  # without their heights, middles must only not descend
    placed = np.empty(len(own))
    placed[order] = np.clip(free, low, max(low, high - sizes.sum())) + beneath
    return [float(middle) for middle in placed]
