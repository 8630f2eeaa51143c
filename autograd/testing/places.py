"""Mistakes that show in the places of the wrong elements: an index, a mask, a one-hot array.

Each detector yields a text, as those of :mod:`autograd.testing.causes` do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import ndarray

from autograd.testing.look import Look, coefficient, with_values


def place(look: Look) -> Iterator[str]:
    """Yield where the wrong elements are: at one index of an axis, or on the diagonal."""
    if not look.is_whole or look.x.size < 3:
        return
    wrong: ndarray = look.wrong.reshape(look.x.shape)
    if wrong.sum() == 1:
        yield f"one element alone, [{', '.join(map(str, np.argwhere(wrong)[0]))}]"
        return
    for axis, n in enumerate(wrong.shape):
        others = tuple(k for k in range(wrong.ndim) if k != axis)
        somewhere = np.flatnonzero(wrong.any(others))
        right = np.flatnonzero(~wrong.any(others))
        if n > 2 and len(somewhere) == 1:
            yield f"only at index {somewhere[0]} of axis {axis}"
        if n > 2 and len(right) == 1 and wrong.all(others).sum() == n - 1:
            yield f"everywhere but at index {right[0]} of axis {axis}"
    if _is_diagonal(wrong):
        yield "only on the diagonal"


def unmasked(look: Look) -> Iterator[str]:
    """Yield whether the only wrong elements are those that must get 0, and get something."""
    gets, must = _support(look)
    if look.is_whole and np.array_equal(look.wrong, gets & ~must) and (gets & must).any():
        yield "a gradient arrives at elements that must get 0: a mask is missing"


def wrong_mask(look: Look) -> Iterator[str]:
    """Yield whether elements get a gradient that must get none."""
    gets, must = _support(look)
    extra, lost = gets & ~must, must & ~gets
    if not look.is_whole or not extra.any():
        return
    if lost.any() and np.array_equal(look.wrong, extra | lost):
        what = "another mask" if (gets & must).any() else "the mask is inverted"
        yield f"{what}: a gradient arrives where it must be 0, and none where it must arrive"
    elif not lost.any():
        yield "a gradient arrives at elements on which the result does not depend: a missing mask"


def masked(look: Look) -> Iterator[str]:
    """Yield whether the only wrong elements are those that get 0, and must get something."""
    gets, must = _support(look)
    if look.is_whole and np.array_equal(look.wrong, must & ~gets) and (gets & must).any():
        yield "no gradient arrives at some elements that must get one: a mask too many"


def _support(look: Look) -> tuple[ndarray, ndarray]:
    """Return which elements get a gradient that is not 0, and which must get one."""
    tolerance = 1e-8 + 1e-6 * look.scale
    return np.abs(look.found) > tolerance, np.abs(look.numeric) > tolerance


def one_hot(look: Look) -> Iterator[str]:
    """Yield at which elements a constant times g is missing, or stands at wrong places."""
    g = look.cotangents[0] if look.out is not None else np.zeros(0)
    if not look.is_whole or (g.size != 1 and g.shape != look.x.shape) or look.wrong.all():
        return
    error = _error_per_g(look)
    c = float(np.max(np.abs(error)))
    if np.any(np.abs(np.abs(error[look.wrong]) - c) > 1e-5 * c):
        return
    if look.x.ndim:  # a one-hot array does not follow the values of the input
        elsewhere = look.at(with_values(look, look.position, np.roll(look.x, 1)))
        if np.any(np.abs(_error_per_g(elsewhere) - error) > 1e-5 * c):
            return
    more, less = (_elements(look.wrong & (sign * error > 0), look) for sign in (1, -1))
    if more and less:
        yield f"{coefficient(c)}g too much at {more}, too little at {less}: another one-hot array"
    else:
        yield f"a term {coefficient(c if less else -c)}g is missing at {less or more}"


def _error_per_g(look: Look) -> ndarray:
    g = look.cotangents[0].reshape(-1)
    return (look.found - look.numeric) / np.broadcast_to(g, look.found.shape)


def _elements(mask: ndarray, look: Look) -> str:
    """Return which elements a mask selects, or an empty text if it selects none."""
    selected = mask.reshape(look.x.shape)
    if _is_diagonal(selected):
        return "the diagonal"
    if selected.sum() > 6:
        return f"{selected.sum()} of {mask.size} elements"
    return ", ".join(str(place.tolist()) for place in np.argwhere(selected))


def _is_diagonal(mask: ndarray) -> bool:
    """Return whether a mask selects the diagonal of each matrix of at least 3 rows and columns."""
    if mask.ndim < 2 or min(mask.shape[-2:]) < 3:
        return False
    return np.array_equal(mask, np.broadcast_to(np.eye(*mask.shape[-2:]) != 0, mask.shape))
