"""Kernels that read rows by index, and add into them."""

import numpy as np

from autograd.kernels.jit import EXACT, as_rows, jit, split, takes


@jit(EXACT)
def _embedding(index, table, out):
    for r in range(index.size):
        row, y = table[index[r]], out[r]  # (n,), (n,)
        for i in range(row.size):
            y[i] = row[i]


def embedding(input, weight, padding_idx=None):
    """Return the rows of a table that an array of integers names."""
    if not takes(weight) or weight.ndim != 2 or input.dtype.kind not in "iu" or not input.size:
        return NotImplemented
    n_rows, n = weight.shape
    if input.min() < -n_rows or input.max() >= n_rows:
        return NotImplemented  # NumPy's function says what is wrong
    out = np.empty((*input.shape, n), weight.dtype)
    index, table, rows = as_index(input, n_rows), as_rows(weight, n), as_rows(out, n)
    split(lambda part: _embedding(index[part], table, rows[part]), len(rows), out.size)
    return out


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
        index = as_index(index, shape[0])
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


def as_index(index, n_rows):
    """Return the numbers of rows on one axis, those from the end (-1) counted from the start."""
    return index.reshape(-1).astype(np.int64) % n_rows
