"""The cells of an experiment's grid, as its runs left them on disk, and the settings in which they differ.

grid = gather(Path("outputs"), "table2", "tiny")
for entry in grid.entries: entry.name, entry.settings, entry.score("tiny_math"), entry.mean
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from bm.errors import UserError, nearest
from bm.report.findings.results import KINDS, Kind, Results, Row, Run, Score, read
from bm.statistics import Interval, over_seeds
from bm.yaml import read_yaml

CONFIDENCE = 0.95
"""Confidence of the intervals over seeds."""
APART = ("recipe", "experiment", "seed", "output", "paths", "tracker", "trainer")
"""What says where and how a run was made, not what: no settings of a grid."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    folder: Path | None
    """None: the run is known from a record alone."""
    seed: int
    settings: Mapping[str, Any]
    """The resolved settings that differ between the grid's cells, by dotted name: a number, text, truth or None."""
    results: Results
    """What it found; without a `run` where it is known from a record."""


@dataclass(frozen=True)
class Entry:
    """A model of the grid over all its seeds. Cells that share the model, as they share experts, share its entry."""

    name: str
    kind: Kind
    settings: Mapping[str, Any]
    """The settings that all its cells agree on."""
    by_seed: Mapping[int, tuple[Row, Results]]
    """Its row and the results that hold it, by seed."""
    label: str = ""
    """Its name, and the settings that tell it from others of that name."""
    apart: Mapping[str, Any] = field(default_factory=dict)
    """Those settings."""

    @property
    def row(self) -> Row:
        """Its row with the first seed."""
        return next(iter(self.by_seed.values()))[0]

    def score(self, task: str, early: bool = False) -> Interval | None:
        """pass@1 on a task: mean, and an interval over seeds no narrower than that over questions; None: untested.

        `early`: of rows that left a race, on the questions that they were asked, and of no others.
        """
        rows = [row for row, _ in self.by_seed.values() if task in row.scores and (row.out_after is not None) == early]
        return _interval([[row.scores[task]] for row in rows])

    @cached_property
    def mean(self) -> Interval | None:
        """The same of the mean over a run's tasks."""
        complete = [(row, results) for row, results in self.by_seed.values() if results.mean(row) is not None]
        return _interval([[row.scores[task] for task in results.compared] for row, results in complete])

    def cost(self, of: Callable[[Row], float]) -> float:
        """Mean over seeds of what a row cost."""
        return sum(of(row) for row, _ in self.by_seed.values()) / len(self.by_seed)


@dataclass(frozen=True)
class Grid:
    """The runs of one experiment with one recipe."""

    experiment: str
    recipe: str
    cells: tuple[Cell, ...]
    """Sorted by their settings, then by seed."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({cell.seed for cell in self.cells}))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Every task: first those that means are over."""
        return tuple(dict.fromkeys(task for cell in self.cells for task in cell.results.tasks))

    @cached_property
    def axes(self) -> Mapping[str, tuple[Any, ...]]:
        """Each setting that differs, and its values in order."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.settings)
        return {n: tuple(sorted({c.settings[n] for c in self.cells if n in c.settings}, key=_order)) for n in names}

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every model once: students, experts, mixtures and merges, each over its seeds."""
        holding: dict[tuple[Kind, str], list[Held]] = {}
        for cell in self.cells:
            place = _sorting(cell.settings)
            for row in cell.results.rows:
                holding.setdefault((row.kind, row.name), []).append((place, cell, row))
        labelled = [entry for of, held in holding.items() for entry in self._labelled(list(_named(*of, held)))]
        return tuple(sorted(labelled, key=lambda e: (KINDS.index(e.kind), e.name, _sorting(e.settings))))

    def short(self, setting: str) -> str:
        """The last part of a setting's dotted name, or all of it where that is not clear."""
        last = setting.rpartition(".")[2]
        return last if [name.rpartition(".")[2] for name in self.axes].count(last) == 1 else setting

    def _labelled(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """Entries of one name, with the settings in their labels that not all of them share."""
        common = set.intersection(*(set(entry.settings.items()) for entry in entries))
        for entry in entries:
            apart = {n: v for n, v in entry.settings.items() if (n, v) not in common}
            label = " ".join([entry.name, *(f"{self.short(n)}={said(v)}" for n, v in apart.items())])
            yield replace(entry, label=label, apart=apart)


Held = tuple[tuple[Any, ...], Cell, Row]
"""A row in its cell, and the cell's settings as they sort."""


def _named(kind: Kind, name: str, holding: Sequence[Held]) -> Iterator[Entry]:
    """The models of this name: one for each group of settings whose cells share nothing with other groups."""
    groups = {place: [place] for place, _, _ in holding}
    first: dict[Any, tuple[Any, ...]] = {}
    for place, cell, row in holding:
        before, own = groups[first.setdefault((cell.seed, row.key, repr(row.scores)), place)], groups[place]
        if before is not own:
            small, large = sorted((before, own), key=len)
            large += small
            groups.update(dict.fromkeys(small, large))
    inside: dict[int, list[tuple[Cell, Row]]] = {}
    for place, cell, row in holding:
        inside.setdefault(id(groups[place]), []).append((cell, row))
    for held in inside.values():
        agreed = {n: v for n, v in held[0][0].settings.items() if all(c.settings.get(n, c) == v for c, _ in held)}
        seeds = {cell.seed: (row, cell.results) for cell, row in reversed(held)}
        yield Entry(name, kind, agreed, dict(sorted(seeds.items())))


def gather(outputs: Path, experiment: str, recipe: str | None) -> Grid:
    """The grid of an experiment, of the runs below `outputs`; recipe None: the one that it was run with.

    Where runs differ only in the folder they were written to, the latest counts. UserError if there is no run, or if
    there are several recipes and none is named.
    """
    runs = [(path, results, results.run) for path, results in _runs(outputs) if results.run is not None]
    known = sorted({run.experiment for _, _, run in runs if run.experiment})
    of = [entry for entry in runs if entry[2].experiment == experiment]
    if not of:
        near = nearest(experiment, known) or (f"; there are {', '.join(known)}" if known else "")
        make = f"make one with `bm run -m experiment={experiment}`"
        raise UserError(f"{outputs} holds no run of experiment '{experiment}'{near}; {make}")
    recipes = sorted({run.recipe for _, _, run in of})
    if recipe is None and len(recipes) > 1:
        raise UserError(
            f"experiment {experiment} was run with several recipes: choose recipe={' or recipe='.join(recipes)}"
        )
    chosen = recipe or recipes[0]
    if chosen not in recipes:
        raise UserError(f"experiment {experiment} was not run with recipe '{chosen}', but with {', '.join(recipes)}")
    return _grid(experiment, chosen, [entry for entry in of if entry[2].recipe == chosen])


def alone(results: Results) -> Grid:
    """A run as a grid of one cell, known by its results alone."""
    return Grid("", results.run.recipe if results.run else "", (Cell(None, 0, {}, results),))


def sweeps(by_file: Mapping[Path, Results]) -> list[Grid]:
    """Runs by their results.json, the latest last, as grids: one per experiment (or none) and recipe."""
    groups: dict[tuple[str, str], list[tuple[Path, Results, Run]]] = {}
    for file, results in by_file.items():
        if results.run is not None and (file.parent / "config.yaml").is_file():
            named = results.run.experiment or "", results.run.recipe
            groups.setdefault(named, []).append((file.parent, results, results.run))
    return [_grid(*named, runs) for named, runs in sorted(groups.items())]


def files(outputs: Path) -> list[Path]:
    """The results.json of every run, the latest last. The store and W&B's files hold none, and are not walked."""
    rooms = [folder for folder in outputs.glob("*") if folder.is_dir() and folder.name not in ("store", "wandb")]
    paths = [*outputs.glob("results.json"), *(file for folder in rooms for file in folder.glob("**/results.json"))]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path))


def named(outputs: Path) -> dict[str, Path]:
    """The same by name: by what tells a run from the other jobs of its sweep, or else by its folder."""
    jobs = [job.name.rpartition("-") for job in outputs.glob("sweeps/*/*-*")]
    by_key = {key: name for name, _, key in jobs}
    folders = {str(file.parent.relative_to(outputs)): file for file in files(outputs)}
    told = {folder: by_key.get(folder.rpartition("-")[2], folder) for folder in folders}
    times = Counter(told.values())
    return {told[folder] if times[told[folder]] == 1 else folder: file for folder, file in folders.items()}


def _runs(outputs: Path) -> Iterator[tuple[Path, Results]]:
    """Folder and results of every run, the latest last."""
    for file in files(outputs):
        if (file.parent / "config.yaml").is_file():
            yield file.parent, read(file)


def _grid(experiment: str, recipe: str, runs: Sequence[tuple[Path, Results, Run]]) -> Grid:
    latest: dict[str, tuple[Path, Results, Run, dict[str, Any]]] = {}
    for path, results, run in runs:
        config = read_yaml(path / "config.yaml")
        settings = {name: value for name, value in config.items() if name not in APART}
        latest[repr((run.seed, settings))] = (path, results, run, settings)
    distinct = list(latest.values())
    differ = differing([config for *_, config in distinct], [run.seed for _, _, run, _ in distinct])
    cells = [
        Cell(path, run.seed, dict(sorted(settings.items())), results)
        for (path, results, run, _), settings in zip(distinct, differ, strict=True)
    ]
    return Grid(experiment, recipe, tuple(sorted(cells, key=lambda cell: (_sorting(cell.settings), cell.seed))))


def differing(configs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The settings, by dotted name, in which each config differs from others.

    Where some configs have other keys than others, as with merge methods, the keys are the value: `ties, linear`; what
    stands below a key is then compared among those that have it. What is a group of settings in some and null in others
    is true or None. What follows the run's seed, or another setting that was named before, is left out; and all that a
    config's `variant` decides.
    """
    differences: list[dict[str, Any]] = [{} for _ in configs]
    seeded, known = dict(enumerate(seeds)), set[frozenset[tuple[int, ...]]]()
    variants: dict[int, Any] = {}

    def compare(path: str, values: Mapping[int, Any]) -> None:
        """values: by config, what it has at `path`."""
        nodes = {i: v for i, v in values.items() if isinstance(v, Mapping)}
        shapes = {tuple(v) for v in nodes.values()}
        alike = len(nodes) == len(values) and len(shapes) == 1
        switched = len(shapes) == 1 and not alike and all(v is None for i, v in values.items() if i not in nodes)
        told = {i: _told(v, switched) for i, v in values.items()}
        own = path.endswith("seed") and told == {i: seeded[i] for i in told}  # of what only some configs have
        named = told == seeded or own or _decided(told, variants)
        follows = named or (parts := _parts(told)) in known
        if path and not alike and len(set(told.values())) > 1 and not follows:
            known.add(parts)
            for i, value in told.items():
                differences[i][path] = value
        for key in dict.fromkeys(key for node in nodes.values() for key in node):
            below = {i: node[key] for i, node in nodes.items() if key in node}
            compare(f"{path}.{key}" if path else key, below)

    called = {i: config.get("variant") for i, config in enumerate(configs)}
    compare("variant", called)
    variants |= called
    compare("", dict(enumerate(configs)))
    return differences


def _decided(told: Mapping[int, Any], variants: Mapping[int, Any]) -> bool:
    """Whether configs of the same variant agree, where there are several variants."""
    of = {variants.get(i) for i in told}
    return len(of) > 1 and len({(variants[i], value) for i, value in told.items()}) == len(of)


def _parts(values: Mapping[int, Any]) -> frozenset[tuple[int, ...]]:
    """Which configs have the same value: settings that are zipped together part them alike."""
    having: dict[Any, list[int]] = {}
    for i, value in values.items():
        having.setdefault(value, []).append(i)
    return frozenset(map(tuple, having.values()))


def _told(value: Any, switched: bool) -> Any:
    """A setting's value as one number, text, truth or None; switched: it is a group of settings or null."""
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else switched or ", ".join(map(str, value)) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def said(value: Any) -> str:
    """A setting's value in words."""
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _sorting(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, _order(value)) for name, value in sorted(settings.items()))


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size before text, whatever the types."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _interval(seeds: Sequence[Sequence[Score]]) -> Interval | None:
    """The interval of the mean over seeds of each one's mean over tasks: Student's, widened where seeds agree more
    closely than so many questions can tell; tasks and seeds are independent draws of questions. Shares stay within
    [0, 1]."""
    if not seeds:
        return None
    means = [fmean(score.mean for score in tasks) for tasks in seeds]
    scores, mean = [score for tasks in seeds for score in tasks], fmean(means)
    low = mean - sum((s.mean - s.low) ** 2 for s in scores) ** 0.5 / len(scores)
    high = mean + sum((s.high - s.mean) ** 2 for s in scores) ** 0.5 / len(scores)
    if len(seeds) > 1:
        over = over_seeds(means).interval(CONFIDENCE)
        low, high = min(low, over.low), max(high, over.high)
    return Interval(mean, max(0.0, low), min(1.0, high))
