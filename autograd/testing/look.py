"""A gradient at one point: the result of a rule, and the right result by central differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy import ndarray

from autograd.testing.differences import central_difference, duplicate
from autograd.testing.problem import Arrays, Problem

SAMPLED = 64  # elements for which a diagnosis computes numeric derivatives
FEW = 8  # the same for inputs of more than 1,024 elements
ENTRIES = 4_000_000  # of the numeric Jacobian, at most


class Look:
    """A rule's gradient for one input at one point, and the numeric Jacobian there.

    The Jacobian is computed for all elements of a small input, and for a sample of a large one. The
    gradient that the rule should return for any cotangent u is then ``jacobian.T @ u``.

    Attributes
    ----------
    x : ndarray
        The input.
    gradient : ndarray
        What the rule returns, of the shape of `x`.
    chosen : ndarray of int
        The sampled elements of `x`, as places in ``x.reshape(-1)``.
    jacobian : ndarray
        Row i, column j: the derivative of element i of the outputs by the j-th sampled element.
    found, numeric : ndarray
        The gradient of the rule, and the numeric gradient, for the sampled elements.
    """

    def __init__(
        self, problem: Problem, cotangents: Arrays, position: int, element: tuple[int, ...]
    ) -> None:
        self.problem, self.cotangents = problem, list(cotangents)
        self.position, self.element = position, element
        self.x = problem.arrays[position]
        self.outputs = [y.copy() for y in problem.values(problem.arrays)]
        self.g = _flat(cotangents)
        n = SAMPLED if self.x.size <= 16 * SAMPLED else FEW
        n = min(n, max(1, ENTRIES // max(1, self.g.size)))
        chosen = np.random.default_rng(0).permutation(self.x.size)[:n]
        if self.x.size > n:
            chosen[0] = np.ravel_multi_index(element, self.x.shape)
        self.chosen = np.sort(chosen)
        self.is_whole = self.x.size == len(self.chosen)
        self.gradient = self.rule(cotangents)
        self.found = self.gradient.reshape(-1)[self.chosen]
        self.jacobian = self.jacobian_of(position)
        self.numeric = self.jacobian.T @ self.g
        self.scale = float(np.max(np.abs(self.numeric), initial=0))

    # ---- derivatives

    def rule(self, cotangents: Arrays) -> ndarray:
        """Return the gradient that the rule computes for some cotangents."""
        return self.problem.gradients(self.problem.arrays, cotangents)[self.position]

    def jacobian_of(self, position: int) -> ndarray:
        """Return the numeric Jacobian by the sampled elements of an input of this size."""
        x, values = self.problem.arrays[position], self._along(position)
        axis, columns = np.zeros(x.size), []
        for i in self.chosen:
            axis[i] = 1
            columns.append(central_difference(values, x, axis.reshape(x.shape)))
            axis[i] = 0
        return np.array(columns).reshape(len(self.chosen), -1).T

    def forward(self, direction: ndarray) -> ndarray:
        """Return the derivative of the outputs along a direction in `x`: the Jacobian times it."""
        return central_difference(self._along(self.position), self.x, direction)

    def _along(self, position: int) -> Callable[[ndarray], ndarray]:
        arrays = list(self.problem.arrays)

        def values(x: ndarray) -> ndarray:
            arrays[position] = x
            return _flat(self.problem.values(arrays))

        return values

    @cached_property
    def matrices(self) -> tuple[ndarray, ndarray] | None:
        """The rule as a matrix, and the transposed Jacobian, if both are small.

        Column i of each is the gradient for a cotangent that is 1 at element i of the outputs and
        0 elsewhere.
        """
        if not self.is_whole or self.g.size > SAMPLED:
            return None
        columns = []
        for i in range(self.g.size):
            unit = np.zeros(self.g.size)
            unit[i] = 1
            columns.append(self.rule(self.split(unit)).reshape(-1))
        return np.array(columns).T, self.jacobian.T

    def split(self, flat: ndarray) -> list[ndarray]:
        """Return a vector as a list of arrays that have the shapes of the outputs."""
        ends = np.cumsum([y.size for y in self.outputs])[:-1]
        parts = np.split(flat, ends)
        return [part.reshape(y.shape) for part, y in zip(parts, self.outputs, strict=True)]

    # ---- comparisons

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether each element of the output depends on the same element of the input alone."""
        if self.out is None or self.out.shape != self.x.shape or not self.is_whole:
            return False
        others = self.jacobian[~np.eye(self.x.size, dtype=bool)]
        return bool(np.max(np.abs(others), initial=0) <= 1e-9 * np.max(np.abs(self.jacobian)))

    @property
    def out(self) -> ndarray | None:
        """The output, if there is one alone."""
        return self.outputs[0] if len(self.outputs) == 1 else None

    @property
    def wrong(self) -> ndarray:
        """Which of the sampled elements of the gradient are wrong."""
        return ~(np.abs(self.found - self.numeric) <= 1e-8 + 1e-6 * self.scale)

    def is_right(self) -> bool:
        """Return whether the rule's gradient equals the numeric one."""
        return close(self.found, self.numeric, self.scale)

    def agrees(self, candidate: ndarray) -> bool:
        """Return whether an array of the input's size has the numeric gradient's elements."""
        return self.multiple(candidate) == 1

    def multiple(self, candidate: ndarray) -> float | None:
        """Return the c for which an array of the input's size is c times the numeric gradient.

        The result is None if there is no c. It is exactly 1 or -1 if it is close to them.
        """
        if candidate.size != self.x.size or not self.scale:
            return None
        found = candidate.reshape(-1)[self.chosen]
        c = float(found @ self.numeric / (self.numeric @ self.numeric))
        if c == 0 or not close(found / c, self.numeric, self.scale):
            return None
        return next((whole for whole in (1.0, -1.0) if abs(c - whole) < 1e-6), c)

    def explains(self, cotangents: Arrays) -> bool:
        """Return whether the rule's gradient is the right one for other cotangents."""
        other = self.jacobian.T @ _flat(cotangents)
        return bool(other.any()) and close(self.found, other, float(np.max(np.abs(other))))

    # ---- other points

    def at(self, arrays: Arrays, cotangents: Arrays | None = None) -> Look:
        """Return a look at another point, with other cotangents if they are given."""
        us = self.cotangents if cotangents is None else cotangents
        return Look(self.problem.at(arrays), us, self.position, self.element)

    def nearby(self, seed: int) -> Look:
        """Return a look at a point nearby, with other cotangents.

        The point has no zeros, ones or equal elements: each element changes by up to a fifth, and
        then by 0.01 to 0.04.
        """
        random = np.random.default_rng(seed)
        arrays = [moved(x, random) for x in self.problem.arrays]
        return self.at(arrays, other_cotangents(self.cotangents, random))


def moved(x: ndarray, random: np.random.Generator) -> ndarray:
    """Return an array near another one, in the same memory order."""
    y = duplicate(x)
    y *= random.uniform(0.8, 1.2, x.shape)
    y += random.uniform(0.01, 0.04, x.shape)
    return y


def replaced(x: ndarray, values: ndarray) -> ndarray:
    """Return an array of other values, in the memory order of `x`."""
    y = duplicate(x)
    y[...] = values
    return y


def with_values(look: Look, j: int, x: ndarray) -> list[ndarray]:
    """Return the arrays of a look with other values for one of them."""
    arrays = list(look.problem.arrays)
    arrays[j] = replaced(arrays[j], x)
    return arrays


def other_cotangents(cotangents: Arrays, random: np.random.Generator) -> list[ndarray]:
    """Return random cotangents of the same shapes."""
    return [random.choice([-1, 1], u.shape) * random.uniform(0.5, 2, u.shape) for u in cotangents]


def orders(x: ndarray) -> Iterator[tuple[str, ndarray]]:
    """Yield an array with its elements in other orders, and the mistake that each one undoes."""
    for a, b in combinations(range(x.ndim), 2):
        if x.shape[a] == x.shape[b] > 1:
            last = (a, b) == (x.ndim - 2, x.ndim - 1)
            yield (
                "a transpose too many or too few" + ("" if last else f", of axes {a} and {b}"),
                np.swapaxes(x, a, b),
            )
    for axis, n in enumerate(x.shape):
        if n > 1:
            yield f"reversed along axis {axis}", np.flip(x, axis)
        if n > 2:
            for step in (1, -1):
                yield f"shifted by one along axis {axis}", np.roll(x, step, axis)
        for d in range(2, n):
            if n % d == 0:
                apart = x.reshape(*x.shape[:axis], d, n // d, *x.shape[axis + 1 :])
                yield (
                    f"whole blocks for single elements along axis {axis}, as tile for repeat",
                    apart.swapaxes(axis, axis + 1).reshape(x.shape),
                )
    if sum(n > 1 for n in x.shape) > 1:
        yield "reversed along all axes", np.flip(x)
        if min(x.shape) > 2:
            for step in (1, -1):
                yield "shifted by one along all axes", np.roll(x, step, tuple(range(x.ndim)))
        yield (
            "a reshape in the place of a transpose, or a reshape in another order",
            x.ravel().reshape(x.shape, order="F"),
        )


def coefficient(c: float) -> str:
    """Return how a factor is written before a symbol: nothing for 1."""
    return "" if abs(c - 1) < 1e-6 else "-" if abs(c + 1) < 1e-6 else f"{c:.4g} · "


def factor_text(c: float, look: Look) -> str:
    """Return how much too large or too small a gradient is that is c times the right one."""
    if c == -1:
        return "a wrong sign"
    sign = "a wrong sign, and " if c < 0 else ""
    large, side = (abs(c), "large") if abs(c) > 1 else (1 / abs(c), "small")
    whole, lengths = round(large), _lengths(look)
    if abs(large - whole) < 1e-5 * large and 1 < whole <= max(100, look.x.size):
        what = f" ({whole} is {lengths[whole]})" if whole in lengths else ""
        return f"{sign}{whole} times too {side}{what}"
    for n, what in lengths.items():
        if n > 1 and abs(large - np.sqrt(n)) < 1e-5 * large:
            return f"{sign}√{n} times too {side} ({n} is {what})"
        if n > 1 and abs(large - n / (n - 1)) < 1e-5 * large:
            return f"{sign}{n}/{n - 1} times too {side} ({n} is {what})"
    return f"{sign}a constant factor, {abs(c):.7g}"


def _lengths(look: Look) -> dict[int, str]:
    """Return what has which length, for the lengths that a rule could multiply or divide by."""
    sizes: dict[int, str] = {}
    if look.is_elementwise:
        return sizes  # there is neither a sum nor a mean
    named = [(look.x.size, "the number of elements")]
    named += [(n, f"the length of axis {k}") for k, n in enumerate(look.x.shape)]
    if look.out is not None and look.out.shape != look.x.shape:
        named += [
            (n, f"the length of axis {k} of the output") for k, n in enumerate(look.out.shape)
        ]
    for n, what in named:
        if not (n == look.x.size and n in sizes):  # an array of one axis has its number of elements
            sizes[n] = f"{sizes[n]}, or {what}" if n in sizes else what
    return sizes


def axes_text(axes: set[int]) -> str:
    """Return ``axis 1``, or ``axes 0 and 1``."""
    *most, last = [str(axis) for axis in sorted(axes)]
    return f"axes {', '.join(most)} and {last}" if most else f"axis {last}"


def close(a: ndarray, b: ndarray, scale: float) -> bool:
    """Return whether arrays agree as the gradients of a check must: to 1e-6 of the largest."""
    return bool(np.all(np.abs(a - b) <= 1e-8 + 1e-6 * scale))


def _flat(arrays: Sequence[ndarray]) -> ndarray:
    return np.concatenate([np.zeros(0), *(np.ravel(a) for a in arrays)])
