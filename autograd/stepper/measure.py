"""How large arrays are, and how near two arrays are to each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import ndarray


def norm(x: Any) -> float:
    """Return the Euclidean norm of an array, or of several arrays together."""
    parts = x if isinstance(x, tuple) else (x,)
    # in the order of memory: `vdot` would copy a transposed array, which is slow if it is large
    flat = (_wide(part).ravel(order="K") for part in parts)
    return float(np.sqrt(sum(float(np.vdot(p, p).real) for p in flat)))


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
