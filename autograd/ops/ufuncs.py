"""NumPy's less common functions of single elements: of angles, signs, remainders and NaN."""

import math

import numpy as np

from autograd.dispatch import answers
from autograd.op import alias, implements
from autograd.ops.composing import array_of, composes
from autograd.ops.elementwise import elementwise

# ---- signs and steps


@implements(np.copysign)
@elementwise(kinks=(0.0,))
def copysign(x1, x2):
    """|x1| with the sign of x2; the gradient at x1 = 0 is 0, as in PyTorch."""
    return np.copysign(x1, x2)


copysign.formula(
    """
    s = 1 - 2 · [min(x2, 1 / x2) < 0]  # -1 if x2 is negative, also for -0
    out = |x1| · s
    dx1 = g · sign(x1) · s
    dx2 = 0
    """
)
copysign.vjp(
    x1=lambda g, x1, x2: g * np.sign(x1) * np.copysign(1, x2),
    x2=lambda g: g * 0,
)


@implements(np.heaviside)
@elementwise(kinks=(0.0,))
def heaviside(x1, x2):
    """Step: 0 where x1 is negative, 1 where it is positive, and x2 where x1 is 0."""
    return np.heaviside(x1, x2)


heaviside.formula("out = [x1 > 0] + [x1 = 0] · x2; dx1 = 0; dx2 = g · [x1 = 0]")
heaviside.vjp(x1=lambda g: g * 0, x2=lambda g, x1: np.where(x1 == 0, g, 0))


# ---- the larger and the smaller of two, where NaN counts as no number


@implements(np.fmax)
@elementwise
def fmax(x1, x2):
    """Larger of x1 and x2, or the one that is not NaN; at a tie x1 has the gradient, as PyTorch."""
    return np.fmax(x1, x2)


@implements(np.fmin)
@elementwise
def fmin(x1, x2):
    """Smaller of x1 and x2, or the one that is not NaN; at a tie x1 has the gradient."""
    return np.fmin(x1, x2)


fmax.formula("out = max(x1, x2); dx1 = g · [x1 ≥ x2]; dx2 = g · [x1 < x2]")
fmin.formula("out = min(x1, x2); dx1 = g · [x1 ≤ x2]; dx2 = g · [x1 > x2]")
fmax.vjp(
    x1=lambda g, x1, x2: np.where((x1 >= x2) | np.isnan(x2), g, 0),
    x2=lambda g, x1, x2: np.where((x1 >= x2) | np.isnan(x2), 0, g),
)
fmin.vjp(
    x1=lambda g, x1, x2: np.where((x1 <= x2) | np.isnan(x2), g, 0),
    x2=lambda g, x1, x2: np.where((x1 <= x2) | np.isnan(x2), 0, g),
)


@fmax.sample
@fmin.sample
def _(draw):
    x, y = draw.arrays(2)
    return draw.call(x, np.where(abs(x - y) < 0.1, y + 0.3, y))  # away from ties


# ---- remainders


@implements(np.fmod)
@elementwise
def fmod(x1, x2):
    """Remainder of the quotient rounded towards 0: it has the sign of x1."""
    return np.fmod(x1, x2)


fmod.formula("out = x1 - x2 · trunc(x1 / x2); dx1 = g; dx2 = -g · trunc(x1 / x2)")
# x1 - out is a multiple of x2, so that the quotient is an integer but for its rounding
fmod.vjp(x1=lambda g: g, x2=lambda g, x1, x2, out: -g * np.rint((x1 - out) / x2))


@fmod.sample
def _(draw):
    x, y = draw.arrays(2)
    x[...], y[...] = (
        np.floor(x) + 0.5,
        np.where(y < 0, -2, 1),
    )  # away from the jumps, where no derivative exists
    return draw.call(x, y)


@composes(np.divmod, inputs=("x1", "x2"))
def _(x1, x2):
    return np.floor_divide(x1, x2), np.remainder(x1, x2)


@composes(np.modf)
def _(x):
    whole = np.trunc(x)
    return np.where(np.isinf(x), 0, x - whole), whole


# ---- powers and logarithms


@composes(np.float_power, inputs=("x1", "x2"))
def _(x1, x2):
    return np.power(*(np.astype(array_of(x), np.float64) for x in (x1, x2)))


@implements(np.logaddexp2)
@elementwise
def logaddexp2(x1, x2):
    """log2(2^x1 + 2^x2), without overflow."""
    return np.logaddexp2(x1, x2)


logaddexp2.formula(
    """
    m = max(x1, x2)
    out = m + log2(2^(x1 - m) + 2^(x2 - m))
    dx1 = g / (1 + 2^(x2 - x1))
    dx2 = g / (1 + 2^(x1 - x2))
    """
)
# 2^(x1 - out) is 1 / (1 + 2^(x2 - x1)). In this form it is right where an input is infinite, too.
logaddexp2.vjp(
    x1=lambda g, x1, x2: g * np.exp2(-np.logaddexp2(0, x2 - x1)),
    x2=lambda g, x1, x2: g * np.exp2(-np.logaddexp2(0, x1 - x2)),
)


# ---- angles


composes(np.deg2rad, np.radians)(lambda x: x * (math.pi / 180))
composes(np.rad2deg, np.degrees)(lambda x: x * (180 / math.pi))


@implements(np.sinc)
@elementwise(domain={"x": (0.0625, 2.0)})
def sinc(x):
    """sin(pi x) / (pi x), and 1 at 0."""
    return np.sinc(x)


sinc.formula(
    """
    out = [x = 0] + [x ≠ 0] · (sin(π · x) / (π · x))
    dx = [x ≠ 0] · (g · (cos(π · x) - out) / x)
    """
)


@sinc.vjp("x")
def _(g, x, out):
    near = np.absolute(x) < 1 / math.pi
    # cos(pi x) has the period 2; pi x may be out of the range of float16
    far = (np.cos(math.pi * np.fmod(x, 2)) - out) / np.where(near, 1, x)
    # Near 0 that is a small difference of numbers near 1. There the terms of the power series are
    # added: out = 1 - z^2 / 3! + z^4 / 5! - ..., with the slope -2 z / 3! + 4 z^3 / 5! - ...
    z = math.pi * np.where(near, x, 0)
    series, square = 0.0, z * z
    for k in range(10, 0, -1):
        series = series * square + (-1) ** k * 2 * k / math.factorial(2 * k + 1)
    return g * np.where(near, math.pi * z * series, far)


# ---- what real numbers are already


composes(np.positive)(lambda x: alias(x))
composes(np.conj)(lambda x: alias(x))
composes(np.real)(lambda val: alias(val))
composes(np.real_if_close)(lambda a, tol=100: alias(a))
answers(np.imag, np.angle)


# ---- NaN and infinities


@composes(np.nan_to_num, inputs=("x", "nan", "posinf", "neginf"))
def _(x, *, nan=0.0, posinf=None, neginf=None):
    largest = np.finfo(x.dtype).max
    x = np.where(np.isnan(x), nan, x)
    x = np.where(np.isposinf(x), largest if posinf is None else posinf, x)
    return np.where(np.isneginf(x), -largest if neginf is None else neginf, x)
