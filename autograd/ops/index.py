"""Indexing, and its transpose."""

import numpy as np

from autograd.op import op


@op
def getitem(x, index):
    """x[index], in NumPy's full semantics."""
    return x[index]


getitem.vjp(x=lambda g, index, x_shape: scatter(g, index, x_shape))


@getitem.sample
def _(draw):
    x = draw.array(min_dims=1, min_side=1)
    n = x.shape[0]
    indices = [
        0,
        -1,
        slice(None, None, -1),
        slice(0, n, 2),
        (..., 0),
        (None, slice(1, None)),
        np.array([0, 0, n - 1]),  # a repeated element gathers both gradients
        [n - 1, 0],
        np.arange(n) % 2 == 0,
        (np.array([[0], [n - 1]]), ...),
    ]
    return draw.call(x, draw.choice(indices))


@op
def scatter(values, index, shape):
    """Return zeros of a shape with ``values`` added at an index, repeated elements included."""
    out = np.zeros(shape, values.dtype)
    if is_basic(index):
        out[index] = values
    else:
        np.add.at(out, index, values)
    return out


scatter.vjp(values=lambda g, index: g[index])


@scatter.sample
def _(draw):
    shape = draw.shape(min_dims=1, min_side=1)
    index = draw.choice([0, slice(None, None, 2), np.array([0, 0, shape[0] - 1])])
    return draw.call(draw.array(shape=np.zeros(shape)[index].shape), index, shape)


def is_basic(index):
    """Return whether an index only slices, and so names no element twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or (isinstance(part, slice | int | np.integer) and not isinstance(part, bool))
        for part in parts
    )
