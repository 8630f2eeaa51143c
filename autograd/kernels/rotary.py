"""The kernel of the rotary position embedding, called by ``rope`` in `autograd.ops.rotary`.

NumPy needs four products, two sums and a copy, each of which passes over the memory. The kernel
reads a row once and writes it once.
"""

import numpy as np

from autograd.kernels.attention import numbers_of
from autograd.kernels.jit import EXACT, as_rows, takes
from autograd.kernels.team import row_kernel, split


@row_kernel(EXACT)
def _rope(x, numbers, out, cos, sin):
    """Rotate the rows of ``x (rows, D)``: row r by the angles ``cos[numbers[r]] (D / 2,)``."""
    half = cos.shape[1]
    for r in range(len(x)):
        c, s = cos[numbers[r]], sin[numbers[r]]
        first, second = x[r, :half], x[r, half:]
        out_first, out_second = out[r, :half], out[r, half:]
        for i in range(half):
            out_first[i] = first[i] * c[i] - second[i] * s[i]
            out_second[i] = second[i] * c[i] + first[i] * s[i]


def rope(input, cos, sin):
    """Return the rotated rows."""
    if not takes(input, cos, sin) or not input.size:
        return NotImplemented
    depth = input.shape[-1]
    lead, few = input.shape[:-1], cos.shape[:-1]
    x, out = as_rows(input, depth), np.empty(input.shape, input.dtype)
    rows, tables = out.reshape(-1, depth), [as_rows(table, depth // 2) for table in (cos, sin)]
    split(_rope, (x, numbers_of(few, lead), rows), *tables)
    return out
