"""Weighted means, covariances and quantiles, and reductions that leave out NaN."""

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from autograd.dispatch import NOT_GIVEN, plain
from autograd.ops.composing import array_of, composes
from autograd.ops.index import index_along, take_along_axis
from autograd.ops.reduce import reduced_shape

# ---- means and covariances


def along(weights, shape, axis):
    """Return weights of an axis, or of several, in a shape that broadcasts with the array."""
    if weights.shape == shape:
        return weights
    axes = normalize_axis_tuple(axis, len(shape))
    weights = np.transpose(weights, tuple(np.argsort(axes)))
    return np.reshape(weights, tuple(n if i in axes else 1 for i, n in enumerate(shape)))


@composes(np.average, inputs=("a", "weights"))
def average(a, axis=None, weights=None, returned=False, *, keepdims=False):
    """Return the weighted mean, and the sum of the weights if `returned`."""
    a = array_of(a)
    axis = None if axis is None else normalize_axis_tuple(axis, a.ndim)
    if weights is None:
        out = np.mean(a, axis, keepdims=keepdims)
        total = np.full(out.shape, a.size / max(out.size, 1))
    else:
        weights = along(array_of(weights), a.shape, axis)
        total = np.sum(weights, axis, keepdims=keepdims)
        out = np.sum(a * weights, axis, keepdims=keepdims) / total
    return (out, np.broadcast_to(total, out.shape)) if returned else out


@composes(np.cov, inputs=("m", "y", "aweights"))
def cov(m, y=None, rowvar=True, bias=False, ddof=None, fweights=None, aweights=None):
    """Return the covariances of variables, each of which is a row (or a column)."""
    x = np.atleast_2d(array_of(m)).astype(np.float64)  # as in NumPy; a vector is one variable
    if not rowvar and np.ndim(m) != 1:
        x = x.T
    if len(x) == 0:
        return np.zeros((0, 0))
    if y is not None:
        y = np.atleast_2d(array_of(y)).astype(np.float64)
        x = np.concatenate([x, y if rowvar or len(y) == 1 else y.T])
    # x is (variables, observations)
    ddof = (0 if bias else 1) if ddof is None else ddof
    weights = None if fweights is None else np.asarray(fweights, float)
    if aweights is not None:
        aweights = array_of(aweights)
        weights = aweights if weights is None else weights * aweights
    if weights is None:
        count, weights = x.shape[1] - ddof, np.ones(x.shape[1])
    else:
        total = count = np.sum(weights)
        if ddof:
            spent = 1 if aweights is None else np.sum(weights * aweights) / total
            count = total - ddof * spent
    x = x - average(x, 1, weights, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.squeeze((x * weights) @ x.T / np.where(count > 0, count, 0))


@composes(np.corrcoef, inputs=("x", "y"))
def _(x, y=None, rowvar=True):
    c = cov(x, y, rowvar)
    if c.ndim == 0:
        return c / c
    deviation = np.sqrt(np.diagonal(c))
    return np.clip(c / deviation[:, None] / deviation, -1, 1)


# ---- quantiles
#
# A quantile is an element of the sorted data, or lies between two of them that are neighbours. The
# quantile of the ranks 0, 1, 2, ... says where: 1.25 is between the elements 1 and 2, three times
# as close to the former. So NumPy's own function interprets the method and the weights.

# The methods that interpolate; the place in the sorted data is n q + alpha + q (1 - alpha - beta)
# - 1, as in Hyndman and Fan 1996, doi:10.1080/00031305.1996.10473566.
ALPHA_BETA = {
    "interpolated_inverted_cdf": (0, 1),
    "hazen": (1 / 2, 1 / 2),
    "weibull": (0, 0),
    "linear": (1, 1),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
}


def quantile(function, a, q, axis, method, keepdims, weights=None):
    """Return what ``np.quantile`` or ``np.nanquantile``, the function, does on tensors."""
    a, q = array_of(a), array_of(q)
    axes = tuple(range(a.ndim)) if axis is None else normalize_axis_tuple(axis, a.ndim)
    kept = reduced_shape(a.shape, axes)

    def flat(x):
        """Return an array with the reduced axes as the last: (..., n)."""
        moved = np.moveaxis(x, axes, tuple(range(-len(axes), 0)))
        return np.reshape(moved, (*moved.shape[: x.ndim - len(axes)], -1))

    if a.size == 0:
        return None  # NumPy's NaN, which has no gradient
    x = flat(a)
    order = np.argsort(x, -1, kind="stable")  # NaN comes last
    missing = np.isnan(x)
    ranks = np.where(missing, np.nan, np.argsort(order, -1))
    if weights is not None:
        shape = a.shape
        weights = flat(np.broadcast_to(along(np.asarray(weights), shape, axis), shape))
    place = function(ranks, plain(q), -1, method=method, weights=weights)  # (*q.shape, ...)
    place = np.where(np.isnan(place), x.shape[-1] - 1, place)  # an element that is NaN
    count = (
        np.sum(~missing, -1) if function is np.nanquantile else np.full(x.shape[:-1], x.shape[-1])
    )
    q = np.reshape(q, q.shape + (1,) * count.ndim)
    low = np.clip(np.floor(place), 0, np.maximum(count - 2, 0)).astype(int)
    share = place - low
    if method in ALPHA_BETA and weights is None:
        alpha, beta = ALPHA_BETA[method]
        slope = count + 1 - alpha - beta
        inside = plain(q) * slope + alpha - 1
        slope = np.where((inside >= 0) & (inside <= count - 1), slope, 0)
        share = share + slope * (q - plain(q))  # the added 0 has a derivative
    ordered = take_along_axis(x, order, -1)
    everywhere = index_along(0, -1, (*x.shape[:-1], 1))[:-1]
    lower, upper = (
        ordered[(*(i[..., 0] for i in everywhere), np.minimum(at, x.shape[-1] - 1))]
        for at in (low, low + 1)
    )
    out = lower * (1 - share) + upper * share
    out = np.where(np.isnan(out) & (share == 0), lower, out)  # infinity times 0
    out = np.where(np.isnan(out) & (share == 1), upper, out)
    return np.reshape(out, plain(q).shape[: q.ndim - count.ndim] + kept) if keepdims else out


def quantiles(function, ignores_nan, scale=1):
    """Declare a function of NumPy that takes quantiles; its q is this many times as large."""
    of_ranks = np.nanquantile if ignores_nan else np.quantile

    @composes(function, inputs=("a", "q"), asks=("weights",))
    def _(a, q, axis=None, *, method="linear", keepdims=False, weights=None):
        return quantile(of_ranks, a, array_of(q) / scale, axis, method, keepdims, weights)


quantiles(np.quantile, False)
quantiles(np.percentile, False, 100)
quantiles(np.nanquantile, True)
quantiles(np.nanpercentile, True, 100)


@composes(np.median)
def _(a, axis=None, *, keepdims=False):
    return quantile(np.quantile, a, 0.5, axis, "linear", keepdims)


@composes(np.nanmedian)
def _(a, axis=None, *, keepdims=False):
    return quantile(np.nanquantile, a, 0.5, axis, "linear", keepdims)


# ---- reductions that leave out NaN


def known(a, where=True):
    """Return which elements count."""
    return ~np.isnan(a) & where


@composes(np.nansum, inputs=("a", "initial"))
def nansum(a, axis=None, *, keepdims=False, initial=NOT_GIVEN, where=True):
    """Return the sum of the elements that count."""
    return np.sum(np.where(known(a, where), a, 0), axis, keepdims=keepdims, initial=initial)


@composes(np.nanprod, inputs=("a", "initial"))
def _(a, axis=None, *, keepdims=False, initial=NOT_GIVEN, where=True):
    return np.prod(np.where(known(a, where), a, 1), axis, keepdims=keepdims, initial=initial)


composes(np.nancumsum)(lambda a, axis=None: np.cumsum(np.where(known(a), a, 0), axis))
composes(np.nancumprod)(lambda a, axis=None: np.cumprod(np.where(known(a), a, 1), axis))


def count_known(a, axis, keepdims, where):
    """Return how many elements count, in each group."""
    return np.sum(np.broadcast_to(known(a, where), a.shape), axis, keepdims=keepdims)


@composes(np.nanmean)
def nanmean(a, axis=None, *, keepdims=False, where=True):
    """Return the mean of the elements that count."""
    total = nansum(a, axis, keepdims=keepdims, where=where)
    with np.errstate(invalid="ignore"):
        return total / count_known(a, axis, keepdims, where)


def spread(function):
    """Return what ``np.nanvar`` or ``np.nanstd`` does on tensors, from that of the differences."""

    def run(a, axis=None, *, ddof=0, keepdims=False, where=True, mean=NOT_GIVEN, correction=None):
        if mean is NOT_GIVEN:
            mean = nanmean(a, axis, keepdims=True, where=where)
        distance = np.where(known(a, where), a - mean, 0)
        freedom = count_known(a, axis, keepdims, where) - (
            ddof if correction is None else correction
        )
        return function(distance, axis, keepdims, np.where(freedom > 0, freedom, np.nan))

    return run


@spread
def nanvar(distance, axis, keepdims, freedom):
    """Return the variance, the mean square of the distances from the mean."""
    return np.sum(distance * distance, axis, keepdims=keepdims) / freedom


@spread
def nanstd(distance, axis, keepdims, freedom):
    """Return the root of the variance; where it is 0 the gradient is 0, as that of a norm."""
    return np.linalg.vector_norm(distance, axis=axis, keepdims=keepdims) / np.sqrt(freedom)


composes(np.nanvar, inputs=("a", "mean"))(nanvar)
composes(np.nanstd, inputs=("a", "mean"))(nanstd)


def extreme(function, worst):
    """Return what ``np.nanmax`` or ``np.nanmin`` does on tensors."""

    def run(a, axis=None, *, keepdims=False, initial=NOT_GIVEN, where=True):
        counts = known(a, where)
        found = np.any(counts, axis, keepdims=keepdims)
        if initial is not NOT_GIVEN:
            found = found | known(initial)
            initial = np.where(known(initial), initial, worst)
        out = function(np.where(counts, a, worst), axis, keepdims=keepdims, initial=initial)
        return np.where(found, out, np.nan)

    return run


composes(np.nanmax, inputs=("a", "initial"))(extreme(np.max, -np.inf))
composes(np.nanmin, inputs=("a", "initial"))(extreme(np.min, np.inf))
