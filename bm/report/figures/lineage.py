"""The lineage of a run as a graph: from traces to scores, left to right."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from bm.report.figures.drawing import LIGHT, SMALL, canvas, tip
from bm.report.figures.numbers import duration, percent
from bm.report.findings.evidence import Node
from bm.report.findings.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX, GAP, HIGH, PITCH = 196, 32, 48, 58
"""Width of a node's box and of the gap beside it, its height, and the distance from one node to the next below."""
LETTERS = 28
"""Letters of a name on one line of its box."""


def draw(nodes: Sequence[Node], results: Results) -> "Figure":
    """Boxes in columns by their distance from the start, each right of all that it was made from."""
    rows = {row.key: row for row in results.rows}
    ranks = depths(nodes)
    places = _arranged(nodes, ranks)
    columns, deepest = max(ranks.values()) + 1, max((row for _, row in places.values()), default=0) + 1
    figure, axes = canvas(PITCH * deepest, columns * BOX + (columns - 1) * GAP + 2)
    for node in nodes:
        row = rows.get(node.key)
        colour = LIGHT[row.kind if row else "muted"]
        for source in (s for s in node.inputs if s in places):
            _arrow(axes, places[source], places[node.key], colour)
    for node in nodes:
        row = rows.get(node.key)
        mean = results.mean(row) if row else None
        said = [node.stage, duration(node.cost.seconds)] + ([percent(mean)] if mean is not None else [])
        _box(
            axes, places[node.key], row.name if row else node.label, said, LIGHT[row.kind if row else "muted"], node.key
        )
    return figure


def depths(nodes: Sequence[Node]) -> dict[str, int]:
    """Each node's longest way from a node without inputs; inputs that are not among `nodes` do not count."""
    inputs: Mapping[str, Sequence[str]] = {node.key: node.inputs for node in nodes}
    depths: dict[str, int] = {}

    def depth(key: str) -> int:
        if key not in depths:
            depths[key] = 1 + max((depth(source) for source in inputs[key] if source in inputs), default=-1)
        return depths[key]

    for key in inputs:
        depth(key)
    return depths


def _arranged(nodes: Sequence[Node], ranks: Mapping[str, int]) -> dict[str, tuple[int, float]]:
    """Column and row of every node: within its column in the order of its inputs' mean row, the column centred."""
    columns = [[n for n in nodes if ranks[n.key] == rank] for rank in range(max(ranks.values(), default=-1) + 1)]
    tallest = max((len(column) for column in columns), default=0)
    places: dict[str, tuple[int, float]] = {}
    for rank, column in enumerate(columns):
        middle = {n.key: [places[s][1] for s in n.inputs if s in places] for n in column}
        column.sort(key=lambda n: (sum(middle[n.key]) / len(middle[n.key]) if middle[n.key] else 0, n.stage, n.label))
        for index, node in enumerate(column):
            places[node.key] = (rank, index + (tallest - len(column)) / 2)
    return places


def _corner(place: tuple[int, float]) -> tuple[float, float]:
    return 1 + place[0] * (BOX + GAP), 1 + place[1] * PITCH


def _arrow(axes: "Axes", source: tuple[int, float], target: tuple[int, float], colour: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, y0), (x1, y1) = _corner(source), _corner(target)
    x0, y0, y1, bend = x0 + BOX, y0 + HIGH / 2, y1 + HIGH / 2, GAP * 0.6
    curve = Path(
        [(x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    )
    axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=1.1, alpha=0.45))


def _box(axes: "Axes", place: tuple[int, float], name: str, said: Sequence[str], colour: str, key: str) -> None:
    from matplotlib.patches import Rectangle

    x, y = _corner(place)
    note = tip([name, *said, f"key {key}"])
    box: dict[str, Any] = {"facecolor": LIGHT["raised"], "edgecolor": LIGHT["line"], "linewidth": 0.8}
    axes.add_patch(Rectangle((x, y), BOX, HIGH, gid=note, **box))
    axes.add_patch(Rectangle((x, y), 3, HIGH, facecolor=colour, edgecolor="none"))
    lines = wrap(name, LETTERS, max_lines=2, placeholder="…")
    top = y + (21 if len(lines) == 1 else 15)
    for row, line in enumerate(lines):
        axes.text(x + 10, top + 12 * row, line, fontsize=SMALL, color=LIGHT["ink"], fontweight="bold")
    axes.text(x + 10, top + 12 * len(lines) + 1, " · ".join(said), fontsize=SMALL, color=LIGHT["muted"])
