"""Python's garbage collector, kept away from what is no garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_within = False
"""Whether something is set aside; to ask the collector, which counts all of it, takes longer than a small training."""


@contextmanager
def set_aside() -> Iterator[None]:
    """Collections within walk only what is made within: imported modules alone take half a second, each time.

    What an outer `set_aside` has set aside stays so in the end.
    """
    global _within
    if _within:
        yield
        return
    gc.freeze()
    _within = True
    try:
        yield
    finally:
        _within = False
        gc.unfreeze()
