"""Matrix products with few rows, such as the tokens of one sentence: each thread takes columns.

To multiply 16 rows by a weight of (384, 1536), a processor spends most of the time on reading the
weight. `autograd.kernels.product` shares out rows, so that each thread reads all of the weight.
Here a thread computes some columns of the result: it reads its own columns of the weight, and no
others. Both multiply by `autograd.kernels.gemm`, which sums each element in the same order. So the
result has the same bits whichever of the two computed it.
"""

import numpy as np

from autograd.kernels.blas import PLAIN
from autograd.kernels.cache import settings
from autograd.kernels.gemm import ROWS, multiply, pack_panel, panel_columns
from autograd.kernels.intrinsics import matrix_at
from autograd.kernels.jit import EXACT, takes
from autograd.kernels.product import LARGE, WORTH_PACKING, blas_product, choice, operand
from autograd.kernels.team import n_threads, parts_of, row_kernel, split


@row_kernel(EXACT)
def _multiply(numbers, n_heights, x, y, columns, bias, out):
    """Compute parts of ``out = x @ y + bias``: some rows of some columns, which are a panel of y.

    With ``n_heights`` = 2, the parts 0 and 1 are the upper and the lower rows of the first panel,
    and 2 and 3 those of the second. A whole panel is read where it is if the rows of y have no
    gaps. Others are packed: the last panel, if columns are missing there, and all panels of a
    transposed matrix.
    """
    x_first, terms, _, _, x_row, x_column = x
    y_first, n, y_length, y_order, y_row, _ = y
    size, is_plain = out.itemsize, y_order == PLAIN
    shape = (terms, n) if is_plain else (n, terms)
    stored = matrix_at(out, y_first, shape[0], y_length, shape[1])
    packed, in_packed = np.empty((1, terms, columns), out.dtype), -1
    for i in range(numbers.size):
        number, height = divmod(numbers[i], n_heights)
        left, top = number * columns, height * ROWS
        width, rows, where = min(columns, n - left), min(ROWS, out.shape[0] - top), 0
        if is_plain and width == columns:
            where = y_first + left * size
        elif in_packed != number:
            pack_panel(packed[0], number, stored, not is_plain, out.dtype.type(1))
            in_packed = number
        multiply(
            rows, width, terms, x_first + top * x_row, x_row, x_column, where, y_row, packed, 0, 0,
            bias[left:].ctypes.data if bias.size else 0, 0,
            out[top, left:].ctypes.data, n * size,
        )  # fmt: skip


def columns_product(x, y, bias):
    """Return ``x @ y + bias``, with the columns shared out over the threads.

    ``NotImplemented`` if there are fewer parts than threads.
    """
    (m, k), n = x.shape, y.shape[1]
    columns = panel_columns(n, x.itemsize)
    n_heights = -(-m // ROWS)
    n_parts = -(-n // columns) * n_heights
    if n_parts < n_threads():
        return NotImplemented
    out = np.empty((m, n), x.dtype)
    (_x, left), (_y, right) = operand(x), operand(y)
    numbers, _ = parts_of(n_parts, n_parts)
    split(_multiply, (numbers,), n_heights, left, right, columns, bias, out, size=m * k * n // 16)
    return out


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices, if x has few rows and this way is fast.

    A transposed x, as in the gradient of a weight, is as slow to read as y: to read all of it on
    each thread gains nothing. A single row is multiplied by BLAS on each thread: BLAS multiplies a
    matrix and a vector as fast as memory is read.
    """
    m, n = len(x), y.shape[1]
    if m >= WORTH_PACKING or not takes(x, y, bias) or x.shape[1] != len(y) or settings.DISABLE_JIT:
        return NotImplemented
    if x.size * n > LARGE or choice().small != "own" or (bias is not None and bias.shape != (n,)):
        return NotImplemented
    if m > 1 and x.strides[1] != x.itemsize:
        return NotImplemented
    bias = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    return (blas_product if m == 1 else columns_product)(x, y, bias)
