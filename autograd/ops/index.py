"""Indexing, and its transpose."""

import numpy as np

from autograd.op import implements, op


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


# ---- NumPy's other ways to index, in terms of x[index]


@implements(np.take)
def _(a, indices, axis=None):
    if axis is None:
        return getitem(np.reshape(a, -1), indices)
    return getitem(a, (slice(None),) * (axis % np.ndim(a)) + (indices,))


@implements(np.take_along_axis)
def take_along_axis(arr, indices, axis=-1):
    """Pick, along an axis, other elements for each position on the other axes."""
    index = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    index[axis] = indices
    return getitem(arr, tuple(index))


@implements(np.sort)
def _(a, axis=-1):
    if axis is None:
        a, axis = np.reshape(a, -1), 0
    return take_along_axis(a, np.argsort(a.numpy(), axis, kind="stable"), axis)


@implements(np.repeat)
def _(a, repeats, axis=None):
    if axis is None:
        a, axis = np.reshape(a, -1), 0
    return np.take(a, np.repeat(np.arange(np.shape(a)[axis]), repeats), axis)


@implements(np.diagonal)
def _(a, offset=0, axis1=0, axis2=1):
    a = np.moveaxis(a, (axis1, axis2), (-2, -1))
    rows, columns = np.nonzero(np.eye(*np.shape(a)[-2:], offset, dtype=bool))
    return getitem(a, (..., rows, columns))


@implements(np.trace)
def _(a, offset=0, axis1=0, axis2=1):
    return np.diagonal(a, offset, axis1, axis2).sum(-1)
