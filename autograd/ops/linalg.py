"""Matrix products."""

import math

import numpy as np

from autograd.op import implements, op


@implements(np.matmul)
@op(broadcasts=True)
def matmul(x, y):
    """Matrix product of the last two axes, batched over the others, as ``np.matmul``.

    Shapes ``(..., n, k) @ (..., k, m) -> (..., n, m)``; a vector on the left is a row, on the right
    a column.
    """
    if x.ndim > 2 and y.ndim == 2:  # one large product instead of a small one for each batch entry
        out = rows(x) @ y  # (..., n, k) -> (... n, k) @ (k, m)
        return out.reshape(*x.shape[:-1], y.shape[1])
    return np.matmul(x, y)


def rows(x):
    """Return an array as a matrix of its rows."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@matmul.vjp("x")
def _(g, y, x_shape):
    if y.ndim == 1:
        return g[..., None] * y  # (..., n, 1) * (k,)
    if len(x_shape) == 1:
        return (y @ g[..., None])[..., 0]  # (..., k, m) @ (..., m, 1)
    return g @ np.swapaxes(y, -1, -2)  # (..., n, m) @ (..., m, k)


@matmul.vjp("y")
def _(g, x, y_shape):
    if x.ndim == 1:
        return x * g[..., None] if len(y_shape) == 1 else x[:, None] * g[..., None, :]
    if len(y_shape) == 1:
        return (np.swapaxes(x, -1, -2) @ g[..., None])[..., 0]  # (..., k, n) @ (..., n, 1)
    if len(y_shape) == 2:
        return np.swapaxes(rows(x), 0, 1) @ rows(g)  # (k, ... n) @ (... n, m): sums over the batch
    return np.swapaxes(x, -1, -2) @ g  # (..., k, n) @ (..., n, m)


@matmul.sample
def _(draw):
    n, k, m = draw.integer(0, 3), draw.integer(1, 3), draw.integer(1, 3)
    batch_x, batch_y = draw.choice([((), ()), ((2,), ()), ((), (2,)), ((2, 1), (3,)), ((0,), ())])
    x, y = draw.choice(
        [((*batch_x, n, k), (*batch_y, k, m)), ((k,), (*batch_y, k, m)), ((*batch_x, n, k), (k,))]
        + [((k,), (k,))]
    )
    return draw.call(draw.array(shape=x), draw.array(shape=y))
