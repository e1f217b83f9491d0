"""`python -m bm.merge.precompile`: the merge kernels compiled before the first merge, as `make install` does."""

import numpy as np

from bm.merge import kernels


def compile_all() -> None:
    """Compiles every kernel for the types that models are stored and merged in: bfloat16 and float32."""
    ones = np.ones(1, np.float32)
    numbers, counts, place = np.zeros(1, np.uint32), np.zeros((1, kernels.TOP), np.int64), np.zeros(0, np.int8)
    own = np.ones((1, 6), np.float32)
    for stored, merged in ((np.uint16, np.uint16), (np.uint16, np.float32), (np.float32, np.float32)):
        stack, out = np.ones((1, 1), stored), np.ones((1, 1), merged)
        rows = stack.view()
        rows.flags.writeable = False
        kernels.sample(rows, rows, ones, True, False, 0, 1, numbers)
        kernels.count(rows, rows, ones, False, place, counts)
        kernels.brackets(rows, rows, ones, False, numbers, numbers, counts[:, :3].copy(), numbers)
        kernels.select(rows, rows, ones, False, np.float32(1), out)
        kernels.average(stack[0], stack, ones, np.float32(1), out[0])
        kernels.combine(stack[0], stack, own, numbers[None], True, True, np.float32(1), np.float32(1), out[0])


if __name__ == "__main__":
    compile_all()
