"""Large matrix products, shared out over the kernels' threads.

BLAS's own threads wait for each other awake. They keep the kernels' threads from their processors,
and where other programs want these too, a product can take ten times as long. So BLAS multiplies on
one thread, and each of our threads multiplies its own rows, or columns.
"""

import numpy as np

from autograd.kernels import blas
from autograd.kernels.jit import share, slices, takes


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices.

    There are as many parts as BLAS has threads, so that on these alone the rounding depends.
    """
    n_parts = blas.n_threads()
    if n_parts == 1 or not takes(x, y, bias) or x.shape[1] != y.shape[0]:
        return NotImplemented
    if bias is not None and bias.shape != y.shape[1:]:
        return NotImplemented
    rows, columns = len(x), y.shape[1]
    out = np.empty((rows, columns), x.dtype)

    def multiply(i, j):
        np.matmul(x[i], y[:, j], out=out[i, j])
        if bias is not None:
            out[i, j] += bias[j]

    whole = slice(None)
    if rows < columns:
        parts = [(whole, j) for j in slices(columns, n_parts)]
    else:
        parts = [(i, whole) for i in slices(rows, n_parts)]
    with blas.one_thread():
        share(lambda part: multiply(*part), parts, x.size * columns)
    return out
