"""Methods of ufuncs that few programs call: running extremes, and ``np.logaddexp.reduce``."""

import numpy as np

from autograd.dispatch import METHODS, plain
from autograd.ops.index import take_along_axis
from autograd.ops.reduce import logsumexp


def running(ufunc):
    """Declare ``np.maximum.accumulate`` or ``np.minimum.accumulate``.

    Each result is the element that is the largest so far. Of elements that tie, the last gets the
    gradient, as in PyTorch's cummax: of [3, 1, 3, 2], the places are 0, 0, 2, 2.
    """

    def accumulate(array, axis=0):
        x = plain(array)
        largest = ufunc.accumulate(x, axis)
        places = np.expand_dims(np.arange(x.shape[axis]), tuple(range(1, x.ndim - axis % x.ndim)))
        found = np.where((x == largest) | np.isnan(x), places, 0)
        return take_along_axis(array, np.maximum.accumulate(found, axis), axis)

    METHODS[ufunc, "accumulate"] = accumulate


running(np.maximum)
running(np.minimum)


def reduce(array, axis=0, keepdims=False):
    """Return ``np.logaddexp.reduce``: the logarithm of a sum of exponentials."""
    return logsumexp(array, tuple(range(array.ndim)) if axis is None else axis, keepdims)


METHODS[np.logaddexp, "reduce"] = reduce
