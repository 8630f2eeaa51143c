"""Reductions over one axis, several, or all."""

import math

import numpy as np

from autograd.op import implements, op


def restore(g, shape, axis, keepdims):
    """Return a reduction's cotangent with the input's shape: every element gets its group's."""
    if not keepdims:
        g = np.reshape(g, reduced_shape(shape, axis))
    return np.broadcast_to(g, shape)


def axes_of(shape, axis):
    """Return the axes that an ``axis`` argument names, counted from the front."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return {a % len(shape) for a in axes}


def reduced_shape(shape, axis):
    """Return the shape after a reduction with `keepdims`."""
    axes = axes_of(shape, axis)
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def group_size(shape, axis):
    """Return how many elements are reduced to one."""
    return math.prod(shape[i] for i in axes_of(shape, axis))


def sample_reduction(draw, **limits):
    """Draw an array, an axis (or axes, or None) and whether to keep reduced axes."""
    x = draw.array(**limits)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())


@op
def sum_(x, axis=None, keepdims=False):
    """Sum over axes."""
    return np.add.reduce(x, axis=axis, keepdims=keepdims)


sum_.vjp(x=lambda g, x_shape, axis, keepdims: restore(g, x_shape, axis, keepdims))
implements(np.sum)(lambda a, axis=None, *, keepdims=False: sum_(a, axis, keepdims))
sum_.sample(sample_reduction)


@op
def mean(x, axis=None, keepdims=False):
    """Mean over axes."""
    return np.mean(x, axis=axis, keepdims=keepdims)


@mean.vjp("x")
def _(g, x_shape, axis, keepdims):
    return restore(g / group_size(x_shape, axis), x_shape, axis, keepdims)


implements(np.mean)(lambda a, axis=None, *, keepdims=False: mean(a, axis, keepdims))


@mean.sample
def _(draw):
    return sample_reduction(draw, min_side=1)


@op
def max_(x, axis=None, keepdims=False):
    """Largest element over axes; elements that tie share the gradient, as in PyTorch's amax."""
    return np.max(x, axis=axis, keepdims=keepdims)


@op
def min_(x, axis=None, keepdims=False):
    """Smallest element over axes; elements that tie share the gradient, as in PyTorch's amin."""
    return np.min(x, axis=axis, keepdims=keepdims)


@max_.vjp("x")
@min_.vjp("x")
def _(g, x, out, axis, keepdims):
    ties = x == np.reshape(out, reduced_shape(x.shape, axis))
    share = (ties / ties.sum(axis=axis, keepdims=True)).astype(x.dtype)
    return restore(g, x.shape, axis, keepdims) * share


implements(np.max, np.amax)(lambda a, axis=None, *, keepdims=False: max_(a, axis, keepdims))
implements(np.min, np.amin)(lambda a, axis=None, *, keepdims=False: min_(a, axis, keepdims))


@max_.sample
@min_.sample
def _(draw):
    x = draw.array(min_side=1, low=0, high=0.125)
    x += 0.25 * np.arange(x.size).reshape(x.shape)  # no ties, in float32 neither
    x[...] = draw.shuffled(x)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())


@op
def var(x, axis=None, ddof=0, keepdims=False):
    """Variance over axes: the mean square distance from the mean, divided by n - ddof."""
    return np.var(x, axis=axis, ddof=ddof, keepdims=keepdims)


@var.vjp("x")
def _(g, x, axis, ddof, keepdims):
    count = group_size(x.shape, axis)
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return restore(g * 2 / (count - ddof), x.shape, axis, keepdims) * centred


@op
def std(x, axis=None, ddof=0, keepdims=False):
    """Root of the variance over axes."""
    return np.std(x, axis=axis, ddof=ddof, keepdims=keepdims)


@std.vjp("x")
def _(g, x, out, axis, ddof, keepdims):
    count = group_size(x.shape, axis)
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return restore(g / (out * (count - ddof)), x.shape, axis, keepdims) * centred


@implements(np.var)
def _(a, axis=None, *, ddof=0, keepdims=False):
    return var(a, axis, ddof, keepdims)


@implements(np.std)
def _(a, axis=None, *, ddof=0, keepdims=False):
    return std(a, axis, ddof, keepdims)


@var.sample
@std.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), draw.integer(2, 3)), low=-0.5, high=0.5)
    x += 2 * np.arange(x.shape[-1])  # the root has no derivative where all are equal
    return draw.call(x, -1, draw.integer(0, 1), draw.boolean())


@op
def cumsum(x, axis):
    """Sum of the elements so far, along an axis."""
    return np.cumsum(x, axis)


cumsum.vjp(x=lambda g, axis: np.flip(np.cumsum(np.flip(g, axis), axis), axis))


@op
def flip(x, axis=None):
    """Reverse the order of the elements along an axis, several, or all."""
    return np.flip(x, axis)


flip.vjp(x=lambda g, axis: np.flip(g, axis))


implements(np.cumsum)(lambda a, axis=None: a.cumsum(axis))
implements(np.flip)(lambda m, axis=None: flip(m, axis))


@cumsum.sample
@flip.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.axis(x.ndim))
