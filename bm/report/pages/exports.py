"""What a paper takes of a run or a grid: each figure as SVG, PNG and CSV, each table as CSV and LaTeX."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bm.report.figures.charts import Chart
from bm.report.figures.drawing import standalone
from bm.report.pages.tables import Table, TableCell
from bm.store import write_text

DPI = 216
"""Resolution of a PNG: three pixels for each of the figure's units."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "−": "$-$", "×": r"$\times$", "λ": r"$\lambda$", "θ": r"$\theta$", "≤": r"$\leq$", "≥": r"$\geq$",
    "≈": r"$\approx$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "✓": r"$+$", "✗": r"$-$", "\u00a0": "~",
}  # fmt: skip


def export(charts: Sequence[Chart], tables: Mapping[str, Table], folder: Path, rasters: bool) -> None:
    """`folder`/<figure>.svg and .csv, with `rasters` .png too; each table as .csv and .tex.

    Equal grids give equal bytes. Call it within `drawing.style()`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        stem = slug(chart.name)
        write_text(folder / f"{stem}.svg", standalone(chart.figure, chart.title, chart.note))
        if rasters:
            look: Any = {"dpi": DPI, "facecolor": "white", "metadata": {"Software": None}}
            chart.figure.savefig(folder / f"{stem}.png", **look)
        write_text(folder / f"{stem}.csv", _csv(chart.columns, chart.rows))
    for stem, table in tables.items():
        export_table(stem, table, folder)


def export_table(stem: str, table: Table, folder: Path) -> None:
    """`folder`/<stem>.csv, with an interval's `low` and `high` in columns of their own, and .tex; neither of a table
    without rows.
    """
    if not table.rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    columns: list[list[Any]] = []
    for place, column in enumerate(table.columns):
        cells = [row.cells[place] for row in table.rows]
        names, columns = [*names, column.name], [*columns, [cell.value for cell in cells]]
        if any(cell.low is not None for cell in cells):
            names += [f"{column.name} low", f"{column.name} high"]
            columns += [[cell.low for cell in cells], [cell.high for cell in cells]]
    write_text(folder / f"{stem}.csv", _csv(names, list(zip(*columns, strict=True))))
    write_text(folder / f"{stem}.tex", latex(table))


def latex(table: Table) -> str:
    """The table in the style of booktabs, which its document must load."""
    from pandas import DataFrame

    alignment = "".join("l" if column.words else "r" for column in table.columns)
    names = [escaped(column.name) for column in table.columns]
    frame = DataFrame([[_latex(cell) for cell in row.cells] for row in table.rows], columns=names)
    return str(frame.style.hide(axis="index").to_latex(hrules=True, column_format=alignment))


def escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def slug(name: str) -> str:
    """A file's name: letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _latex(cell: TableCell) -> str:
    shown = f"\\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)
    return f"{shown} {{\\scriptsize {escaped(cell.small)}}}" if cell.small else shown


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    from pandas import DataFrame

    frame = DataFrame(rows, columns=list(names), dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))
