"""The report of a failed gradient check: what is wrong, and which mistake would explain it.

:func:`report` writes the text. It shows both values, the error for smaller and smaller steps
(:func:`error_curve`), the likely cause (:func:`likely_cause`), and a test that repeats the check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from textwrap import indent

import numpy as np
from numpy import ndarray

from autograd.testing.differences import central_difference, duplicate, move
from autograd.testing.problem import Arrays, Problem

STEPS = [10.0**-k for k in range(1, 9)]
SAMPLED = 64  # elements for which a diagnosis computes numeric derivatives
FEW = 8  # the same for inputs of more than 1,024 elements


def report(
    problem: Problem,
    cotangents: Arrays,
    position: int,
    element: tuple[int, ...],
    gradient: ndarray,
    numeric: float,
    extent: str,
    allowed: float,
) -> str:
    """Return the text of a failed check.

    Parameters
    ----------
    problem, cotangents
        The function that was checked, and the arrays that its outputs were multiplied by.
    position, element
        The input whose gradient is wrong, and the place of a wrong element.
    gradient : ndarray
        The wrong gradient.
    numeric : float
        The numeric derivative by this element.
    extent : str
        How many elements are wrong, for the first line.
    allowed : float
        The largest error that counts as agreement.
    """
    at = "[" + ", ".join(map(str, element)) + "]" if element else ""
    x, backward = problem.arrays[position], float(gradient[element])
    rows = {problem.names[position] + at: repr(float(x[element]))}
    if sum(u.size for u in cotangents) == 1:
        rows["g"] = " ".join(repr(u.item()) for u in cotangents if u.size)
    rows |= {"backward": f"{backward + 0.0:.10g}", "numeric": f"{numeric + 0.0:.10g}"}  # no -0
    if numeric != 0 and np.isfinite(backward):
        rows["ratio"] = f"{backward / numeric:.6g}"
    table, verdict, is_wrong = error_curve(
        problem.along(position, cotangents, problem.values), x, element, backward, allowed
    )
    rows["step"], rows["|error|"] = table
    rows[""] = verdict
    if is_wrong:
        with suppress(Exception):  # it uses other points, where the function may raise
            rows["likely"] = likely_cause(problem, cotangents, position, element)
    width = max(map(len, rows))
    lines = [f"{problem.name}: the gradient of {problem.labels[position]} is wrong{extent}:"]
    lines += [f"  {name:<{width}}  {value}" for name, value in rows.items() if value]
    lines += ["", "  to repeat it:", "", indent(problem.test(), "    ")]
    return "\n".join(lines)


# ---- the error for smaller and smaller steps


def error_curve(
    function: Callable[[ndarray], float],
    x: ndarray,
    element: tuple[int, ...],
    derivative: float,
    allowed: float,
) -> tuple[tuple[str, str], str, bool]:
    """Compare a derivative with central differences of steps from 1e-1 to 1e-8.

    If the derivative is right, the error falls with the step until rounding dominates. If the
    derivative is wrong, every step gives about the same error. If the function has no derivative at
    the point, the errors follow another pattern.

    Returns
    -------
    (str, str), str, bool
        The steps and the errors as text, what their pattern means, and whether the pattern shows
        that the derivative is wrong.
    """
    axis = np.zeros(x.shape)
    axis[element] = 1

    def value(distance: float) -> float:
        try:
            return function(move(x, axis, distance))
        except (ArithmeticError, ValueError):  # outside of the function's domain
            return np.nan

    here = value(0)
    with np.errstate(all="ignore"):
        ahead = np.array([(value(h) - here) / h for h in STEPS])
        behind = np.array([(here - value(-h)) / h for h in STEPS])
        central = (ahead + behind) / 2
        errors = np.abs(central - derivative)
    table = (
        "".join(f"1e-{k}".ljust(9) for k in range(1, 9)).rstrip(),
        "".join(re.sub("e([-+])0", r"e\1", f"{error:.1e}").ljust(9) for error in errors).rstrip(),
    )
    return table, *_meaning(ahead, behind, central, errors, allowed, float(np.abs(here)))


def _meaning(
    ahead: ndarray, behind: ndarray, central: ndarray, errors: ndarray, allowed: float, size: float
) -> tuple[str, bool]:
    """Return what the pattern of errors means, and whether it shows a wrong gradient."""
    if not np.isfinite(central[2:5]).all():
        return "not finite: nor is the function near this point", False
    if not np.isfinite(errors[2:5]).all():
        return "not finite: the function is smooth here, its gradient is not a number", True
    best = int(np.argmin(errors))
    scale = max(1.0, float(np.abs(central[3:5]).max()))
    gap = np.abs(ahead - behind)  # it falls with the step if the function is smooth
    if gap[4] > 30 * gap[2] and gap[4] * STEPS[4] > 1e-5 * max(size, 1e-3):
        return "grows: the function jumps here, and has no derivative", False
    slopes = np.maximum(np.abs(ahead), np.abs(behind))
    if 1e-3 * slopes[4] < gap[2:6].max() < 3 * gap[2:6].min():
        return (
            f"a kink: {behind[4]:.6g} from the left, {ahead[4]:.6g} from the right, "
            "no derivative between",
            False,
        )
    right = errors[best] <= max(allowed, 1e-9 * scale)
    if not right and np.ptp(central[3:5]) <= 0.1 * errors[4]:
        return "flat: every step finds the same other value, the gradient is wrong", True
    if STEPS[best] > STEPS[2]:
        return "grows as the step shrinks: noise, as of single precision in the function", False
    if right:
        step = f"eps={STEPS[best]:.0e}".replace("e-0", "e-")
        return f"falls: the gradient is right at small steps, and {step} shows it", False
    return "without a pattern: noise, the function is not exact enough", False


# ---- the likely cause


def likely_cause(
    problem: Problem, cotangents: Arrays, position: int, element: tuple[int, ...]
) -> str:
    """Return which mistake would explain a wrong gradient, or an empty text.

    The gradient is compared again at a point nearby without zeros, ones or equal elements. A
    pattern that is found there is no coincidence. If the gradient is right there, then the mistake
    depends on a property of the original point, and `_special_points` searches for this property.
    """
    look = Look(problem, cotangents, position, element)
    with np.errstate(all="ignore"):
        generic = look.elsewhere()
        condition = next(_special_points(look, generic), "")
        causes = [*_patterns(generic), *_patterns(look)]
    cause = causes[0] if causes else ""
    if condition and not cause:
        return f"wrong {condition}"
    return ", ".join(filter(None, [cause, condition]))


class Look:
    """A gradient at a point, and numeric derivatives for a sample of its elements."""

    def __init__(
        self, problem: Problem, cotangents: Arrays, position: int, element: tuple[int, ...]
    ) -> None:
        self.problem, self.cotangents = problem, cotangents
        self.position, self.element = position, element
        self.x = problem.arrays[position]
        self.gradient = self.gradient_for(cotangents)
        n = SAMPLED if self.x.size <= 16 * SAMPLED else FEW
        chosen = np.random.default_rng(0).permutation(self.x.size)[:n]
        if self.x.size > n:
            chosen[0] = np.ravel_multi_index(element, self.x.shape)
        self.chosen = np.sort(chosen)
        self.found = self.gradient.reshape(-1)[self.chosen]
        self.numeric = self.derivatives(position)

    def at(self, arrays: Arrays) -> Look:
        """Return the gradient and the numeric derivatives at another point."""
        return Look(self.problem.at(arrays), self.cotangents, self.position, self.element)

    def elsewhere(self) -> Look:
        """Return them at a point nearby that has no zeros, ones or equal elements."""
        return self.at([_jitter(x, i) for i, x in enumerate(self.problem.arrays)])

    def gradient_for(self, cotangents: Arrays) -> ndarray:
        """Return the gradient for some cotangents of the outputs."""
        return self.problem.gradients(self.problem.arrays, cotangents)[self.position]

    def derivatives(self, position: int) -> ndarray:
        """Return the numeric derivatives with respect to the sampled elements of an input."""
        x = self.problem.arrays[position]
        function = self.problem.along(position, self.cotangents, self.problem.values)
        axis, numeric = np.zeros(x.size), []
        for i in self.chosen:
            axis[i] = 1
            numeric.append(central_difference(function, x, axis.reshape(x.shape)))
            axis[i] = 0
        return np.array(numeric)

    def agrees(self, candidate: ndarray, numeric: ndarray | None = None) -> bool:
        """Return whether a gradient agrees with the numeric one, and this one is not all zeros."""
        numeric = self.numeric if numeric is None else numeric
        if candidate.size != self.x.size:
            return False
        found = candidate.reshape(-1)[self.chosen]
        return bool(numeric.any()) and _close(found, numeric)

    def is_right(self, factor: float = 1.0) -> bool:
        """Return whether the gradient equals the numeric one times a factor."""
        return _close(self.found, factor * self.numeric)


def _close(a: ndarray, b: ndarray) -> bool:
    return bool(np.all(np.abs(a - b) <= 1e-8 + 1e-6 * np.max(np.abs(b), initial=0)))


def _patterns(look: Look) -> Iterator[str]:
    """Yield each common mistake that would explain the whole gradient.

    Each test applies the opposite mistake to the gradient and asks whether the result is right. For
    example, if the negated gradient agrees with the numeric one, the mistake is a wrong sign.
    """
    gradient, shape = look.gradient, look.x.shape
    if look.is_right():
        return
    if not np.isfinite(gradient).all():
        yield "a division by zero, or a root or logarithm of a negative number, in the rule"
        return
    if not gradient.any():
        yield "no gradient arrives: a detached value, or a rule that returns zeros"
        return
    if look.agrees(-gradient):
        yield "a wrong sign"
        return
    doubled = look.gradient_for([2 * u for u in look.cotangents])
    if np.array_equal(doubled, gradient):
        yield "the cotangent g is missing: when g doubles, the gradient stays"
        return
    if not _close(doubled, 2 * gradient):
        yield "not linear in the cotangent g"
    yield from _factor(look)
    for j, (label, x) in enumerate(zip(look.problem.labels, look.problem.arrays, strict=True)):
        if j != look.position and x.shape == shape:
            if look.agrees(gradient, look.derivatives(j)):
                yield f"inputs swapped: this is what {label} should get"
    if look.x.size <= SAMPLED:
        numeric = look.numeric.reshape(shape)
        for axis, n in enumerate(shape):
            if n > 1 and _close(np.diff(gradient, axis=axis), np.zeros(1)):
                if not _close(np.diff(numeric, axis=axis), np.zeros(1)):
                    yield f"summed over, or repeated along, the wrong axis: constant along {axis}"
    if len(shape) > 1 and shape[-1] == shape[-2] and look.agrees(np.swapaxes(gradient, -1, -2)):
        yield "a transpose too many or too few"
    for axis, n in enumerate(shape):
        if n > 1 and look.agrees(np.flip(gradient, axis)):
            yield f"reversed along axis {axis}"
        if n > 1 and look.agrees(np.repeat(gradient.sum(axis, keepdims=True), n, axis)):
            yield f"a sum over axis {axis} is missing"
    wrong = np.abs(look.found - look.numeric) > 1e-8 + 1e-6 * np.abs(look.numeric).max()
    if wrong.sum() == 1 and wrong.size > 2:
        where = np.unravel_index(look.chosen[np.argmax(wrong)], shape)
        yield f"one element alone, [{', '.join(map(str, where))}]"


def _factor(look: Look) -> Iterator[str]:
    """Yield the constant factor by which the gradient is too large or too small, if any."""
    known = look.numeric != 0
    if not known.any():
        return
    ratios = look.found[known] / look.numeric[known]
    c = float(np.median(ratios))
    if c == 0 or not look.agrees(look.gradient / c):
        return
    shape = look.x.shape
    sizes = {n: f"the length of axis {axis}" for axis, n in enumerate(shape)}
    sizes[look.x.size] = "the number of elements"
    large = max(abs(c), 1 / abs(c))
    whole = round(large)
    sign = "a wrong sign, and " if c < 0 else ""
    if abs(large - whole) < 1e-5 * large and 1 < whole <= max(100, look.x.size):
        side = "large" if abs(c) > 1 else "small"
        what = f" ({whole} is {sizes[whole]})" if whole in sizes else ""
        yield f"{sign}{whole} times too {side}{what}"
    elif known.sum() > 1 or look.elsewhere().is_right(c):
        yield f"{sign}a constant factor, {abs(c):.7g}"


def _special_points(look: Look, generic: Look) -> Iterator[str]:
    """Yield the property of the inputs that makes the gradient wrong.

    Each change removes one property from the inputs, such as zeros. If the gradient is right after
    the change, the mistake occurs only with this property.
    """
    changes: dict[str, Callable[[ndarray], ndarray]] = {
        "only in this order in memory (reversed, strided or Fortran's)": lambda x: x.copy("C"),
        "only where an input is 0": lambda x: _replace(x, x == 0, 0.3),
        "only where an input is negative": lambda x: _replace(x, x < 0, np.abs(x)),
    }
    for condition, change in changes.items():
        arrays = [change(x) for x in look.problem.arrays]
        same = all(
            np.array_equal(a, x, equal_nan=True) and a.strides == x.strides
            for a, x in zip(arrays, look.problem.arrays, strict=True)
        )
        if not same and look.at(arrays).is_right():
            yield condition
    if generic.is_right():
        every = np.concatenate([x.reshape(-1) for x in look.problem.arrays])
        tied = np.unique(every).size < every.size
        yield "only where elements are equal" if tied else "only at special values such as these"


def _replace(x: ndarray, mask: ndarray, value: ndarray | float) -> ndarray:
    """Return a copy with other values where the mask is True, in the same memory order."""
    y = duplicate(x)
    y[...] = np.where(mask, value, x)
    return y


def _jitter(x: ndarray, seed: int) -> ndarray:
    """Return an array with a small random number added to each element.

    The result has no zeros, ones or equal elements.
    """
    y = duplicate(x)
    y += np.random.default_rng(seed).uniform(0.01, 0.04, x.shape)
    return y
