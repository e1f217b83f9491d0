"""Where Hydra looks for plugins: the sweepers of `bm`, by the names that `conf/hydra/sweeper/` gives."""

from bm.sweeps.search import SearchSweep
from bm.sweeps.sweeper import GridSweep


class GridSweeper(GridSweep):
    """`hydra/sweeper=grid`, what `-m` does unless told."""


class OptunaSweeper(SearchSweep):
    """`hydra/sweeper=optuna`."""
