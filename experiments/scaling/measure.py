"""What bm's own bookkeeping takes as runs, artefacts and cells grow: CPU seconds and peak memory of whole processes.

    python -m experiments.scaling.measure [SMALLER]

Makes runs, stores and finished sweeps in a temporary folder: valid files as bm writes them, with scores from a seeded
draw, so that nothing has to be trained. Prints a table and writes `measured.json` and `figures/` beside this file; with
SMALLER, the factor by which every size is divided, it only prints. Two to ten minutes on two cores.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bm.report.figures.drawing import LIGHT, blank, standalone, style
from bm.report.figures.ends import End, name_ends
from bm.store import write_json
from experiments.scaling import fakes
from experiments.speed.measuring import machine

HERE = Path(__file__).parent
BM = Path(sys.executable).with_name("bm")
READ_STORE = "import sys; from pathlib import Path; from bm.store import Store; Store(Path(sys.argv[1])).all()"

LAUNCHER = """import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=2)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss]))"""
"""A small process that starts the command: Linux counts the memory of whoever starts a process as its own at first."""

Measured = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What is measured: files for a number of things, and the command over them."""

    what: str
    unit: str
    sizes: Sequence[int]
    make: Callable[[Path, int], list[str]]
    """Writes below an outputs folder; returns further words of the command."""
    words: Sequence[str] = ()
    """Arguments of `bm`; none: the store is read by its class."""


WORKS = (
    Work("bm run with nothing to do", "artefacts", (10, 100, 1000), fakes.finished_run, ("run", *fakes.WORDS)),
    Work("bm run -m, every cell done", "cells", (10, 100, 1000), fakes.finished_sweep, ("run", "-m", *fakes.WORDS)),
    Work("bm report over runs", "runs", (10, 100, 1000), fakes.runs, ("report",)),
    Work("bm report of a grid", "cells", (10, 100, 1000), fakes.grid, ("report", f"experiment={fakes.EXPERIMENT}")),
    Work("reading a store", "artefacts", (100, 1000, 10_000), fakes.store),
)


COLOURS = [LIGHT[kind] for kind in ("merge", "expert", "mixture", "student", "consolidated")]


def measure(work: Work, size: int, folder: Path) -> Measured:
    """One process over `size` things."""
    outputs = folder / f"outputs-{size}"
    words = [*work.words, *work.make(outputs, size), f"paths.outputs={outputs}"]
    command = [str(BM), *words] if work.words else [sys.executable, "-c", READ_STORE, str(outputs / "store")]
    with (folder / "log").open("wb") as log:
        launched = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
        told = subprocess.run(launched, stdout=subprocess.PIPE, stderr=log, cwd=folder, check=True).stdout
    status, seconds, memory = json.loads(told)
    if status:
        raise SystemExit(f"{' '.join(command)[:500]} failed:\n{(folder / 'log').read_text()[-3000:]}")
    return {"what": work.what, "unit": work.unit, "size": size, "cpu_seconds": round(seconds, 2),
            "peak_rss_gb": round(memory * 1024 / 1e9, 3)}  # fmt: skip


def growth(rows: Sequence[Measured]) -> str:
    """What one more thing took, from size to size, in milliseconds: equal where time is linear."""
    each = [1000 * (b["cpu_seconds"] - a["cpu_seconds"]) / (b["size"] - a["size"]) for a, b in pairwise(rows)]
    return ", ".join(f"{milliseconds:.1f}" for milliseconds in each)


def show(rows: Sequence[Measured]) -> None:
    table = Table("", "sizes", "CPU seconds", "milliseconds for one more", "peak memory, GB", title=machine())
    for work in WORKS:
        of = [row for row in rows if row["what"] == work.what]
        told = (", ".join(str(row[name]) for row in of) for name in ("size", "cpu_seconds", "peak_rss_gb"))
        sizes, seconds, memory = told
        table.add_row(work.what, f"{sizes} {work.unit}", seconds, growth(of), memory)
    Console().print(table)


def draw(rows: Sequence[Measured], path: Path) -> None:
    """CPU seconds by size, both in logarithms."""
    with style():
        figure = blank(280, 480)
        axes, ends = figure.add_axes((0.1, 0.13, 0.58, 0.84)), []
        for work, colour in zip(WORKS, COLOURS, strict=True):
            of = [row for row in rows if row["what"] == work.what]
            sizes, seconds = [row["size"] for row in of], [row["cpu_seconds"] for row in of]
            axes.loglog(sizes, seconds, marker="o", color=colour)
            ends.append(End(sizes[-1], seconds[-1], work.what, colour))
        axes.set(xlabel="runs, cells or artefacts", ylabel="CPU seconds")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.minorticks_off()
        name_ends(axes, ends, axes.bbox.x1 + 10)
        path.parent.mkdir(exist_ok=True)
        told = "CPU seconds of whole processes against what they look through, both in logarithms; one process each."
        path.write_text(standalone(figure, "What bookkeeping takes", told))


def main(smaller: int) -> None:
    rows = []
    for work in WORKS:
        for size in work.sizes:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(work, max(1, size // smaller), Path(folder)))
            print(rows[-1], file=sys.stderr)
    show(rows)
    if smaller == 1:
        write_json(HERE / "measured.json", {"machine": machine(), "command": "python -m experiments.scaling.measure",
                                            "rows": rows})  # fmt: skip
        draw(rows, HERE / "figures" / "cpu.svg")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
