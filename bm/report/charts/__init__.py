"""Figures of a grid, each where the grid has what it takes: bars, frontier, curves, and maps of several kinds."""

from bm.report.charts.bars import bars, cosines, paper
from bm.report.charts.chart import Chart
from bm.report.charts.curves import curves
from bm.report.charts.frontier import frontier
from bm.report.charts.maps import distances, methods, orders, retention
from bm.report.grid import Grid
from bm.report.published import Published

__all__ = ["Chart", "charts"]


def charts(grid: Grid, published: Published | None) -> list[Chart]:
    """Call it, and all that draws, within `drawing.style()`."""
    draw = (frontier, curves, orders, retention, distances, cosines, methods)
    return [*bars(grid), *paper(grid, published), *(chart for of in draw for chart in of(grid))]
