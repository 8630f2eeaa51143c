"""Derivatives by evaluating a function near a point: central differences and the complex step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

# f'(x) = (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h
STENCIL = ((-2, 1), (-1, -8), (1, 8), (2, -1))
STEP = 1e-3
COMPLEX_STEP = 1e-30


def duplicate(x: ndarray) -> ndarray:
    """Copy an array such that the copy's elements have the same order in memory.

    The order may be that of Fortran, or reversed, as in ``x[::-1]``.
    """
    # "..." is there for an array without axes: without it, indexing would return a scalar
    forward: tuple = (..., *(slice(None, None, -1 if n < 0 else 1) for n in x.strides))
    return x[forward].copy(order="K")[forward]


def move(x: ndarray, direction: ndarray, distance: float) -> ndarray:
    """Return ``x + distance * direction``, with the memory order of `x`."""
    y = duplicate(x)
    y += distance * direction
    return y


def central_difference(
    function: Callable[[ndarray], Any], x: ndarray, direction: ndarray, step: float = STEP
) -> Any:
    """Return the derivative along a direction, from four values of the function.

    The values are numbers or arrays, and so is the derivative. The error of the formula is
    h^4 f^(5) / 30, and the error from rounding about 1e-13 |f|. With h = 1e-3 the two are
    about equal (Fornberg 1988, doi:10.1090/S0025-5718-1988-0935077-0, table 1).
    """
    # The sum f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h). For f(x) = x**2 at x = 1 with h = 1 it is
    # 1 - 0 + 32 - 9 = 24, and 24 / 12 = 2 is the derivative.
    total: Any = 0.0
    for offset, weight in STENCIL:
        total += weight * function(move(x, direction, offset * step))
    return total / (12 * step)


def complex_difference(
    function: Callable[[ndarray], complex], x: ndarray, direction: ndarray
) -> float:
    """Return the derivative along a direction, from one value at a complex point.

    Since f(x + ih) = f(x) + ih f'(x) + O(h^2), the imaginary part divided by h is the derivative.
    No two values are subtracted, so h can be so small that the O(h^2) vanishes and only rounding is
    left (Squire and Trapp 1998, doi:10.1137/S003614459631241X). The function must be analytic.
    """
    return function(np.asarray(x + 1j * COMPLEX_STEP * direction)).imag / COMPLEX_STEP


def every_element(derivative: Callable[[ndarray], float], x: ndarray) -> ndarray:
    """Return the gradient, from a function that returns the derivative along a direction."""
    gradient, axis = np.empty(x.shape), np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        axis[i] = 1
        gradient[i] = derivative(axis)
        axis[i] = 0
    return gradient


def numeric_gradient(
    function: Callable[[ndarray], float], x: ndarray, step: float = STEP
) -> ndarray:
    """Differentiate a number-valued function of an array by central differences.

    Parameters
    ----------
    function : callable
        Takes an array of the shape of `x`, and returns a number.
    x : ndarray of float64
        The point at which to differentiate.
    step : float
        The distance h of the points where the function is evaluated.

    Returns
    -------
    ndarray
        The gradient, of the shape of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.testing import numeric_gradient
    >>> numeric_gradient(lambda x: float(np.sum(x**3)), np.array([1.0, 2.0])).round(6).tolist()
    [3.0, 12.0]
    """
    x = np.asarray(x, dtype=np.float64)
    return every_element(lambda axis: central_difference(function, x, axis, step), x)


def locate(error_along: Callable[[ndarray], float], direction: ndarray) -> tuple[int, ...]:
    """Return the place of an element whose derivative is wrong.

    The search halves the elements in question: the error along a direction is the sum of the errors
    along its two halves, so at least one half has an error. For 1,024 elements it takes ten rounds
    instead of 1,024 derivatives.

    Parameters
    ----------
    error_along : callable
        Takes a direction, and returns the difference of the two derivatives along it.
    direction : ndarray
        A direction along which there is an error.
    """
    low, high = 0, direction.size

    def error(start: int, stop: int) -> float:
        part = np.zeros(direction.size)
        part[start:stop] = direction.reshape(-1)[start:stop]
        return abs(np.nan_to_num(error_along(part.reshape(direction.shape)), nan=np.inf))

    while high - low > 1:
        middle = (low + high) // 2
        if error(low, middle) >= error(middle, high):
            high = middle
        else:
            low = middle
    return tuple(map(int, np.unravel_index(low, direction.shape)))
