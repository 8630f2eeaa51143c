"""Ops that move elements without computing: shape, order, joining and splitting."""

import numpy as np

from autograd.op import implements, op, sum_to_shape


@op
def reshape(x, shape):
    """Return the same elements in another shape; one entry may be -1."""
    return np.reshape(x, shape)


reshape.vjp(x=lambda g, x_shape: np.reshape(g, x_shape))


implements(np.reshape)(lambda a, shape: reshape(a, shape))


@reshape.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.choice([x.shape[::-1], (x.size,), (1, *x.shape), (*x.shape, 1)]))


@op
def transpose(x, axes=None):
    """Permute the axes; reverse them if no order is given."""
    return np.transpose(x, axes)


@transpose.vjp("x")
def _(g, axes):
    return np.transpose(g, None if axes is None else np.argsort([a % len(axes) for a in axes]))


implements(np.transpose)(lambda a, axes=None: transpose(a, axes))


@transpose.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.choice([None, tuple(draw.shuffled(np.arange(x.ndim)))]))


implements(np.ravel)(lambda a: reshape(a, (-1,)))


@op
def moveaxis(x, source, destination):
    """Move axes to other places; the others stay in their order."""
    return np.moveaxis(x, source, destination)


moveaxis.vjp(x=lambda g, source, destination: np.moveaxis(g, destination, source))
implements(np.moveaxis)(lambda a, source, destination: moveaxis(a, source, destination))


@moveaxis.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.axis(x.ndim), draw.axis(x.ndim))


@op
def roll(x, shift, axis=None):
    """Shift the elements along an axis, or in order; what leaves at the end enters in front."""
    return np.roll(x, shift, axis)


@roll.vjp("x")
def _(g, shift, axis):
    return np.roll(g, tuple(-s for s in shift) if isinstance(shift, tuple) else -shift, axis)


implements(np.roll)(lambda a, shift, axis=None: roll(a, shift, axis))


@roll.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.integer(-4, 4), draw.choice([None, draw.axis(x.ndim)]))


@op
def pad(x, pad_width, constant_values=0):
    """Put constants around an array, (before, after) on each axis."""
    return np.pad(x, pad_width, constant_values=constant_values)


@pad.vjp("x")
def _(g, x_shape, pad_width):
    widths = np.broadcast_to(pad_width, (len(x_shape), 2))
    return g[tuple(slice(w[0], w[0] + n) for w, n in zip(widths.tolist(), x_shape, strict=True))]


@implements(np.pad)
def _(array, pad_width, mode="constant", *, constant_values=0):
    if mode != "constant":
        raise TypeError(f"np.pad on a tensor: mode {mode!r} has no derivative here, 'constant' has")
    return pad(array, pad_width, constant_values)


@pad.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.choice([2, (1, 0), ((0, 3),) * x.ndim]), 0.5)


@implements(np.tril)
def _(m, k=0):
    n_rows, n_columns = np.shape(m)[-2:]
    return np.where(np.tri(n_rows, n_columns, k, dtype=bool), m, 0)


@implements(np.triu)
def _(m, k=0):
    n_rows, n_columns = np.shape(m)[-2:]
    return np.where(np.tri(n_rows, n_columns, k - 1, dtype=bool), 0, m)


@op
def swapaxes(x, axis1, axis2):
    """Exchange two axes."""
    return np.swapaxes(x, axis1, axis2)


swapaxes.vjp(x=lambda g, axis1, axis2: np.swapaxes(g, axis1, axis2))


implements(np.swapaxes)(lambda a, axis1, axis2: swapaxes(a, axis1, axis2))


@swapaxes.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.axis(x.ndim), draw.axis(x.ndim))


@op
def expand_dims(x, axis):
    """Insert axes of size 1."""
    return np.expand_dims(x, axis)


expand_dims.vjp(x=lambda g, x_shape: np.reshape(g, x_shape))


implements(np.expand_dims)(lambda a, axis: expand_dims(a, axis))


@expand_dims.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.axis(x.ndim + 1))


@op
def squeeze(x, axis=None):
    """Remove axes of size 1."""
    return np.squeeze(x, axis)


squeeze.vjp(x=lambda g, x_shape: np.reshape(g, x_shape))


implements(np.squeeze)(lambda a, axis=None: squeeze(a, axis))


@squeeze.sample
def _(draw):
    x = draw.array()
    axis = draw.axis(x.ndim + 1)
    return draw.call(np.expand_dims(x, axis), draw.choice([axis, None]))


@op
def broadcast_to(x, shape):
    """Repeat along axes of size 1, and along new leading axes, without copying."""
    return np.broadcast_to(x, shape)


broadcast_to.vjp(x=lambda g, x_shape: sum_to_shape(g, x_shape))


implements(np.broadcast_to)(lambda array, shape: broadcast_to(array, shape))


@broadcast_to.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.choice([x.shape, (2, *x.shape), (3, 1, *x.shape)]))


@op
def concatenate(*arrays, axis=0):
    """Join arrays along an axis that exists."""
    return np.concatenate(arrays, axis=axis)


@concatenate.vjp("arrays")
def _(g, arrays_shape, axis):
    ends = np.cumsum([shape[axis] for shape in arrays_shape])[:-1]
    return np.split(g, ends, axis)


implements(np.concatenate)(lambda arrays, axis=0: concatenate(*arrays, axis=axis))


@concatenate.sample
def _(draw):
    shape = draw.shape(min_dims=1)
    axis = draw.axis(len(shape))

    def part():
        sizes = list(shape)
        sizes[axis] = draw.integer(0, 3)
        return draw.array(shape=tuple(sizes))

    return draw.call(part(), part(), part(), axis=axis)


@op
def stack(*arrays, axis=0):
    """Join arrays of one shape along a new axis."""
    return np.stack(arrays, axis=axis)


@stack.vjp("arrays")
def _(g, arrays_shape, axis):
    parts = np.split(g, len(arrays_shape), axis)
    return [np.reshape(part, shape) for part, shape in zip(parts, arrays_shape, strict=True)]


implements(np.stack)(lambda arrays, axis=0: stack(*arrays, axis=axis))


@stack.sample
def _(draw):
    shape = draw.shape()
    axis = draw.axis(len(shape) + 1)
    return draw.call(draw.array(shape=shape), draw.array(shape=shape), axis=axis)


@op(multiple=True)
def split(x, indices_or_sections, axis=0):
    """Split into parts: equal sections, or at the given indices."""
    return np.split(x, indices_or_sections, axis)


split.vjp(x=lambda g, axis: np.concatenate(g, axis))


@implements(np.split)
def _(ary, indices_or_sections, axis=0):
    return list(split(ary, indices_or_sections, axis))


@split.sample
def _(draw):
    shape = draw.shape(min_dims=1)
    axis = draw.axis(len(shape))
    sections = draw.integer(1, 3)
    sizes = list(shape)
    sizes[axis] *= sections
    x = draw.array(shape=tuple(sizes))
    return draw.call(x, draw.choice([sections, (1, 2)]), axis)
