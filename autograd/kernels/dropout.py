"""The kernel of dropout, called by `autograd.ops.dropout` forward and backward.

The mask is a function of the seed, the row and the column, and is never stored. The bits are those
of `autograd.ops.special.random_bits`, which explains them, so that kernels and NumPy drop the same
elements. The threads share the rows. Attention's kernels use the same bits for their weights.
"""

import numpy as np

from autograd.kernels.jit import EXACT, as_rows, inline, takes
from autograd.kernels.team import row_kernel, split

U4, U8 = np.uint32, np.uint64


@inline(EXACT)
def row_key(row, seed):
    """Return the lower and the upper half of a row's 64-bit key."""
    key = U8(U8(row + 1) * U8(0x9E3779B97F4A7C15) + seed)
    key = U8((key ^ (key >> U8(30))) * U8(0xBF58476D1CE4E5B9))
    key = U8((key ^ (key >> U8(27))) * U8(0x94D049BB133111EB))
    key ^= key >> U8(31)
    return U4(key & U8(0xFFFFFFFF)), U4(key >> U8(32))


@inline(EXACT)
def bits_at(low, high, column):
    """Return the random bits of a column, given its row's key."""
    bits = U4(low ^ U4(column))
    bits = U4(U4(bits ^ U4(bits >> U4(16))) * U4(0x7FEB352D))
    bits = U4(U4(bits ^ U4(bits >> U4(15))) * U4(0x846CA68B))
    return U4(U4(bits ^ U4(bits >> U4(16))) ^ high)


@row_kernel(EXACT)
def _dropout(x, out, numbers, seed, threshold, scale):
    """Multiply rows by their mask; ``numbers (rows,)`` are their numbers in the whole array.

    A thread that gets rows 512 to 1023 of an array makes the keys of these rows, and so the same
    mask as one thread that does all rows.
    """
    zero = x.dtype.type(0)
    for r in range(x.shape[0]):
        row, kept = x[r], out[r]  # (n,), (n,)
        low, high = row_key(numbers[r], seed)
        for i in range(row.size):
            kept[i] = row[i] * (scale if bits_at(low, high, i) >= threshold else zero)


def dropout(input, p, seed):
    """Return each element times 0 (with probability p) or 1 / (1 - p)."""
    if not takes(input):
        return NotImplemented
    n = input.shape[-1] if input.ndim else 1
    out = np.empty(input.shape, input.dtype)
    x, rows = as_rows(input, n), as_rows(out, n)  # (rows, n) each
    split(_dropout, (x, rows, np.arange(len(x))), *mask_constants(p, seed, x.dtype))
    return out


def mask_constants(p, seed, dtype):
    """Return the seed, the threshold and the factor of a mask, in the types of the kernels.

    An element whose random bits are below the threshold becomes 0, any other is multiplied by the
    factor. For p = 0.25 they are 2^30 and 4/3.
    """
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    return np.uint64(seed), threshold, dtype.type(1 / (1 - p))


def dropout_vjp(g, input_shape, p, seed):
    """Return the cotangent multiplied by the same mask."""
    return dropout(g, p, seed)
