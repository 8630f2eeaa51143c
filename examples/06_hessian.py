"""Compute a Hessian in three ways, and use it in Newton's method.

    python examples/06_hessian.py

The function is Rosenbrock's. Its minimum lies in a curved valley, where gradient descent is slow.
"""

import numpy as np

from autograd.functional import grad, hessian, hvp


def rosenbrock(x):
    """Sum of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; the minimum is at (1, 1, ...)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


x = np.array([-1.2, 1.0, 0.5])
H = hessian(rosenbrock)(x)
print("The Hessian at", x)
print(H.round(2))
print("symmetric:", np.allclose(H, H.T), "  eigenvalues:", np.linalg.eigvalsh(H).round(2))

# The Hessian times a vector takes two backward passes, whatever the size of the Hessian.
v = np.array([1.0, 0.0, -1.0])
print("\nH v by hvp:            ", hvp(rosenbrock, [x], [v])[0].round(6))
print("H v by the whole matrix:", (H @ v).round(6))
step = 1e-5
numeric = (grad(rosenbrock)(x + step * v) - grad(rosenbrock)(x - step * v)) / (2 * step)
print("H v by differences:     ", numeric.round(6))

print("\nNewton's method:")
for i in range(100):
    value, slope = rosenbrock(x), grad(rosenbrock)(x)
    if i % 4 == 0 or np.abs(slope).max() < 1e-10:
        print(f"  step {i:2d}: f = {value:.3e}, largest slope {np.abs(slope).max():.1e}")
    if np.abs(slope).max() < 1e-10:
        break
    H = hessian(rosenbrock)(x)
    H += max(0.0, 1e-3 - np.linalg.eigvalsh(H)[0]) * np.eye(len(x))  # downhill, also at a saddle
    direction, size = np.linalg.solve(H, slope), 1.0
    while rosenbrock(x - size * direction) > value - 1e-4 * size * slope @ direction:
        size /= 2
    x = x - size * direction
print("The minimum:", x)
