"""The paper's figures beside a grid's: which column of it is about which task, which row about which model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bm.report.findings.grid import Entry, Grid
from bm.report.findings.published import Published, PublishedRow
from bm.report.findings.results import Kind


@dataclass(frozen=True)
class Pair:
    """A model of the grid and what the paper reports of such a model; one of the two may be missing."""

    name: str
    kind: Kind | None
    entry: Entry | None
    paper: Mapping[str, float]
    """pass@1 by the grid's task, as a share."""


def pairs(grid: Grid, published: Published | None) -> list[Pair]:
    """Every model of the grid in its order, then what only the paper has."""
    columns = paper_columns(grid, published)
    told = published.rows if published and columns else ()
    measured = [Pair(entry.label, entry.kind, entry, _values(columns, _row(entry, told))) for entry in grid.entries]
    known = {id(_row(entry, told)) for entry in grid.entries}
    return [*measured, *(Pair(row.name, row.kind, None, _values(columns, row)) for row in told if id(row) not in known)]


def paper_columns(grid: Grid, published: Published | None) -> dict[str, tuple[int, str]]:
    """The place and the title of the paper's column for each task of the grid, or for its domain."""
    domains = {domain: task for cell in grid.cells for domain, task in cell.results.domains.items()}
    named = published.columns.items() if published else ()
    tasks = [(place, title, domains.get(about, about)) for place, (title, about) in enumerate(named)]
    return {task: (place, title) for place, title, task in tasks if task in grid.tasks}


def _row(entry: Entry, rows: Sequence[PublishedRow]) -> PublishedRow | None:
    """What the paper reports of such a model; where it tells no order, of every order."""
    model = entry.row

    def alike(row: PublishedRow) -> bool:
        of = (row.kind, row.method, row.order or model.order, row.domain)
        return of == (model.kind, model.method, model.order, model.domain)

    return next(filter(alike, rows), None)


def _values(columns: Mapping[str, tuple[int, str]], row: PublishedRow | None) -> dict[str, float]:
    def known() -> Iterator[tuple[str, float]]:
        for task, (place, _) in columns.items():
            value = row.values[place] if row else None
            if value is not None:
                yield task, value / 100

    return dict(known())
