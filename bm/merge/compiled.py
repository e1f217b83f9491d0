"""numba, which compiles the merge kernels: said when it does, and kept for the next time where this user may write.

numba keeps what it compiled beside the code, or below the user's own cache folder where the code cannot be written;
`NUMBA_CACHE_DIR` names another place. `python -m bm.merge.compiled` compiles everything beforehand.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from bm.progress import say


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the first of those above it that is there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK)


if not any(map(_writable, (Path(__file__).parent / "__pycache__", Path("~/.cache/numba").expanduser()))):
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"bm-kernels-{os.getuid()}"))

from numba import njit  # noqa: E402  # it reads where to keep things when it is imported
from numba.core import event  # noqa: E402

__all__ = ["njit"]


class _Said(event.Listener):
    """Says once that kernels are being compiled."""

    done = False

    def on_start(self, event: Any) -> None:
        if not self.done:
            say("compiling the merge kernels for this processor: some seconds, once; they are kept for the next time")
            self.done = True

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Said())  # type: ignore[no-untyped-call]


def compile_all() -> None:
    """Compiles every kernel for the types that models are stored and merged in: bfloat16 and float32."""
    import numpy as np

    from bm.merge import kernels

    one = np.ones(1, np.float32)
    numbers, counts, place = np.zeros(1, np.uint32), np.zeros((1, kernels.TOP), np.int64), np.zeros(0, np.int8)
    own = np.ones((1, 6), np.float32)
    for stored, merged in ((np.uint16, np.uint16), (np.uint16, np.float32), (np.float32, np.float32)):
        rows, out = np.ones((1, 1), stored), np.ones((1, 1), merged)
        kernels.sample(rows, rows, one, True, False, 0, 1, numbers)
        kernels.count(rows, rows, one, False, place, counts)
        kernels.brackets(rows, rows, one, False, numbers, numbers, counts[:, :3].copy(), numbers)
        kernels.select(rows, rows, one, False, np.float32(1), out)
        kernels.average(rows[0], rows, one, np.float32(1), out[0])
        kernels.combine(rows[0], rows, own, numbers[None], True, True, np.float32(1), np.float32(1), out[0])


if __name__ == "__main__":
    compile_all()
