"""The report of a failed gradient check: what is wrong, and which mistake would explain it.

:func:`report` writes the text. It shows both values, the error for smaller and smaller steps
(:func:`error_curve`), the likely cause (:func:`autograd.testing.causes.likely_cause`), both
gradients if they are small, and a test that repeats the check.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from textwrap import indent

import numpy as np
from numpy import ndarray

from autograd.testing.causes import likely_cause
from autograd.testing.differences import central_difference, every_element, move
from autograd.testing.problem import Arrays, Problem

STEPS = [10.0**-k for k in range(1, 9)]
SMALL = 32  # elements of a gradient that is shown as a whole
WIDTH = 80  # columns of both gradients side by side


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
        rows["likely"] = likely_cause(problem, cotangents, position, element, gradient)
    width = max(map(len, rows))
    lines = [f"{problem.name}: the gradient of {problem.labels[position]} is wrong{extent}:"]
    lines += [f"  {name:<{width}}  {value}" for name, value in rows.items() if value]
    lines += side_by_side(problem, cotangents, position, gradient)
    lines += ["", "  to repeat it:", "", indent(problem.test(), "    ")]
    return "\n".join(lines)


def side_by_side(
    problem: Problem, cotangents: Arrays, position: int, gradient: ndarray
) -> list[str]:
    """Return lines with a gradient and the numeric one beside it, if both fit on a screen."""
    x = problem.arrays[position]
    if not 1 < x.size <= SMALL or x.ndim > 2:
        return []
    function = problem.along(position, cotangents, problem.values)
    numeric = every_element(lambda axis: central_difference(function, x, axis), x)
    texts = [
        np.array2string(a + 0.0, precision=4, suppress_small=True, max_line_width=WIDTH).split("\n")
        for a in (gradient, np.where(np.abs(numeric) < 1e-9, 0, numeric))
    ]
    width = max(map(len, ["backward", *texts[0]]))
    rows = zip(["backward", *texts[0]], ["numeric", *texts[1]], strict=False)
    lines = [f"  {left:<{width}}  {right}" for left, right in rows]
    return ["", *lines] if max(map(len, lines)) <= WIDTH else []


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
        "".join(f"1e-{k}".ljust(8) for k in range(1, 9)).rstrip(),
        "".join(re.sub("e([-+])0", r"e\1", f"{error:.1e}").ljust(8) for error in errors).rstrip(),
    )
    return table, *_meaning(ahead, behind, central, errors, allowed, float(np.abs(here)))


def _meaning(
    ahead: ndarray, behind: ndarray, central: ndarray, errors: ndarray, allowed: float, size: float
) -> tuple[str, bool]:
    """Return what the pattern of errors means, and whether it shows a wrong gradient."""
    if not np.isfinite(central[2:5]).all():
        return "not finite: the function has no finite values near this point", False
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
