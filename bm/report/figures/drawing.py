"""How figures look, and how they enter a page: matplotlib figures in the page's own colours, light and dark.

Figures are drawn in the light palette, so they can be saved for a paper as they are. `inline` exchanges each colour for
the page's CSS variable of the same name, which follows the reader's colour scheme.
"""

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bm.report.findings.results import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = {
    "surface": "#fcfcfb",
    "raised": "#f4f4f1",
    "ink": "#1c1e21",
    "muted": "#5c6167",
    "line": "#d9d9d4",
    "student": "#6a7077",
    "expert": "#2a6cb0",
    "mixture": "#17805f",
    "merge": "#c2491d",
    "consolidated": "#8a4fb0",
    "ensemble": "#866a00",
}
DARK = {
    "surface": "#15171a",
    "raised": "#1d2024",
    "ink": "#e9eaec",
    "muted": "#a3a9b1",
    "line": "#34383e",
    "student": "#a4abb3",
    "expert": "#78b0f0",
    "mixture": "#4fc49c",
    "merge": "#f28c5f",
    "consolidated": "#c59be6",
    "ensemble": "#d9b84a",
}
"""Contrast to `surface`: text colours and kinds at least 4.5 : 1 (WCAG AA). Blue, green and vermilion stay apart for
colour-blind readers (after Okabe and Ito), and every kind has its own marker."""

HUES: dict[Kind, str] = {
    "student": "grey",
    "expert": "blue",
    "mixture": "green",
    "merge": "red",
    "consolidated": "violet",
    "ensemble": "gold",
}
"""What captions call the colour of each kind."""

MARKERS: dict[Kind, str] = {"student": "s", "expert": "^", "mixture": "D", "merge": "o", "consolidated": "P",
                            "ensemble": "v"}  # fmt: skip

WIDTH = 360
"""Units of every figure's width: about the CSS pixels of a phone, and of a third of a desktop page."""
SMALL, TEXT = 9.5, 11

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bm",
    "text.parse_math": False,
    "text.color": LIGHT["ink"],
    "font.size": TEXT,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "lines.solid_capstyle": "round",
}


def style() -> "AbstractContextManager[None]":
    """The house style, for as long as it is entered."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def canvas(height: float, width: float = WIDTH) -> "tuple[Figure, Axes]":
    """An empty figure whose axes count in its own units, from the top left corner."""
    figure = blank(height, width)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure, axes


def blank(height: float, width: float = WIDTH) -> "Figure":
    """An empty figure in units of 1/72 inch. Call it, and all that draws, within `style()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values within [low, high]."""
    from matplotlib.ticker import MaxNLocator

    return [float(t) for t in MaxNLocator(count).tick_values(low, high) if low <= t <= high]


def shorten(text: str, width: float, size: float = TEXT) -> str:
    """`text` cut with an ellipsis to about `width` units; a letter takes about 0.56 of the size."""
    room = max(1, int(width / (0.56 * size)))
    return text if len(text) <= room else text[: room - 1] + "…"


def tip(lines: Sequence[str]) -> str:
    """A group id that `inline` turns into a tooltip."""
    return "tip:" + " · ".join(lines)


def inline(figure: "Figure", name: str, label: str) -> Markup:
    """The figure as an <svg> element for an HTML page.

    `name` sets its ids apart from those of the page's other figures; `label` is read out in its place.
    """
    content = _content(figure)
    content = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", content)
    for colour, value in LIGHT.items():
        content = content.replace(value, f"var(--{colour})")
    return Markup(f'<svg {_size(figure)} role="img" aria-label="{escape(label)}">{content}')


def standalone(figure: "Figure", label: str, caption: str) -> str:
    """The figure as an SVG file, in the light palette, which holds its caption."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {_size(figure)} font-family="sans-serif">'
    ground = '<rect width="100%" height="100%" fill="white"/>'  # a page may be dark, and its words are not
    told = f"<title>{escape(label)}</title><desc>{escape(caption)}</desc>"
    return f"{head}{told}{ground}{_content(figure)}\n"


def _content(figure: "Figure") -> str:
    """What is within the <svg> element of the figure, and its end: the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    content = svg[svg.index(">", svg.index("<svg")) + 1 :].replace("xlink:href", "href")
    content = re.sub(r'<g id="tip:([^"]*)">', r"<g><title>\1</title>", content)
    return re.sub(r"\n\s*", "\n", content).strip()


def _size(figure: "Figure") -> str:
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    return f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
