"""Find the op that made a NaN, and repair the computation.

    python examples/05_find_a_nan.py

np.where chooses between two branches, but both branches are computed, and both have a gradient. The
gradient of the branch that was not chosen is multiplied by 0. If this gradient is infinite, the
product is NaN, because 0 times infinity is NaN.
"""

import numpy as np

import autograd

points = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])


def lengths(points):
    """Return the length of each row. At the origin the derivative of the root is infinite."""
    square = (points**2).sum(-1)
    return np.where(square > 0, np.sqrt(square), 0.0)


def mended(points):
    """Return the same, but replace 0 before the root, so that no derivative is infinite."""
    square = (points**2).sum(-1)
    return np.where(square > 0, np.sqrt(np.where(square > 0, square, 1.0)), 0.0)


x = autograd.tensor(points, requires_grad=True)
with np.errstate(all="ignore"):
    lengths(x).sum().backward()
print("The values are right:", lengths(points))
print("and the gradient is not:")
print(x.grad.numpy())

print("\nWho made it? `with autograd.detect_anomaly():` stops there:\n")
try:
    with np.errstate(all="ignore"), autograd.detect_anomaly():
        lengths(x).sum().backward()
except autograd.AnomalyError as error:
    print(error)

x.grad = None
with autograd.detect_anomaly():
    mended(x).sum().backward()
print("\nMended:")
print(x.grad.numpy())
