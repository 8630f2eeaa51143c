"""Mistakes that are found with other values: for them the rule's gradient is right.

If the rule gives the right gradient after the kernel is reversed, for example, then the rule must
reverse the kernel. Each detector yields a text, as those of :mod:`autograd.testing.causes` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy import ndarray

from autograd.testing.look import Look, close, orders, replaced, with_values
from autograd.testing.problem import Arrays

FACTORS = 10.0, 30.0, 90.0  # by which inputs are larger, to see how an error falls


def evaluated_at_out(look: Look) -> Iterator[str]:
    """Yield whether the rule has exchanged the input and the output."""
    if look.out is None or look.out.shape != look.x.shape:
        return
    name = look.problem.names[look.position]
    at_out = with_values(look, look.position, look.out)
    if close(look.found, look.at(at_out).numeric, look.scale):
        yield f"the derivative is taken at out, and not at {name}"
    elif _is_right_for(look, at_out):
        yield f"{name} in the place of out: the rule is right if it gets out"


def negated_input(look: Look) -> Iterator[str]:
    """Yield whether the derivative is that at the negated input, as with exchanged branches."""
    if not look.is_elementwise:
        return
    name = look.problem.names[look.position]
    other = look.at(with_values(look, look.position, -look.x))
    if close(look.found, other.numeric, look.scale):
        yield f"the derivative is taken at -{name}, and not at {name}: are branches exchanged?"


def frequencies(look: Look) -> Iterator[str]:
    """Yield an axis along which only some frequencies are wrong, each by a constant factor."""
    for axis, n in enumerate(look.x.shape if look.is_whole else ()):
        found, right = (
            np.fft.rfft(a.reshape(look.x.shape), axis=axis)
            .swapaxes(axis, 0)
            .reshape(n // 2 + 1, -1)
            for a in (look.found, look.numeric)
        )
        size = np.max(np.abs(right))
        if n < 4 or np.any(np.max(np.abs(right), axis=1) < 1e-3 * size):
            continue
        factors = np.sum(found * right.conj(), axis=1) / np.sum(np.abs(right) ** 2, axis=1)
        if np.max(np.abs(found - factors[:, None] * right)) < 1e-6 * size:
            shown = ", ".join(f"{c:.4g}" for c in factors.real)
            if np.max(np.abs(factors.imag)) < 1e-6 and len(set(shown.split(", "))) > 1:
                yield (
                    f"the frequencies of axis {axis} are {shown} times what they should be: rfft "
                    "and irfft count the inner ones twice"
                )


def reordered_input(look: Look) -> Iterator[str]:
    """Yield which input the rule must transpose, reverse or shift."""
    for j, x in enumerate(look.problem.arrays):
        for text, other in orders(x):
            if other.shape == x.shape and _is_right_for(look, with_values(look, j, other)):
                yield f"in the use of {look.problem.names[j]}: {text}"


def symmetric_input(look: Look) -> Iterator[str]:
    """Yield which matrix must be symmetric for the rule to be right: an input, or g."""
    if len(look.cotangents) == 1 and _is_square(look.cotangents[0]):
        g = look.cotangents[0]
        if look.at(look.problem.arrays, [(g + g.swapaxes(-1, -2)) / 2]).is_right():
            yield "right only if g is symmetric: a transpose of g is missing"
    for j, x in enumerate(look.problem.arrays):
        if _is_square(x) and look.at(with_values(look, j, (x + x.swapaxes(-1, -2)) / 2)).is_right():
            name = look.problem.names[j]
            yield f"right only if {name} is symmetric: a transpose of {name} is missing"


def _is_square(x: ndarray) -> bool:
    return x.ndim > 1 and x.shape[-1] == x.shape[-2] > 1


def missing_factor(look: Look) -> Iterator[str]:
    """Yield the input by which g must be multiplied, or divided, before the rest of the rule."""
    if look.out is None or look.out.size == 1:
        return
    g = look.cotangents[0]
    for j, value in enumerate(look.problem.arrays):
        if j == look.position or np.broadcast_shapes(value.shape, g.shape) != g.shape:
            continue
        for verb, other in (("multiplied", g * value), ("divided", g / value)):
            if _is_right_for(look, look.problem.arrays, [other]):
                yield f"g must be {verb} by {look.problem.names[j]} first"


def transposed_everywhere(look: Look) -> Iterator[str]:
    """Yield whether the rule treats the rows of all matrices as their columns.

    The cotangent of a vector has no transpose. Then all of its elements are 1 here.
    """
    out = look.out
    if out is None or not 0 < out.ndim < 3 or len({*out.shape, *look.x.shape}) > 1:
        return
    arrays = [
        replaced(x, x.T) if x.ndim == 2 and x.shape == x.T.shape else x for x in look.problem.arrays
    ]
    ones = look.at(look.problem.arrays, [np.ones_like(out)])
    for here, g in ((look, look.cotangents[0].T.copy()), (ones, np.ones_like(out))):
        found = look.problem.gradients(arrays, [g])[look.position].T.reshape(-1)[look.chosen]
        if not here.is_right() and here.scale and close(found, here.numeric, here.scale):
            yield "rows in the place of columns: right if all matrices are transposed"
            return


def constant_term(look: Look) -> Iterator[str]:
    """Yield whether the error is g times constants, though the derivative is not constant."""
    if look.out is None or look.out.size != 1 or look.x.ndim == 0:
        return
    found, right = [], []
    for here in (look, look.nearby(3)):
        found.append(here.found / here.cotangents[0].item())
        right.append(here.numeric / here.cotangents[0].item())
    errors, size = [f - r for f, r in zip(found, right, strict=True)], np.max(np.abs(right[0]))
    if close(errors[0], errors[1], size) and not close(right[0], right[1], 1e3 * size):
        yield "the error is g times constants: a term that does not depend on the input"


def without_eps(look: Look) -> Iterator[str]:
    """Yield whether the error falls as that of a forgotten eps: with 1/x, or with 1/x².

    The gradient of x / sqrt(x² + eps), for example, has the relative error 3/2 · eps / x² without
    eps.
    """
    errors = []
    for factor in FACTORS:
        other = look.at(with_values(look, look.position, factor * look.x))
        errors.append(np.max(np.abs(other.found - other.numeric)) / other.scale)
    falls = errors[0] / errors[1], errors[1] / errors[2]
    if errors[0] < 0.1 and any(np.allclose(falls, fall, rtol=0.2) for fall in (3, 9)):
        yield "the error falls as the input grows: a small term, such as eps, is missing"


def _is_right_for(look: Look, arrays: Arrays, cotangents: Sequence[ndarray] | None = None) -> bool:
    """Return whether the rule finds the right gradient of a look if it gets other values."""
    us = look.cotangents if cotangents is None else cotangents
    found = look.problem.gradients(arrays, us)[look.position]
    return close(found.reshape(-1)[look.chosen], look.numeric, look.scale)


BY_OTHER_VALUES = (
    frequencies,
    transposed_everywhere,
    constant_term,
    symmetric_input,
    without_eps,
)
