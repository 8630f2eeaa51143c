"""exp and erf for the loops of kernels, and an order of floats that is fast to compare.

The C library's exp is a call for one number. These functions consist of multiplications, additions
and shifts without branches, so that the compiler turns a loop which calls them into instructions on
8 or 16 numbers at a time. Each is written out for float32 and for float64, and the type of its
argument chooses between the two.

The largest errors found, against more digits, in units in the last place (ulp) of the result: `exp`
1.1 in float32 and 1.0 in float64; `erf` as in `autograd.kernels.fits`. NaN gives NaN, and results
below the normal range come out denormal, as they should.
"""

import math

import numpy as np
from numba.extending import overload

from autograd.kernels.fits import (
    ERF32_CLIP,
    ERF32_P,
    ERF32_Q,
    ERF64_CLIP,
    ERF64_P,
    ERF64_Q,
    EXP32,
    EXP64,
)
from autograd.kernels.jit import EXACT, OVERLOADS, inline

F4, F8, I4, I8 = np.float32, np.float64, np.int32, np.int64


def by_precision(single, double):
    """Return a function that calls `single` for a number of 32 bits and `double` for one of 64."""

    def function(x):
        return single(x) if x.itemsize == 4 else double(x)

    @overload(function, jit_options=OVERLOADS)
    def _(x):
        chosen = single if x.bitwidth == 32 else double
        return lambda x: chosen(x)

    return function


@inline(EXACT)
def polynomial(coefficients, x):
    """Return a polynomial by Horner's scheme, the coefficient of the highest power first.

    (a, b, c) gives (a x + b) x + c: one multiplication and one addition for each coefficient.
    """
    y = coefficients[0]
    for i in range(1, len(coefficients)):
        y = y * x + coefficients[i]
    return y


def typed(coefficients, real):
    """Return coefficients as numbers of type `real`."""
    return tuple([real(c) for c in coefficients])


# exp(x) = 2^n exp(r), with n the integer nearest to x / log(2), and so |r| <= log(2) / 2, where a
# polynomial of few terms is exact enough. For x = 10, n = 14 and r = 10 - 14 log(2) = 0.296.
#
# Rounding: in float32, numbers near 1.5 * 2^23 are spaced by 1, so adding that constant to x /
# log(2) rounds to an integer, and subtracting it again gives n as a float. The low bits of the sum
# are n as an integer, which `view` reads.
#
# The remainder: r = x - n log(2) loses digits if log(2) is one rounded number. So log(2) comes in
# two parts. n times the first is exact, since the first has few digits; the second holds the
# others.
#
# The power: 2^n is made by writing n into the exponent of a float. For a result below the normal
# range, 2^n alone would be 0. So there are two factors, 2^(n // 2) and 2^(n - n // 2), and the
# result is rounded once, by the last multiplication.

LOG_2_HEAD = 0.6931471803691238  # with 32 bits
LOG_2_TAIL = 1.9082149292705877e-10
_Q32, _Q64 = typed(EXP32, F4), typed(EXP64, F8)


@inline(EXACT)
def _exp32(x):
    x = F4(89) if x > F4(89) else x  # exp(89) is infinite; no comparison holds for NaN, which stays
    x = F4(-104) if x < F4(-104) else x
    shifted = F4(x * F4(1 / math.log(2)) + F4(1.5 * 2**23))
    n = shifted - F4(1.5 * 2**23)
    r = x - n * F4(0.693359375)
    r = r - n * F4(math.log(2) - 0.693359375)
    e = (polynomial(_Q32, r) * (r * r) + r) + F4(1)
    k = I4(F4(shifted).view(I4) - I4(0x4B400000))
    half = I4(k >> I4(1))
    low = I4(I4(half + I4(127)) << I4(23))
    high = I4(I4(k - half + I4(127)) << I4(23))
    return e * I4(low).view(F4) * I4(high).view(F4)


@inline(EXACT)
def _exp64(x):
    x = F8(710) if x > F8(710) else x
    x = F8(-746) if x < F8(-746) else x
    shifted = F8(x * F8(1 / math.log(2)) + F8(1.5 * 2**52))
    n = shifted - F8(1.5 * 2**52)
    r = x - n * F8(LOG_2_HEAD)
    r = r - n * F8(LOG_2_TAIL)
    e = (polynomial(_Q64, r) * (r * r) + r) + F8(1)
    k = F8(shifted).view(I8) - I8(0x4338000000000000)
    half = k >> I8(1)
    low = (half + I8(1023)) << I8(52)
    high = (k - half + I8(1023)) << I8(52)
    return e * I8(low).view(F8) * I8(high).view(F8)


exp = by_precision(_exp32, _exp64)


# erf is a quotient of polynomials, which `autograd.kernels.fits` describes. Beyond the clipping
# points it is 1 in the precision of the type.

_P32 = typed(ERF32_P, F4)
_P64, _R64 = typed(ERF64_P, F8), typed((1.0, *ERF64_Q), F8)


@inline(EXACT)
def _erf32(x):
    x = F4(ERF32_CLIP) if x > F4(ERF32_CLIP) else x
    x = F4(-ERF32_CLIP) if x < F4(-ERF32_CLIP) else x
    t = x * x
    p = polynomial(_P32, t) * x
    d = t - F4(ERF32_Q)
    return p / F4(math.sqrt(d * d + p * p))


@inline(EXACT)
def _erf64(x):
    x = F8(ERF64_CLIP) if x > F8(ERF64_CLIP) else x
    x = F8(-ERF64_CLIP) if x < F8(-ERF64_CLIP) else x
    t = x * x
    y = polynomial(_P64, t) / polynomial(_R64, t) * x
    y = F8(1) if y > F8(1) else y  # rounding may give 1 + 2e-16
    return F8(-1) if y < F8(-1) else y


erf = by_precision(_erf32, _erf64)


# The maximum of a row of floats is slow: because of NaN the compiler may not reorder comparisons,
# and computes one after the other. It compares integers 8 or 16 at a time. So `ordered` maps a
# float to an integer such that x < y means ordered(x) < ordered(y), and `disordered` maps back.
#
# The bits of a positive float, read as an integer, have the order of the floats: 1.0 is 0x3F800000,
# 2.0 is 0x40000000. The bits of a negative float have the sign bit set, so the integer is negative,
# but the order is reversed: -2.0 is 0xC0000000, above 0xBF800000, which is -1.0. Flipping all other
# bits of the negative ones turns the order round. Flipping them again gives the float back.


@inline(EXACT)
def _flip_negative32(k):
    return I4(k ^ I4(I4(k >> I4(31)) & I4(0x7FFFFFFF)))


@inline(EXACT)
def _flip_negative64(k):
    return I8(k ^ I8(I8(k >> I8(63)) & I8(0x7FFFFFFFFFFFFFFF)))


@inline(EXACT)
def _ordered32(x):
    return _flip_negative32(F4(x).view(I4))


@inline(EXACT)
def _ordered64(x):
    return _flip_negative64(F8(x).view(I8))


@inline(EXACT)
def _disordered32(k):
    return I4(_flip_negative32(k)).view(F4)


@inline(EXACT)
def _disordered64(k):
    return I8(_flip_negative64(k)).view(F8)


ordered = by_precision(_ordered32, _ordered64)
disordered = by_precision(_disordered32, _disordered64)  # the float that became this integer
