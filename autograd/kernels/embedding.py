"""Kernels that read rows by index, and add into them."""

import numpy as np

from autograd.kernels.intrinsics import prefetch
from autograd.kernels.jit import EXACT, as_rows, flat, jit, split, takes


@jit(EXACT)
def _embedding(index, table, out):
    """Copy rows; return whether all of them exist."""
    start, step = table.ctypes.data, table.shape[1] * table.itemsize
    for r in range(index.size):
        k = index[r]
        if not 0 <= k < table.shape[0]:
            return False
        row, y = table[k], out[r]  # (n,), (n,)
        if r + 1 < index.size:  # no processor guesses where the next row begins
            for line in range(4):
                prefetch(start + index[r + 1] * step + 64 * line)
        for i in range(row.size):
            y[i] = row[i]
    return True


def embedding(input, weight, padding_idx=None):
    """Return the rows of a table that an array of integers names."""
    if not takes(weight) or weight.ndim != 2 or not is_index(input) or not input.size:
        return NotImplemented
    n_rows, n = weight.shape
    out = np.empty((*input.shape, n), weight.dtype)
    index = flat(input).astype(np.int64, copy=False)
    table, rows = as_rows(weight, n), as_rows(out, n)
    found = []
    split(lambda p: found.append(_embedding(index[p], table, rows[p])), len(rows), out.size)
    return out if all(found) else NotImplemented  # NumPy's function says what is wrong


@jit(EXACT)
def _by_row(index, order, starts):
    """Sort by counting: those of row k are ``order[starts[k] : starts[k + 1]]``, in their order."""
    for i in index:
        starts[i + 1] += 1
    for k in range(starts.size - 1):
        starts[k + 1] += starts[k]
    places = starts.copy()
    for i in range(index.size):
        order[places[index[i]]] = i
        places[index[i]] += 1


@jit(EXACT)
def _scatter_rows(values, order, starts, out):
    """Sum each row's values, in float64 where there are several.

    ``out (rows, n)`` is of the rows that ``starts (rows + 1,)`` is of.
    """
    total = np.empty(values.shape[1])
    for k in range(out.shape[0]):
        first, last, row = starts[k], starts[k + 1], out[k]  # row: (n,)
        if last - first < 2:
            for j in range(row.size):
                row[j] = 0 if first == last else values[order[first], j]
            continue
        total[:] = 0
        for i in range(first, last):
            value = values[order[i]]  # (n,)
            for j in range(value.size):
                total[j] += value[j]
        for j in range(row.size):
            row[j] = total[j]


def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of values added to the row that the index names.

    Sorted by row, so that every row of the table is one thread's: no two write to one place, and
    the order of additions does not depend on the number of threads.
    """
    if not takes(values) or len(shape) != 2 or not is_index(index):
        return NotImplemented
    if values.shape != (*index.shape, shape[1]):
        return NotImplemented
    if not values.size:
        return np.zeros(shape, values.dtype)
    if not shape[0]:
        return NotImplemented
    out = np.empty(shape, values.dtype)
    index = index.reshape(-1).astype(np.int64) % shape[0]  # (N,); -1 is the last
    rows = as_rows(values, shape[1])  # (N, n)
    order, starts = np.empty(len(index), np.intp), np.zeros(shape[0] + 1, np.intp)
    _by_row(index, order, starts)

    def run(part):
        _scatter_rows(rows, order, starts[part.start : part.stop + 1], out[part])

    split(run, shape[0], values.size + out.size)
    return out


def is_index(x):
    """Return whether this is an array of integers, all of which int64 can hold."""
    return type(x) is np.ndarray and x.dtype.kind in "iu" and np.can_cast(x.dtype, np.int64)
