"""Functions of arrays that NumPy lacks: the error function, and random bits by position."""

import numpy as np

_BLOCK = 16384  # elements at a time: every pass but the first finds them in the cache


def random_bits(rows, n_columns, seed):
    """Return uniform uint32, (len(rows), n_columns): a function of seed, row number and column.

    Being a function of the position, any part can be made again, alone and in any order. Each row's
    64-bit key comes from SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195);
    its lower half enters a 32-bit mixer with the column (two multiplications and three shifts; the
    constants are Wellons' lowbias32, found by search for the least bias), its upper half masks
    the result.
    """
    key = (np.asarray(rows, np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    key += np.uint64(seed)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    low, high = key.astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)
    columns = np.arange(n_columns, dtype=np.uint32)
    bits = np.empty((len(key), n_columns), np.uint32)
    step = max(1, _BLOCK // max(1, n_columns))
    scratch = np.empty((step, n_columns), np.uint32)
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


# erf in float32: u = x P(t) / (Q - t), t = x^2, fits erf / sqrt(1 - erf^2) on |x| < 3.86; then
# erf = u / sqrt(1 + u^2), which keeps |erf| <= 1. Relative error up to 3.0e-7 (all of [2^-12, 4)).
# In float64: x P(t) / Q(t) on |x| < 5.9, largest relative error 9.5e-16. Both are fits of our own,
# near-minimax in relative error; highest power first, and the leading 1 of Q left out.
_P32 = (9.595246e-05, 0.00089161657, 0.012587574, 0.14562193, 1.0983784, 4.998386, 20.201303)
_Q32 = 17.902939
_P64 = (
    0.017808110462299687, 25.07134750763635, 3723.1011994415794, 190523.98451790612,
    7494952.601841115, 187531582.97877413, 4324676177.23426, 63057731537.47865, 949928264495.1384,
    7639841912361.691, 73516284451267.38, 244559211773204.44, 1256249203012735.8,
)  # fmt: skip
_Q64 = (
    372.1547797064394, 28314.292094743694, 1246315.660794074, 38935995.73424658, 924899199.2628037,
    17174357939.054602, 250698963765.9713, 2845933766138.6514, 24416518971038.367,
    149767339840164.6, 587842247937066.0, 1113321868788454.4,
)  # fmt: skip
_CLIP = {np.dtype(np.float32): 3.9375, np.dtype(np.float64): 5.9375}  # both give exactly 1 here


def erf(x):
    """Return the error function of an array of float32 or float64 (float16 by way of float32)."""
    if x.dtype == np.float16:
        return erf(x.astype(np.float32)).astype(np.float16)
    x = np.clip(x, -_CLIP[x.dtype], _CLIP[x.dtype], out=np.empty_like(x))
    t = np.multiply(x, x, out=np.empty_like(x))
    if x.dtype == np.float32:
        p = np.multiply(_horner(t * _P32[0], t, _P32[1:]), x, out=x)
        t -= _Q32
        t *= t
        t += p * p
        return np.divide(p, np.sqrt(t, out=t), out=p)
    p = _horner(t * _P64[0], t, _P64[1:])
    p /= _horner(t, t, _Q64)
    p *= x
    return np.clip(p, -1, 1, out=p)  # rounding may step past 1


def _horner(y, t, coefficients):
    """Return (...(y + c0) t + c1) t + ..., in place after the first sum."""
    y = np.add(y, coefficients[0], out=np.empty_like(t))
    for c in coefficients[1:]:
        y *= t
        y += c
    return y
