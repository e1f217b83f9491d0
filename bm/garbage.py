"""Python's garbage collector, kept away from what is no garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def set_aside() -> Iterator[None]:
    """Collections within walk only what is made within: imported modules alone take half a second, each time.

    What has been set aside before stays so in the end.
    """
    first = gc.get_freeze_count() == 0
    if first:
        gc.freeze()
    try:
        yield
    finally:
        if first:
            gc.unfreeze()
