"""The functions of ``np.linalg`` that few programs call."""

import numpy as np
import pytest

import autograd
from autograd.testing import gradcheck, gradgradcheck

normal = np.random.default_rng(3).standard_normal


def dominated(*shape):
    """An array whose elements are those of a matrix with a dominating diagonal."""
    n = round(np.prod(shape) ** 0.5)
    return (normal((n, n)) / n + 2 * np.eye(n)).reshape(shape)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (np.linalg.tensorinv, [(2, 3, 6)]),
        (lambda a: np.linalg.tensorinv(a, 1), [(6, 3, 2)]),
        (np.linalg.tensorsolve, [(6, 2, 3), (6,)]),
        (np.linalg.tensorsolve, [(2, 3, 3, 2), (2, 3)]),
        (lambda a, b: np.linalg.tensorsolve(a, b, (0, 2)), [(2, 6, 3), (6,)]),
    ],
)
def test_compositions(function, shapes):
    inputs = [dominated(*shapes[0]), *map(normal, shapes[1:])]
    found = function(*(autograd.tensor(x, requires_grad=True) for x in inputs))
    np.testing.assert_allclose(found.detach().numpy(), function(*inputs), rtol=1e-12)
    assert gradcheck(function, inputs) and gradgradcheck(function, inputs)
