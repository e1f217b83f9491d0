"""`python -m bm.merge.precompile`: the merge kernels compiled before the first merge, as `make install` does."""

import numpy as np

from bm.merge import native
from bm.merge.arrays import CHUNK


def compile_all() -> None:
    """Compiles every kernel for the types that models are stored and merged in: bfloat16 and float32."""
    ones, work, found = np.ones(1, np.float32), np.zeros((6, CHUNK), np.float32), np.empty(5)
    numbers, counts, place = np.zeros(1, np.uint32), np.zeros((1, 1 << 16), np.int64), np.zeros(0, np.int8)
    for stored, merged in ((np.uint16, np.uint16), (np.uint16, np.float32), (np.float32, np.float32)):
        rows, out = np.ones((1, 1), stored), np.ones((1, 1), merged)
        native.sample(rows, rows, ones, True, False, 0, 1, numbers, work, work.view(np.int32))
        native.count(rows, rows, ones, False, place, counts, work.view(np.uint32))
        native.brackets(rows, rows, ones, False, numbers, numbers, counts, numbers, counts[0],
                        work[1].view(np.uint32), work[0].view(np.uint8), work[0].view(np.uint64))  # fmt: skip
        native.select(rows, rows, ones, False, 1.0, out, found, work, work[2].view(stored))
        native.average(rows[0], native.addresses(rows), ones, 1.0, out[0], found[:3], work)
        native.combine(rows[0], native.addresses(rows), np.ones((1, 6), np.float32), native.addresses([None]),
                       True, True, 1.0, 1.0, out[0], found[:4], work)  # fmt: skip


if __name__ == "__main__":
    compile_all()
