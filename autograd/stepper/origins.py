"""Where a NaN, an infinity or a zero of a gradient came from: the first op that made it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.stepper.contributions import LONGEST_PATH, Element, Use, find_uses, find_zero_factors
from autograd.stepper.record import Call
from autograd.stepper.steps import as_tuple
from autograd.stepper.trace import Trace

KINDS = {"NaN": np.isnan, "Inf": np.isinf}


class NotFinite(NamedTuple):
    """The first op that made a NaN, or an infinity, from numbers without one."""

    kind: str
    """``NaN`` or ``Inf``."""
    call: Call
    input: str
    """In a backward pass, the argument whose contribution has it; empty for a forward pass."""
    place: tuple[int, ...]
    """The first element that has it, of the result or of the contribution."""
    value: ndarray
    """The result, or the contribution."""
    cotangents: tuple[ndarray, ...]
    """The cotangents that the rule read; none for a forward pass."""


class Zero(NamedTuple):
    """A use that sends 0 to an element, and the reason.

    The use may send 0 because all cotangents that it is multiplied by are 0. Then the reason is
    nearer to the loss, and `behind` has the elements on the way there.
    """

    use: Use
    element: Element
    """The element to which the use sends 0 because of a factor."""
    behind: list[Element]
    factors: list[str]
    """The elements of other arguments that are 0, if they are the reason."""
    cancels: bool
    """Whether the terms are not 0, and add up to 0."""


# ---- not finite


def find_not_finite(
    trace: Trace, number: int | None = None, kinds: Container[str] = KINDS
) -> list[NotFinite]:
    """Return which op made the first NaN, and if it came from an infinity, which op made this.

    Parameters
    ----------
    trace : Trace
    number : int, optional
        The number of a value that is not finite: only the calls from which this value was computed
        are searched. By default, the forward pass is searched, and then the backward pass.
    kinds : container of str
        ``NaN``, ``Inf`` or both: what is searched.
    """
    calls = trace.recording.behind(trace.start if number is None else number)
    found: list[NotFinite] = []
    for kind, is_bad in KINDS.items():
        if kind not in kinds:
            continue
        origin = _in_forward(trace, calls, kind, is_bad)
        if origin is None and number is None and not found:
            origin = _in_backward(trace, kind, is_bad)
        if origin is None:
            continue
        found.append(origin)
        inputs = (*origin.call.arguments.values(), *origin.cotangents)
        if not any(_has(x, np.isinf) for x in inputs):
            break
        calls = trace.recording.behind(origin.call.number)
    return found


def find_source(trace: Trace, element: Element) -> list[NotFinite]:
    """Return what made an element of a gradient that is not finite; see `find_not_finite`.

    The search follows the cotangents from the element toward the loss, as long as they are not
    finite, so another NaN of the program, on which the element does not depend, is not found.
    """
    recording, at = trace.recording, element
    for _ in range(LONGEST_PATH):
        sent = _sent_not_finite(trace, at)
        if sent is None:
            break
        use, i, place = sent
        if not np.isfinite(use.cotangents[i][place]):
            at = Element(use.call.results[i], place)
            continue
        result = use.call.results[i]
        for number in (*use.call.parents.values(), result):
            value = recording.values[number]
            same = value.shape == recording.values[result].shape
            part = value[place] if same else value
            if not np.isfinite(part).all():
                kinds = [kind for kind, is_bad in KINDS.items() if is_bad(part).any()]
                return [
                    origin._replace(place=place)
                    if same and number in origin.call.results
                    else origin
                    for origin in find_not_finite(trace, number, kinds)
                ]
        gradient = np.asarray(trace.cotangent_of(at.number))
        kind = "NaN" if np.isnan(gradient[at.place]) else "Inf"
        return [NotFinite(kind, use.call, use.input, at.place, gradient, use.cotangents)]
    return find_not_finite(trace)


def _sent_not_finite(trace: Trace, element: Element) -> tuple[Use, int, tuple[int, ...]] | None:
    """Return a use that sends something not finite to an element, and by which result element.

    A derivative of one element is computed with zeros for all others, and 0 times infinity is NaN.
    So the element at the same place is taken first: an op element by element sends by it alone.
    """
    found = []
    for use in _uses_of(trace, element):
        for i, (terms, derivative) in enumerate(zip(use.terms, use.derivatives, strict=True)):
            bad = ~np.isfinite(terms) & (derivative != 0)
            if bad.shape == trace.recording.values[element.number].shape and bad[element.place]:
                return use, i, element.place
            if bad.any():
                found.append((use, i, _first(bad)))
    return found[0] if found else None


def _in_forward(trace: Trace, calls: list[Call], kind: str, is_bad: Callable) -> NotFinite | None:
    """Return the first call whose result has a bad element, and whose arguments have none."""
    for call in calls:
        for number in call.results:
            value = trace.recording.values[number]
            if _has(value, is_bad) and not any(_has(x, is_bad) for x in call.arguments.values()):
                return NotFinite(kind, call, "", _first(is_bad(value)), value, ())
    return None


def _in_backward(trace: Trace, kind: str, is_bad: Callable) -> NotFinite | None:
    """Return the first step that sends a bad element, and whose rule read none."""
    for step in trace.steps:
        call, cotangents = trace.call(step), as_tuple(step.cotangent)
        results = [trace.recording.values[number] for number in call.results]
        if any(_has(x, is_bad) for x in (*cotangents, *results, *call.arguments.values())):
            continue
        for edge in step.edges:
            if _has(edge.contribution, is_bad):
                place = _first(is_bad(edge.contribution))
                return NotFinite(kind, call, edge.input, place, edge.contribution, cotangents)
    return None


def _has(x: Any, is_bad: Callable) -> bool:
    floating = isinstance(x, ndarray | np.floating | float) and np.asarray(x).dtype.kind == "f"
    return floating and bool(is_bad(x).any())


def _first(mask: Any) -> tuple[int, ...]:
    mask = np.asarray(mask)
    return tuple(map(int, np.unravel_index(int(np.argmax(mask)), mask.shape)))


# ---- zero


def find_zeros(trace: Trace, element: Element) -> Iterator[Zero]:
    """Yield for each use of an element, whose gradient is 0, why the use sends 0."""
    for use in _uses_of(trace, element):
        behind: list[Element] = []
        at = element
        while len(behind) < LONGEST_PATH and (after := _behind(use, at)) is not None:
            further = _uses_of(trace, after)
            if not further:
                break
            behind.append(after)
            at, use = after, further[0]
        cancels = any(terms.any() for terms in use.terms)
        names = [] if cancels else find_zero_factors(trace.recording, use, at)
        yield Zero(use, at, behind, names, cancels)


def _uses_of(trace: Trace, element: Element) -> list[Use]:
    one = np.zeros_like(trace.recording.values[element.number])
    one[element.place] = 1
    return find_uses(trace, element.number, one)


def _behind(use: Use, element: Element) -> Element | None:
    """Return an element of a result that depends on the given one, if all of them have 0."""
    read = [(i, d != 0) for i, d in enumerate(use.derivatives) if d.any()]
    if not read or any(use.cotangents[i][mask].any() for i, mask in read):
        return None
    i, mask = read[0]
    return Element(use.call.results[i], _first(mask))
