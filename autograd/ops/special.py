"""Functions of plain arrays that NumPy lacks: the error function, and random bits by position.

They are no ops: `autograd.ops.activation` and `autograd.ops.dropout` make ops of them.
"""

import numpy as np

from autograd.kernels import fits

_BLOCK = 16384  # elements at a time: every pass but the first finds them in the cache


def random_bits(rows, columns, seed):
    """Return uniform uint32, (len(rows), len(columns)): a function of seed, row and column.

    Since the bits depend on the position alone, any part of a mask can be made again, by itself and
    in any order: the elements [5:7, 100:200] of a mask are ``random_bits(range(5, 7), range(100,
    200), seed)``, and backward needs no stored mask.

    Each row has a 64-bit key from SplitMix64 (Steele, Lea and Flood 2014,
    doi:10.1145/2660193.2660195). Its lower half is combined with the column, and mixed by two
    multiplications and three shifts, so that neighbouring columns have unrelated bits; the
    constants are Wellons' lowbias32, found by search for the least bias. The upper half is combined
    with the result, so that rows differ even if the lower halves of their keys are equal.
    """
    key = (np.asarray(rows, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    key += np.uint64(seed)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    low, high = key.astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)
    # Some rows at a time, in place, so that each pass but the first finds its block in the cache. A
    # block has about 16384 elements: with 1000 columns, 16 rows.
    columns = np.asarray(columns, np.uint32)
    bits = np.empty((len(key), len(columns)), np.uint32)
    step = max(1, _BLOCK // max(1, len(columns)))
    scratch = np.empty((step, len(columns)), np.uint32)
    for start in range(0, len(key), step):
        x = bits[start : start + step]
        shifted = scratch[: len(x)]
        np.bitwise_xor(low[start : start + step, None], columns, out=x)
        for shift, factor in (16, 0x7FEB352D), (15, 0x846CA68B), (16, None):
            np.right_shift(x, shift, out=shifted)
            x ^= shifted
            if factor is not None:
                x *= np.uint32(factor)
        x ^= high[start : start + step, None]
    return bits


def seed_of_row(row, seed):
    """Return the seed by which row 0 has the bits that row `row` has by `seed`, and so on.

    In `random_bits`, the key of a row is (row + 1) times a constant plus the seed, modulo 2^64.
    """
    return (seed + row * 0x9E3779B97F4A7C15) % 2**64


def erf(x):
    """Return the error function of an array of float32 or float64 (float16 by way of float32)."""
    if x.dtype == np.float16:
        return erf(x.astype(np.float32)).astype(np.float16)
    single = x.dtype == np.float32
    clip = fits.ERF32_CLIP if single else fits.ERF64_CLIP
    x = np.clip(x, -clip, clip, out=np.empty_like(x))
    t = np.multiply(x, x, out=np.empty_like(x))
    if single:
        p = np.multiply(_horner(t * fits.ERF32_P[0], t, fits.ERF32_P[1:]), x, out=x)
        t -= fits.ERF32_Q
        t *= t
        t += p * p
        return np.divide(p, np.sqrt(t, out=t), out=p)
    p = _horner(t * fits.ERF64_P[0], t, fits.ERF64_P[1:])
    p /= _horner(t, t, fits.ERF64_Q)
    p *= x
    return np.clip(p, -1, 1, out=p)  # rounding may give 1 + 2e-16


def _horner(y, t, coefficients):
    """Return ((y + c0) t + c1) t + ... by Horner's scheme, in one new array."""
    y = np.add(y, coefficients[0], out=np.empty_like(t))
    for c in coefficients[1:]:
        y *= t
        y += c
    return y
