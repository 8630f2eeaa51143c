"""Elementwise ops: arithmetic, functions of one number, rounding, choosing.

Inputs broadcast. The tape sums each gradient to the shape of its input, so a rule may return the
shape of the result: for x (3,) and y (2, 3), the rule of x + y returns g, (2, 3), for both.
"""

import functools
import math
import operator

import numpy as np

from autograd.dispatch import NOT_GIVEN, NoRule
from autograd.engine import new_tensor
from autograd.op import implements, op

elementwise = functools.partial(op, broadcasts=True)


# ---- arithmetic


@implements(np.add)
@elementwise
def add(x, y):
    """Sum, x + y."""
    return x + y


add.formula("out = x + y; dx = g; dy = g")
add.vjp(x=lambda g: g, y=lambda g: g)


@implements(np.subtract)
@elementwise
def subtract(x, y):
    """Difference, x - y."""
    return x - y


subtract.formula("out = x - y; dx = g; dy = -g")
subtract.vjp(x=lambda g: g, y=lambda g: -g)


@implements(np.multiply)
@elementwise
def multiply(x, y):
    """Product, x y."""
    return x * y


multiply.formula("out = x · y; dx = g · y; dy = g · x")
multiply.vjp(x=lambda g, y: g * y, y=lambda g, x: g * x)


@implements(np.divide)
@elementwise(domain={"y": (0.5, 2.0)})
def divide(x, y):
    """Quotient, x / y."""
    return x / y


divide.formula("out = x / y; dx = g / y; dy = -g · x / y^2")
divide.vjp(x=lambda g, y: g / y, y=lambda g, y, out: -g * (out / y))


@implements(np.power)
@elementwise(domain={"x": (0.5, 2.0)})
def power(x, y):
    """Power, x to the y. At x = 0 and y >= 0 the gradient of y is 0, as in PyTorch."""
    return x**y


@power.formula
def _(x=None, y=None):
    if not np.any(np.equal(x, 0)):
        return "out = x^y; dx = g · y · x^(y - 1); dy = g · x^y · log(x)"
    return """
        out = x^y
        dx = g · y · (x + [x = 0 and y = 0])^(y - 1)
        dy = g · x^y · log(x + [x = 0 and y ≥ 0])
    """


power.vjp(
    # at x = y = 0, x^(y - 1) would be infinite, and 0 times that is NaN: there x is taken as 1
    x=lambda g, x, y: g * (y * (x + (x == 0) * (y == 0)) ** (y - 1)),
    y=lambda g, x, y, out: g * (out * np.log(x + (x == 0) * (y >= 0))),
)


@implements(np.negative)
@elementwise
def negative(x):
    """-x."""
    return -x


negative.formula("out = -x; dx = -g")
negative.vjp(x=lambda g: -g)


@implements(np.absolute, np.fabs)
@elementwise(kinks=(0.0,))
def absolute(x):
    """|x|; the gradient at 0 is 0."""
    return np.absolute(x)


absolute.formula("out = |x|; dx = g · sign(x)")
absolute.vjp(x=lambda g, x: g * np.sign(x))


@implements(np.square)
@elementwise
def square(x):
    """Square of x."""
    return np.square(x)


square.formula("out = x^2; dx = g · 2 · x")
square.vjp(x=lambda g, x: g * (2 * x))


@implements(np.floor_divide)
@elementwise
def floor_divide(x, y):
    """Quotient rounded down, x // y; its gradient is 0 everywhere."""
    return np.floor_divide(x, y)


floor_divide.formula("out = floor(x / y); dx = 0; dy = 0")
floor_divide.vjp(x=lambda g: g * 0, y=lambda g: g * 0)


@implements(np.remainder)
@elementwise
def remainder(x, y):
    """Remainder of the quotient rounded down, x % y: it has the sign of y."""
    return np.remainder(x, y)


remainder.formula("out = x - y · floor(x / y); dx = g; dy = -g · floor(x / y)")
remainder.vjp(x=lambda g: g, y=lambda g, x, y: -g * np.floor_divide(x, y))


@floor_divide.sample
@remainder.sample
def _(draw):
    x, y = draw.arrays(2)
    x[...], y[...] = (
        np.floor(x) + 0.5,
        np.where(y < 0, -2, 1),
    )  # away from the jumps, where no derivative exists
    return draw.call(x, y)


# ---- functions

_LN_2, _LN_10 = math.log(2), math.log(10)
_LOG2_E, _LOG10_E = 1 / _LN_2, 1 / _LN_10


@implements(np.sign)
@elementwise(kinks=(0.0,))
def sign(x):
    """Sign of x: -1, 0 or 1; its gradient is 0 everywhere."""
    return np.sign(x)


sign.formula("out = [x > 0] - [x < 0]; dx = 0")
sign.vjp(x=lambda g: g * 0)


@implements(np.reciprocal)
@elementwise(domain={"x": (0.5, 2.0)})
def reciprocal(x):
    """1 / x."""
    return np.reciprocal(x)


reciprocal.formula("out = 1 / x; dx = -g / x^2")
reciprocal.vjp(x=lambda g, out: -g * out * out)


@implements(np.exp)
@elementwise
def exp(x):
    """Exponential: e to the power of x."""
    return np.exp(x)


exp.formula("out = exp(x); dx = g · exp(x)")
exp.vjp(x=lambda g, out: g * out)


@implements(np.exp2)
@elementwise
def exp2(x):
    """2 to the power of x."""
    return np.exp2(x)


exp2.formula("out = 2^x; dx = g · 2^x · log(2)")
exp2.vjp(x=lambda g, out: g * (_LN_2 * out))


@implements(np.expm1)
@elementwise
def expm1(x):
    """Exponential minus 1: exact for small x."""
    return np.expm1(x)


expm1.formula("out = exp(x) - 1; dx = g · exp(x)")
# not out + 1, which loses digits: for x = -20, exp(x) is 2e-9, and out is -0.999999998
expm1.vjp(x=lambda g, x: g * np.exp(x))


@implements(np.log)
@elementwise(domain={"x": (0.5, 2.0)})
def log(x):
    """Natural logarithm."""
    return np.log(x)


log.formula("out = log(x); dx = g / x")
log.vjp(x=lambda g, x: g / x)


@implements(np.log2)
@elementwise(domain={"x": (0.5, 2.0)})
def log2(x):
    """Logarithm to base 2."""
    return np.log2(x)


log2.formula("out = log(x) / log(2); dx = g / (x · log(2))")
log2.vjp(x=lambda g, x: g * _LOG2_E / x)


@implements(np.log10)
@elementwise(domain={"x": (0.5, 2.0)})
def log10(x):
    """Logarithm to base 10."""
    return np.log10(x)


log10.formula("out = log(x) / log(10); dx = g / (x · log(10))")
log10.vjp(x=lambda g, x: g * _LOG10_E / x)


@implements(np.log1p)
@elementwise(domain={"x": (-0.5, 2.0)})
def log1p(x):
    """Natural logarithm of 1 + x: exact for small x."""
    return np.log1p(x)


log1p.formula("out = log(1 + x); dx = g / (1 + x)")
log1p.vjp(x=lambda g, x: g / (1 + x))


@implements(np.sqrt)
@elementwise(domain={"x": (0.5, 2.0)})
def sqrt(x):
    """Square root."""
    return np.sqrt(x)


sqrt.formula("out = x^(1/2); dx = g / (2 · sqrt(x))")
sqrt.vjp(x=lambda g, out: g / (2 * out))


@implements(np.cbrt)
@elementwise(domain={"x": (0.5, 2.0)})
def cbrt(x):
    """Cube root."""
    return np.cbrt(x)


cbrt.formula("out = sign(x) · |x|^(1/3); dx = g / (3 · |x|^(2/3))")
cbrt.vjp(x=lambda g, out: g / (3 * out * out))


@implements(np.sin)
@elementwise
def sin(x):
    """Sine."""
    return np.sin(x)


sin.formula("out = sin(x); dx = g · cos(x)")
sin.vjp(x=lambda g, x: g * np.cos(x))


@implements(np.cos)
@elementwise
def cos(x):
    """Cosine."""
    return np.cos(x)


cos.formula("out = cos(x); dx = -g · sin(x)")
cos.vjp(x=lambda g, x: -g * np.sin(x))


@implements(np.tan)
@elementwise(domain={"x": (-1.0, 1.0)})
def tan(x):
    """Tangent."""
    return np.tan(x)


tan.formula("out = sin(x) / cos(x); dx = g / cos(x)^2")
tan.vjp(x=lambda g, out: g * (1 + out * out))


@implements(np.arcsin)
@elementwise(domain={"x": (-0.8, 0.8)})
def arcsin(x):
    """Inverse sine."""
    return np.arcsin(x)


arcsin.formula("out = arcsin(x); dx = g / sqrt(1 - x^2)")
# (1 - x) (1 + x): near x = 1 the difference 1 - x is exact, while in 1 - x^2 the square was rounded
arcsin.vjp(x=lambda g, x: g / np.sqrt((1 - x) * (1 + x)))


@implements(np.arccos)
@elementwise(domain={"x": (-0.8, 0.8)})
def arccos(x):
    """Inverse cosine."""
    return np.arccos(x)


arccos.formula("out = arccos(x); dx = -g / sqrt(1 - x^2)")
arccos.vjp(x=lambda g, x: -g / np.sqrt((1 - x) * (1 + x)))


@implements(np.arctan)
@elementwise
def arctan(x):
    """Inverse tangent."""
    return np.arctan(x)


arctan.formula("out = arctan(x); dx = g / (1 + x^2)")


@arctan.vjp("x")
def _(g, x):
    root = np.hypot(1, x)  # sqrt(1 + x^2), where x^2 itself may be out of range
    return g / root / root


@implements(np.sinh)
@elementwise
def sinh(x):
    """Hyperbolic sine."""
    return np.sinh(x)


sinh.formula("out = (exp(x) - exp(-x)) / 2; dx = g · cosh(x)")
sinh.vjp(x=lambda g, x: g * np.cosh(x))


@implements(np.cosh)
@elementwise
def cosh(x):
    """Hyperbolic cosine."""
    return np.cosh(x)


cosh.formula("out = (exp(x) + exp(-x)) / 2; dx = g · sinh(x)")
cosh.vjp(x=lambda g, x: g * np.sinh(x))


@implements(np.tanh)
@elementwise
def tanh(x):
    """Hyperbolic tangent."""
    return np.tanh(x)


tanh.formula("out = 1 - 2 / (exp(2 · x) + 1); dx = g · (1 - tanh(x)^2)")
tanh.vjp(x=lambda g, out: g - g * out * out)


@implements(np.arcsinh)
@elementwise
def arcsinh(x):
    """Inverse hyperbolic sine."""
    return np.arcsinh(x)


arcsinh.formula("out = sign(x) · log(|x| + sqrt(x^2 + 1)); dx = g / sqrt(x^2 + 1)")
arcsinh.vjp(x=lambda g, x: g / np.hypot(1, x))  # sqrt(x^2 + 1), where x^2 may be out of range


@implements(np.arccosh)
@elementwise(domain={"x": (1.5, 3.0)})
def arccosh(x):
    """Inverse hyperbolic cosine."""
    return np.arccosh(x)


arccosh.formula("out = log(x + sqrt(x^2 - 1)); dx = g / sqrt(x^2 - 1)")
arccosh.vjp(x=lambda g, x: g / (np.sqrt(x - 1) * np.sqrt(x + 1)))


@implements(np.arctanh)
@elementwise(domain={"x": (-0.8, 0.8)})
def arctanh(x):
    """Inverse hyperbolic tangent."""
    return np.arctanh(x)


arctanh.formula("out = log((1 + x) / (1 - x)) / 2; dx = g / (1 - x^2)")
arctanh.vjp(x=lambda g, x: g / ((1 - x) * (1 + x)))


@implements(np.hypot)
@elementwise(domain={"x": (0.5, 2.0)})
def hypot(x, y):
    """Root of x^2 + y^2; the squares do not overflow."""
    return np.hypot(x, y)


hypot.formula("out = sqrt(x^2 + y^2); dx = g · x / out; dy = g · y / out")
hypot.vjp(x=lambda g, x, out: g * (x / out), y=lambda g, y, out: g * (y / out))


@implements(np.logaddexp)
@elementwise
def logaddexp(x, y):
    """log(e^x + e^y), without overflow."""
    return np.logaddexp(x, y)


logaddexp.formula(
    """
    m = max(x, y)
    out = m + log(exp(x - m) + exp(y - m))
    dx = g / (1 + exp(y - x))
    dy = g / (1 + exp(x - y))
    """
)
# exp(x - out) is 1 / (1 + e^(y - x)). In this form it is right where x or y is infinite, too.
logaddexp.vjp(
    x=lambda g, x, y: g * np.exp(-np.logaddexp(0, y - x)),
    y=lambda g, x, y: g * np.exp(-np.logaddexp(0, x - y)),
)


@implements(np.arctan2)
@elementwise(domain={"x": (0.5, 2.0)})
def arctan2(y, x):
    """Angle of the point (x, y), from -pi to pi; the gradient at (0, 0) is 0, as in PyTorch."""
    return np.arctan2(y, x)


arctan2.formula(
    """
    r = x^2 + y^2
    out = arctan2(y, x)
    dy = [r > 0] · (g · x / r)
    dx = [r > 0] · (-g · y / r)
    """
)


def radius(y, x):
    """Return the distance of (x, y) from (0, 0), and 1 at that point, so that nothing divides by 0.

    It squares nothing: x^2 may be out of range where the distance is not.
    """
    return np.hypot(x + (x == 0) * (y == 0), y)


@arctan2.vjp("y")
def _(g, y, x):
    r = radius(y, x)
    return g * (x / r) / r


@arctan2.vjp("x")
def _(g, y, x):
    r = radius(y, x)
    return -g * (y / r) / r


# ---- rounding: the gradient is 0 everywhere, as in PyTorch


@implements(np.floor)
@elementwise
def floor(x):
    """Largest integer that is at most x."""
    return np.floor(x)


@implements(np.ceil)
@elementwise
def ceil(x):
    """Smallest integer that is at least x."""
    return np.ceil(x)


@implements(np.trunc, np.fix)
@elementwise
def trunc(x):
    """X without its fraction: the nearest integer towards 0."""
    return np.trunc(x)


@implements(np.rint)
@elementwise
def rint(x):
    """Nearest integer; halfway between two integers, the even one."""
    return np.rint(x)


floor.formula("out = floor(x); dx = 0")
ceil.formula("out = ceil(x); dx = 0")
trunc.formula("out = trunc(x); dx = 0")
rint.formula("out = round(x); dx = 0")
for _rounding in (floor, ceil, trunc, rint):
    _rounding.vjp(x=lambda g: g * 0)


@floor.sample
@ceil.sample
@trunc.sample
@rint.sample
def _(draw):
    x = draw.array()
    x += 1 / 128  # away from the jumps, where no derivative exists
    return draw.call(x)


@implements(np.round, np.around)
def _(a, decimals=0):
    decimals = operator.index(decimals)
    if a.dtype.kind != "f":  # integers: they have no gradient, and the result keeps their dtype
        return new_tensor(np.round(a.numpy(), decimals))
    return rint(a) if decimals == 0 else rint(a * 10.0**decimals) / 10.0**decimals


# ---- choosing


@implements(np.maximum)
@elementwise
def maximum(x, y):
    """Larger of x and y; at a tie each gets half of the gradient, as in PyTorch."""
    return np.maximum(x, y)


@implements(np.minimum)
@elementwise
def minimum(x, y):
    """Smaller of x and y; at a tie each gets half of the gradient, as in PyTorch."""
    return np.minimum(x, y)


maximum.formula(
    "out = max(x, y); dx = g · ([x > y] + [x = y] / 2); dy = g · ([x < y] + [x = y] / 2)"
)
maximum.vjp(
    x=lambda g, x, y: np.where(x == y, g / 2, np.where(x > y, g, 0)),
    y=lambda g, x, y: np.where(x == y, g / 2, np.where(x < y, g, 0)),
)


minimum.formula(
    "out = min(x, y); dx = g · ([x < y] + [x = y] / 2); dy = g · ([x > y] + [x = y] / 2)"
)
minimum.vjp(
    x=lambda g, x, y: np.where(x == y, g / 2, np.where(x < y, g, 0)),
    y=lambda g, x, y: np.where(x == y, g / 2, np.where(x > y, g, 0)),
)


@maximum.sample
@minimum.sample
def _(draw):
    x, y = draw.arrays(2)
    return draw.call(x, np.where(abs(x - y) < 0.1, y + 0.3, y))  # away from ties


@elementwise
def clip(x, low=None, high=None):
    """Limit x to [low, high]; at a bound the gradient is that of x, as in PyTorch."""
    return np.clip(x, low, high)


@clip.formula
def _(low="low", high="high"):
    raised = "x" if low is None else "max(x, low)"
    inside = ["x ≥ low"] * (low is not None) + ["x ≤ high"] * (high is not None)
    return f"""
        out = {raised if high is None else f"min({raised}, high)"}
        dx = g{f" · [{' and '.join(inside)}]" if inside else ""}
        {"" if low is None else f"dlow = g · [x < low{'' if high is None else ' and low ≤ high'}]"}
        {"" if high is None else f"dhigh = g · [{raised} > high]"}
    """


def at_most(x, y):
    """Return whether x <= y, which is true if one of them is None, a missing bound."""
    return x is None or y is None or x <= y


clip.vjp(
    x=lambda g, x, low, high: np.where(at_most(low, x) & at_most(x, high), g, 0),
    low=lambda g, x, low, high: np.where((x < low) & at_most(low, high), g, 0),
    high=lambda g, x, low, high: np.where(at_most(low, high) & ~(x > high), 0, g),
)


@implements(np.clip, inputs=("a", "a_min", "a_max", "min", "max"))
def _(a, a_min=NOT_GIVEN, a_max=NOT_GIVEN, *, min=NOT_GIVEN, max=NOT_GIVEN):
    if a_min is a_max is NOT_GIVEN:
        return clip(a, None if min is NOT_GIVEN else min, None if max is NOT_GIVEN else max)
    if a_min is NOT_GIVEN or a_max is NOT_GIVEN:
        missing = "a_min" if a_min is NOT_GIVEN else "a_max"
        raise TypeError(f"np.clip: {missing} is missing; give None for no bound")
    if min is not NOT_GIVEN or max is not NOT_GIVEN:
        raise ValueError("np.clip: the bounds are given twice, as a_min, a_max and as min, max")
    return clip(a, a_min, a_max)


@clip.sample
def _(draw):
    x = draw.array(kinks=(-1.0, 1.0))
    bounds = draw.choice([(-1.0, 1.0), (None, 1.0), (-1.0, None), (1.0, -1.0)])
    if draw.boolean():
        shape = draw.choice([(), x.shape, (2, *x.shape)])
        bounds = (None if bound is None else np.full(shape, bound) for bound in bounds)
    return draw.call(x, *bounds)


@elementwise
def where(condition, x, y):
    """Choice: x where the condition holds, y elsewhere."""
    return np.where(condition, x, y)


where.formula(
    "out = [condition] · x + [condition = 0] · y; dx = g · [condition]; dy = g · [condition = 0]"
)
where.vjp(
    x=lambda g, condition: np.where(condition, g, 0),
    y=lambda g, condition: np.where(condition, 0, g),
)


@implements(np.where, inputs=("x", "y"), asks=("condition",))
def _(condition, x=NOT_GIVEN, y=NOT_GIVEN):
    if x is y is NOT_GIVEN:
        return np.nonzero(condition)
    if x is NOT_GIVEN or y is NOT_GIVEN:
        raise ValueError("where: either both or neither of x and y must be given")
    if x is None or y is None:
        raise NoRule("None among the choices")
    return where(condition, x, y)


@where.sample
def _(draw):
    condition, x, y = draw.arrays(3)
    return draw.call(condition > 0, x, y)


@op
def astype(x, dtype):
    """Convert to another floating-point dtype."""
    return x.astype(dtype)


astype.formula("out = x; dx = g")
astype.vjp(x=lambda g: g)  # the tape converts each gradient to the dtype of its input


@astype.sample
def _(draw):
    return draw.call(draw.array(), np.float64)
