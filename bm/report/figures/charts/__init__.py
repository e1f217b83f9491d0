"""Figures of a grid, each where the grid has what it takes: bars, frontier, curves, and maps of several kinds."""

from bm.report.figures.charts.bars import bars, cosines, paper
from bm.report.figures.charts.chart import Chart
from bm.report.figures.charts.curves import curves
from bm.report.figures.charts.frontier import frontier
from bm.report.figures.charts.maps import distances, methods, orders, retention
from bm.report.figures.charts.phase import phase
from bm.report.findings.grid import Grid
from bm.report.findings.published import Published

__all__ = ["Chart", "charts", "phase"]


def charts(grid: Grid, published: Published | None) -> list[Chart]:
    """Call it, and all that draws, within `drawing.style()`."""
    draw = (frontier, curves, orders, retention, distances, cosines, methods)
    return [*bars(grid), *paper(grid, published), *(chart for of in draw for chart in of(grid))]
