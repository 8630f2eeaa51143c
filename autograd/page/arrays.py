"""The arrays of a page: their bytes as text, and only a corner of a large array."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy import ndarray

MOST = 1 << 22  # elements of all arrays of a page
LISTED = 10  # of an array: the largest elements, which a page always keeps
BLOCK = 1 << 16  # elements that are looked at together


class Arrays:
    """Collects arrays for a page, each one once.

    Parameters
    ----------
    most : int, optional
        The number of elements that the page holds; by default `MOST`.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most or MOST
        self.kept: list[Any] = []
        self._places: dict[int, int] = {}  # by id; no id is used again, since `kept` has the array

    def add(self, x: Any) -> int:
        """Return the place of an array; add the array if it is new."""
        if id(x) not in self._places:
            self._places[id(x)] = len(self.kept)
            self.kept.append(x)
        return self._places[id(x)]

    def entries(self) -> list[dict[str, Any]]:
        """Return what a page reads of each array.

        Its shape, the type and the bytes of its elements, its norm, and its largest elements. If
        all arrays together have more than `most` elements, each keeps a corner: the first elements
        along each axis, up to the largest power of two at which the page has at most `most`. Its
        entry then has the shape of the corner as ``kept``.
        """
        limit = 1 << 40
        sizes = np.array([np.size(x) for x in self.kept] or [0])
        while limit > 1 and np.minimum(sizes, limit).sum() > self.most:
            limit //= 2
        return [_entry(np.asarray(x), limit) for x in self.kept]


def _entry(x: ndarray, limit: int) -> dict[str, Any]:
    kept = list(x.shape)
    while math.prod(kept) > limit:
        longest = kept.index(max(kept))
        kept[longest] = -(-kept[longest] // 2)
    corner = readable(x[tuple(map(slice, kept))])
    flat = x.ravel()
    entry: dict[str, Any] = {
        "shape": list(x.shape),
        "type": corner.dtype.str[1:],
        "data": base64.b64encode(np.ascontiguousarray(corner).tobytes()).decode(),
        **_summary(flat),
    }
    if kept != list(x.shape):
        entry["kept"] = kept
    return entry


def _summary(flat: ndarray) -> dict[str, Any]:
    """Return the norm of an array without axes, its largest elements, and how many are zeros."""
    squares, zeros, peaks = 0.0, flat.size, []
    for begin in range(0, flat.size, BLOCK):  # a block stays in the processor's cache
        part = flat[begin : begin + BLOCK]
        wide = part.astype(float)
        with np.errstate(all="ignore"):
            squares += float(np.einsum("i,i->", wide, wide))  # BLAS would start its threads
        zeros -= int(np.count_nonzero(part))
        peaks.append(_sizes(part).max())
    norm = math.sqrt(squares)
    return {
        "largest": _largest(flat, np.array(peaks)),
        "norm": number(norm),
        "zeros": zeros,
        "nonfinite": 0 if math.isfinite(norm) else int((~np.isfinite(flat)).sum()),
    }


def readable(x: ndarray) -> ndarray:
    """Return an array in a type that a page reads: float32 or 64, int32, or bytes for booleans."""
    if x.dtype.kind == "b":
        return x.astype(np.uint8)
    if x.dtype.kind in "iu":
        fits = not x.size or np.abs(x.astype(float)).max() < 2**31
        return x.astype("<i4" if fits else "<f8")
    return x.astype("<f4" if x.dtype.itemsize <= 4 else "<f8")


def _sizes(x: ndarray) -> ndarray:
    """Return elements without their signs; NaN is the largest."""
    sizes = np.abs(x) if x.dtype.kind in "fiu" else x.astype(float)
    if sizes.dtype.kind == "f":
        np.copyto(sizes, np.inf, where=np.isnan(sizes))
    return sizes


def _largest(flat: ndarray, peaks: ndarray) -> list[list[Any]]:
    """Return the largest elements without their signs: the place of each, and its value.

    `peaks` are the sizes of the largest elements of the blocks. The ten largest elements of the
    array are in the ten blocks with the largest peaks.
    """
    blocks = np.sort(_places_of_largest(peaks))
    places = np.concatenate(
        [np.arange(i * BLOCK, min(i * BLOCK + BLOCK, flat.size)) for i in blocks] or [np.arange(0)]
    )
    sizes = _sizes(flat[places])
    found = _places_of_largest(sizes)
    order = places[found[np.lexsort((found, -sizes[found].astype(float)))]]
    return [[int(i), number(flat[i])] for i in order]


def _places_of_largest(sizes: ndarray) -> ndarray:
    many = sizes.size > LISTED
    return np.argpartition(sizes, -LISTED)[-LISTED:] if many else np.arange(sizes.size)


def number(x: Any) -> float | str:
    """Return a number for JSON, which has no infinity and no NaN: these are texts.

    The texts are those that JavaScript reads as these numbers.

    Examples
    --------
    >>> [number(x) for x in (0.5, np.nan, np.inf, -np.inf)]
    [0.5, 'nan', 'Infinity', '-Infinity']
    """
    return float(x) if np.isfinite(x) else str(float(x)).replace("inf", "Infinity")
