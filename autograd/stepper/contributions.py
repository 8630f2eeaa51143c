"""Why a number of a gradient is what it is: the terms that add up to it, and where they come from.

The rule of an op is linear in the cotangent g of its result, so what the rule sends to one element
x_e of an input is a sum of terms, one for each element k of the result:

    contribution to x_e = Σ_k g_k · ∂out_k/∂x_e

One directional derivative (`jvp`), in the direction of x_e, gives all derivatives ∂out_k/∂x_e of
this element. So the same few lines find the terms for every op.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.anomaly import Contribution, Explanation
from autograd.functional import jvp
from autograd.modes import enable_grad, unseen
from autograd.stepper.axes import count
from autograd.stepper.places import Index, name_of
from autograd.stepper.record import Call, Recording, leaf_of
from autograd.stepper.steps import as_tuple
from autograd.stepper.symbols import names_of
from autograd.stepper.trace import Trace
from autograd.tensor import grad

LONGEST_PATH = 1000  # steps


class Use(NamedTuple):
    """A use of a value: a call that read the value, and the terms of what its rule sends back.

    For a part of the gradient with several elements, the terms are shares of the part's norm, and
    the derivatives are directional derivatives, in the direction of the part's gradient.
    """

    call: Call
    input: str
    """The name of the op's argument."""
    amount: float
    """The sum of all terms: the contribution of this use."""
    cotangents: tuple[ndarray, ...]
    """For each result of the call, its cotangent."""
    derivatives: tuple[ndarray, ...]
    """For each result of the call, the derivatives of its elements."""

    @property
    def terms(self) -> tuple[ndarray, ...]:
        """For each result of the call, the product of cotangent and derivative, by element.

        It is 0 where the result does not depend on the element, also if the cotangent is infinite.
        """
        with np.errstate(invalid="ignore"):
            return tuple(
                np.where(d == 0, 0.0, g * d)
                for g, d in zip(self.cotangents, self.derivatives, strict=True)
            )


class Element(NamedTuple):
    """One element of a recorded value."""

    number: int
    place: tuple[int, ...]


class Hop(NamedTuple):
    """One step of a path from an element to the start of the backward pass."""

    element: Element
    """The element of the call's result."""
    call: Call
    derivative: float
    """The derivative of `element` with respect to the element before it on the path."""
    factor: str
    """The element of an input that is this derivative, such as ``X[3, 0]``; empty if none is."""


class Flow(NamedTuple):
    """One step of a path through whole values: what a use adds to a part, and by which elements."""

    number: int
    """The result of the call."""
    call: Call
    amount: float
    terms: ndarray


class Part(NamedTuple):
    """The gradient of a value, or of a part of it, with everything that adds up to it."""

    name: str
    """The value and the index, such as ``W1[0, 2]``."""
    gradient: ndarray
    total: float
    """The sum of the amounts of all uses: the element, or the norm of several elements."""
    uses: list[Use]
    """The uses, the largest first."""
    at: Index
    first: Element
    """Where the path begins: the element, or the largest one of several."""
    path: list[Hop]
    flow: list[Flow]


@np.errstate(all="ignore")
def derivatives_along(call: Call, name: str, direction: ndarray) -> tuple[ndarray, ...]:
    """Return how each result of a call changes with one of its arguments, along a direction."""

    def run(x: Any) -> Any:
        return call.run(call.op, call.arguments | {name: x})

    with unseen():
        _, pushed = jvp(run, [call.arguments[name]], [direction])
    return tuple(np.asarray(x) for x in (pushed if call.op.multiple else [pushed]))


@np.errstate(all="ignore")
def find_uses(trace: Trace, number: int, direction: ndarray) -> list[Use]:
    """Return the uses of a value with their terms along a direction, the largest first."""
    found = []
    for i, edge in trace.edges_to(number):
        step = trace.steps[i]
        call = trace.call(step)
        along = derivatives_along(call, edge.input, direction)
        amount = float(np.vdot(edge.contribution[direction != 0], direction[direction != 0]))
        if np.isfinite(amount):  # an element outside the part may have an infinite derivative,
            along = tuple(np.where(np.isfinite(d), d, 0) for d in along)  # and 0 times it is NaN
        found.append(Use(call, edge.input, amount, as_tuple(step.cotangent), along))
    return sorted(found, key=lambda use: -abs(use.amount))


def explain_whole(trace: Trace, number: int) -> Explanation:
    """Return the contributions to the whole gradient of a value, grouped by module."""
    gradient: Any = trace.cotangent_of(number)
    parts = []
    for i, edge in trace.edges_to(number):
        call = trace.call(trace.steps[i])
        shape = trace.recording.values[call.results[0]].shape
        parts.append(
            Contribution(
                call.op.name, edge.input, shape, call.number, edge.contribution, call.scope
            )
        )
    return Explanation.of(gradient, parts)


def explain_part(trace: Trace, number: int, index: Index) -> Part:
    """Return the contributions to the gradient of a part of a value, and the largest path from it.

    The gradient must be finite, and not zero.
    """
    gradient: Any = trace.cotangent_of(number)
    part = np.asarray(gradient[index])
    total = float(part) if part.ndim == 0 else float(np.linalg.norm(part))
    direction = np.zeros_like(gradient)
    direction[index] = 1 if part.ndim == 0 else part / total
    recording = trace.recording
    sizes = np.abs(np.where(direction != 0, gradient, 0))
    largest = np.unravel_index(np.argmax(sizes), sizes.shape)
    first = Element(number, tuple(map(int, largest)))
    return Part(
        name_of(recording.name(number), index),
        part,
        total,
        find_uses(trace, number, direction),
        index,
        first,
        list(follow_path(trace, first)),
        list(follow_flow(trace, number, direction)),
    )


def cotangent_at_end(trace: Trace, path: list[Hop]) -> float:
    """Return the cotangent of the last element of a path."""
    last = path[-1].element
    return float(np.asarray(trace.cotangent_of(last.number))[last.place])


def follow_path(trace: Trace, element: Element) -> Iterator[Hop]:
    """Yield the steps from an element to the start of the pass, along the largest term each time.

    A path ends after a thousand steps. The product of the derivatives, times the cotangent at the
    end, is what this path adds to the gradient of the element.
    """
    for _ in range(LONGEST_PATH):
        if element.number == trace.start:
            return
        one = np.zeros_like(trace.recording.values[element.number])
        one[element.place] = 1
        places = [(use, i, terms) for use in find_uses(trace, element.number, one)
                  for i, terms in enumerate(use.terms) if terms.size]  # fmt: skip
        if not places:
            return
        use, i, terms = max(places, key=lambda place: np.abs(place[2]).max())
        k = np.unravel_index(np.argmax(np.abs(terms)), terms.shape)
        after = Element(use.call.results[i], tuple(map(int, k)))
        factor = find_factor(trace.recording, use, i, element, after)
        yield Hop(after, use.call, float(use.derivatives[i][k]), factor)
        element = after


def follow_flow(trace: Trace, number: int, direction: ndarray) -> Iterator[Flow]:
    """Yield the steps from a part to the start of the pass, along the largest use each time.

    The direction is carried through every use: of a value h it becomes ∂h/∂(part), and the terms
    are the products of its elements with those of the cotangent d(h). Each step leaves out the
    other uses, and no element. So in a deep network, where each element is one of many, the amounts
    say which branch matters.
    """
    for _ in range(LONGEST_PATH):
        uses = find_uses(trace, number, direction)
        if number == trace.start or not uses:
            return
        places = ((use, i) for use in uses for i in range(len(use.terms)))
        use, i = max(places, key=lambda place: abs(float(place[0].terms[place[1]].sum())))
        terms = use.terms[i]
        number, direction = use.call.results[i], use.derivatives[i]
        yield Flow(number, use.call, float(terms.sum()), terms)


def sums_by_name(
    recording: Recording, number: int, terms: ndarray
) -> dict[str, dict[int | str, float]]:
    """Return the sums of terms by what the axes of a value count: by head, by position, by token.

    Parameters
    ----------
    recording : Recording
    number : int
        The number of the value.
    terms : ndarray
        One term for each element of the value.

    Returns
    -------
    dict
        For each name of an axis, the sum for each place, without places whose terms are all 0. What
        has a text, such as the token at a position, is also added up by text, under ``token``. A
        name with one place alone is left out, since its sum is the sum of all. Without texts, the
        keys under ``token`` are the ids that the program looks up.
    """
    counted, ids = list(recording.axes_of(number)), token_ids(recording, number)
    for axis, name in enumerate(("example", "position") if ids is not None else ()):
        counted[axis] = counted[axis] or count(name, terms.shape[axis])
    of = {name: (axis, at.tolist()) for axis, coordinates in enumerate(counted)
          for name, at in coordinates}  # fmt: skip
    found = {name: _sums_by_key(terms, [axis], at) for name, (axis, at) in of.items()}
    if ids is not None:
        found["token"] = _sums_by_key(terms, [0, 1], ids.ravel().tolist())
    for names, texts in recording.texts.items():
        axes = [of[name][0] for name in names if name in of]
        if 1 < len(names) == len({*axes}):
            places = itertools.product(*(of[name][1] for name in names))
            keys = [_text_at(texts, place) for place in places]
            found["token"] = _sums_by_key(terms, axes, keys)
    return {name: sums for name, sums in found.items() if len(sums) > 1}


def token_ids(recording: Recording, number: int) -> ndarray | None:
    """Return the ids (B, T) that a program looks up, if a value has the shape (B, T, C)."""
    shape = recording.values[number].shape
    for call in recording.calls.values():
        ids: Any = call.arguments.get("input")
        if call.op.name == "embedding" and np.ndim(ids) == 2 and len(shape) == 3:
            return np.asarray(ids) if np.shape(ids) == shape[:2] else None
    return None


def _sums_by_key(terms: ndarray, axes: list[int], keys: list[Any]) -> dict[Any, float]:
    """Return the sums of terms by the keys of the places along some axes, in the order of these."""
    others = tuple(axis for axis in range(terms.ndim) if axis not in axes)
    order = [sorted(axes).index(axis) for axis in axes]
    along = np.asarray(terms.sum(axis=others)).transpose(order).ravel().tolist()
    is_used = np.asarray(terms.any(axis=others)).transpose(order).ravel().tolist()
    sums: dict[Any, float] = {}
    for key, term, used in zip(keys, along, is_used, strict=True):
        if used:
            sums[key] = sums.get(key, 0.0) + term
    return sums


def _text_at(texts: Any, places: tuple[int, ...]) -> str:
    for place in places:
        texts = texts[place]
    return str(texts)


def find_factor(recording: Recording, use: Use, i: int, before: Element, after: Element) -> str:
    """Return the element of another argument that a derivative is, as in ``X[3, 0]``.

    The derivative is this element if it depends on no other element, with the slope 1 or -1, and
    has its value. Otherwise the text is empty.
    """
    ones = tuple(map(np.zeros_like, use.derivatives))
    ones[i][after.place] = 1
    slopes = find_slopes(use, before, ones)
    if sum(map(np.count_nonzero, slopes.values())) != 1:
        return ""
    ((name, value, slope),) = _named_slopes(recording, use.call, slopes)
    is_it = abs(slope) == 1 and slope * value == float(use.derivatives[i][after.place])
    return ("-" if slope < 0 else "") + name if is_it else ""


@np.errstate(all="ignore")
def find_zero_factors(recording: Recording, use: Use, element: Element) -> list[str]:
    """Return the elements of a call's arguments that are 0 and make a contribution 0.

    Where two factors are 0, the derivative by each of them is 0 as well. So a 1 stands for each 0
    of the arguments and of the cotangents here, and the derivative says which of these take part.
    """
    ones = tuple(np.where(g == 0, np.ones_like(g), g) for g in use.cotangents)
    try:
        slopes = find_slopes(use, element, ones, without_zeros=True)
    except np.linalg.LinAlgError:  # with ones in the place of zeros, the matrix has no inverse
        return []
    return [name for name, value, _ in _named_slopes(recording, use.call, slopes) if value == 0]


@np.errstate(all="ignore")
def find_slopes(
    use: Use, element: Element, cotangents: tuple[ndarray, ...], without_zeros: bool = False
) -> dict[str, ndarray]:
    """Return the derivatives of a contribution to an element by the arguments of the call.

    With `without_zeros`, a 1 stands for each 0 of the arguments.
    """
    call, op = use.call, use.call.op

    def leaf(x: Any) -> Any:
        x = x if _is_floating(x) else np.asarray(x, float)
        return leaf_of(np.where(x == 0, np.ones_like(x), x) if without_zeros else x)

    names = call.differentiable
    leaves = {
        name: leaf(x) for name, x in call.arguments.items() if name in names and _is_factor(x)
    }
    arguments = call.arguments | leaves
    with unseen(), enable_grad():
        out = call.run(op, arguments)
        outputs = list(out) if op.multiple else [out]
        sent: Any = grad(outputs, leaves[use.input], list(cotangents), create_graph=True)
        if not sent.requires_grad:
            return {}
        slopes = grad(sent[element.place], list(leaves.values()))
    return dict(zip(leaves, map(np.asarray, slopes), strict=True))


def _named_slopes(
    recording: Recording, call: Call, slopes: dict[str, ndarray]
) -> Iterator[tuple[str, float, float]]:
    names = names_of(call, recording, recording.name)
    for name, slope in slopes.items():
        for k in zip(*map(np.ndarray.tolist, np.nonzero(np.atleast_1d(slope))), strict=True):
            place = k if slope.ndim else ()
            value = float(np.asarray(call.arguments[name])[place])
            yield name_of(names[name], place), value, float(slope[place])


def _is_floating(x: Any) -> bool:
    return isinstance(x, ndarray) and x.dtype.kind == "f"


def _is_factor(x: Any) -> bool:
    """Return whether an argument may be a factor: an array of numbers, or the number 0.

    Other numbers are options, such as the 2 of ``x**2``.
    """
    if isinstance(x, ndarray):
        return x.dtype.kind in "fiub"
    return isinstance(x, int | float | np.number | np.bool_) and x == 0
