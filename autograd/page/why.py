"""Why an element of a gradient is what it is, as data: its terms, their sums, and the largest path.

The numbers are those of the stepper's ``why`` (`autograd.stepper.contributions`). An element is
written as the number of its value and its flat place. Why a value itself is what it is, such as a
logit, the insight of the trace says (`autograd.page.views`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from autograd.page.arrays import number as written
from autograd.stepper.contributions import (
    Element,
    Use,
    cotangent_at_end,
    find_uses,
    follow_path,
    sums_by_name,
)
from autograd.stepper.record import Recording
from autograd.stepper.stops import CommandError
from autograd.stepper.trace import Trace

MOST_TERMS = 12  # of a use, and of its sums by a name; the others are added up
MOST_WRITTEN = 64  # elements of gradients: of more, a page has the answer for the largest alone
MOST_FOLLOWED = 1 << 12  # steps for all elements: of more, too, since a path visits each step
MANY = 1 << 20  # elements of all gradients: of more, an answer takes a second
MOST_LARGE = 4  # answers, if there are many elements
MOST_ELEMENTS = 1 << 26  # of all gradients; for larger ones each answer would take many seconds


@np.errstate(all="ignore")
def explain(trace: Trace, number: int, flat: int) -> dict[str, Any]:
    """Return why one element of the gradient of a value is what it is.

    Returns
    -------
    dict
        ``uses``, each with its ``amount`` and its largest ``terms``, and their sums ``by`` names;
        ``path``, the steps along the largest term each time; ``begin``, the cotangent at its end;
        ``along``, what the path adds to the gradient; ``total``, the gradient. If the
        gradient is zero, not finite, or not there, ``text`` is the answer of the stepper.

    Examples
    --------
    >>> import autograd
    >>> from autograd.page.why import explain
    >>> with autograd.record():
    ...     x = autograd.tensor([1.0, 2.0], requires_grad=True)
    ...     loss = (x * x).sum()
    >>> found = explain(autograd.stepper.trace(loss), x._node.number, 1)
    >>> [(use["input"], use["amount"]) for use in found["uses"]]
    [('x', 2.0), ('y', 2.0)]
    """
    recording = trace.recording
    value, gradient = recording.values[number], trace.cotangent_of(number)
    place = tuple(map(int, np.unravel_index(flat, np.shape(value))))
    x = 0.0 if gradient is None else float(gradient[place])
    if gradient is None or x == 0 or not np.isfinite([x, float(value[place])]).all():
        return {"text": trace.why(number, place)}
    one = np.zeros_like(gradient)
    one[place] = 1
    path = list(follow_path(trace, Element(number, place)))
    begin = cotangent_at_end(trace, path) if path else 1.0
    return {
        "total": x,
        "uses": [_use(trace, use) for use in find_uses(trace, number, one)],
        "path": [
            [
                *_element(recording, hop.element),
                written(hop.derivative),
                f"{hop.call.op.name}  {hop.call.at}".rstrip(),
                hop.factor,
            ]
            for hop in path
        ],
        "begin": written(begin),
        "along": written(begin * float(np.prod([hop.derivative for hop in path]))),
    }


def _use(trace: Trace, use: Use) -> dict[str, Any]:
    """Return a use with its largest terms, and the sum of the others."""
    recording, call = trace.recording, use.call
    terms: list[list[Any]] = []
    others, n_others = 0.0, 0
    by: list[list[Any]] = []
    for n, of, g, d in zip(call.results, use.terms, use.cotangents, use.derivatives, strict=True):
        flat = of.ravel()
        at = np.flatnonzero(flat)  # to order millions of zeros would take seconds
        order = at[np.argsort(-np.abs(flat[at]), kind="stable")]
        terms += [[written(flat[i]), n, int(i), written(g.ravel()[i]), written(d.ravel()[i])]
                  for i in order[:MOST_TERMS]]  # fmt: skip
        others += float(flat[order[MOST_TERMS:]].sum())
        n_others += len(order[MOST_TERMS:])
        by += [
            [name, *_largest_sums(sums)] for name, sums in sums_by_name(recording, n, of).items()
        ]
    return {
        "amount": use.amount,
        "step": next(i for i, step in enumerate(trace.steps) if step.number == call.number),
        "input": use.input,
        "terms": terms,
        "others": [n_others, written(others)],
        "by": by,
    }


def _largest_sums(sums: dict[Any, float]) -> list[Any]:
    """Return the largest sums with their keys, and the number and the sum of the others."""
    order = sorted(sums, key=lambda key: -abs(sums[key]))
    rest = order[MOST_TERMS:]
    listed = [[key, written(sums[key])] for key in order[:MOST_TERMS]]
    return [listed, len(rest), written(sum(sums[key] for key in rest))]


def _element(recording: Recording, element: Element) -> list[int]:
    shape = recording.values[element.number].shape
    return [element.number, int(np.ravel_multi_index(element.place, shape)) if shape else 0]


Also = Callable[[str, tuple[int, ...]], dict[str, Any]]
"""Returns what an answer says besides, for the name and the place of an element."""


def explain_leaves(trace: Trace, also: Also = lambda name, place: {}) -> dict[str, dict[str, Any]]:
    """Return the answers that a page without Python has, by value and place: ``"3:0"``.

    They are about the gradients at which the pass arrives: about each element if there are few
    elements and steps, and otherwise about the largest element of each gradient. If there are more
    than a million elements, they are about the four gradients with the largest elements, without
    those that are large themselves; and there are none if there are more than 64 million.
    """
    gradients = {n: np.asarray(trace.cotangent_of(n)) for n in trace.waiting()}
    n_elements = sum(g.size for g in gradients.values())
    if n_elements > MOST_ELEMENTS:
        return {}
    if n_elements > MANY:
        peaks = {n: float(np.abs(g).max()) for n, g in gradients.items() if 0 < g.size <= 4 * MANY}
        order = sorted(peaks, key=lambda n: -peaks[n])
        gradients = {n: gradients[n] for n in order[:MOST_LARGE]}
    few = n_elements <= MOST_WRITTEN and n_elements * len(trace.steps) <= MOST_FOLLOWED
    return {
        f"{n}:{flat}": explain(trace, n, flat)
        | also(trace.recording.name(n), tuple(map(int, np.unravel_index(flat, g.shape))))
        for n, g in gradients.items()
        if g.size
        for flat in (range(g.size) if few else [int(np.abs(g).argmax())])
    }


def explain_value(trace: Trace, number: int, flat: int) -> dict[str, Any]:
    """Return why an element of a value is what it is, by the insight of the trace.

    Raises
    ------
    CommandError
        If nothing is known about the element.
    """
    if trace.insight is None:
        raise CommandError("nothing is known about this value beyond its sum")
    place = tuple(map(int, np.unravel_index(flat, np.shape(trace.recording.values[number]))))
    calls = trace.recording.behind(trace.start)
    places = {call.number: i for i, call in enumerate(calls)}
    return trace.insight.why(trace, number, place).entry(places)


def explain_elements(trace: Trace) -> dict[str, dict[str, Any]]:
    """Return the answers about elements of values that a page without Python has."""
    found = {}
    for number, place, _ in trace.insight.elements(trace) if trace.insight else ():
        shape = trace.recording.values[number].shape
        flat = int(np.ravel_multi_index(place, shape)) if shape else 0
        found[f"{number}:{flat}"] = explain_value(trace, number, flat)
    return found
