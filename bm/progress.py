"""Progress of everything long: how far, how fast, how much longer. Quiet where nobody watches."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False)


class Bar(Protocol):
    def advance(self, amount: float, note: str = "") -> None:
        """Move on by `amount` units; `note` stands beside the bar."""


class _Shown:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float, note: str = "") -> None:
        self._progress.update(self._task, advance=amount, note=note)  # type: ignore[arg-type]


class _Quiet:
    def advance(self, amount: float, note: str = "") -> None:
        pass


class _Rate(ProgressColumn):
    """Units per second with an SI prefix: `19.8k tokens/s`, `1.2G bytes/s`."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if speed >= scale:
                return Text(f"{speed / scale:.1f}{prefix} {task.fields['unit']}/s", style="cyan")
        return Text(f"{speed:.1f} {task.fields['unit']}/s", style="cyan")


def watched() -> bool:
    """Whether somebody looks at the terminal: it is one, and this is not CI."""
    return sys.stderr.isatty() and not os.environ.get("CI")


@contextmanager
def progress(label: str, total: float, unit: str, done: float = 0) -> Iterator[Bar]:
    """A bar for `total` units of which `done` were finished by an earlier, interrupted run."""
    if not watched():
        yield _Quiet()
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(24), TextColumn("{task.percentage:>3.0f}%"), _Rate(),
               TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"))  # fmt: skip
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(label, total=total, completed=int(done), unit=unit, note="")
        yield _Shown(shown, task)


def say(line: str) -> None:
    """One line for whoever follows along, on standard error; standard output belongs to results."""
    console.print(line, soft_wrap=True)


def quantity(number: float, unit: str) -> str:
    """A number with its unit and one decimal, where that leaves something of it."""
    return f"less than 0.1 {unit}" if 0 < number < 0.1 else f"{number:,.1f} {unit}"


def say_where(home: Path, models: Path) -> None:
    """Where a run left its results, its page and its models."""
    say(f"results  {home / 'results.json'}\npage     {home / 'report' / 'index.html'}\nmodels   {models}")
