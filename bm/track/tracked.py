"""A run as the stages see it, whatever tracks it and whether that works or not."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bm.config import Component
from bm.progress import say
from bm.track.about import About, Backend, LoggedTable, Reference


class Tracked:
    """Passes everything on; the first failure of the tracker is told and ends the tracking, not the run."""

    def __init__(self, begin: Callable[[], Backend | None]) -> None:
        self._backend: Backend | None = None
        try:
            self._backend = begin()
        except Exception as problem:
            self._lost(problem)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._pass(lambda to: to.log(values, step))

    def catch_up(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log the steps before the one at which a run is taken up, as far as the tracker has lost them."""
        for step, values in rows:
            if self._backend is not None and step not in self._backend.held:
                self.log(values, step)

    def summarise(self, values: Mapping[str, float]) -> None:
        self._pass(lambda to: to.summarise(values))

    def table(self, name: str, table: LoggedTable) -> None:
        self._pass(lambda to: to.table(name, table))

    def figure(self, name: str, file: Path) -> None:
        """An image file."""
        self._pass(lambda to: to.figure(name, file))

    def uses(self, artefacts: Sequence[Reference]) -> None:
        self._pass(lambda to: to.uses(artefacts))

    def makes(self, artefacts: Sequence[Reference]) -> None:
        self._pass(lambda to: to.makes(artefacts))

    def finish(self, failed: bool) -> None:
        self._pass(lambda to: _complain(to.finish(failed)))

    def _pass(self, act: Callable[[Backend], None]) -> None:
        try:
            if self._backend is not None:
                act(self._backend)
        except Exception as problem:
            self._lost(problem)

    def _lost(self, problem: Exception) -> None:
        said = " ".join(str(problem).split()) or type(problem).__name__
        say(f"[yellow]tracker:[/] {said}; the run continues, and the local files have everything")
        self._backend = None


def _complain(differences: Sequence[str]) -> None:
    for difference in differences:
        say(f"[red]tracker:[/] {difference}")


@contextmanager
def tracked(tracker: Component, about: About) -> Iterator[Tracked]:
    """A run at `tracker`, of the first rank alone; failed if the block raises."""
    first = os.environ.get("RANK", "0") == "0"
    run = Tracked(lambda: tracker(about) if first else None)
    try:
        yield run
    except BaseException:
        run.finish(failed=True)
        raise
    run.finish(failed=False)
