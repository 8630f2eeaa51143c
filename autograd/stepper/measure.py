"""How large arrays are, and how near two arrays are to each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy import ndarray

BLOCK = 1 << 16  # elements that are converted to float64 together


def norm(x: Any) -> float:
    """Return the Euclidean norm of an array, or of several arrays together."""
    parts = x if isinstance(x, tuple) else (x,)
    # in the order of memory: a transposed array would be copied, which is slow if it is large
    return math.sqrt(sum(sum_of_squares(np.asarray(part).ravel(order="K")) for part in parts))


@np.errstate(all="ignore")
def sum_of_squares(flat: ndarray) -> float:
    """Return the sum of the squares of a vector's elements, in float64."""
    total = 0.0
    for begin in range(0, flat.size, BLOCK):
        part = flat[begin : begin + BLOCK].astype(np.float64)
        total += float(np.einsum("i,i->", part, part))  # BLAS would start its threads
    return total


def memory_of(x: ndarray) -> tuple:
    """Return where an array lies, and how: two arrays with the same answer have the same elements.

    Both must still exist.
    """
    return x.__array_interface__["data"][0], x.shape, x.strides, x.dtype.str


def is_same(x: Any, y: Any) -> bool:
    """Return whether two arrays have the same shape and elements; NaN is the same as NaN."""
    x, y = np.asarray(x), np.asarray(y)
    if memory_of(x) == memory_of(y):
        return True
    nan = x.dtype.kind == "f"
    return x.shape == y.shape and all(  # a difference is soon found
        np.array_equal(one, other, equal_nan=nan) for one, other in _row_blocks(x, y)
    )


@np.errstate(all="ignore")
def relative_distance(x: Any, y: Any) -> float:
    """Return the norm of the difference of two arrays, relative to the larger of both norms."""
    x, y = np.asarray(x), np.asarray(y)
    if memory_of(x) == memory_of(y):
        return 0.0
    sums = np.zeros(3)
    for one, other in _row_blocks(x, y):
        a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        sums += [np.einsum("i,i->", part, part) for part in (a - b, a, b)]
    difference, *sizes = np.sqrt(sums)
    return float(difference / (np.maximum(*sizes) or 1.0))


def _row_blocks(x: ndarray, y: ndarray) -> Iterator[tuple[ndarray, ndarray]]:
    """Yield the rows of two arrays of one shape, as many at a time as a block has room for."""
    x, y = np.atleast_1d(x), np.atleast_1d(y)
    rows = max(1, BLOCK * len(x) // max(1, x.size))
    for i in range(0, len(x), rows):
        yield x[i : i + rows], y[i : i + rows]


def _wide(x: Any) -> ndarray:
    return np.asarray(x).astype(np.float64)


def difference(found: Any, expected: Any, scale: float = 0.0) -> str:
    """Return how near two arrays are in words, or "" if they differ by more than rounding.

    `scale` is the largest number in the computation of the arrays. If large numbers cancel, as in
    1e8 - 99999999, then the small result has the absolute error of the large numbers.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return ""
    if np.array_equal(found, expected, equal_nan=True):
        return "equal, bit for bit"
    size = max(scale, largest(expected))
    error = largest(_wide(found) - _wide(expected)) / size if size else math.inf
    allowed = 64 * float(np.finfo(expected.dtype).eps) * math.sqrt(max(1, expected.size))
    return f"equal to rounding: at most {error:.1e} apart" if error <= allowed else ""


def largest(x: Any) -> float:
    """Return the largest magnitude of the finite elements, or 0 if there are none."""
    x = np.abs(_wide(x))
    return float(np.max(x, where=np.isfinite(x), initial=0))
