"""Reductions over one axis, several, or all."""

import numpy as np

from autograd.op import op


def restore(g, shape, axis, keepdims):
    """Return a reduction's cotangent with the input's shape: every element gets its group's."""
    if not keepdims:
        g = np.reshape(g, reduced_shape(shape, axis))
    return np.broadcast_to(g, shape)


def reduced_shape(shape, axis):
    """Return the shape after a reduction with `keepdims`."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = {a % len(shape) for a in axes}
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def sample_reduction(draw, **limits):
    """Draw an array, an axis (or axes, or None) and whether to keep reduced axes."""
    x = draw.array(**limits)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())


@op
def sum_(x, axis=None, keepdims=False):
    """Sum over axes."""
    return np.add.reduce(x, axis=axis, keepdims=keepdims)


sum_.vjp(x=lambda g, x_shape, axis, keepdims: restore(g, x_shape, axis, keepdims))
sum_.sample(sample_reduction)


@op
def mean(x, axis=None, keepdims=False):
    """Mean over axes."""
    return np.mean(x, axis=axis, keepdims=keepdims)


@mean.vjp("x")
def _(g, x_shape, axis, keepdims):
    count = int(np.prod(x_shape)) // max(1, g.size)
    return restore(g / count, x_shape, axis, keepdims)


@mean.sample
def _(draw):
    return sample_reduction(draw, min_side=1)


@op
def max_(x, axis=None, keepdims=False):
    """Largest element over axes; elements that tie share the gradient, as in PyTorch's amax."""
    return np.max(x, axis=axis, keepdims=keepdims)


@max_.vjp("x")
def _(g, x, out, axis, keepdims):
    shape = reduced_shape(x.shape, axis)
    ties = x == np.reshape(out, shape)
    share = (ties / ties.sum(axis=axis, keepdims=True)).astype(x.dtype)
    return restore(g, x.shape, axis, keepdims) * share


@max_.sample
def _(draw):
    x = draw.array(min_side=1)
    x += 0.2 * np.arange(x.size).reshape(x.shape)  # no ties
    x[...] = draw.shuffled(x)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())
