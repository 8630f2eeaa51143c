"""BFGS for many small problems at once, with gradients by reverse mode.

L-BFGS keeps the last few steps in place of the matrix of BFGS, since the matrix of a large problem
does not fit into memory. The problems here have three or five unknowns, so the matrix stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

import autograd
from autograd import Tensor

ENOUGH = 1e-4  # of the decrease that the slope promises: the condition of Armijo
HALVINGS = 30  # of a step that does not decrease enough


def minimize(
    objective: Callable[[Tensor, ndarray], Tensor],
    starts: ndarray,
    tolerance: float = 1e-14,
    limit: int = 500,
) -> tuple[ndarray, ndarray]:
    """Minimize a function from each of several starts (Nocedal and Wright 2006, algorithm 6.1).

    The starts are rows of one array, and one backward pass computes the gradients of all rows. A
    row that has reached its minimum is left out of the next steps.

    Parameters
    ----------
    objective : callable
        ``objective(x, rows)`` returns the values of the rows of x, (R, P) -> (R,), each of which
        depends on its own row alone. `rows` are the numbers of these rows in `starts`, (R,), so
        that each row may have data of its own.
    starts : ndarray, (S, P)
    tolerance : float
        A row ends where a step promises to lower its value by less than this share of the value
        (or than this number, if the value is less than 1).
    limit : int
        The largest number of steps.

    Returns
    -------
    (ndarray, ndarray)
        The last point of each row, (S, P), and its value, (S,).

    Examples
    --------
    >>> def far(x, rows):
    ...     return np.sum((x - np.array([1.0, 2.0])) ** 2, axis=1)
    >>> points, values = minimize(far, np.array([[5.0, 5.0], [0.0, 0.0]]))
    >>> points.round(4).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    x = np.array(starts, dtype=float)  # (S, P)
    every = np.arange(len(x))
    value, slope = _evaluate(objective, x, every)
    inverse = np.eye(x.shape[1]) / np.maximum(1, np.abs(slope).max(axis=1))[:, None, None]
    is_first = np.ones(len(x), dtype=bool)
    rows = every
    for _ in range(limit):
        step = -np.einsum("rij,rj->ri", inverse[rows], slope[rows])  # (R, P)
        promised = -np.sum(step * slope[rows], axis=1)  # (R,), by a step along the tangent
        is_open = promised > tolerance * np.maximum(1, np.abs(value[rows]))
        rows, step = rows[is_open], step[is_open]
        size = _search(objective, x, value, slope, step, rows)
        rows, step = rows[size > 0], (size[:, None] * step)[size > 0]
        if not len(rows):
            break
        new_value, new_slope = _evaluate(objective, x[rows] + step, rows)
        change = new_slope - slope[rows]
        inverse[rows] = _updated(inverse[rows], step, change, is_first[rows])
        x[rows] += step
        value[rows], slope[rows], is_first[rows] = new_value, new_slope, False
    return x, value


def _evaluate(
    objective: Callable[[Tensor, ndarray], Tensor], x: ndarray, rows: ndarray
) -> tuple[ndarray, ndarray]:
    """Return the values of some rows, (R,), and their gradients, (R, P)."""
    leaf = autograd.tensor(x, requires_grad=True)
    values = objective(leaf, rows)  # (R,)
    np.sum(values).backward()
    assert leaf.grad is not None
    return values.numpy().copy(), leaf.grad.numpy().copy()


def _search(
    objective: Callable[[Tensor, ndarray], Tensor],
    x: ndarray,
    value: ndarray,
    slope: ndarray,
    step: ndarray,
    rows: ndarray,
) -> ndarray:
    """Return what to multiply the step of each row by, (R,): 1, 1/2, 1/4, ..., or 0 if all fail."""
    promised = ENOUGH * np.sum(step * slope[rows], axis=1)  # (R,), negative
    size, open_ = np.ones(len(rows)), np.arange(len(rows))
    for _ in range(HALVINGS):
        at = rows[open_]
        with autograd.no_grad():
            points = autograd.tensor(x[at] + size[open_, None] * step[open_])
            found = objective(points, at).numpy()
        is_bad = ~(found <= value[at] + size[open_] * promised[open_])  # also if found is NaN
        open_ = open_[is_bad]
        if not len(open_):
            return size
        size[open_] /= 2
    size[open_] = 0
    return size


def _updated(inverse: ndarray, step: ndarray, change: ndarray, is_first: ndarray) -> ndarray:
    """Return the inverse Hessians after a step, (R, P, P), by the formula of BFGS.

    `change` is the change of the gradient, (R, P). A row whose slope has not risen along its step
    keeps its matrix, which would not stay positive. Before the first change, a matrix gets the size
    of the curvature that the step has met (Nocedal and Wright 2006, equation 6.20).
    """
    curvature = np.sum(step * change, axis=1)  # (R,)
    is_good = curvature > 1e-12 * np.linalg.norm(step, axis=1) * np.linalg.norm(change, axis=1)
    rho = 1 / np.where(is_good, curvature, 1)  # (R,)
    eye = np.eye(step.shape[1])
    scale = curvature / np.maximum(np.sum(change**2, axis=1), 1e-300)
    inverse = np.where((is_first & is_good)[:, None, None], scale[:, None, None] * eye, inverse)
    left = eye - rho[:, None, None] * step[:, :, None] * change[:, None, :]  # (R, P, P)
    new = left @ inverse @ left.swapaxes(1, 2)
    new += rho[:, None, None] * step[:, :, None] * step[:, None, :]
    return np.where(is_good[:, None, None], new, inverse)
