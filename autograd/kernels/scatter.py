"""Kernels that add into rows by index."""

import numpy as np

from autograd.kernels.jit import EXACT, as_rows, jit, split, takes


@jit(EXACT)
def _scatter_rows(values, order, starts, rows, out):
    """Sum, in float64, the values that belong to one row of the table, and write them there once.

    ``values[order]`` are sorted by row; those from ``starts[k]`` on belong to ``rows[k]``.
    """
    total = np.empty(values.shape[1])
    for k in range(rows.size):
        total[:] = 0
        for i in range(starts[k], starts[k + 1]):
            value = values[order[i]]  # (n,)
            for j in range(value.size):
                total[j] += value[j]
        row = out[rows[k]]  # (n,)
        for j in range(row.size):
            row[j] = total[j]


def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of values added to the row that the index names.

    Sorted by row, so that every row of the table is one thread's: no two write to one place, and
    the order of additions does not depend on the number of threads.
    """
    if not takes(values) or len(shape) != 2 or index.dtype.kind not in "iu":
        return NotImplemented
    out = np.zeros(shape, values.dtype)
    if values.size:
        index = index.reshape(-1).astype(np.int64) % shape[0]  # -1 names the last row
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        rows, starts = ordered[starts], np.append(starts, len(order))
        flat = as_rows(values, shape[1])  # (len(order), n)
        split(
            lambda part: _scatter_rows(
                flat, order, starts[part.start : part.stop + 1], rows[part], out
            ),
            len(rows), values.size,
        )  # fmt: skip
    return out
