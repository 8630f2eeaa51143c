"""Kernels of GELU, sigmoid and SiLU, called by `autograd.ops.activation`.

Each loop computes element by element on flat arrays, and the threads share the elements. NumPy
needs a pass over the memory for every operation, a kernel one pass in all: ``x * (1 + tanh(u)) /
2`` is read once and written once. The formulas are those of the NumPy functions. Exponentials and
erf are ours (`autograd.kernels.vector`), so results differ from NumPy's in the last digits; they
have the same bits with any number of threads.
"""

import math

import numpy as np

from autograd.kernels.jit import EXACT, alike, flat
from autograd.kernels.team import row_kernel, split
from autograd.kernels.vector import erf, exp

SQRT_2_PI = math.sqrt(2 / math.pi)


# ---- GELU: x Phi(x), with the derivative Phi + x dPhi/dx
#
# Phi is saved for the rule. In the tanh form, Phi = 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2 u)) with
# u = sqrt(2/pi) (x + 0.044715 x^3), and dPhi/dx = 2 Phi (1 - Phi) du/dx. In the exact form, Phi is
# the normal distribution function, 1/2 (1 + erf(x / sqrt(2))), and dPhi/dx the normal density.


@row_kernel(EXACT)
def _gelu_tanh(x, out, phi):
    real = x.dtype.type
    for i in range(x.size):
        minus_2u = x[i] * (x[i] * x[i] * real(-2 * 0.044715 * SQRT_2_PI) - real(2 * SQRT_2_PI))
        phi[i] = real(1) / (real(1) + exp(minus_2u))
        out[i] = x[i] * phi[i]


@row_kernel(EXACT)
def _gelu_tanh_vjp(g, x, phi, out):
    real = x.dtype.type
    for i in range(x.size):
        square = x[i] * x[i]
        # For |x| > 40, Phi (1 - Phi) is 0; an infinite square would make NaN of it.
        square = square if square < real(1600) else real(1600)
        two_du = square * real(6 * 0.044715 * SQRT_2_PI) + real(2 * SQRT_2_PI)
        out[i] = g[i] * (phi[i] + x[i] * (two_du * phi[i] * (real(1) - phi[i])))


@row_kernel(EXACT)
def _gelu_erf(x, out, phi):
    real = x.dtype.type
    for i in range(x.size):
        phi[i] = (real(1) + erf(x[i] * real(math.sqrt(0.5)))) * real(0.5)
        out[i] = x[i] * phi[i]


@row_kernel(EXACT)
def _gelu_erf_vjp(g, x, phi, out):
    real = x.dtype.type
    for i in range(x.size):
        density = exp(x[i] * x[i] * real(-0.5)) * real(1 / math.sqrt(2 * math.pi))
        out[i] = g[i] * (phi[i] + x[i] * density)


def gelu(input, approximate="none"):
    """Return x Phi(x), and Phi(x) for the rule."""
    return map_elements(_gelu_tanh if approximate == "tanh" else _gelu_erf, 2, input)


def gelu_vjp(g, input, approximate, phi):
    """Return g (Phi + x dPhi/dx)."""
    return map_elements(
        _gelu_tanh_vjp if approximate == "tanh" else _gelu_erf_vjp, 1, g, input, phi
    )


# ---- sigmoid, s, and SiLU, x s
#
# With e = exp(-|x|), which never overflows, s is 1 / (1 + e) for x >= 0 and e / (1 + e) for x < 0.
# The derivative of s is s(x) s(-x) = e / (1 + e)^2, for both signs and without a difference that
# could lose digits. That of x s is s + x s (1 - s).


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
def _silu_vjp(g, x, y, out):  # y = x s
    real = x.dtype.type
    for i in range(x.size):
        e = exp(-abs(x[i]))
        s = (real(1) if x[i] >= real(0) else e) / (real(1) + e)
        out[i] = g[i] * (s + y[i] * (real(1) - s))


def sigmoid(input):
    """Return 1 / (1 + e^-x)."""
    return map_elements(_sigmoid, 1, input)


def sigmoid_vjp(g, input, out):
    """Return g times the derivative, sigmoid(x) sigmoid(-x)."""
    return map_elements(_sigmoid_vjp, 1, g, input)


def silu(input):
    """Return x sigmoid(x)."""
    return map_elements(_silu, 1, input)


def silu_vjp(g, input, out):
    """Return g times the derivative of x sigmoid(x)."""
    return map_elements(_silu_vjp, 1, g, input, out)


# ---- calling a loop


def map_elements(loop, n_results, *arrays):
    """Run ``loop(*arrays, *results)`` on flat arrays; return the results in the arrays' shape.

    Arrays of shape (4, 3) become arrays of 12 elements, of which each thread takes some.
    """
    if not alike(*arrays):
        return NotImplemented
    shape, dtype = arrays[0].shape, arrays[0].dtype
    results = tuple([np.empty(shape, dtype) for _ in range(n_results)])
    split(loop, tuple([flat(x) for x in (*arrays, *results)]))  # each (n,)
    return results if n_results > 1 else results[0]
