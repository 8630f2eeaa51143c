"""Reductions over one axis, several, or all; sums and products so far; norms; histograms.

A group are the elements that are reduced to one: for shape (2, 3) and axis 1, there are two groups
of three elements. Rules first bring the cotangent to the input's shape (`restore`), and are
elementwise from there.
"""

import math
import operator
from functools import lru_cache

import numpy as np
from numpy import ndarray

from autograd.dispatch import METHODS, NOT_GIVEN, NUMPY, NoRule, plain
from autograd.engine import TensorBase
from autograd.op import implements, op
from autograd.ops.checks import check_axis, check_number
from autograd.precision import in_float, in_single

SMALL = 1024  # elements: of fewer, a copy takes less time than the view that np.broadcast_to makes


def restore(g, shape, axis, keepdims):
    """Return the cotangent of a reduction in the shape of its input.

    Every element gets the cotangent of its group: with shape (2, 3) and axis 1, g = [5, 7] becomes
    [[5, 5, 5], [7, 7, 7]].
    """
    if not keepdims:
        g = g.reshape(reduced_shape(shape, axis))
    if type(g) is ndarray and math.prod(shape) <= SMALL:
        out = np.empty(shape, g.dtype)
        out[...] = g
        return out
    return np.broadcast_to(g, shape)


def axes_of(shape, axis):
    """Return the axes that an ``axis`` argument names, counted from the front."""
    axes = range(len(shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return {a % len(shape) for a in axes} if shape else set()  # NumPy takes axis=0 of a number


def reduced_shape(shape, axis):
    """Return the shape after a reduction with `keepdims`."""
    return _reduced(shape, axis if axis is None or isinstance(axis, tuple) else int(axis))[0]


def group_size(shape, axis):
    """Return how many elements are reduced to one."""
    return _reduced(shape, axis if axis is None or isinstance(axis, tuple) else int(axis))[1]


@lru_cache(maxsize=4096)
def _reduced(shape, axis):
    axes = axes_of(shape, axis)
    reduced = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return reduced, math.prod(shape[i] for i in axes)


def sample_reduction(draw, **limits):
    """Draw an array, an axis (or axes, or None) and whether to keep reduced axes."""
    x = draw.array(**limits)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())


def reduction(op, function, ufunc, *also):
    """Declare that an op is NumPy's function, and the method ``reduce`` of a ufunc.

    `initial` and `where` are for programs that need them: `autograd.ops.masked` is imported then.
    """

    @implements(function, *also, inputs=("a", "initial"))
    def run(a, axis=None, *, keepdims=False, initial=NOT_GIVEN, where=True):
        if initial is NOT_GIVEN and where is True:
            return op(a, axis, keepdims)
        from autograd.ops.masked import reduce_some

        return reduce_some(function, a, axis, keepdims, initial, where)

    def reduce(array, axis=0, keepdims=False, initial=NOT_GIVEN, where=True):
        if initial is NOT_GIVEN and where is True:
            return op(array, axis, keepdims)
        # not function(...), which dispatches on `array` alone: `where` may be the tensor
        return NUMPY[function](array, axis, keepdims=keepdims, initial=initial, where=where)

    METHODS[ufunc, "reduce"] = reduce


@op
def sum_(x, axis=None, keepdims=False):
    """Sum over axes."""
    return np.add.reduce(x, axis=axis, keepdims=keepdims)


sum_.formula("out = Σ_i x_i; dx_i = g", along="axis")
sum_.vjp(x=lambda g, x_shape, axis, keepdims: restore(g, x_shape, axis, keepdims))
reduction(sum_, np.sum, np.add)
sum_.sample(sample_reduction)


@op
def mean(x, axis=None, keepdims=False):
    """Mean over axes."""
    if type(x) is ndarray and x.dtype.char in "fd" and x.size:  # as np.mean, with fewer calls
        total = np.add.reduce(x, axis=axis, keepdims=keepdims)
        return total / (x.size // total.size)
    return np.mean(x, axis=axis, keepdims=keepdims)


mean.formula("out = Σ_i x_i / n; dx_i = g / n", along="axis")


@mean.vjp("x")
def _(g, x_shape, axis, keepdims):
    return restore(g / group_size(x_shape, axis), x_shape, axis, keepdims)


@implements(np.mean)
def _(a, axis=None, *, keepdims=False, where=True):
    if where is True:
        return mean(a, axis, keepdims)
    from autograd.ops.masked import mean_of_some

    return mean_of_some(a, axis, keepdims, where)


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


max_.formula("out = max_i x_i; dx_i = g · [x_i = out] / Σ_j [x_j = out]", along="axis")
min_.formula("out = min_i x_i; dx_i = g · [x_i = out] / Σ_j [x_j = out]", along="axis")


@max_.vjp("x")
@min_.vjp("x")
def _(g, x, out, axis, keepdims):
    ties = x == np.reshape(out, reduced_shape(x.shape, axis))
    share = (ties / ties.sum(axis=axis, keepdims=True)).astype(x.dtype)
    return restore(g, x.shape, axis, keepdims) * share


reduction(max_, np.max, np.maximum, np.amax)
reduction(min_, np.min, np.minimum, np.amin)


@implements(np.ptp)
def _(a, axis=None, *, keepdims=False):
    return max_(a, axis, keepdims) - min_(a, axis, keepdims)


@max_.sample
@min_.sample
def _(draw):
    x = draw.array(min_side=1, low=0, high=0.125)
    x += 0.25 * np.arange(x.size).reshape(x.shape)  # no two are equal, in float32 either
    x[...] = draw.shuffled(x)
    return draw.call(x, draw.axes(x.ndim), draw.boolean())


@op
def var(x, axis=None, ddof=0, keepdims=False):
    """Variance over axes: the mean square distance from the mean, divided by n - ddof."""
    check_number("var", "ddof", ddof)
    return np.var(x, axis=axis, ddof=ddof, keepdims=keepdims)


var.formula(
    "m = mean_i x_i; out = (Σ_i (x_i - m)^2) / (n - ddof); dx_i = g · 2 · (x_i - m) / (n - ddof)",
    along="axis",
)


@var.vjp("x")
def _(g, x, axis, ddof, keepdims):
    count = group_size(x.shape, axis)
    return restore(g * 2 / (count - ddof), x.shape, axis, keepdims) * centred(x, axis)


def centred(x, axis):
    """Return the differences of elements from the mean of their group.

    The computed mean is rounded: of elements near 1e8 in float32 it may be wrong by 4, and then all
    differences are. So the mean of the differences, which should be 0, is subtracted as well.
    """
    x = x - np.mean(x, axis=axis, keepdims=True)
    return x - np.mean(x, axis=axis, keepdims=True)


@op
def std(x, axis=None, ddof=0, keepdims=False):
    """Root of the variance over axes; where it is 0 the gradient is 0, too, as in PyTorch."""
    check_number("std", "ddof", ddof)
    return np.std(x, axis=axis, ddof=ddof, keepdims=keepdims)


std.formula(
    """
    m = mean_i x_i
    s = sqrt((Σ_i (x_i - m)^2) / (n - ddof))
    out = s
    dx_i = [s > 0] · (g · (x_i - m) / (s · (n - ddof)))
    """,
    along="axis",
)


@std.vjp("x")
def _(g, x, axis, ddof, keepdims):
    count = group_size(x.shape, axis)
    # The gradient does not change if x is divided by a number, and then the squares stay in range.
    x = centred(x / magnitude(x, axis), axis)
    root = np.sqrt(np.sum(x * x, axis=axis, keepdims=True) / (count - ddof))
    g = np.reshape(g, root.shape)
    return g / ((root + (root == 0)) * (count - ddof)) * x


def magnitude(x, axis, largest=True):
    """Return, for each group, the largest power of two that is at most its largest |x|.

    For the group [3, -5] that is 4. The elements of a group, divided by this number, are below 2,
    so that their squares stay in range; and dividing by a power of two rounds nothing. With
    ``largest=False`` the smallest |x| counts. The number is 1 for a group of zeros, and for a group
    with infinity or NaN. The reduced axes are kept; the function has no derivative.
    """
    if x.size == 0:
        return 1
    size = (np.max if largest else np.min)(np.absolute(x), axis=axis, keepdims=True)
    size = np.where((size > 0) & (size < np.inf), size, 1)
    return np.exp2(np.floor(np.log2(size)))


def spread(op, function):
    """Declare what ``np.var`` or ``np.std`` does on tensors; `correction` also means `ddof`."""

    @implements(function, inputs=("a", "mean"))
    def run(a, axis=None, *, ddof=0, keepdims=False, where=True, mean=NOT_GIVEN, correction=None):
        if correction is not None and ddof != 0:
            raise ValueError(
                f"np.{op.name}: ddof and correction are two names of one argument; give one of them"
            )
        ddof = ddof if correction is None else correction
        if where is True and mean is NOT_GIVEN:
            return op(a, axis, ddof, keepdims)
        from autograd.ops.masked import spread_of_some

        return spread_of_some(function, a, axis, ddof, keepdims, where, mean)


spread(var, np.var)
spread(std, np.std)


@var.sample
@std.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), draw.integer(2, 3)), low=-0.5, high=0.5)
    x += 2 * np.arange(x.shape[-1])  # where all elements are equal, the root has no derivative
    return draw.call(x, -1, draw.integer(0, 1), draw.boolean())


# ---- sums and products so far, and products


@op
def cumsum(x, axis):
    """Sum of the elements so far, along an axis."""
    check_axis("cumsum", axis, x.ndim, "axis")
    return np.cumsum(x, axis)


cumsum.formula("out_i = Σ_j x_j · [j ≤ i]; dx_i = Σ_j g_j · [j ≥ i]", along="axis")
cumsum.vjp(x=lambda g, axis: np.flip(np.cumsum(np.flip(g, axis), axis), axis))


@op
def flip(x, axis=None):
    """Reverse the order of the elements along an axis, several, or all."""
    return np.flip(x, axis)


flip.formula("out_i = x_{n - 1 - i}; dx_i = g_{n - 1 - i}", along="axis")
flip.vjp(x=lambda g, axis: np.flip(g, axis))


def so_far(op):
    """Return what ``np.cumsum`` or the like does on tensors: without an axis, it flattens them."""

    def run(a, axis=None):
        flat = axis is None or np.ndim(a) == 0
        return op(np.reshape(a, -1) if flat else a, 0 if axis is None else axis)

    return run


def accumulation(op, ufunc):
    """Declare that an op is the method ``accumulate`` of a ufunc, as ``np.add.accumulate``."""

    def accumulate(array, axis=0):
        if np.ndim(array) == 0:
            raise TypeError(f"np.{ufunc.__name__}.accumulate: cannot accumulate on a scalar")
        return op(array, axis)

    METHODS[ufunc, "accumulate"] = accumulate


implements(np.cumsum)(so_far(cumsum))
accumulation(cumsum, np.add)
implements(np.flip)(lambda m, axis=None: flip(m, axis))


@op
def cumprod(x, axis):
    """Product of the elements so far, along an axis; the gradient is exact at zeros, too."""
    check_axis("cumprod", axis, x.ndim, "axis")
    return np.cumprod(x, axis)


cumprod.formula(
    """
    out_i = Π_j x_j^[j ≤ i]
    dx_i = Σ_k g_k · [k ≥ i] · Π_j x_j^[j ≤ k and j ≠ i]
    """,
    along="axis",
)


@cumprod.vjp("x")
def _(g, x, axis):
    """Return the gradient without dividing by an element, which may be 0.

    For [a, b, c], the outputs are a, ab, abc, and the gradient of b is a (g1 + c g2): the product
    of what stands before b, times s[1], with s[k] = g[k] + x[k+1] s[k+1].

    A loop over k would need n steps of Python. Doubling needs log2(n): after each step, g[k] holds
    the terms of s[k] from twice as many elements, and ``factor[k]`` the product of as many elements
    after k. At first g[k] = g[k] and factor[k] = x[k+1]; then g[k] + x[k+1] g[k+1] and
    x[k+1] x[k+2]; and so on. Hillis and Steele 1986, doi:10.1145/7902.7903.
    """
    g, x = np.moveaxis(g, axis, -1), np.moveaxis(x, axis, -1)  # (..., n)
    factor, step = x[..., 1:], 1
    while step < x.shape[-1]:
        g = np.concatenate([g[..., :-step] + factor * g[..., step:], g[..., -step:]], -1)
        factor = factor[..., :-step] * factor[..., step:]
        step *= 2
    return np.moveaxis(products_before(x) * g, -1, axis)


def products_before(x):
    """Return the product of all elements before each, on the last axis: [a, b, c] -> [1, a, ab]."""
    ones = np.ones((*x.shape[:-1], 1), x.dtype)
    return np.cumprod(np.concatenate([ones, x], -1)[..., :-1], -1)


implements(np.cumprod)(so_far(cumprod))
accumulation(cumprod, np.multiply)


@cumsum.sample
@cumprod.sample
@flip.sample
def _(draw):
    x = draw.array(min_dims=1)
    return draw.call(x, draw.axis(x.ndim))


@op
def prod(x, axis=None, keepdims=False):
    """Product over axes; the gradient is exact at zeros, too."""
    return np.multiply.reduce(x, axis=axis, keepdims=keepdims)


prod.formula("out = Π_i x_i; dx_i = g · Π_j x_j^[j ≠ i]", along="axis")


@prod.vjp("x")
def _(g, x, axis, keepdims):
    axes = tuple(sorted(axes_of(x.shape, axis)))
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(x, axes, last)
    flat = np.reshape(moved, (*moved.shape[: x.ndim - len(axes)], group_size(x.shape, axis)))
    others = products_before(flat) * np.flip(products_before(np.flip(flat, -1)), -1)
    others = np.moveaxis(np.reshape(others, moved.shape), last, axes)
    return restore(g, x.shape, axis, keepdims) * others


reduction(prod, np.prod, np.multiply)
prod.sample(sample_reduction)


# ---- logarithms of sums, and norms


@op
def logsumexp(input, dim, keepdim=False):
    """log(sum(exp(x))) over one axis or a tuple of axes, without overflow.

    Where all elements are -inf, so is the result, and the gradient is 0.
    """
    input = in_float(input)
    x = in_single(input)
    largest = np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    largest = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):  # log(0) = -inf is right
        out = np.log(np.sum(np.exp(x - largest), axis=dim, keepdims=True)) + largest
    out = out.astype(input.dtype, copy=False)
    return out if keepdim else np.squeeze(out, dim)


logsumexp.formula(
    """
    m = max_i input_i
    out = m + log(Σ_i exp(input_i - m))
    dinput_i = g · exp(input_i - m) / Σ_j exp(input_j - m)
    """,
    along="dim",
)


@logsumexp.vjp("input")
def _(g, input, dim, keepdim):
    g = restore(g, input.shape, dim, keepdim)
    if input.size == 0:
        return g
    # The gradient is softmax. exp(input - out) would be simpler, but out was rounded: with a
    # largest element of 1e6 in float32, it may be wrong by 0.03, and so the gradient by 3 %.
    largest = np.max(input, axis=dim, keepdims=True)
    # Any shift gives the same result; floor has a derivative of 0, so the tape takes it as a
    # constant.
    shift = np.floor(np.where(np.isfinite(largest), largest, 0))
    e = np.exp(input - shift)
    total = np.sum(e, axis=dim, keepdims=True)
    return g * (e / (total + (total == 0)))


@logsumexp.reference
def _(input, dim, keepdim):
    return np.log(np.sum(np.exp(input), axis=dim, keepdims=keepdim))


@logsumexp.sample
def _(draw):
    x = draw.array(min_dims=1, min_side=1)
    return draw.call(x, draw.axes(x.ndim) or 0, draw.boolean())


@op
def vector_norm(x, axis=None, keepdims=False, ord=2):
    """(sum |x|^ord)^(1/ord) over axes; for ord = inf or -inf the largest or smallest |x|.

    ord = 0 counts the elements that are not 0. Gradients are PyTorch's: 0 for an element that is 0,
    for all elements of a vector whose norm is 0, and for ord = 0. For inf and -inf, elements that
    tie share the gradient.
    """
    check_number("norm", "ord", ord)
    if axis is not None and not isinstance(axis, tuple):
        check_axis("norm", axis, x.ndim, "axis")
    return np.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=ord)


@vector_norm.formula(along="axis")
def _(ord=2):
    if ord == 0:
        return "out = Σ_i [x_i ≠ 0]; dx_i = 0"
    if abs(ord) == np.inf:
        biggest = "max" if ord > 0 else "min"
        return f"out = {biggest}_i |x_i|; dx_i = g · sign(x_i) · [|x_i| = out] / Σ_j [|x_j| = out]"
    return """
        r = (Σ_i |x_i|^ord)^(1 / ord)
        out = r
        dx_i = [x_i ≠ 0] · (g · sign(x_i) · (|x_i| / r)^(ord - 1))
    """


@vector_norm.vjp("x")
def _(g, x, out, axis, keepdims, ord):
    g = restore(g, x.shape, axis, keepdims)
    if ord == 0:
        return g * np.zeros(x.shape, x.dtype)
    if np.isinf(ord):
        ties = np.absolute(x) == restore(out, x.shape, axis, keepdims)
        share = (ties / ties.sum(axis=axis, keepdims=True)).astype(x.dtype)
        return g * np.sign(x) * share
    # The gradient does not change if x is divided by a number, and then no power leaves the range.
    z = x / magnitude(x, axis, ord > 0)
    norm = np.linalg.vector_norm(z, axis=axis, keepdims=True, ord=ord)
    ratio = z / (norm + (norm == 0))
    if ord == 2:
        return g * ratio
    # With a negative ord, one element of 0 makes the norm 0. Where x = 0, the power is taken of 1:
    # the sign is 0 there, and 0 times an infinite power would be NaN.
    sign = np.sign(x) * (norm != 0)
    return g * sign * (np.absolute(ratio) + (x == 0)) ** (ord - 1)


@vector_norm.sample
def _(draw):
    x = draw.array(min_side=1, low=0.5, high=0.625)
    x += 0.25 * np.arange(x.size).reshape(x.shape)  # no ties, no zeros
    x *= draw.choice([-1, 1])
    x[...] = draw.shuffled(x)
    return draw.call(
        x, draw.axes(x.ndim), draw.boolean(), draw.choice([2, 1, np.inf, -np.inf, 3, 0.5, -1, 0])
    )


@implements(np.linalg.vector_norm)
def _(x, *, axis=None, keepdims=False, ord=2):
    if axis is not None and not isinstance(axis, tuple):
        axis = operator.index(axis)  # True is 1
    return vector_norm(x, axis, keepdims, ord)


@implements(np.linalg.norm)
def norm(x, ord=None, axis=None, keepdims=False):
    """Norm of vectors or matrices, as ``np.linalg.norm``."""
    if axis is not None and not isinstance(axis, tuple):
        axis = operator.index(axis)
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if ord is not None and not isinstance(ord, str | float | int | np.number):
        raise NoRule(f"ord={ord!r}")
    if len(axes) == 1 or (ord is None and axis is None):
        return vector_norm(x, axis, keepdims, 2 if ord is None else ord)
    if len(axes) != 2:
        raise ValueError(f"norm: over {len(axes)} axes; expected one or two")
    if ord in (None, "fro"):
        return vector_norm(x, axes, keepdims)
    if ord in (1, -1, np.inf, -np.inf):  # the largest or smallest sum of a column, or of a row
        summed, along = axes if abs(ord) == 1 else axes[::-1]
        sums = np.sum(np.absolute(x), axis=summed, keepdims=True)
        choose = sum_ if ord > 0 and sums.shape[along] == 0 else max_ if ord > 0 else min_
        out = choose(sums, along, True)
        return out if keepdims else np.squeeze(out, axes)
    if ord in (2, -2, "nuc"):
        values = np.linalg.svdvals(np.moveaxis(x, axes, (-2, -1)))
        choose = (
            sum_
            if ord == "nuc" or (ord == 2 and values.shape[-1] == 0)
            else max_
            if ord == 2
            else min_
        )
        out = choose(values, -1)
        return np.reshape(out, reduced_shape(x.shape, axes)) if keepdims else out
    raise NoRule(f"ord={ord!r} over two axes")


@implements(np.linalg.matrix_norm)
def _(x, *, keepdims=False, ord="fro"):
    return norm(x, ord, (-2, -1), keepdims)


# ---- histograms: the counts are constants, while the edges of the bins depend on the data
#
# Without a given range, NumPy spaces the edges evenly from the smallest to the largest element. For
# data from 0 to 8 and 4 bins they are 0, 2, 4, 6, 8; if the largest element grows by 1, they move
# by 0, 1/4, 1/2, 3/4 and 1.


def moving(edges, x, bins, range):
    """Return the edges of bins on the tape, so that they have a gradient if the data has."""
    if np.ndim(bins):
        return bins
    if range is not None or not isinstance(x, TensorBase) or x.size == 0 or x.dtype.kind != "f":
        return edges
    share = np.linspace(0, 1, len(edges), dtype=edges.dtype)
    first, last = np.min(x), np.max(x)
    # x - plain(x) is 0, with a derivative of 1: adding it changes the gradient alone
    moved = (first - plain(first)) * (1 - share) + (last - plain(last)) * share
    return edges + moved


@implements(np.histogram_bin_edges, inputs=("a", "bins"), asks=("weights",))
def _(a, bins=10, range=None, weights=None):
    return moving(np.histogram_bin_edges(plain(a), plain(bins), range, weights), a, bins, range)


@implements(np.histogram, inputs=("a", "bins"))
def _(a, bins=10, range=None, density=None, weights=None):
    if density:
        raise NoRule("density=True")
    counts, edges = np.histogram(plain(a), plain(bins), range, weights=weights)
    return counts, moving(edges, a, bins, range)


@implements(np.histogramdd)
def histogramdd(sample, bins=10, range=None, density=None, weights=None):
    """Count points in bins over several axes: each column of an array is one, or each of a list."""
    if density:
        raise NoRule("density=True")
    counts, edges = np.histogramdd(plain(sample), bins, range, weights=weights)
    columns = sample if isinstance(sample, tuple | list) else np.atleast_2d(np.transpose(sample))
    bins = [bins] * len(edges) if np.ndim(bins) == 0 else bins
    range = [None] * len(edges) if range is None else range
    return counts, tuple(map(moving, edges, columns, bins, range))


@implements(np.histogram2d, inputs=("x", "y"))
def _(x, y, bins=10, range=None, density=None, weights=None):
    if len(x) != len(y):
        raise ValueError(f"histogram2d: x has length {len(x)}, and y {len(y)}")
    if isinstance(bins, np.ndarray) and bins.size > 2:  # the edges for both axes
        bins = [bins, bins]
    counts, edges = histogramdd([x, y], bins, range, density, weights)
    return counts, *edges
