"""The arrays of a page: their bytes as text, and of a large array a part that stands for it."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy import ndarray

LARGEST = 1 << 18  # elements: of a larger array, a page keeps a corner
CORNER = 1 << 14  # elements of the corner
LISTED = 10  # the largest elements, which a page keeps of every array


class Arrays:
    """Collects arrays for a page, each one once.

    Attributes
    ----------
    entries : list of dict
        What the page reads of each array: its shape, the type and the bytes of its elements, its
        norm and extremes, and its largest elements. An array of more than `LARGEST` elements has
        only a corner, whose shape is ``kept``: the first elements along each axis.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._known: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is used again

    def add(self, x: Any) -> int:
        """Return the place of an array in `entries`; add the array if it is new."""
        if id(x) not in self._known:
            self._known[id(x)] = len(self.entries)
            self._alive.append(x)
            self.entries.append(_entry(np.asarray(x)))
        return self._known[id(x)]


def _entry(x: ndarray) -> dict[str, Any]:
    x = _readable(x)
    kept = list(x.shape)
    while x.size > LARGEST and math.prod(kept) > CORNER:
        longest = kept.index(max(kept))
        kept[longest] = -(-kept[longest] // 2)
    corner = np.ascontiguousarray(x[tuple(map(slice, kept))])
    entry: dict[str, Any] = {
        "shape": list(x.shape),
        "type": x.dtype.str[1:],
        "data": base64.b64encode(corner.astype(x.dtype.newbyteorder("<")).tobytes()).decode(),
        "largest": _largest(x),
        "norm": number(np.linalg.norm(x.astype(float).ravel())),
        "zeros": int((x == 0).sum()),
        "nonfinite": int((~np.isfinite(x)).sum()),
    }
    if kept != list(x.shape):
        entry["kept"] = kept
    return entry


def _readable(x: ndarray) -> ndarray:
    """Return an array in a type that a page reads: float32 or 64, int32, or bytes for booleans."""
    if x.dtype.kind == "b":
        return x.astype(np.uint8)
    if x.dtype.kind in "iu":
        fits = not x.size or np.abs(x.astype(float)).max() < 2**31
        return x.astype(np.int32 if fits else np.float64)
    return x.astype(np.float32 if x.dtype.itemsize < 8 else np.float64)


def _largest(x: ndarray) -> list[list[Any]]:
    """Return the largest elements without their signs: the flat place of each, and its value."""
    flat = x.ravel()
    sizes = np.abs(np.nan_to_num(flat.astype(float), nan=np.inf))
    n = min(LISTED, flat.size)
    places = np.argpartition(-sizes, n - 1)[:n] if n else np.array([], int)
    order = places[np.lexsort((places, -sizes[places]))]
    return [[int(i), number(flat[i])] for i in order]


def number(x: Any) -> float | str:
    """Return a number for JSON, which has no infinity and no NaN: these are texts."""
    return float(x) if np.isfinite(x) else str(float(x))
