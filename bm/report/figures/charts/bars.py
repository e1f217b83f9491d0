"""Bars with intervals, as in the paper's Figure 2: a panel for the mean and for each task."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bm.report.figures import panels
from bm.report.figures.charts.chart import Chart, hues, intervals, left_out, measured, of_task, scored
from bm.report.findings.beside import paper_columns
from bm.report.findings.grid import CONFIDENCE, Entry, Grid
from bm.report.findings.published import Published
from bm.report.findings.results import MEAN
from bm.statistics import Interval, over_seeds

MOST = 14
"""Bars of a panel; of more models the best stay."""
WHAT = {
    "updates": "updates (expert less student) of two experts",
    "gradients": "gradients of two domains on held-out traces, mean over the mixture's training",
}
"""What cosines are of."""


def bars(grid: Grid) -> Iterator[Chart]:
    """Bars for two models or more, the best first; the mean where there are several tasks."""
    for task in [MEAN, *grid.tasks] if len(grid.tasks) > 1 else grid.tasks:
        tested = [(entry, score) for entry in grid.entries if (score := scored(entry, task))]
        if len(tested) > 1:
            yield _bars(grid, task, sorted(tested, key=lambda pair: -pair[1].mean))


def _bars(grid: Grid, task: str, tested: list[tuple[Entry, Interval]]) -> Chart:
    lines = [panels.PanelLine(e.label, f"{100 * s.mean:.1f}", e.kind, s.mean, s.low, s.high) for e, s in tested[:MOST]]
    title = "Mean over tasks" if task == MEAN else task
    rows = [(e.label, e.kind, s.mean, s.low, s.high, len(e.by_seed)) for e, s in tested]
    columns = ("model", "kind", "mean", "low", "high", "seeds")
    note = (
        f"pass@1 in percent on {of_task(grid, task)}, the best first; whiskers: {intervals(grid)}. "
        f"Colour: {hues(line.kind for line in lines)}.{left_out(len(lines), len(tested))} {measured(grid)}"
    )
    return Chart(f"bars-{task}", title, note, panels.intervals(lines), columns, rows)


def paper(grid: Grid, published: Published | None) -> Iterator[Chart]:
    """What the paper reports on a task, where one of its columns is about it and has two values or more."""
    for task, (place, title) in paper_columns(grid, published).items():
        rows = [(row.name, row.kind or "student", row.values[place]) for row in published.rows] if published else []
        known = sorted([(n, k, v / 100) for n, k, v in rows if v is not None], key=lambda row: -row[2])
        if len(known) > 1:
            lines = [panels.PanelLine(name, f"{100 * v:.1f}", kind, v, v, v) for name, kind, v in known]
            note = (
                f"{title} in percent as the paper reports it (arXiv 2503.04872), without intervals; here the task "
                f"{task} stands for it. Colour: {hues(line.kind for line in lines)}."
            )
            figure = panels.intervals(lines)
            yield Chart(f"paper-{task}", f"The paper: {title}", note, figure, ("model", "kind", "mean"), known)


def cosines(grid: Grid) -> Iterator[Chart]:
    """How the experts' updates, and the domains' gradients, meet (paper, appendix C), where that was measured."""
    for of in ("updates", "gradients"):
        cosines: dict[str, list[float]] = defaultdict(list)
        for seed in grid.seeds:
            of_seed = (cell.results.cosines.get(of) for cell in grid.cells if cell.seed == seed)
            for pair, value in next(filter(None, of_seed), {}).items():
                cosines[pair].append(value)
        if cosines:
            shown = {pair: _spread(values) for pair, values in sorted(cosines.items())}
            yield _cosines(grid, of, [(pair, i.mean, i.low, i.high, len(cosines[pair])) for pair, i in shown.items()])


def _cosines(grid: Grid, of: str, rows: Sequence[tuple[str, float, float, float, int]]) -> Chart:
    note = (
        f"Cosine between the {WHAT[of]}, by pair of domains. Points: means over seeds; lines: their "
        f"{100 * CONFIDENCE:.0f} % intervals. Below 0 they conflict, near 0 they are orthogonal. {measured(grid)}"
    )
    figure = panels.correlations([row[:4] for row in rows])
    return Chart(f"cosines-{of}", f"Cosine of {of}", note, figure, ("pair", "mean", "low", "high", "seeds"), rows)


def _spread(values: Sequence[float]) -> Interval:
    return over_seeds(values).interval(CONFIDENCE) if len(values) > 1 else Interval(values[0], values[0], values[0])
