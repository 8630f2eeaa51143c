"""Padding with what stands in the array: its edge, its mirror image, its mean (``np.pad``).

Each mode is a few ops on one axis after the other, so that corners are padded from padded parts, as
in NumPy: the parts before and behind the array are made of it, and joined with it. NumPy's function
runs first: it raises NumPy's errors.
"""

import numpy as np

from autograd.dispatch import NoRule, as_tensors, plain, requires_gradient
from autograd.modes import is_grad_enabled
from autograd.ops.shape import widths_of

PICKING = ("edge", "reflect", "symmetric", "wrap")
STATISTICS = {"maximum": np.max, "minimum": np.min, "mean": np.mean, "median": np.median}


def pad_with_elements(array, pad_width, mode, **options):
    """Return what ``np.pad`` does in a mode other than ``"constant"``."""
    expected = np.pad(plain(array), pad_width, mode, **options)
    if not (is_grad_enabled() and requires_gradient(array)):
        return as_tensors(expected)
    if mode not in (*PICKING, *STATISTICS, "linear_ramp"):
        raise NoRule(f"mode={mode!r}" if isinstance(mode, str) else "a function as mode")
    if options.get("reflect_type", "even") != "even":
        raise NoRule(f"reflect_type={options['reflect_type']!r}")
    for axis, width in enumerate(widths_of(pad_width, array.ndim)):
        if any(width):
            before, behind = parts_around(array, axis, width, mode, options)
            array = np.concatenate([before, array, behind], axis)
    return array


def parts_around(array, axis, width, mode, options):
    """Return what stands before the array on an axis, and what stands behind it."""
    n = array.shape[axis]

    def pair(value):
        """Return the value of an option for this axis: before and behind."""
        return np.broadcast_to(value, (array.ndim, 2))[axis].tolist()

    if mode in PICKING:
        places = np.pad(np.arange(n), width, mode)  # so NumPy says which element stands where
        return [np.take(array, part, axis) for part in (places[: width[0]], places[width[0] + n :])]
    if mode == "linear_ramp":
        ends = pair(options.get("end_values", 0))
        first, last = (np.take(array, [place], axis) for place in (0, n - 1))
        behind = ramp(last, ends[1], axis, width[1])
        return ramp(first, ends[0], axis, width[0]), np.flip(behind, axis)
    given = options.get("stat_length")
    lengths = [round(length) for length in pair(n if given is None else given)]
    before, behind = slice(0, lengths[0]), slice(max(n - lengths[1], 0), n)
    return [
        summary(array, axis, part, size, mode)
        for part, size in zip((before, behind), width, strict=True)
    ]


def ramp(beside, end, axis, n):
    """Return n elements on a line from an end value to the element beside them."""
    shares = np.arange(n, dtype=beside.dtype) / max(n, 1)
    shares = np.reshape(shares, (-1, *[1] * (beside.ndim - 1 - axis)))
    return end + (beside - end) * shares


def summary(array, axis, part, n, mode):
    """Return the mean (or the like) of a part of an axis, n times."""
    elements = array[(*[slice(None)] * axis, part)]
    value = STATISTICS[mode](elements, axis=axis, keepdims=True)
    return np.broadcast_to(value, (*array.shape[:axis], n, *array.shape[axis + 1 :]))
