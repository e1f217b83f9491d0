"""Who watches a run: Weights & Biases (offline unless told), a plain logger of Lightning's, or nobody.

with tracked(config.tracker, About(key="0123456789abcdef", name="math", job="branch", ...)) as run:
    run.log({"loss": 0.3, "tokens": 4096}, step=1)

A run's id is its key, so what is resumed after an interruption stays in the same run; an exception in the block
marks the run failed. A tracker is never a reason for a run to fail: its first failure is one line, and the last.
"""

from bm.track.about import GROUP, About, LoggedTable, Reference, lineage
from bm.track.tracked import Tracked, tracked

__all__ = ["GROUP", "About", "LoggedTable", "Reference", "Tracked", "lineage", "tracked"]
