"""The likely cause of a wrong gradient: which common mistake explains all of it.

:func:`likely_cause` looks at the gradient at two random points near the one that was checked, with
two random cotangents. A cause is named only if it explains the whole gradient at both. Each
function of ``DETECTORS`` knows one family of mistakes. It applies the mistake to the right
gradient, or the opposite mistake to the rule's gradient, and compares all elements: if the negated
gradient is right, for example, the mistake is a wrong sign.

A mistake that occurs only for some inputs, such as negative ones, is found by experiments: the
gradient must be right at random points without such elements, and wrong at points that have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
from numpy import ndarray

from autograd.testing.look import (
    Look,
    axes_text,
    close,
    coefficient,
    factor_text,
    moved,
    orders,
    other_cotangents,
    replaced,
)
from autograd.testing.one_step import broadcast_sum, one_step, wrong_rule
from autograd.testing.other_values import (
    BY_OTHER_VALUES,
    evaluated_at_out,
    missing_factor,
    negated_input,
    reordered_input,
)
from autograd.testing.places import masked, one_hot, place, unmasked, wrong_mask
from autograd.testing.problem import Arrays, Problem

SEEDS = range(5)  # of points without a property, at which the gradient must be right
POWERS = {1.0: "{}", 2.0: "{}²", 3.0: "{}³", 0.5: "√{}"}


def likely_cause(
    problem: Problem,
    cotangents: Arrays,
    position: int,
    element: tuple[int, ...],
    gradient: ndarray,
) -> str:
    """Return which mistake would explain a wrong gradient, or an empty text.

    Parameters
    ----------
    problem, cotangents
        The function, and a cotangent for each of its outputs.
    position, element
        The input whose gradient is wrong, and the place of a wrong element.
    gradient : ndarray
        The wrong gradient.
    """
    with np.errstate(all="ignore"), suppress(Exception):  # of the function, or of the rule
        here, near = Look(problem, cotangents, position, element), []
        size = float(np.max(np.abs(gradient), initial=0))
        if np.isfinite(size) and not close(here.gradient, gradient, size):
            return "different results for the same call: a cache, global state or random numbers"
        for seed in (1, 2):
            with suppress(Exception):  # outside of the function's domain
                near.append(here.nearby(seed))
        if not near:
            return ""
        condition, shown = _condition(here, near)
        looks = shown or [look for look in near if not look.is_right()]
        if len(looks) < 2:
            looks.append(here)
        cause = _common(looks) if len(looks) > 1 else next(place(here), "")
        if condition and not cause:
            return f"wrong {condition}"
        return ", ".join(filter(None, [cause, condition]))
    return ""


def _common(looks: list[Look]) -> str:
    """Return the first cause that explains all of several looks."""
    for detector in DETECTORS:
        if detector not in BASIC and not all(look.scale for look in looks):
            return ""  # zeros resemble too much
        found = [_causes(detector, look) for look in looks]
        for cause in found[0]:
            if all(cause in causes for causes in found):
                return cause
        if detector in BASIC and any(found):
            return ""  # what follows is for finite gradients that are linear in g
    return ""


def _causes(detector: Callable[[Look], Iterator[str]], look: Look) -> list[str]:
    """Return the causes that a detector yields, before an error if it raises one."""
    causes = []
    with suppress(Exception):  # a detector may use a point outside of the function's domain
        for cause in detector(look):
            causes.append(cause)
    return causes


# ---- a mistake in the numbers


def not_a_gradient(look: Look) -> Iterator[str]:
    """Yield what is wrong with a gradient that is not finite, or zero everywhere."""
    if not np.isfinite(look.gradient).all():
        yield (
            "a division by zero, or a root or logarithm of a negative number, or an overflow, in "
            "the rule"
        )
    elif not look.gradient.any():
        yield "no gradient arrives: a detached value, or a rule that returns zeros"


def rounded(look: Look) -> Iterator[str]:
    """Yield the dtype to whose precision the gradient was rounded."""
    found, right = look.found, look.numeric
    if not look.scale or not found.any():
        return
    if look.scale > 1 and any(
        np.array_equal(found, whole(right)) for whole in (np.trunc, np.rint, np.floor)
    ):
        yield "rounded to whole numbers, as by an array of an integer dtype"
    error = np.max(np.abs(found - right)) / look.scale
    for dtype, largest in ((np.float16, 2e-3), (np.float32, 1e-5)):
        if error < largest and np.array_equal(found, found.astype(dtype)):
            yield f"its numbers have the digits of {dtype.__name__}: it was rounded to this dtype"
            return


def not_linear(look: Look) -> Iterator[str]:
    """Yield how the gradient depends on the cotangent g, if it is not linear in g."""
    us, found, right = look.cotangents, look.found, look.numeric
    others = other_cotangents(us, np.random.default_rng(3))
    other, both = look.rule(others), look.rule([u + v for u, v in zip(us, others, strict=True)])
    size = float(np.max(np.abs(look.gradient), initial=0) + np.max(np.abs(other), initial=0))
    if close(look.gradient, other, size):
        yield "the cotangent g is missing: another g gives the same gradient"
        return
    if close(look.gradient + other, both, size):
        return
    top = np.max(np.abs(found))
    clipped = np.abs(np.abs(found) - top) < 1e-12 * top
    if close(found, np.abs(right), look.scale):
        yield "each sign is lost, as by an absolute value"
        return
    if clipped.any() and close(found, np.clip(right, -top, top), look.scale):
        yield f"clipped to {top:.4g}"
        return
    zero, doubled = look.rule([0 * u for u in us]), look.rule([2 * u for u in us])
    negated = look.rule([-u for u in us])
    text = "not linear in the cotangent g"
    if np.isfinite(zero).all() and zero.any():
        text += ": a term without g, since it is not 0 for g = 0"
    elif close(doubled, 4 * look.gradient, size):
        text += ": g is squared, or multiplied twice"
    elif close(doubled, look.gradient, size):
        text += ": its size does not follow that of g, as after a normalization"
    elif close(negated, look.gradient, size):
        text += ": it does not follow the sign of g"
    yield text


# ---- a factor


def factor(look: Look) -> Iterator[str]:
    """Yield the constant factor by which the gradient is too large or too small."""
    c = look.multiple(look.gradient)
    if c is not None and c != 1:
        yield factor_text(c, look)


def passed_on(look: Look) -> Iterator[str]:
    """Yield whether the rule returns the cotangent itself."""
    if look.out is not None and look.out.shape == look.x.shape:
        if close(look.gradient, look.cotangents[0], float(np.max(np.abs(look.gradient)))):
            yield "g is passed on unchanged: the local derivative is missing"


def not_the_derivative(look: Look) -> Iterator[str]:
    """Yield what stands in the place of the derivative that g must be multiplied by."""
    out = look.out
    if out is None or out.shape != look.x.shape:
        return
    g, scale = look.cotangents[0], float(np.max(np.abs(look.gradient)))
    if close(look.gradient, g * out, scale):
        yield "g is multiplied by the value, and not by the derivative"
    elif close(look.found, look.jacobian.sum(0) * g.reshape(-1)[look.chosen], scale):
        yield "g is multiplied after the sum over the outputs, and not before"


def variable_factor(look: Look) -> Iterator[str]:
    """Yield the value of the call by which each element is too large or too small."""
    found, right = look.found, look.numeric
    known = np.abs(right) > 1e-6 * look.scale
    if not known.any() or not close(found[~known], np.zeros(1), look.scale):
        return
    ratio = found[known] / right[known]
    if not ratio.all():
        return
    for name, value in _values(look):
        a = value.reshape(-1)[look.chosen][known]
        for power, form in POWERS.items():
            for p, side in ((power, "large"), (-power, "small")):
                for text, base in ((form.format(name), a), (form.format(f"|{name}|"), np.abs(a))):
                    c = ratio / np.sign(base) ** (p % 2 == 1) / np.abs(base) ** p
                    if np.all(np.abs(c - c[0]) < 1e-6 * np.abs(c[0])):
                        yield f"{coefficient(c[0] if p > 0 else 1 / c[0])}{text} times too {side}"
                        break


def factor_of_lines(look: Look) -> Iterator[str]:
    """Yield an axis along which all elements have the same wrong factor, as that of a norm."""
    if not look.is_whole or not look.found.all() or not look.numeric.all():
        return
    ratio = (look.found / look.numeric).reshape(look.x.shape)
    same = {k for k, n in enumerate(ratio.shape) if n > 2 and _steady(ratio, k)}
    lines = look.numeric.reshape(look.x.shape)
    if lines.ndim < 2 or len(same) != 1:
        return
    (axis,) = same
    rank = np.linalg.matrix_rank(np.moveaxis(lines, axis, -1), 1e-6 * look.scale)
    if rank.max() > 1:  # otherwise an outer product: each of its vectors is such a factor
        yield (
            f"a wrong factor, the same along axis {axis}: as of a norm, a sum or a standard "
            "deviation over it"
        )


def _values(look: Look) -> Iterator[tuple[str, ndarray]]:
    """Yield the values of a call that fit the shape of the input, with their names."""
    shape = look.x.shape
    named = [*zip(look.problem.names, look.problem.arrays, strict=True)]
    if look.out is not None:
        named.append(("out", look.out))
    for name, value in named:
        for candidate in [value, *(np.expand_dims(value, k) for k in range(value.ndim + 1))]:
            with suppress(ValueError):
                yield name, np.broadcast_to(candidate, shape)
                break
    yield f"exp({look.problem.names[look.position]})", np.exp(look.x)
    same = [(look.problem.names[look.position], look.x)]
    if look.out is not None and look.out.shape == shape:
        same.append(("out", look.out))
    for name, value in same:
        yield f"(1 - {name})", 1 - value
        yield f"(1 + {name})", 1 + value
        yield f"(1 - {name}²)", 1 - value**2
        yield f"(1 + {name}²)", 1 + value**2
        yield f"{name} · (1 - {name})", value * (1 - value)


# ---- another array in the place of the right one


def swapped(look: Look) -> Iterator[str]:
    """Yield the input whose gradient the rule returns."""
    for j, label in enumerate(look.problem.labels):
        if j != look.position and (here := _with_one_shape(look, j)) is not None:
            other = here.jacobian_of(j).T @ here.g
            if other.any() and close(here.found, other, float(np.max(np.abs(other)))):
                yield f"inputs swapped: this is what {label} should get"


def _with_one_shape(look: Look, j: int) -> Look | None:
    """Return a look where the input and the j-th input have one shape, or None if they cannot.

    If one is broadcast in the function, it is repeated before: their gradients then have one shape.
    """
    arrays = list(look.problem.arrays)
    if arrays[j].shape == look.x.shape:
        return look
    try:
        pair = np.broadcast_arrays(look.x, arrays[j])
        arrays[look.position], arrays[j] = (np.array(x) for x in pair)
        repeated = look.at(arrays)
    except Exception:  # the function does not broadcast them, or the rule knows their shapes
        return None
    return repeated if all(map(np.array_equal, repeated.outputs, look.outputs)) else None


def not_transposed(look: Look) -> Iterator[str]:
    """Yield whether the rule multiplies g by the Jacobian, and not by its transpose."""
    if look.out is None or look.out.size != look.x.size or look.x.size == 1:
        return
    product = look.forward(look.cotangents[0].reshape(look.x.shape)).reshape(look.x.shape)
    if close(look.gradient, product, float(np.max(np.abs(product)))):
        yield "a Jacobian that is not transposed: the gradient is J g, and should be Jᵀ g"


def moved_elements(look: Look) -> Iterator[str]:
    """Yield which change of the order of elements makes the gradient right."""
    gradient = look.gradient
    for text, candidate in orders(gradient):
        c = look.multiple(candidate)
        if c is not None:
            yield text + ("" if c == 1 else f", and {factor_text(c, look)}")
    for axis, n in enumerate(gradient.shape):
        yield from _shifted(look, axis, n)
    if len(look.cotangents) == 1 and look.cotangents[0].ndim:
        for text, other in orders(look.cotangents[0]):
            if other.shape == look.cotangents[0].shape and look.explains([other]):
                yield f"in the cotangent g: {text}"


def _shifted(look: Look, axis: int, n: int) -> Iterator[str]:
    """Yield whether the inner elements are right after a shift; those at the ends are lost."""
    place = np.unravel_index(look.chosen, look.x.shape)[axis]
    for step in (1, -1):
        inner = place <= n - 3 if step == 1 else place >= 2
        right = look.numeric[inner]
        if n < 4 or len({round(v / (look.scale or 1), 6) for v in right if v}) < 2:
            continue
        back = np.roll(look.gradient, -step, axis).reshape(-1)[look.chosen]
        if close(back[inner], right, look.scale):
            yield f"shifted by one along axis {axis}"


def misplaced(look: Look) -> Iterator[str]:
    """Yield whether all numbers are right, but stand at other places."""
    if not look.is_whole:
        return
    found, right = np.sort(look.found), np.sort(look.numeric)
    kept = right[np.abs(right) > 1e-6 * look.scale]
    new = np.diff(kept, prepend=-np.inf) > 1e-5 * look.scale  # each value once
    sizes = np.sort(np.abs(kept[new]))
    distinct = np.all(np.diff(sizes) > 1e-5 * look.scale)  # a sign is no place
    if len(sizes) > 1 and distinct and close(found, right, look.scale):
        yield "the right numbers at wrong places: an index, or an order of axes"


# ---- sums


def summed(look: Look) -> Iterator[str]:
    """Yield which sum or mean over an axis is missing, or is one too many."""
    gradient = look.gradient
    for axis, n in enumerate(gradient.shape):
        if n < 2:
            continue
        c = look.multiple(_spread(gradient.sum(axis, keepdims=True), n, axis))
        alone = np.count_nonzero(gradient, axis).max() < 2  # the sum is one element
        if not alone and (c == 1 or (c and abs(c - n) < 1e-6 * n)):
            yield f"a {'sum' if c == 1 else 'mean'} over axis {axis} is missing"
        if look.agrees(gradient - gradient.mean(axis, keepdims=True)):
            how = "subtracted too often" if _is_opposite(look) else "not subtracted"
            yield f"the mean over axis {axis} is {how}"
        if look.is_whole:
            right = look.numeric.reshape(gradient.shape)
            total = _spread(right.sum(axis, keepdims=True), n, axis)
            for text, candidate in (("sum", total), ("mean", total / n)):
                if close(gradient, candidate, float(np.max(np.abs(candidate)))):
                    yield f"a {text} over axis {axis} too many"


def _is_opposite(look: Look) -> bool:
    """Return whether the error has the other sign than the derivatives of elements by themselves.

    A mean is taken away from these derivatives. If it is not, they are too large.
    """
    if look.out is None or look.out.shape != look.x.shape or look.matrices is None:
        return False
    rule, right = map(np.diag, look.matrices)
    return bool((rule - right) @ right < 0)


def repeated(look: Look) -> Iterator[str]:
    """Yield an axis along which the gradient is constant, in the place of another one."""
    flat, expected = _flat_axes(look)
    if expected - flat:
        for axis in sorted(flat - expected):
            yield f"summed over, or repeated along, the wrong axis: constant along {axis}"


def constant_gradient(look: Look) -> Iterator[str]:
    """Yield an axis along which the gradient is constant and should not be."""
    flat, expected = _flat_axes(look)
    for axis in sorted(flat - expected):
        yield f"the gradient is constant along axis {axis}, and should not be"


def _flat_axes(look: Look) -> tuple[set[int], set[int]]:
    """Return the axes along which the gradient is constant, and those along which it must be."""
    if not look.is_whole:
        return set(), set()
    flat, expected = (
        {k for k, n in enumerate(look.x.shape) if n > 1 and _flat_along(a, k, look)}
        for a in (look.gradient, look.numeric.reshape(look.x.shape))
    )
    return flat, expected


def _spread(x: ndarray, n: int, axis: int) -> ndarray:
    return np.repeat(x, n, axis)


def _flat_along(x: ndarray, axis: int, look: Look) -> bool:
    return close(np.diff(x, axis=axis), np.zeros(1), look.scale)


def lost_axis(look: Look) -> Iterator[str]:
    """Yield the axes over which the rule sums and should not, or does not sum and should."""
    rule, right = _axes_of_both(look)
    if right and not rule:
        yield f"a sum over {axes_text(right)} is missing: each element depends on its own g alone"
    elif rule and not right:
        yield f"a sum over {axes_text(rule)} too many: each element must depend on its own g alone"


def wrong_axis(look: Look) -> Iterator[str]:
    """Yield which axes the rule sums over, if the function mixes elements along others."""
    rule, right = _axes_of_both(look)
    if rule and right and not rule & right:  # more axes, or fewer, may come from another mistake
        yield f"a sum over {axes_text(rule)}, in the place of {axes_text(right)}"


def _axes_of_both(look: Look) -> tuple[set[int], set[int]]:
    """Return the axes along which the rule combines elements, and those of the function.

    The axes are read from the places where the two matrices are not zero. A softmax over the last
    axis of a matrix, for example, has a derivative different from zero only for pairs of elements
    in the same row. If the rule is different from zero for pairs in the same column, then the rule
    sums over the first axis.
    """
    if look.out is None or look.out.shape != look.x.shape or look.matrices is None:
        return set(), set()
    rule, right = (_mixed_axes(matrix, look.x.shape) for matrix in look.matrices)
    return (set(), set()) if rule is None or right is None else (rule, right)


def _mixed_axes(matrix: ndarray, shape: tuple[int, ...]) -> set[int] | None:
    """Return the axes along which a square matrix combines all elements, and no others."""
    combines = (np.abs(matrix) > 1e-7 * np.max(np.abs(matrix))).reshape(shape + shape)
    index = np.indices(shape + shape, sparse=True)
    axes = {
        k for k, n in enumerate(shape)
        if n > 1 and combines[np.broadcast_to(index[k] != index[k + len(shape)], shape * 2)].any()
    }  # fmt: skip
    same = np.ones(shape + shape, bool)
    for k in range(len(shape)):
        if k not in axes:
            same &= index[k] == index[k + len(shape)]
    return axes if np.array_equal(combines, same) else None


def constant_error(look: Look) -> Iterator[str]:
    """Yield along which axis the error is the same, or a multiple of a value of the call."""
    error = look.gradient.reshape(-1)[look.chosen] - look.numeric
    if not look.is_whole or np.max(np.abs(error)) < 1e-4 * look.scale:
        return
    error, right = error.reshape(look.x.shape), look.numeric.reshape(look.x.shape)
    axes = {k for k, n in enumerate(error.shape) if n > 1}
    same = {k for k in axes if _steady(error, k) and not _flat_along(right, k, look)}
    if same:
        yield (
            f"the error is the same along {axes_text(same)}: a term such as a mean or a sum is "
            "missing, or wrong"
        )
        return
    shapes = [("out", look.out)] if look.out is not None else []
    shapes += [*zip(look.problem.names, look.problem.arrays, strict=True)]
    for name, value in shapes:
        if value.shape == error.shape and np.all(np.abs(value) > 1e-3 * np.max(np.abs(value))):
            same = {k for k in axes if _steady(error / value, k)}
            if same:
                yield (
                    f"the error is {name} times a number that is the same along "
                    f"{axes_text(same)}: a sum over it is missing, or wrong"
                )
    for k in axes:
        if _is_line(error, look.x, k):
            yield (
                f"the error is a multiple of {look.problem.names[look.position]} plus a constant "
                f"along axis {k}: a term of the mean or the variance is missing, or wrong"
            )


def _steady(x: ndarray, axis: int) -> bool:
    """Return whether an error is the same along an axis; it has fewer digits than a gradient."""
    return bool(np.max(np.abs(np.diff(x, axis=axis))) < 1e-5 * np.max(np.abs(x)))


def _is_line(error: ndarray, x: ndarray, axis: int) -> bool:
    """Return whether an error is a straight line in x along an axis of at least four elements."""
    if x.shape[axis] < 4:
        return False
    e, x = (v - v.mean(axis, keepdims=True) for v in (error, x))
    slope = (e * x).sum(axis, keepdims=True) / (x * x).sum(axis, keepdims=True)
    return bool(np.max(np.abs(e - slope * x)) < 1e-5 * np.max(np.abs(error)))


def lost_term(look: Look) -> Iterator[str]:
    """Yield a term of the gradient that is missing, if it is made of g and the input alone."""
    error, out = look.numeric - look.found, look.out
    if out is None or np.max(np.abs(error)) < 1e-4 * look.scale:
        return
    g, x = look.cotangents[0], look.x
    if out.ndim == 2 and out.shape[0] == out.shape[1] > 1 and look.agrees(
        look.gradient + look.rule([g.T.copy()])
    ):  # fmt: skip
        yield "the term with gᵀ is missing: the input is used twice"
    terms: dict[str, ndarray] = {}
    if g.size == 1 or g.shape == x.shape:
        g = np.broadcast_to(g.reshape(g.shape if g.size > 1 else ()), x.shape)
        terms = {"g": g} | {f"g · {name}": g * value for name, value in _values(look)}
    for name, term in terms.items():
        t = term.reshape(-1)[look.chosen]
        c = float(error @ t / (t @ t)) if t.any() else 0.0
        if c and np.max(np.abs(error - c * t)) < 1e-5 * np.max(np.abs(error)):
            yield f"a term {coefficient(c)}{name} is missing"


def product_rule(look: Look) -> Iterator[str]:
    """Yield which term of the product rule is missing, if x is a factor of the result."""
    if look.out is None or look.out.shape != look.x.shape or not look.x.all():
        return
    x = look.problem.names[look.position]
    term = (look.cotangents[0] * look.out / look.x).reshape(-1)[look.chosen]
    if close(look.found, term, look.scale):
        yield f"only the term g · out / {x} of the product rule: the other term is missing"
    elif close(look.found, look.numeric - term, look.scale):
        yield f"the term g · out / {x} of the product rule is missing"


def lost_contributions(look: Look) -> Iterator[str]:
    """Yield which of the numbers that must be added up for an element are missing.

    Row i of the matrices has a number for each output that depends on element i.
    """
    if look.matrices is None:
        return
    rule, right = look.matrices
    tolerance = 1e-6 * np.max(np.abs(right))
    ours, theirs = np.abs(rule) > tolerance, np.abs(right) > tolerance
    same = np.abs(rule - right) <= tolerance
    lost = theirs & ~ours
    if not lost.any() or not same[ours].all():
        return
    unused = lost.any(0) & ~ours.any(0)
    incomplete = lost.any(1)
    if look.out is not None and look.out.shape == look.x.shape:
        if not ours[~np.eye(len(ours), dtype=bool)].any() and not incomplete.all():
            return  # an elementwise rule: `place` says more
    if all(
        row.sum() == 1 and row[np.flatnonzero(full)[-1]]
        for row, full in zip(ours[incomplete], theirs[incomplete], strict=True)
    ):
        yield "contributions are not added up: an element that is used twice gets the last one"
    elif np.array_equal(lost, theirs & unused):
        yield f"g is not used at {_indices(np.flatnonzero(unused), look)}"


def _indices(flat: ndarray, look: Look) -> str:
    if look.out is None:
        return f"{len(flat)} of {look.g.size} elements"
    places = np.unravel_index(flat, look.out.shape)
    for axis, (at, n) in enumerate(zip(places, look.out.shape, strict=True)):
        if n > 2 and len({*at}) == 1 and len(flat) == look.out.size // n:
            return f"index {at[0]} of its axis {axis}"
    return f"{len(flat)} of its {look.g.size} elements"


BASIC = (not_a_gradient, rounded, not_linear)
DETECTORS: tuple[Callable[[Look], Iterator[str]], ...] = (
    *BASIC,
    wrong_rule,
    factor,
    swapped,
    not_transposed,
    unmasked,
    repeated,
    broadcast_sum,
    moved_elements,
    summed,
    passed_on,
    lost_axis,
    misplaced,
    wrong_mask,
    negated_input,
    variable_factor,
    not_the_derivative,
    lost_term,
    product_rule,
    one_hot,
    missing_factor,
    evaluated_at_out,
    reordered_input,
    one_step,
    wrong_axis,
    constant_gradient,
    factor_of_lines,
    constant_error,
    lost_contributions,
    *BY_OTHER_VALUES,
    place,
    masked,
)


# ---- mistakes that occur only for some inputs


class Property:
    """A property that some elements of an input have, and points with and without it."""

    def __init__(
        self,
        text: str,
        mask: Callable[[ndarray], ndarray],
        remove: Callable[[ndarray, np.random.Generator], ndarray],
        add: Callable[[ndarray, np.random.Generator], ndarray],
    ) -> None:
        self.text, self.mask, self.remove, self.add = text, mask, remove, add


SIGNS = (
    Property(
        "an input is 0",
        lambda x: x == 0,
        lambda x, random: np.where(x == 0, random.uniform(0.2, 0.9), x),
        lambda x, random: x,
    ),
    Property(
        "an input is negative", lambda x: x < 0, lambda x, random: np.abs(x),
        lambda x, random: -np.abs(x),
    ),
    Property(
        "an input is positive", lambda x: x > 0, lambda x, random: -np.abs(x),
        lambda x, random: np.abs(x),
    ),
)  # fmt: skip


def _condition(here: Look, near: list[Look]) -> tuple[str, list[Look]]:
    """Return the property of inputs without which the gradient is right, and looks that have it."""
    if not any(look.is_right() for look in near):
        straight = [look.at([x.copy("C") for x in look.problem.arrays]) for look in near]
        if all(look.is_right() for look in straight):
            return "only in this order in memory (reversed, strided or Fortran's)", near
    for j, x in enumerate(here.problem.arrays):
        for known in (*SIGNS, *_thresholds(here, j)):
            if known.mask(x).any() and (looks := _depends(here, j, known)):
                return f"only where {known.text}", looks
    if not all(look.is_right() for look in near):
        return "", []
    tied = any(np.unique(x).size < x.size for x in here.problem.arrays)
    if tied and not any(_experiment(here, 0, SIGNS[0].remove, k).is_right() for k in (1, 2)):
        return "only where elements are equal", []
    return "only at special values such as these", []


def _depends(here: Look, j: int, known: Property) -> list[Look]:
    """Return looks with a property, if all are wrong and all looks without it are right."""
    with suppress(Exception):  # the function may not exist at such points
        if known in SIGNS:  # a threshold is only known to lie between two of the values
            # other values, because near these ones another condition may hold for the same elements
            mixed = [here, *(_experiment(here, j, _shuffled, seed) for seed in SEEDS)]
            if not all(_is_elementwise(look, j, known) for look in mixed):
                return []
        looks = [_experiment(here, j, known.add, seed) for seed in (1, 2)]
        if not any(look.is_right() for look in looks):
            if all(_experiment(here, j, known.remove, seed).is_right() for seed in SEEDS):
                return looks
    return []


def _shuffled(x: ndarray, random: np.random.Generator) -> ndarray:
    return random.permutation(x.reshape(-1)).reshape(x.shape) * random.uniform(0.05, 1, x.shape)


def _is_elementwise(look: Look, j: int, known: Property) -> bool:
    """Return whether the elements with a property are wrong, if each element stands alone."""
    x = look.problem.arrays[j]
    if x.shape != look.x.shape or not look.is_elementwise:
        return True
    return np.array_equal(look.wrong, known.mask(x).reshape(-1))


def _experiment(
    here: Look, j: int, change: Callable[[ndarray, np.random.Generator], ndarray], seed: int
) -> Look:
    """Return a look at a random point, after a change of input j.

    At this point elements are equal, or 0, where they are in the original.
    """
    random = np.random.default_rng(seed)
    arrays = []
    for i, x in enumerate(here.problem.arrays):
        values, places = np.unique(x, return_inverse=True)
        new = np.where(values == 0, 0, moved(values, random))[places].reshape(x.shape)
        arrays.append(replaced(x, change(new, random) if i == j else new))
    return here.at(arrays, other_cotangents(here.cotangents, random))


def _thresholds(here: Look, j: int) -> Iterator[Property]:
    """Yield the threshold that separates wrong elements from right ones, if there is one."""
    if j != here.position or not here.is_whole:
        return
    x, wrong, name = here.x.reshape(-1), here.wrong, here.problem.names[j]
    if min(wrong.sum(), (~wrong).sum()) < 2:
        return
    low, high, others = x[wrong].min(), x[wrong].max(), x[~wrong]
    is_larger = bool(others.max() < low)
    if not is_larger and not others.min() > high:
        return
    limit = (others.max() + low) / 2 if is_larger else (others.min() + high) / 2
    yield Property(
        f"{name} is {'larger' if is_larger else 'smaller'} than about {limit:.2g}",
        lambda x: x > limit if is_larger else x < limit,
        lambda x, random: random.uniform(others.min(), others.max(), x.shape),
        lambda x, random: random.uniform(low, high, x.shape),
    )
