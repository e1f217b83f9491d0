"""Bars with intervals, as in the paper's Figure 2: a panel for the mean and for each task."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bm.report.figures import panels
from bm.report.figures.charts.chart import MEAN, Chart, left_out, scored
from bm.report.findings.beside import paper_columns
from bm.report.findings.grid import CONFIDENCE, Entry, Grid
from bm.report.findings.published import Published
from bm.statistics import Interval, over_seeds

MOST = 14
"""Bars of a panel; of more models the best stay."""


def bars(grid: Grid) -> Iterator[Chart]:
    """Bars for two models or more, the best first; the mean where there are several tasks."""
    for task in [MEAN, *grid.tasks] if len(grid.tasks) > 1 else grid.tasks:
        tested = [(entry, score) for entry in grid.entries if (score := scored(entry, task))]
        if len(tested) > 1:
            yield _bars(grid, task, sorted(tested, key=lambda pair: -pair[1].mean))


def _bars(grid: Grid, task: str, tested: list[tuple[Entry, Interval]]) -> Chart:
    lines = [panels.PanelLine(e.label, f"{100 * s.mean:.1f}", e.kind, s.mean, s.low, s.high) for e, s in tested[:MOST]]
    title = "Mean over tasks" if task == MEAN else task
    over = f"over {len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "over questions"
    rows = [(e.label, e.kind, s.mean, s.low, s.high, len(e.by_seed)) for e, s in tested]
    columns = ("model", "kind", "mean", "low", "high", "seeds")
    note = f"pass@1 in percent; whiskers: 95 % intervals {over}.{left_out(len(lines), len(tested))}"
    return Chart(f"bars-{task}", title, note, panels.intervals(lines), columns, rows)


def paper(grid: Grid, published: Published | None) -> Iterator[Chart]:
    """What the paper reports on a task, where one of its columns is about it and has two values or more."""
    for task, (place, title) in paper_columns(grid, published).items():
        rows = [(row.name, row.kind or "student", row.values[place]) for row in published.rows] if published else []
        known = sorted([(n, k, v / 100) for n, k, v in rows if v is not None], key=lambda row: -row[2])
        if len(known) > 1:
            lines = [panels.PanelLine(name, f"{100 * v:.1f}", kind, v, v, v) for name, kind, v in known]
            note = f"As published, beside {task} above; the paper gives no intervals."
            figure = panels.intervals(lines)
            yield Chart(f"paper-{task}", f"The paper: {title}", note, figure, ("model", "kind", "mean"), known)


def cosines(grid: Grid) -> Iterator[Chart]:
    """How the experts' updates, and the domains' gradients, meet (paper, appendix C), where that was measured."""
    for of in ("updates", "gradients"):
        cosines: dict[str, list[float]] = defaultdict(list)
        for seed in grid.seeds:
            measured = next((c.cosines[of] for c in grid.cells if c.seed == seed and of in c.cosines), {})
            for pair, value in measured.items():
                cosines[pair].append(value)
        if cosines:
            shown = {pair: _spread(values) for pair, values in sorted(cosines.items())}
            figure = panels.correlations([(pair, i.mean, i.low, i.high) for pair, i in shown.items()])
            note = "Point: mean over seeds; line: its 95 % interval. Below 0 they conflict, near 0 they are orthogonal."
            rows = [(pair, i.mean, i.low, i.high, len(cosines[pair])) for pair, i in shown.items()]
            columns = ("pair", "mean", "low", "high", "seeds")
            yield Chart(f"cosines-{of}", f"Cosine of {of}", note, figure, columns, rows)


def _spread(values: Sequence[float]) -> Interval:
    return over_seeds(values).interval(CONFIDENCE) if len(values) > 1 else Interval(values[0], values[0], values[0])
