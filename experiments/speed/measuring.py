"""What the benchmarks share: the peers' environment, one process measured, and the file of measured rows."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "experiments" / "speed" / "measured.json"
PEERS = ROOT / ".venv-peers"


@dataclass(frozen=True)
class Usage:
    """A whole process: wall seconds from start to exit, its peak resident memory in GB (10⁹ bytes), its CPU seconds."""

    seconds: float
    peak_rss_gb: float
    cpu_seconds: float | None = None


def peer(package: str) -> Path:
    """The `bin` folder of the peers' own environment with `package` (a pinned requirement) installed in it."""
    bin_folder = PEERS / "bin"
    if not (bin_folder / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [str(bin_folder / "pip"), "install", "-q", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "experiments" / "speed" / "peers.txt")]
    for requirement in ("torch==2.13.0", package):  # torch first: nothing later may bring another build of it
        name, version = requirement.split("==")
        probe = f"from importlib.metadata import version; assert version('{name}').split('+')[0] == '{version}'"
        if subprocess.run([str(bin_folder / "python"), "-c", probe], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, *(constraints if requirement == package else []), requirement], check=True)
    return bin_folder


def measure(command: Sequence[str], log: Path, limit: Callable[[], None] | None = None) -> Usage:
    """Runs the command to its end; its output goes to `log`, whose end is shown if it fails."""
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=limit)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    cpu = used.ru_utime + used.ru_stime
    return Usage(round(seconds, 3), round(used.ru_maxrss * 1024 / 1e9, 3), round(cpu, 3))


def best(runs: Sequence[Usage]) -> Usage:
    """The shortest time, which other work can only lengthen, and the largest memory."""
    cpu = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    return Usage(min(run.seconds for run in runs), max(run.peak_rss_gb for run in runs), min(cpu, default=None))


def row(name: str, ours: Usage, other: Usage, version: str, command: str, **more: Any) -> dict[str, Any]:
    """A row of measured.json."""
    return {
        "name": name, "ours": asdict(ours), "peer": asdict(other), "peer_version": version,
        "speedup": round(other.seconds / ours.seconds, 2),
        "memory_ratio": round(other.peak_rss_gb / ours.peak_rss_gb, 2),
        "machine": machine(), "command": command, **more,
    }  # fmt: skip


def machine() -> str:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB"


def record(rows: Sequence[dict[str, Any]], under: str = "rows") -> None:
    """Puts the rows, dated today, into measured.json in place of those of the same name and machine; the others stay.

    `under` "rows" are comparisons with peers; under "scaling" is what ours needs as the work grows.
    """
    recorded = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    rows = [{**row, "date": date.today().isoformat()} for row in rows]
    new = {(row["name"], row["machine"]) for row in rows}
    kept = [old for old in recorded.get(under, []) if (old["name"], old["machine"]) not in new]
    recorded[under] = sorted([*kept, *rows], key=lambda row: (str(row["name"]), str(row["machine"])))
    MEASURED.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a table; `copies`: ours as a multiple of copying the same bytes, where that was measured."""
    table = Table("", "ours", "peer", "speed", "memory", "copies", "cold", title=f"{title}, on {machine()}")
    for row in rows:
        ours, other = row["ours"], row["peer"]
        table.add_row(
            row["name"],
            f"{ours['seconds']:.1f} s, {ours['peak_rss_gb']:.2f} GB",
            f"{other['seconds']:.1f} s, {other['peak_rss_gb']:.2f} GB",
            f"{row['speedup']:.1f}×",
            f"{row['memory_ratio']:.1f}×",
            *(f"{row[name]:.1f}×" if name in row else "" for name in ("copies", "cold_copies")),
        )
    Console().print(table)
