"""numba, which compiles the merge kernels: said when it does, and kept for the next time where this user may write.

numba keeps what it compiled beside the code, or below the user's own cache folder where the code cannot be written;
`NUMBA_CACHE_DIR` names another place.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from bm.progress import say


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the first of those above it that is there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK)


if not any(map(_writable, (Path(__file__).parent / "__pycache__", Path("~/.cache/numba").expanduser()))):
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"bm-kernels-{os.getuid()}"))

_BLAS = "scipy.linalg.cython_blas"
if (
    _BLAS not in sys.modules
):  # numba asks for it while it loads, 0.15 s, to speed up a convolution that nobody here uses
    sys.modules[_BLAS] = None  # type: ignore[assignment]
try:  # it reads where to keep things when it is imported
    import numba.np.arraymath  # noqa: F401  # which asks
    from numba import njit
    from numba.core import event, types
    from numba.extending import intrinsic
finally:
    if sys.modules[_BLAS] is None:
        del sys.modules[_BLAS]

__all__ = ["bits", "njit", "number"]


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


def _as_number(_, entry):  # type: ignore[no-untyped-def]
    """A stored entry as float32: from the bits of bfloat16 (uint16) or of float32 (uint32), or as it is."""

    def build(_, builder, __, values):  # type: ignore[no-untyped-def]
        (value,) = values
        if entry == types.uint16:
            value = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return value if entry == types.float32 else builder.bitcast(value, ir.FloatType())

    return types.float32(entry), build


def _as_bits(_, number):  # type: ignore[no-untyped-def]
    """The bits of a float32, uint32."""
    return types.uint32(number), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


number: Any = intrinsic(_as_number)
bits: Any = intrinsic(_as_bits)
