"""Large matrix products, shared out over the kernels' threads.

BLAS's own threads spin while they wait for each other. They keep the kernels' threads from their
processors, and where other programs want these too, a product can take ten times as long. So BLAS
multiplies on one thread, and each thread of our team multiplies its own rows, or columns.
"""

import numpy as np

from autograd.kernels import blas
from autograd.kernels.blas import PLAIN, ROW_MAJOR, TRANSPOSED, gemm
from autograd.kernels.jit import EXACT, takes
from autograd.kernels.team import parts_of, row_kernel, split


@row_kernel(EXACT)
def _product(starts, stops, x, y, by_rows, bias, out):
    """Compute parts of ``out (n, m) = x (n, k) @ y (k, m) + bias (m,)``.

    A part is some rows of the result, or some columns: with two parts of 768 rows, the first is
    ``out[:384] = x[:384] @ y``. A bias without elements is none. An operand is its address, its
    number of columns, the length of what is a row in memory, the order that BLAS knows this by,
    and how many bytes its next row and its next column are away.
    """
    x_first, depth, x_length, x_order, x_row, _ = x
    y_first, m, y_length, y_order, _, y_column = y
    n = out.shape[0]
    for part in range(starts.size):
        start, stop = starts[part], stops[part]
        top, bottom, left, right = (start, stop, 0, m) if by_rows else (0, n, start, stop)
        gemm(
            ROW_MAJOR, x_order, y_order, bottom - top, right - left, depth, out.dtype.type(1),
            x_first + top * x_row, x_length, y_first + left * y_column, y_length,
            out.dtype.type(0), out[top:, left:].ctypes.data, m,
        )  # fmt: skip
        if bias.size:
            for r in range(top, bottom):
                row, some = out[r, left:right], bias[left:right]
                for j in range(row.size):
                    row[j] += some[j]


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices.

    There are as many parts as BLAS has threads, so that on these alone the rounding depends.
    """
    n_parts = blas.n_threads()
    if n_parts == 1 or not takes(x, y, bias) or x.shape[1] != y.shape[0]:
        return NotImplemented
    if bias is not None and bias.shape != y.shape[1:]:
        return NotImplemented
    n, m = len(x), y.shape[1]
    out, by_rows = np.empty((n, m), x.dtype), n >= m
    parts = parts_of(n if by_rows else m, n_parts)
    bias = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    (_x, left), (_y, right) = operand(x), operand(y)
    with blas.one_thread():
        split(_product, parts, left, right, by_rows, bias, out, size=x.size * m)
    return out


def operand(x):
    """Return a matrix, which must stay in memory, and what `_product` needs to know of it.

    BLAS reads a matrix where it is if its rows or its columns have no gaps; others are copied.
    """
    (rows, columns), (row, column) = x.shape, x.strides
    if column == x.itemsize and row >= columns * column and row % column == 0:
        return x, (x.ctypes.data, columns, row // column, PLAIN, row, column)
    if row == x.itemsize and column >= rows * row and column % row == 0:
        return x, (x.ctypes.data, columns, column // row, TRANSPOSED, row, column)
    x = np.array(x, order="C")
    row, column = columns * x.itemsize, x.itemsize
    return x, (x.ctypes.data, columns, max(columns, 1), PLAIN, row, column)
