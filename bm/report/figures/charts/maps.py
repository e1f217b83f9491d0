"""Grids of numbers on coloured cells: method × task, order × task, what merges kept, and how far experts may go."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from bm.report.figures.charts.chart import MEAN, MOST_ROWS, Chart, best, left_out, scored
from bm.report.figures.charts.curves import number, numeric
from bm.report.figures.charts.heat import HeatCell, heat
from bm.report.figures.numbers import percent, points
from bm.report.findings.grid import CONFIDENCE, Entry, Grid, said
from bm.statistics import over_seeds

PANELS = 4
"""Maps of distance at most."""


def methods(grid: Grid) -> Iterator[Chart]:
    """Models by tasks, where there are three models and two tasks."""
    tasks, entries = [*grid.tasks, MEAN], [e for e in grid.entries if e.kind == "merge"]
    entries += [e for e in grid.entries if e.kind != "merge"]
    total, entries = len(entries), best(entries, MOST_ROWS)
    if len(entries) < 3 or len(grid.tasks) < 2:
        return
    scores = {(e.label, t): score for e in entries for t in tasks if (score := scored(e, t))}
    cells = {
        at: HeatCell(s.mean, f"{100 * s.mean:.1f}", f"{percent(s.low)} to {percent(s.high)}")
        for at, s in scores.items()
    }
    figure = heat([e.label for e in entries], tasks, cells)
    rows = [(*at, s.mean, s.low, s.high) for at, s in scores.items()]
    note = f"pass@1 in percent; colour from the lowest to the highest.{left_out(len(entries), total)}"
    yield Chart("methods", "Models and tasks", note, figure, ("model", "task", "mean", "low", "high"), rows)


def orders(grid: Grid) -> Iterator[Chart]:
    """How far each order of a merge is from the mean of its orders, where there are two or more; by base."""
    groups: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in grid.entries:
        row = entry.row
        if row.order:
            rest = [f"{grid.short(name)}={said(value)}" for name, value in entry.apart.items() if value != row.order]
            groups[" ".join([*[f"round {row.round}"] * (row.round > 1), row.method or "", *rest])][row.order] = entry
    for name, of in groups.items():
        if len(of) > 1:
            tasks = [*grid.tasks, MEAN] if len(grid.tasks) > 1 else list(grid.tasks)
            known = sorted(of, key=lambda order: (of[order].row.base or "", order))
            apart = {(order, task): _apart(of, order, task) for order in known for task in tasks}
            cells = {at: HeatCell(fmean(d), points(fmean(d)), _over(d)) for at, d in apart.items() if d}
            figure = heat(known, tasks, cells, around_zero=True)
            rows = [(*at, fmean(d), len(d)) for at, d in apart.items() if d]
            note = (
                "Percentage points from the mean over these orders; blue above, red below. The last name is the base."
            )
            yield Chart(
                f"orders-{name}", f"Merge order, {name}", note, figure, ("order", "task", "difference", "seeds"), rows
            )


def _apart(of: Mapping[str, Entry], order: str, task: str) -> list[float]:
    """An order's score less the mean of all orders tested with that seed, by seed."""
    by_order = {name: _by_seed(entry, task) for name, entry in of.items()}
    return [
        score - fmean(scores[seed] for scores in by_order.values() if seed in scores)
        for seed, score in by_order[order].items()
    ]


def _by_seed(entry: Entry, task: str) -> dict[int, float]:
    values = {
        seed: results.mean(row) if task == MEAN else row.scores[task].mean if task in row.scores else None
        for seed, (row, results) in entry.by_seed.items()
    }
    return {seed: value for seed, value in values.items() if value is not None}


def _over(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "one seed"
    reach = over_seeds(values).interval(CONFIDENCE)
    return f"{points(reach.low)} to {points(reach.high)}"


def retention(grid: Grid) -> Iterator[Chart]:
    """The share of each expert's gain that a merge kept, mean over seeds, where a gain is certain."""
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    merges = [entry for entry in grid.entries if entry.kind == "merge"]
    for entry in best(merges, MOST_ROWS):
        for row, results in entry.by_seed.values():
            for kept in results.retention:
                if kept.name == row.name and kept.share is not None:
                    shares[entry.label, kept.expert].append(kept.share)
    if shares:
        cells = {at: HeatCell(fmean(s), f"{100 * fmean(s):.0f}", _counted(s)) for at, s in shares.items()}
        shown, experts = dict.fromkeys(m for m, _ in shares), sorted({e for _, e in shares})
        rows = [(*at, fmean(s), len(s)) for at, s in shares.items()]
        note = "Percent of an expert's gain over the student, on its own task, that a merge kept, where it is certain."
        note += left_out(len(shown), len(merges))
        figure = heat(list(shown), experts, cells)
        yield Chart("retention", "What merges kept", note, figure, ("merge", "expert", "share", "seeds"), rows)


def _counted(values: Sequence[float]) -> str:
    return f"{len(values)} seed{'s' * (len(values) != 1)}"


def distances(grid: Grid) -> Iterator[Chart]:
    """The mean over two settings that are numbers, as learning rate and epochs: where merging breaks."""
    drawn = 0
    for first, second in combinations(numeric(grid, 2), 2):
        groups: dict[Any, list[Entry]] = defaultdict(list)
        for entry in grid.entries:
            told = first in entry.settings and second in entry.settings
            if entry.kind in ("merge", "mixture") and told and entry.mean:
                rest = " ".join(
                    f"{grid.short(n)}={said(v)}" for n, v in entry.settings.items() if n not in (first, second)
                )
                groups[entry.kind, entry.name, rest].append(entry)
        for (_, name, rest), entries in sorted(groups.items(), key=lambda g: (g[0][0] != "merge", g[0])):
            if len(entries) > 4 and drawn < PANELS:
                drawn += 1
                yield _distance(grid, first, second, f"{name} {rest}".strip(), entries)


def _distance(grid: Grid, first: str, second: str, name: str, entries: Sequence[Entry]) -> Chart:
    means = {(entry.settings[first], entry.settings[second]): entry.mean for entry in entries}
    cells = {
        (said(a), said(b)): HeatCell(m.mean, f"{100 * m.mean:.1f}", f"{percent(m.low)} to {percent(m.high)}")
        for (a, b), m in means.items()
        if m
    }
    down, across = ([said(v) for v in grid.axes[axis] if number(v)] for axis in (first, second))
    rows = [(a, b, m.mean, m.low, m.high) for (a, b), m in sorted(means.items()) if m]
    names = grid.short(first), grid.short(second)
    note = f"Mean over tasks, in percent. Down: {names[0]}. Across: {names[1]}. Colour from the lowest to the highest."
    return Chart(f"distance-{name}-{first}-{second}", f"{name}: {names[0]} and {names[1]}", note,
                 heat(down, across, cells), (*names, "mean", "low", "high"), rows)  # fmt: skip
