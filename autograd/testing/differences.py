"""Derivatives by evaluating a function near a point: central differences and the complex step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

# f'(x) = (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h
STENCIL = ((-2, 1), (-1, -8), (1, 8), (2, -1))
STEP = 1e-3
COMPLEX_STEP = 1e-30


def duplicate(x: ndarray) -> ndarray:
    """Copy an array, and the order of its elements in memory: Fortran's, or reversed."""
    forward: tuple = (..., *(slice(None, None, -1 if n < 0 else 1) for n in x.strides))
    return x[forward].copy(order="K")[forward]  # "..." keeps what has no axes an array


def moved(x: ndarray, direction: ndarray, distance: float) -> ndarray:
    """Return the point at a distance along a direction, laid out in memory as `x` is."""
    y = duplicate(x)
    y += distance * direction
    return y


def central_difference(
    function: Callable[[ndarray], float], x: ndarray, direction: ndarray, step: float = STEP
) -> float:
    """Return the derivative along a direction, from four values of the function.

    The error is h^4 f^(5) / 30: with h = 1e-3 that and the rounding, about 1e-13 |f|, are alike
    (Fornberg 1988, doi:10.1090/S0025-5718-1988-0935077-0, table 1).
    """
    total = 0.0
    for offset, weight in STENCIL:
        total += weight * function(moved(x, direction, offset * step))
    return total / (12 * step)


def complex_difference(
    function: Callable[[ndarray], complex], x: ndarray, direction: ndarray
) -> float:
    """Return the derivative along a direction, from one value at a complex point.

    f(x + ih) = f(x) + ih f'(x) + O(h^2): nothing is subtracted, so h may be so small that only
    rounding is left (Squire and Trapp 1998, doi:10.1137/S003614459631241X). It holds for analytic
    functions alone.
    """
    return function(np.asarray(x + 1j * COMPLEX_STEP * direction)).imag / COMPLEX_STEP


def every_element(derivative: Callable[[ndarray], float], x: ndarray) -> ndarray:
    """Return the gradient, from the derivatives along the axes."""
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
        From an array to a number.
    x : ndarray of float64
    step : float

    Returns
    -------
    ndarray
        Of the shape of `x`.

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
    """Return an element whose derivative is wrong, by halving the elements that are in question.

    Parameters
    ----------
    error_along : callable
        From a direction to the difference of the two derivatives along it. Errors add up, so one
        half holds at least half of the error.
    direction : ndarray
        Along which there is an error.
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
