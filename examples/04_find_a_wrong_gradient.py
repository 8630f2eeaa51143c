"""Find a wrong gradient with the checker, and read its report.

The function is root mean square normalization, as in many language models:

    y = x / r,    r = sqrt(mean(x^2) + eps)        over the last axis

Its gradient is derived by hand below, with a common mistake: the factor 1/n of the mean is missing.
"""

import numpy as np

import autograd
from autograd.testing import GradientError, check_op, check_vjp

EPS = 1e-5


def rms_scaled(x):
    """Divide by the root mean square over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS)


def forgetful(g, x):
    """Return the cotangent of x; a step of the derivation is wrong."""
    r = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS)
    y = x / r
    return (g - y * np.sum(g * y, axis=-1, keepdims=True)) / r  # sum, where it should be mean


def right(g, x):
    """Return the cotangent of x: one term from x, the other from r."""
    r = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS)
    y = x / r
    return (g - y * np.mean(g * y, axis=-1, keepdims=True)) / r


def verdict(check, *args):
    """Return what a check says."""
    try:
        check(*args)
    except GradientError as error:
        return str(error)
    return "no complaint"


x = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])

print("1. One number a row: is anything wrong?\n")
print(verdict(check_vjp, rms_scaled, forgetful, [x[:, :1]]))
print("""
Nothing: the mean of one number is its sum. A gradient is checked where its mistakes can show.

2. Three numbers a row
""")
print(verdict(check_vjp, rms_scaled, forgetful, [x]))
print("""
How to read it. The first lines name the worst element, what the hand-written gradient says there,
and what differences of the function say. Two numbers that differ do not yet tell which is wrong, so
the table repeats the comparison with smaller and smaller steps. Here the error is the same for all:
the differences agree with each other, and not with the gradient. With a kink, or with noise in the
function, the table has another shape, and the line below it says so.

The line "likely" names the step with the mistake. The function uses x twice: as the numerator, and
in x * x under the root. The term of the second use is three times too large, and three is the
length of an axis: a sum, where there should be a mean. The line is there only if such a mistake
explains every element of the gradient.

The last lines are a test. Paste it into a file of tests, below the two functions, and keep it.

3. With the mean
""")
print("  by hand:", verdict(check_vjp, rms_scaled, right, [x]))

# As an op the rule is tested for empty arrays, orders in memory, precisions and second derivatives.
op = autograd.op(rms_scaled)
op.vjp(x=right)
op.sample(lambda draw: draw.call(draw.array(shape=(*draw.shape(max_dims=2), 3), low=0.25)))
print("  as an op, with the whole suite:", verdict(check_op, op))
