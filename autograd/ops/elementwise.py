"""Elementwise ops. Inputs broadcast; the tape undoes that, so no rule here mentions it."""

import functools

import numpy as np

from autograd.op import op

elementwise = functools.partial(op, broadcasts=True)


# ---- arithmetic


@elementwise
def add(x, y):
    """X + y."""
    return np.add(x, y)


add.vjp(x=lambda g: g, y=lambda g: g)


@elementwise
def subtract(x, y):
    """X - y."""
    return np.subtract(x, y)


subtract.vjp(x=lambda g: g, y=lambda g: -g)


@elementwise
def multiply(x, y):
    """X y."""
    return np.multiply(x, y)


multiply.vjp(x=lambda g, y: g * y, y=lambda g, x: g * x)


@elementwise(domain={"y": (0.5, 2.0)})
def divide(x, y):
    """X / y."""
    return np.divide(x, y)


divide.vjp(x=lambda g, y: g / y, y=lambda g, y, out: -g * out / y)


@elementwise(domain={"x": (0.5, 2.0)})
def power(x, y):
    """X to the power of y. At x = 0 the gradient of y is 0, as in PyTorch."""
    return np.power(x, y)


power.vjp(
    x=lambda g, x, y: g * (y * (x + (x == 0) * (y == 0)) ** (y - 1)),  # no 0 * infinity at 0^0
    y=lambda g, x, out: g * (out * np.log(x + (x == 0))),
)


@elementwise
def negative(x):
    """-x."""
    return np.negative(x)


negative.vjp(x=lambda g: -g)


@elementwise(kinks=(0.0,))
def absolute(x):
    """|x|; the gradient at 0 is 0."""
    return np.absolute(x)


absolute.vjp(x=lambda g, x: g * np.sign(x))


@elementwise
def square(x):
    """X squared."""
    return np.square(x)


square.vjp(x=lambda g, x: g * (2 * x))


# ---- functions


@elementwise
def exp(x):
    """E to the power of x."""
    return np.exp(x)


exp.vjp(x=lambda g, out: g * out)


@elementwise(domain={"x": (0.5, 2.0)})
def log(x):
    """Natural logarithm."""
    return np.log(x)


log.vjp(x=lambda g, x: g / x)


@elementwise(domain={"x": (0.5, 2.0)})
def sqrt(x):
    """Square root."""
    return np.sqrt(x)


sqrt.vjp(x=lambda g, out: g / (2 * out))


@elementwise
def sin(x):
    """Sine."""
    return np.sin(x)


sin.vjp(x=lambda g, x: g * np.cos(x))


@elementwise
def cos(x):
    """Cosine."""
    return np.cos(x)


cos.vjp(x=lambda g, x: -g * np.sin(x))


@elementwise
def tanh(x):
    """Hyperbolic tangent."""
    return np.tanh(x)


tanh.vjp(x=lambda g, out: g * (1 - out * out))


# ---- choosing


@elementwise
def maximum(x, y):
    """Larger of x and y; at a tie each gets half of the gradient, as in PyTorch."""
    return np.maximum(x, y)


maximum.vjp(
    x=lambda g, x, y: np.where(x == y, g / 2, np.where(x > y, g, 0)),
    y=lambda g, x, y: np.where(x == y, g / 2, np.where(x < y, g, 0)),
)


@maximum.sample
def _(draw):
    x, y = draw.arrays(2)
    return draw.call(x, np.where(abs(x - y) < 0.1, y + 0.3, y))  # away from ties


@elementwise
def where(condition, x, y):
    """X where the condition holds, y elsewhere."""
    return np.where(condition, x, y)


where.vjp(
    x=lambda g, condition: np.where(condition, g, 0),
    y=lambda g, condition: np.where(condition, 0, g),
)


@where.sample
def _(draw):
    condition, x, y = draw.arrays(3)
    return draw.call(condition > 0, x, y)


@op
def astype(x, dtype):
    """Convert to another floating-point dtype."""
    return x.astype(dtype)


astype.vjp(x=lambda g: g)  # the tape converts back


@astype.sample
def _(draw):
    return draw.call(draw.array(), np.float64)
