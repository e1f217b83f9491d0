"""Grids of numbers on coloured cells: method × task, order × task, what merges kept, and how far experts may go."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from bm.report.figures.charts.chart import MOST_ROWS, Chart, best, hues, intervals, left_out, measured, scored, symbol
from bm.report.figures.charts.curves import number, numeric
from bm.report.figures.charts.heat import HeatCell, heat
from bm.report.figures.drawing import LIGHT
from bm.report.figures.numbers import count, percent, points, signed, span
from bm.report.findings.grid import CONFIDENCE, Entry, Grid, said
from bm.report.findings.results import MEAN
from bm.statistics import Interval, over_seeds

PANELS = 4
"""Maps of distance at most."""


def methods(grid: Grid) -> Iterator[Chart]:
    """Models by tasks, sorted by their means, where there are three models and two tasks."""
    tasks, entries = [MEAN, *grid.tasks], best(grid.entries, MOST_ROWS)
    if len(entries) < 3 or len(grid.tasks) < 2:
        return
    scores = {(e.label, t): score for e in entries for t in tasks if (score := scored(e, t))}
    cells = {at: _score(score) for at, score in scores.items()}
    figure = heat([e.label for e in entries], tasks, cells, colours={e.label: LIGHT[e.kind] for e in entries})
    rows = [(*at, s.mean, s.low, s.high) for at, s in scores.items()]
    note = (
        f"pass@1 in percent of each model on each task, the best mean first; small: {intervals(grid)}. "
        f"Darker: higher. Names: {hues(e.kind for e in entries)}.{left_out(len(entries), len(grid.entries))} "
        f"{measured(grid)}"
    )
    yield Chart("methods", "Models and tasks", note, figure, ("model", "task", "mean", "low", "high"), rows)


def _score(of: Interval) -> HeatCell:
    return HeatCell(
        of.mean, f"{100 * of.mean:.1f}", f"{percent(of.low)} to {percent(of.high)}", span(of.low, of.high, 0)
    )


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
            cells = {at: HeatCell(fmean(d), points(fmean(d)), _over(d), _reach(d)) for at, d in apart.items() if d}
            figure = heat(known, tasks, cells, around_zero=True)
            rows = [(*at, fmean(d), len(d)) for at, d in apart.items() if d]
            note = (
                f"pass@1 of each order of {name} less the mean of all these orders with the same seed, in points; "
                f"small: {intervals(grid)}. Blue: above, red: below. The last of an order is the base. {measured(grid)}"
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


def _reach(values: Sequence[float]) -> str:
    """The interval over seeds in whole points, as a small text has it; nothing of one seed."""
    if len(values) < 2:
        return ""
    reach = over_seeds(values).interval(CONFIDENCE)
    return f"{signed(100 * reach.low, '.0f')} to {signed(100 * reach.high, '.0f')}"


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
        yield _retention(grid, [(*at, fmean(of), len(of)) for at, of in shares.items()], len(merges))


def _retention(grid: Grid, rows: Sequence[tuple[str, str, float, int]], merges: int) -> Chart:
    shown, experts = dict.fromkeys(merge for merge, *_ in rows), sorted({expert for _, expert, *_ in rows})
    cells = {(m, e): HeatCell(share, f"{100 * share:.0f}", count(seeds, "seed")) for m, e, share, seeds in rows}
    note = (
        "Percent of what an expert gained over the student on its own task that a merge kept; mean over the seeds in "
        "which the gain is certain (95 %), empty where there is none. Above 100: the merge is above the expert. The "
        f"merge with the best mean score first.{left_out(len(shown), merges)} {measured(grid)}"
    )
    figure = heat(list(shown), experts, cells)
    return Chart("retention", "What merges kept", note, figure, ("merge", "expert", "share", "seeds"), rows)


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
    cells = {(said(a), said(b)): _score(mean) for (a, b), mean in means.items() if mean}
    down, across = ([said(v) for v in grid.axes[axis] if number(v)] for axis in (first, second))
    rows = [(a, b, m.mean, m.low, m.high) for (a, b), m in sorted(means.items()) if m]
    names = grid.short(first), grid.short(second)
    note = (
        f"pass@1 of {name} in percent, mean over tasks; down: {first}, across: {second}; small: {intervals(grid)}. "
        f"Darker: higher. {measured(grid)}"
    )
    return Chart(f"distance-{name}-{first}-{second}", f"{name}: {symbol(names[0])} and {symbol(names[1])}", note,
                 heat(down, across, cells), (*names, "mean", "low", "high"), rows)  # fmt: skip
