"""How large arrays are, and how near two arrays are to each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import ndarray


def norm(x: Any) -> float:
    """Return the length of an array, or of several, as one vector."""
    parts = x if isinstance(x, tuple) else (x,)
    return float(np.sqrt(sum(float(np.vdot(p, p).real) for p in map(_wide, parts))))


def _wide(x: Any) -> ndarray:
    return np.asarray(x).astype(np.float64)


def difference(found: Any, expected: Any, scale: float = 0.0) -> str:
    """Say how near two arrays are, if they differ by no more than rounding; otherwise nothing.

    `scale` is the largest number that they were computed from: where such cancel, what is left is
    as uncertain as they were.
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
    """Return the largest magnitude among the finite elements, 0 if there is none."""
    x = np.abs(_wide(x))
    return float(np.max(x, where=np.isfinite(x), initial=0))
