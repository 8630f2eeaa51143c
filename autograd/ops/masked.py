"""Reductions of the elements that ``where=`` selects, which may begin at ``initial=``.

NumPy's function runs first, on plain arrays: it raises NumPy's errors, and says which dtype the
result has. What the other elements are replaced by changes nothing: 0 in a sum, 1 in a product.
"""

import numpy as np

from autograd.dispatch import NOT_GIVEN, as_tensors, plain, requires_gradient
from autograd.modes import is_grad_enabled
from autograd.ops.index import as_array
from autograd.ops.reduce import group_size, max_, min_, prod, sum_, vector_norm
from autograd.precision import in_single

# The op, what the elements that do not count become, and how `initial` is combined with the result
REDUCTIONS = {
    np.sum: (sum_, 0.0, np.add),
    np.prod: (prod, 1.0, np.multiply),
    np.max: (max_, -np.inf, np.maximum),
    np.min: (min_, np.inf, np.minimum),
}


def reduce_some(function, a, axis, keepdims, initial, where):
    """Return ``np.sum``, ``np.prod``, ``np.max`` or ``np.min`` of some elements."""
    options = {} if initial is NOT_GIVEN else {"initial": initial}
    expected = function(plain(a), axis, keepdims=keepdims, where=where, **plain(options))
    if not (is_grad_enabled() and requires_gradient([a, initial])):
        return as_tensors(expected)
    op, neutral, combine = REDUCTIONS[function]
    a = as_array(a)
    chosen = a if where is True else np.where(where, a, neutral)
    if group_size(chosen.shape, axis):
        out = op(chosen, axis, keepdims)
    else:
        out = sum_(chosen, axis, keepdims) + neutral  # max_ takes no group without elements
    if initial is not NOT_GIVEN and initial is not None:
        out = combine(out, initial)
    return in_dtype(out, expected.dtype)


def mean_of_some(a, axis, keepdims, where):
    """Return ``np.mean`` of the elements that `where` selects; NaN if there are none."""
    expected = np.mean(plain(a), axis, keepdims=keepdims, where=where)
    if not (is_grad_enabled() and requires_gradient(a)):
        return as_tensors(expected)
    return in_dtype(mean_where(in_single(a), axis, keepdims, where), expected.dtype)


def spread_of_some(function, a, axis, ddof, keepdims, where, mean):
    """Return ``np.var`` or ``np.std`` of some elements, or around a mean that is given."""
    options = {} if mean is NOT_GIVEN else {"mean": mean}
    expected = function(plain(a), axis, ddof=ddof, keepdims=keepdims, where=where, **plain(options))
    if not (is_grad_enabled() and requires_gradient([a, mean])):
        return as_tensors(expected)
    x = in_single(as_array(a))
    with np.errstate(invalid="ignore", divide="ignore"):  # NumPy has warned of a divisor of 0
        centre = mean_where(x, axis, True, where) if mean is NOT_GIVEN else mean
        distance = x - centre
        if where is not True:
            distance = np.where(where, distance, 0)
        divisor = np.maximum(count(x, axis, keepdims, where) - x.dtype.type(ddof), 0)
        if function is np.var:
            out = sum_(distance * distance, axis, keepdims) / divisor
        else:  # the gradient of a norm is 0 where the norm is, as that of std
            out = vector_norm(distance, axis, keepdims) / np.sqrt(divisor)
    return in_dtype(out, expected.dtype)


def mean_where(x, axis, keepdims, where):
    """Return the mean of the elements that `where` selects."""
    chosen = x if where is True else np.where(where, x, 0)
    return sum_(chosen, axis, keepdims) / count(x, axis, keepdims, where)


def count(x, axis, keepdims, where):
    """Return how many elements of each group `where` selects, in the dtype of x; NaN for none."""
    selected = np.broadcast_to(np.asarray(where, bool), x.shape)
    n = np.sum(selected, axis, keepdims=keepdims)
    return np.where(n == 0, np.nan, n).astype(x.dtype)


def in_dtype(x, dtype):
    """Return a tensor in the dtype of NumPy's result."""
    return x if x.dtype == dtype else x.astype(dtype)
