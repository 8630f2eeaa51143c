"""The arrays of a page: their bytes as text, and only a corner of a large array."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.stepper.literals import memory_order
from autograd.stepper.measure import memory_of, sum_of_squares

MOST = 1 << 22  # elements of all arrays of a page
LISTED = 10  # of an array: the largest elements, which a page always keeps
BLOCK = 1 << 16  # elements that are looked at together


class Arrays:
    """Collects arrays for a page, each one once.

    Parameters
    ----------
    most : int, optional
        The number of elements that the page holds; by default `MOST`.
    earlier : Arrays, optional
        Those of the page before: what is known of an array is not computed again.
    """

    def __init__(self, most: int | None = None, earlier: Arrays | None = None) -> None:
        self.most = most or MOST
        self.kept: list[Any] = []
        self._whole: set[int] = set()  # the places of arrays that are not reduced
        self._places: dict[Any, int] = {}  # by memory, which `kept` keeps from being used again
        self._earlier = earlier  # whose arrays keep their memory until `entries` is done
        self._entries: dict[Any, dict[str, Any]] = {}

    def add(self, x: Any) -> int:
        """Return the place of an array; add the array if it is new."""
        key = memory_of(x) if isinstance(x, ndarray) else id(x)
        if key not in self._places:
            self._places[key] = len(self.kept)
            self.kept.append(x)
        return self._places[key]

    def keep_whole(self, place: int) -> None:
        """Do not reduce an array, unless such arrays together are a quarter of the page or more."""
        self._whole.add(place)

    def entries(self) -> list[dict[str, Any]]:
        """Return what a page reads of each array.

        Its shape, the type and the bytes of its elements, its norm, and its largest elements. If
        all arrays together have more than `most` elements, each keeps a corner, except those that
        are to be kept whole: the first elements
        along each axis, up to the largest power of two at which the page has at most `most`. Its
        entry then has the shape of the corner as ``kept``.
        """
        limit = 1 << 40
        sizes = np.array([np.size(x) for x in self.kept] or [0])
        whole = np.isin(np.arange(len(sizes)), [*self._whole])
        whole &= sizes[whole].sum() < self.most / 4
        while limit > 1 and np.where(whole, sizes, np.minimum(sizes, limit)).sum() > self.most:
            limit //= 2
        earlier = self._earlier._entries if self._earlier else {}
        for key, place in self._places.items():
            x = np.asarray(self.kept[place])
            known, kept = earlier.get(key), _corner(x.shape, x.size if whole[place] else limit)
            if known and known.get("kept", known["shape"]) == kept:
                self._entries[key] = known
            else:
                self._entries[key] = _entry(x, kept)
        self._earlier = None
        return list(self._entries.values())


def _corner(shape: tuple[int, ...], limit: int) -> list[int]:
    """Return the shape of the largest corner that has at most `limit` elements."""
    kept = list(shape)
    while math.prod(kept) > limit:
        longest = kept.index(max(kept))
        kept[longest] = -(-kept[longest] // 2)
    return kept


def _entry(x: ndarray, kept: list[int]) -> dict[str, Any]:
    """Return what a page reads of an array of which it keeps a corner."""
    corner = readable(x[tuple(map(slice, kept))])
    entry: dict[str, Any] = {
        "shape": list(x.shape),
        "type": corner.dtype.str[1:],
        "data": base64.b64encode(np.ascontiguousarray(corner).tobytes()).decode(),
        **_summary(x),
    }
    if kept != list(x.shape):
        entry["kept"] = kept
    return entry


def _summary(x: ndarray) -> dict[str, Any]:
    """Return the norm of an array, its largest elements, and how many are zeros."""
    axes = memory_order(x)
    flat = x.transpose(axes).ravel()  # in the order of memory, so that nothing is copied
    zeros, peaks = flat.size, []
    for begin in range(0, flat.size, BLOCK):  # a block stays in the processor's cache
        part = flat[begin : begin + BLOCK]
        zeros -= int(np.count_nonzero(part))
        peaks.append(_sizes(part).max())
    norm = math.sqrt(sum_of_squares(flat))
    return {
        "largest": _largest(x.shape, axes, flat, np.array(peaks)),
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


def _largest(
    shape: tuple[int, ...], axes: list[int], flat: ndarray, peaks: ndarray
) -> list[list[Any]]:
    """Return the largest elements without their signs: the place of each in C order, and its value.

    `flat` has the elements in the order of memory, whose axes are `axes`, and `peaks` the sizes of
    the largest elements of its blocks. The ten largest elements are in the ten blocks with the
    largest peaks, and they are at least as large as the smallest of these peaks.
    """
    blocks = _places_of_largest(peaks)
    at = np.concatenate(
        [np.arange(i * BLOCK, min(i * BLOCK + BLOCK, flat.size)) for i in blocks] or [np.arange(0)]
    )
    sizes = _sizes(flat[at])
    if len(blocks) == LISTED:
        at = at[sizes >= peaks[blocks].min()]
        sizes = _sizes(flat[at])
    at = at[_places_of_largest(sizes)]
    if axes != sorted(axes):
        places = np.unravel_index(at, [shape[axis] for axis in axes])
        at_in_order = np.ravel_multi_index([places[axes.index(i)] for i in range(len(axes))], shape)
    else:
        at_in_order = at
    order = np.lexsort((at_in_order, -_sizes(flat[at]).astype(float)))
    return [[int(at_in_order[i]), number(flat[at[i]])] for i in order]


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
