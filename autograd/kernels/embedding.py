"""Kernels that read rows of a table by index, and that add rows into a table.

They are called by ``embedding`` and ``scatter_rows`` in `autograd.ops.embedding`, which have
checked that every index names a row. Copied rows are the table's, bit for bit. Rows are summed in
float64 and rounded once, where NumPy sums them in their own dtype.
"""

import numpy as np

from autograd.kernels.intrinsics import prefetch
from autograd.kernels.jit import EXACT, as_rows, flat, jit, takes
from autograd.kernels.team import row_kernel, split

# The rows lie anywhere in a table of many megabytes, and no processor guesses where the next row
# begins. So while a row is copied, the loop asks for the next row: for index [7, 2], row 2 travels
# to the cache while row 7 is copied. It asks for four cache lines of 64 bytes; from there on, the
# processor recognizes a sequence and fetches the rest by itself.


@row_kernel(EXACT)
def _embedding(out, index, table):
    start, step = table.ctypes.data, table.shape[1] * table.itemsize
    for r in range(index.size):
        row, y = table[index[r]], out[r]  # (n,), (n,)
        if r + 1 < index.size:
            for line in range(4):
                prefetch(start + index[r + 1] * step + 64 * line)
        for i in range(row.size):
            y[i] = row[i]


def embedding(input, weight, padding_idx=None):
    """Return the rows of a table that an array of integers names."""
    index = np.asarray(input, np.int64)
    if not takes(weight) or not index.size or not weight.size:
        return NotImplemented
    out = np.empty((*index.shape, weight.shape[1]), weight.dtype)
    table, rows = (as_rows(x, weight.shape[1]) for x in (weight, out))
    split(_embedding, (rows, flat(index)), table)
    return out


# Adding rows into a table. If the threads shared the rows that are added, two of them could add to
# one row of the table at the same time. So these rows are first sorted by the row of the table that
# they belong to, and the threads share the table: only one thread writes to each of its rows, and
# the order of the additions does not depend on the number of threads.


@jit(EXACT)
def _by_row(index, order, starts):
    """Sort by counting: ``order[starts[k] : starts[k + 1]]`` are the i with ``index[i] == k``.

    For index [2, 0, 2] and a table of 3 rows, the counts [1, 0, 2] are written to ``starts[1:]``
    and summed up, starts = [0, 1, 1, 3]. Then each i is put at the next free place of its row:
    order = [1, 0, 2]. Row 0 gets values[1], row 1 nothing, row 2 values[0] and values[2].
    """
    for i in index:
        starts[i + 1] += 1
    for k in range(starts.size - 1):
        starts[k + 1] += starts[k]
    places = starts.copy()
    for i in range(index.size):
        order[places[index[i]]] = i
        places[index[i]] += 1


@row_kernel(EXACT)
def _scatter_rows(out, starts, stops, values, order):
    """Sum the values that belong to each row of ``out (rows, n)``.

    The values of row k are ``values[i]`` for the i in ``order[starts[k] : stops[k]]``. A row
    without values is 0, and a row with one value is a copy of it. Only where there are several
    values does the loop need the total in float64.
    """
    total = np.empty(values.shape[1])
    for k in range(out.shape[0]):
        first, last, row = starts[k], stops[k], out[k]  # row: (n,)
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
    """Return a table of zeros with each row of values added to the row that the index names."""
    if not takes(values) or not values.size:
        return NotImplemented
    out = np.empty(shape, values.dtype)
    index = index.reshape(-1).astype(np.int64) % shape[0]  # (N,); -1 is the last
    rows = as_rows(values, shape[1])  # (N, n)
    order, starts = np.empty(len(index), np.intp), np.zeros(shape[0] + 1, np.intp)
    _by_row(index, order, starts)
    split(_scatter_rows, (out, starts[:-1], starts[1:]), rows, order, size=values.size + out.size)
    return out
