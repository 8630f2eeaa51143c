"""Write an op of your own, with its function, its rules and its formula, and test it.

    python examples/03_your_own_op.py

The op is the logarithm of the normal density, for a value, a mean and a standard deviation that
broadcast against each other.
"""

import math

import numpy as np

import autograd
from autograd.testing import check_op


@autograd.op(broadcasts=True, domain={"sigma": (0.5, 2.0)})
def log_normal(x, mu, sigma):
    """Logarithm of the normal density of mean mu and standard deviation sigma."""
    return -0.5 * ((x - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * math.log(2 * math.pi)


# Each input has a rule. A rule takes g, the derivative of the final result with respect to this
# op's output, and names the other values that it needs; the tape keeps these values only. You need
# not care about broadcasting: the engine sums the rule's result to the shape of the input.
log_normal.vjp(
    x=lambda g, x, mu, sigma: -g * (x - mu) / sigma**2,
    mu=lambda g, x, mu, sigma: g * (x - mu) / sigma**2,
    sigma=lambda g, x, mu, sigma: g * (((x - mu) / sigma) ** 2 - 1) / sigma,
)

# The same as a formula. People read it, and the tests check that the code agrees with it.
log_normal.formula(
    """
    z = (x - mu) / sigma
    out = -z^2 / 2 - log(sigma · sqrt(2 · π))
    dx = -g · z / sigma
    dmu = g · z / sigma
    dsigma = g · (z^2 - 1) / sigma
    """
)

print("The op:", log_normal)
print("\nIts formula:\n" + "\n".join("    " + line for line in str(log_normal.stated).split("\n")))

check_op(log_normal)
print("\nTested on inputs that hypothesis drew: values, first and second derivatives against")
print("numeric ones, float32, broadcasting, memory layouts, empty arrays, and the formula.")

# Use it: fit a normal distribution by its gradient.
data = np.random.default_rng(0).normal(3.0, 0.5, 1000)
mu = autograd.tensor(0.0, requires_grad=True)
log_sigma = autograd.tensor(0.0, requires_grad=True)
for step in range(301):
    loss = -np.mean(log_normal(data, mu, np.exp(log_sigma)))
    if step % 100 == 0:
        print(
            f"\nstep {step:3d}: loss {loss:.4f}, mu {mu:.4f}, sigma {np.exp(log_sigma):.4f}", end=""
        )
    loss.backward()
    with autograd.no_grad():
        for p in (mu, log_sigma):
            p -= 0.05 * p.grad
            p.grad = None
print(f"\n\nThe data's own: mean {data.mean():.4f}, standard deviation {data.std():.4f}.")
