"""Kernels of GELU, sigmoid and SiLU, called by `autograd.ops.activation`.

Each loop computes element by element on flat arrays, and the threads share the elements. NumPy
needs a pass over the memory for every operation, a kernel one pass in all: ``x * (1 + tanh(u)) /
2`` is read once and written once. The formulas are those of the NumPy functions. Exponentials and
erf are ours (`autograd.kernels.vector`), so results differ from NumPy's in the last digits; they
have the same bits with any number of threads.
"""

import math

import numpy as np

from autograd.kernels.jit import EXACT, alike, flat, inline
from autograd.kernels.team import row_kernel, split
from autograd.kernels.vector import erf, exp

SQRT_2_PI = math.sqrt(2 / math.pi)


# ---- GELU and SiLU: y = x F(x), F a distribution function, with the derivative F + x dF/dx
#
# The forward pass writes y alone: to write F, too, takes up to a third of its time. The rule
# divides y by x to get F, which takes less time than to compute F from x.


@inline(EXACT)
def cdf_of(x, y, density):
    """Return F(x) of y = x F(x): the quotient, and near 0 the beginning of a series.

    There, y may be too small for all of its digits. `density` is dF/dx at 0. The next term of the
    series is less than x^3 / 15, and the bound for x is the cube root of the precision, so that
    this term does not matter.
    """
    real = type(x)
    if abs(x) < real(np.finfo(type(x)).eps ** (1 / 3)):
        return real(0.5) + x * real(density)
    return y / x


# ---- GELU: y = x Phi(x)
#
# In the tanh form, Phi = 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2 u)) with u = sqrt(2/pi) (x + 0.044715
# x^3), and dPhi/dx = 2 Phi (1 - Phi) du/dx. In the exact form, Phi is the normal distribution
# function, 1/2 (1 + erf(x / sqrt(2))), and dPhi/dx the normal density. At 0, both have the same.

GELU_DENSITY = 1 / math.sqrt(2 * math.pi)


@row_kernel(EXACT)
def _gelu_tanh(x, out):
    real = x.dtype.type
    for i in range(x.size):
        minus_2u = x[i] * (x[i] * x[i] * real(-2 * 0.044715 * SQRT_2_PI) - real(2 * SQRT_2_PI))
        out[i] = x[i] / (real(1) + exp(minus_2u))


@row_kernel(EXACT)
def _gelu_tanh_vjp(g, x, y, out):
    real = x.dtype.type
    for i in range(x.size):
        square = x[i] * x[i]
        # For |x| > 40, Phi (1 - Phi) is 0; an infinite square would make NaN of it.
        square = square if square < real(1600) else real(1600)
        two_du = square * real(6 * 0.044715 * SQRT_2_PI) + real(2 * SQRT_2_PI)
        phi = cdf_of(x[i], y[i], GELU_DENSITY)
        out[i] = g[i] * (phi + two_du * phi * (x[i] - y[i]))  # x - y is x (1 - Phi)


@row_kernel(EXACT)
def _gelu_erf(x, out):
    real = x.dtype.type
    for i in range(x.size):
        out[i] = x[i] * ((real(1) + erf(x[i] * real(math.sqrt(0.5)))) * real(0.5))


@row_kernel(EXACT)
def _gelu_erf_vjp(g, x, y, out):
    real = x.dtype.type
    for i in range(x.size):
        density = exp(x[i] * x[i] * real(-0.5)) * real(GELU_DENSITY)
        phi = cdf_of(x[i], y[i], GELU_DENSITY)
        out[i] = g[i] * (phi + x[i] * density)


def gelu(input, approximate="none"):
    """Return x Phi(x)."""
    return map_elements(_gelu_tanh if approximate == "tanh" else _gelu_erf, input)


def gelu_vjp(g, input, approximate, out):
    """Return g (Phi + x dPhi/dx)."""
    return map_elements(_gelu_tanh_vjp if approximate == "tanh" else _gelu_erf_vjp, g, input, out)


# ---- sigmoid, s, and SiLU, x s
#
# With e = exp(-|x|), which never overflows, s is 1 / (1 + e) for x >= 0 and e / (1 + e) for x < 0.
# The derivative of s is s(x) s(-x) = e / (1 + e)^2, for both signs and without a difference that
# could lose digits. That of y = x s is s + x s (1 - s) = s + s (x - y).

SIGMOID_DENSITY = 0.25


@row_kernel(EXACT)
def _sigmoid(x, out):
    real = x.dtype.type
    for i in range(x.size):
        e = exp(-abs(x[i]))
        out[i] = (real(1) if x[i] >= real(0) else e) / (real(1) + e)


@row_kernel(EXACT)
def _sigmoid_vjp(g, x, out):
    real = x.dtype.type
    for i in range(x.size):
        e = exp(-abs(x[i]))
        out[i] = g[i] * (e / ((real(1) + e) * (real(1) + e)))


@row_kernel(EXACT)
def _silu(x, out):
    real = x.dtype.type
    for i in range(x.size):
        e = exp(-abs(x[i]))
        out[i] = x[i] * ((real(1) if x[i] >= real(0) else e) / (real(1) + e))


@row_kernel(EXACT)
def _silu_vjp(g, x, y, out):
    for i in range(x.size):
        s = cdf_of(x[i], y[i], SIGMOID_DENSITY)
        out[i] = g[i] * (s + s * (x[i] - y[i]))


def sigmoid(input):
    """Return 1 / (1 + e^-x)."""
    return map_elements(_sigmoid, input)


def sigmoid_vjp(g, input, out):
    """Return g times the derivative, sigmoid(x) sigmoid(-x)."""
    return map_elements(_sigmoid_vjp, g, input)


def silu(input):
    """Return x sigmoid(x)."""
    return map_elements(_silu, input)


def silu_vjp(g, input, out):
    """Return g times the derivative of x sigmoid(x)."""
    return map_elements(_silu_vjp, g, input, out)


# ---- calling a loop


def map_elements(loop, *arrays):
    """Run ``loop(*arrays, result)`` on flat arrays; return the result in the arrays' shape.

    Arrays of shape (4, 3) become arrays of 12 elements, of which each thread takes some.
    """
    if not alike(*arrays):
        return NotImplemented
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    split(loop, tuple([flat(x) for x in (*arrays, out)]))  # each (n,)
    return out
