"""An image in a terminal, beside what each of its pixels adds to a number."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

WIDEST = 8  # numbers in a line


def beside(image: ndarray, adds: ndarray) -> list[str]:
    """Return an image in shades, and beside it a number for each pixel, as lines of text.

    Channels are combined: the image shows their mean, and each number is their sum. If an image has
    more than 8 pixels in a line, it is shown in squares of several pixels, and each number is the
    sum over a square.

    Parameters
    ----------
    image : ndarray of float, (c, H, W)
        From 0, which is dark, to 1.
    adds : ndarray of float, (c, H, W)

    Examples
    --------
    >>> for line in beside(np.array([[[0, 0.5], [1, 0]]]), np.array([[[0, 0.25], [-2, 0]]])):
    ...     print(line)
      ▒▒       . +0.25
    ██     -2.00     .
    """
    side = -(-image.shape[-1] // WIDEST)
    shades = squares(np.clip(image.mean(axis=0), 0, 1), side) / side**2
    numbers = squares(adds.sum(axis=0), side)
    return [
        "".join(2 * " ░▒▓█"[round(4 * float(shade))] for shade in row)
        + "   "
        + " ".join(f"{x:+5.2f}" if x else "    ." for x in found)
        for row, found in zip(shades, numbers, strict=True)
    ]


def squares(x: ndarray, side: int) -> ndarray:
    """Return the sums over squares of an array (H, W); those at the end may be smaller."""
    for axis in (0, 1):
        x = np.add.reduceat(x, range(0, x.shape[axis], side), axis)
    return x
