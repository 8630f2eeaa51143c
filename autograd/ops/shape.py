"""Ops that move elements without computing: shape, order, joining and splitting."""

import math
import operator

import numpy as np
from numpy import ndarray
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from autograd.dispatch import NOT_GIVEN, NoRule
from autograd.engine import TensorBase
from autograd.op import implements, op
from autograd.ops.index import MOVES, as_array, scatter
from autograd.pullback import sum_to_shape


@op
def reshape(x, shape):
    """Return the same elements in another shape; one entry may be -1."""
    return np.reshape(x, shape)


reshape.formula(MOVES, moves=True)
reshape.vjp(x=lambda g, x_shape: np.reshape(g, x_shape))


@implements(np.reshape)
def _(a, shape, order="C"):
    # In Fortran order, the first axis runs fastest, as the last does in C order. So the axes are
    # reversed, the array is reshaped in C order to the reversed shape, and reversed again.
    if order == "F":
        shape = shape if isinstance(shape, tuple | list) else (shape,)
        return transpose(reshape(transpose(a), tuple(shape)[::-1]))
    if order != "C":
        raise NoRule(f"order={order!r}")
    return reshape(a, shape)


implements(np.ravel)(lambda a, order="C": np.reshape(a, -1, order=order))


@reshape.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.choice([x.shape[::-1], (x.size,), (1, *x.shape), (*x.shape, 1)]))


@op
def transpose(x, axes=None):
    """Permute the axes; reverse them if no order is given."""
    return np.transpose(x, axes)


transpose.formula(MOVES, moves=True)


@transpose.vjp("x")
def _(g, axes):
    return np.transpose(g, None if axes is None else np.argsort(np.atleast_1d(axes) % g.ndim))


implements(np.transpose)(lambda a, axes=None: transpose(a, axes))


@transpose.sample
def _(draw):
    x = draw.array()
    return draw.call(x, draw.choice([None, tuple(draw.shuffled(np.arange(x.ndim)))]))


@op
def moveaxis(x, source, destination):
    """Move axes to other places; the others stay in their order."""
    return np.moveaxis(x, source, destination)


moveaxis.formula(MOVES, moves=True)
moveaxis.vjp(x=lambda g, source, destination: np.moveaxis(g, destination, source))
implements(np.moveaxis)(lambda a, source, destination: moveaxis(a, source, destination))


@moveaxis.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.axis(x.ndim), draw.axis(x.ndim))


@op
def roll(x, shift, axis=None):
    """Shift the elements along an axis; those that leave at the end enter in front.

    Without an axis, the elements are shifted in C order.
    """
    if np.asarray(shift).dtype.kind not in "iubf":  # of a shift of 1.5, NumPy takes the 1
        raise TypeError(f"roll: shift is {shift!r}; expected integers")
    return np.roll(x, shift, axis)


roll.formula(MOVES, moves=True)


@roll.vjp("x")
def _(g, shift, axis):
    return np.roll(g, -np.asarray(shift, dtype=int), axis)


implements(np.roll)(lambda a, shift, axis=None: roll(a, shift, axis))


@roll.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.integer(-4, 4), draw.choice([None, draw.axis(x.ndim)]))


@op
def pad(x, pad_width, constant_values=0):
    """Put constants around an array, (before, after) on each axis."""
    return np.pad(x, pad_width, constant_values=constant_values)


pad.formula(
    "out_k = Σ_i x_i · [at_k = i] + constant_values · [at_k < 0]; dx_i = Σ_k g_k · [at_k = i]",
    moves=True,
)


@pad.vjp("x")
def _(g, x_shape, pad_width):
    widths = widths_of(pad_width, len(x_shape))
    return g[tuple(slice(w[0], w[0] + n) for w, n in zip(widths, x_shape, strict=True))]


def widths_of(pad_width, ndim):
    """Return [before, after] for each axis; a dict has widths for some of the axes."""
    if isinstance(pad_width, dict):
        widths = np.zeros((ndim, 2), int)
        for axis, width in pad_width.items():
            widths[axis] = width
    else:
        widths = np.broadcast_to(pad_width, (ndim, 2))
    return widths.tolist()


@implements(np.pad)
def _(array, pad_width, mode="constant", **options):
    if mode == "constant" and options.keys() <= {"constant_values"}:
        return pad(array, pad_width, **options)
    from autograd.ops.padding import pad_with_elements

    return pad_with_elements(array, pad_width, mode, **options)


@pad.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.choice([2, (1, 0), ((0, 3),) * x.ndim]), 0.5)


@implements(np.tril)
def _(m, k=0):
    return np.where(np.tri(*np.shape(m)[-2:], k=k, dtype=bool), m, 0)


@implements(np.triu)
def _(m, k=0):
    return np.where(np.tri(*np.shape(m)[-2:], k=k - 1, dtype=bool), 0, m)


@op
def swapaxes(x, axis1, axis2):
    """Exchange two axes."""
    return np.swapaxes(x, axis1, axis2)


swapaxes.formula(MOVES, moves=True)
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


expand_dims.formula(MOVES, moves=True)
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


squeeze.formula(MOVES, moves=True)
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


broadcast_to.formula(MOVES, moves=True)
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


concatenate.formula(MOVES, moves=True)


@concatenate.vjp("arrays")
def _(g, arrays_shape, axis):
    ends = np.cumsum([shape[axis] for shape in arrays_shape])[:-1]
    return np.split(g, ends, axis)


@implements(np.concatenate)
def _(arrays, axis=0):
    if axis is None:
        arrays, axis = [np.reshape(x, -1) for x in arrays], 0
    return concatenate(*arrays, axis=axis)


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


stack.formula(MOVES, moves=True)


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


split.formula(MOVES, moves=True)


@split.vjp("x")
def _(g, x_shape, indices_or_sections, axis):
    axis = int(axis)  # as in NumPy, True is 1
    joined = side_by_side(g, x_shape, axis)
    if joined is None:
        joined = np.concatenate(g, axis)
    if joined.shape == x_shape:
        return joined
    # The parts do not make up x: for indices (2, 1), x[:2], x[2:1] and x[1:], element 1 is in two
    # of them. So each element of x gets the sum over the places where it stands in the parts.
    places = np.concatenate(np.split(np.arange(x_shape[axis]), indices_or_sections))
    return scatter(joined, (slice(None),) * (axis % len(x_shape)) + (places,), x_shape)


def side_by_side(parts, shape, axis):
    """Return the array of a shape that parts make up in memory as they lie there, or None.

    Attention writes the gradients of queries, keys and values side by side, as these lie if they
    are parts of one array: joining them then needs no copy.
    """
    base = getattr(parts[0], "base", None)
    if type(base) is not ndarray or not base.flags.c_contiguous or base.size != math.prod(shape):
        return None
    whole, place = base.reshape(shape), base.__array_interface__["data"][0]
    for part in parts:
        if (
            type(part) is not ndarray
            or part.base is not base
            or part.dtype != base.dtype
            or part.strides != whole.strides
            or part.__array_interface__["data"][0] != place
        ):
            return None
        place += part.shape[axis] * part.strides[axis]
    return whole if sum(part.shape[axis] for part in parts) == shape[axis] else None


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
    return draw.call(x, draw.choice([sections, (1, 2), (2, 1)]), axis)


# ---- NumPy's other ways to join, split and arrange, in terms of these


def at_least(ndim, shape_of):
    """Return what ``np.atleast_2d`` or the like does on tensors, from the shape that it makes."""

    def make(*arys):
        arrays = [x if isinstance(x, TensorBase) else np.asarray(x) for x in arys]
        found = [x if x.ndim >= ndim else np.reshape(x, shape_of(x.shape)) for x in arrays]
        return found[0] if len(found) == 1 else tuple(found)

    return make


implements(np.atleast_1d)(at_least(1, lambda shape: (1,)))
implements(np.atleast_2d)(at_least(2, lambda shape: (1, *(shape or (1,)))))
implements(np.atleast_3d)(at_least(3, lambda shape: (*((1, *shape)[-2:] if shape else (1, 1)), 1)))


@implements(np.hstack)
def _(tup):
    arrays = [np.atleast_1d(x) for x in tup]
    return np.concatenate(arrays, axis=0 if arrays[0].ndim == 1 else 1)


implements(np.vstack)(lambda tup: np.concatenate([np.atleast_2d(x) for x in tup], axis=0))
implements(np.dstack)(lambda tup: np.concatenate([np.atleast_3d(x) for x in tup], axis=2))


@implements(np.column_stack)
def _(tup):
    columns = [x if np.ndim(x) > 1 else np.reshape(x, (-1, 1)) for x in tup]
    return np.concatenate(columns, axis=1)


@implements(np.append, inputs=("arr", "values"))
def _(arr, values, axis=None):
    return np.concatenate([arr, values], axis)


@implements(np.array_split)
def _(ary, indices_or_sections, axis=0):
    if np.ndim(indices_or_sections) == 0:
        n = int(indices_or_sections)
        if n < 1:
            raise ValueError(f"array_split: {n} sections; expected 1 or more")
        size, longer = divmod(np.shape(ary)[axis], n)
        indices_or_sections = [i * size + min(i, longer) for i in range(1, n)]
    return np.split(ary, indices_or_sections, axis)


def split_along(axis_of, ndim):
    """Return what ``np.vsplit`` or the like does on tensors: it splits along one certain axis."""

    def split(ary, indices_or_sections):
        if np.ndim(ary) < ndim:
            raise ValueError(f"expected an array of at least {ndim} axes, got {np.ndim(ary)}")
        return np.split(ary, indices_or_sections, axis_of(np.ndim(ary)))

    return split


implements(np.vsplit)(split_along(lambda ndim: 0, 2))
implements(np.hsplit)(split_along(lambda ndim: min(ndim - 1, 1), 1))
implements(np.dsplit)(split_along(lambda ndim: 2, 3))

implements(np.fliplr)(lambda m: np.flip(m, 1))
implements(np.flipud)(lambda m: np.flip(m, 0))


@implements(np.rot90)
def _(m, k=1, axes=(0, 1)):
    first, second = normalize_axis_tuple(axes, np.ndim(m))  # raises if both are the same
    k %= 4
    if k % 2 == 0:
        return np.flip(m, (first, second)) if k else m
    return np.flip(swapaxes(m, first, second), first if k == 1 else second)


@implements(np.tile)
def _(A, reps):
    reps = tuple(map(operator.index, (reps,) if np.ndim(reps) == 0 else reps))
    shape = (1,) * (len(reps) - np.ndim(A)) + np.shape(A)
    reps = (1,) * (len(shape) - len(reps)) + reps
    # Each axis n is repeated by an axis before it: for shape (2, 3) and reps (4, 5), (1, 2, 1, 3)
    # is broadcast to (4, 2, 5, 3), and reshaped to (8, 15).
    apart = [size for n in shape for size in (1, n)]
    tiled = [size for pair in zip(reps, shape, strict=True) for size in pair]
    repeated = broadcast_to(reshape(A, tuple(apart)), tuple(tiled))
    return reshape(repeated, tuple(r * n for r, n in zip(reps, shape, strict=True)))


@implements(np.broadcast_arrays)
def _(*args):
    shape = np.broadcast_shapes(*map(np.shape, args))
    return tuple(np.broadcast_to(x, shape) for x in args)


@implements(np.diff, inputs=("a", "prepend", "append"))
def _(a, n=1, axis=-1, prepend=NOT_GIVEN, append=NOT_GIVEN):
    if n < 0:
        raise ValueError(f"diff: n is {n}; expected 0 or more")
    if n == 0:
        return a
    axis = normalize_axis_index(axis, np.ndim(a))
    before = (slice(None),) * axis
    if prepend is not NOT_GIVEN or append is not NOT_GIVEN:
        a = as_array(a)
        ends = [end if end is NOT_GIVEN else as_slice(end, a, axis) for end in (prepend, append)]
        a = np.concatenate([x for x in (ends[0], a, ends[1]) if x is not NOT_GIVEN], axis)
    minus = np.not_equal if a.dtype == bool else np.subtract
    for _ in range(n):
        a = minus(a[(*before, slice(1, None))], a[(*before, slice(None, -1))])
    return a


def as_slice(x, a, axis):
    """Return what stands before or behind an array on an axis; a number becomes one slice."""
    if np.ndim(x):
        return x
    return np.broadcast_to(x, (*a.shape[:axis], 1, *a.shape[axis + 1 :]))


@implements(np.copy)
def _(a, order="K"):
    np.empty(0).copy(order)  # raises for an unknown order
    return np.astype(a, a.dtype)


@implements(np.full_like, inputs=("fill_value",), asks=("a",))
def _(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    if not isinstance(fill_value, TensorBase):
        return np.full_like(a, fill_value, dtype, order, subok, shape, device=device)
    like = np.empty_like(a, dtype, order, subok, shape, device=device)
    extra = max(0, fill_value.ndim - like.ndim)
    if fill_value.shape[:extra] == (1,) * extra:  # NumPy removes such axes
        fill_value = np.reshape(fill_value, fill_value.shape[extra:])
    return np.broadcast_to(fill_value, like.shape).astype(like.dtype)
