"""Whether a number is right: three comparisons, which return data.

:func:`check_step` and :func:`check_loss` compare with numeric derivatives, :func:`prove` compares
an op with its reference, and :func:`judge` compares a learner's prediction with the true value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.modes import unseen
from autograd.stepper.measure import difference, largest, norm
from autograd.stepper.record import Call
from autograd.stepper.steps import Step, as_tuple
from autograd.stepper.trace import Trace
from autograd.tensor import grad, tensor
from autograd.testing.causes import likely_cause
from autograd.testing.diagnosis import error_curve
from autograd.testing.differences import STEP, central_difference, locate
from autograd.testing.problem import Arrays, Problem

SAMPLED = 6  # entries of an array that are compared
ROUNDINGS = 4  # how often each value on the way may have been rounded


class Comparison(NamedTuple):
    """Computed derivatives and numeric ones, for a few entries of an array.

    The verdict is ``"right"``, ``"wrong"``, or ``"unclear"`` if the numeric derivatives are too
    inexact to decide.
    """

    title: str
    verdict: str
    error: float
    """The largest difference."""
    size: float
    """The largest entry."""
    noise: float
    """The difference that rounding explains."""
    remark: str
    """Why the verdict is not "right"; empty otherwise."""
    likely: str
    """The mistake that would explain a wrong gradient; empty if none is known."""
    places: list[tuple[int, ...]]
    numeric: list[float]
    computed: list[float]
    total: int
    """The number of entries of the array."""


class Proof(NamedTuple):
    """An op's result, or one of its gradients, compared with that of its reference.

    The verdict says how near the two are. It is empty if they differ by more than rounding.
    """

    title: str
    verdict: str


class Judgement(NamedTuple):
    """The verdict on a prediction: whether it is right, and otherwise a hint."""

    title: str
    is_right: bool
    hint: str
    expected: ndarray


@unseen()
@np.errstate(all="ignore")  # a step may lead to where the function does not exist
def check_step(call: Call, step: Step) -> list[Comparison]:
    """Compare what a step sends to each input with numeric derivatives of the op alone.

    For the cotangent g of the step, each contribution is the gradient of the sum of g * out. The op
    runs in float64 here.
    """
    arguments = {name: _double(x) for name, x in call.arguments.items()}
    gs = [_double(g) for g in as_tuple(step.cotangent)]
    parents = [name for name in call.parents if any(e.input == name for e in step.edges)]

    def run(values: Sequence[Any], function: Callable = call.op) -> list[Any]:
        out = call.run(function, arguments | dict(zip(parents, values, strict=True)))
        return list(out) if call.op.multiple else [out]

    def composed(values: Sequence[Any]) -> list[Any]:
        return run(values, call.op.composed)

    def gradients(arrays: Arrays, cotangents: Arrays) -> list[ndarray]:
        leaves = [tensor(x, requires_grad=True) for x in arrays]
        return [found.numpy() for found in grad(run(leaves), leaves, list(cotangents))]

    arrays = [arguments[name] for name in parents]
    symbols = [f"${name}" for name in parents]
    problem = Problem(call.op.name, symbols, symbols, arrays, run, gradients, run, composed)
    rules = gradients(arrays, gs)
    on_the_way = [*zip(gs, run(arrays), strict=True), *zip(rules, arrays, strict=True)]
    noise = _noise(on_the_way)
    return [
        compare(f"d{name}", problem, gs, position, rules[position], noise)
        for position, name in enumerate(parents)
    ]


@unseen()
@np.errstate(all="ignore")
def check_loss(trace: Trace, number: int, title: str) -> Comparison | None:
    """Compare the gradient of the loss by a leaf or a result with numeric derivatives.

    The recorded calls run again in float64 for each numeric derivative. The result is None if the
    loss does not depend on the value.
    """
    recording, start = trace.recording, trace.start
    weight = _double(trace.cotangent)
    point = _double(recording.values[number])
    tape = recording.replay(start, {number: point}, np.float64)
    if number not in tape:
        return None
    backward = dict(zip(tape, grad(tape[start], list(tape.values()), weight), strict=True))

    def run(arrays: Sequence[Any]) -> list[ndarray]:
        return [recording.replay(start, {number: arrays[0]}, np.float64)[start].numpy()]

    def gradients(arrays: Arrays, cotangents: Arrays) -> list[ndarray]:
        replayed = recording.replay(start, {number: arrays[0]}, np.float64)
        return [grad(replayed[start], replayed[number], cotangents[0]).numpy()]

    on_the_way = [(backward[n].numpy(), tape[n].numpy()) for n in tape]
    problem = Problem("the loss", [title], [title], [point], run, gradients, run)
    return compare(title, problem, [weight], 0, backward[number].numpy(), _noise(on_the_way))


def compare(
    title: str, problem: Problem, gs: Arrays, position: int, found: ndarray, noise: float
) -> Comparison:
    """Compare computed derivatives by one input of a problem with numeric ones, for a few entries.

    The two agree if they differ by at most 1e-6 of the largest entry, or by the noise of the
    differences if the noise is larger.
    """
    x, function = problem.arrays[position], problem.along(position, gs, problem.values)
    entries = np.arange(x.size)
    if x.size > SAMPLED:
        top = np.argsort(-np.abs(found), axis=None)[:2]
        random = np.random.default_rng(0)
        others = random.choice(x.size, SAMPLED - 2, replace=False)
        direction = random.uniform(0.5, 1, x.shape)
        entries = np.unique([*top, *others, *_wrong_entry(function, x, found, direction, noise)])
    places = [tuple(map(int, np.unravel_index(entry, x.shape))) for entry in entries]
    numeric, rule = [], [float(found[place]) for place in places]
    for place in places:
        axis = np.zeros(x.shape)
        axis[place] = 1
        numeric.append(central_difference(function, x, axis))
    errors = np.abs(np.subtract(numeric, rule))
    error = float(np.max(errors, initial=0))  # NaN if one is
    size = max(largest(found), largest(numeric))
    verdict, remark, likely = "right", "", ""
    if not error <= (allowed := max(1e-6 * size, noise)):
        worst = int(np.argmax(errors))
        _, remark, is_wrong = error_curve(function, x, places[worst], rule[worst], allowed)
        verdict = "wrong" if is_wrong else "unclear"
        if is_wrong:
            likely = likely_cause(problem, gs, position, places[worst], found)
        likely = re.sub(r"\b(g|out)\b", r"$\1", likely)  # as the stepper writes a rule's symbols
    return Comparison(
        title, verdict, error, size, noise, remark, likely, places, numeric, rule, x.size
    )


def _wrong_entry(
    function: Callable[[ndarray], float],
    x: ndarray,
    found: ndarray,
    direction: ndarray,
    noise: float,
) -> list[int]:
    """Return the place of an entry that is wrong, if the derivative along a direction is."""

    def error_along(part: ndarray) -> float:
        return float(np.vdot(found, part)) - central_difference(function, x, part)

    if not abs(error_along(direction)) > 1e-6 * norm(found) + noise:
        return []
    return [int(np.ravel_multi_index(locate(error_along, direction), x.shape))]


def prove(inner: Trace, step: Step, out: ndarray) -> Iterator[Proof]:
    """Compare the result of an op and each gradient with those that its reference computed.

    Differences up to rounding are allowed. The size of rounding errors is judged by the largest
    number in the computation.
    """
    recording = inner.recording
    scale = max(map(largest, recording.values.values()))
    yield Proof("out", difference(recording.values[inner.start], out, scale))
    scale = max(largest(edge.contribution) for s in inner.steps for edge in s.edges)
    for edge in step.edges:
        found = inner.cotangent_of(recording.number(edge.input))
        if found is None:
            found = np.zeros_like(edge.contribution)
        yield Proof(f"d{edge.input}", difference(found, edge.contribution, scale))


def judge(title: str, found: ndarray, expected: ndarray) -> Judgement:
    """Judge a prediction. It is right if it agrees in the digits that the stepper shows."""
    right = np.isclose(found, expected, rtol=5e-3, atol=5e-4 * largest(expected), equal_nan=True)
    hint = f"{int((~right).sum())} of {right.size} are wrong"
    if np.allclose(found, -expected, rtol=5e-3):
        hint = "the sign is the other one"
    elif (
        norm(found)
        and norm(expected)
        and np.allclose(found * norm(expected), expected * norm(found), rtol=5e-3)
        and (right.size > 1 or _is_plain(norm(found) / norm(expected)))
    ):
        hint = f"right but for a factor of {norm(found) / norm(expected):.3g}"
    elif not right.ndim:
        hint = "not that"
    is_right = bool(right.all())
    return Judgement(title, is_right, "" if is_right else hint, expected)


def _is_plain(factor: float) -> bool:
    """Return whether a factor, or 1 divided by it, is a whole number up to 10.

    Any two numbers differ by some factor, so another factor of a single number says nothing.
    """
    whole = max(factor, 1 / factor)
    return round(whole) <= 10 and abs(whole - round(whole)) < 5e-3 * whole


def _noise(terms: Iterable[tuple[ndarray, ndarray]]) -> float:
    """Return the error of a numeric derivative that the rounding of values explains.

    If a value is rounded, its error is up to eps times the value. The result then changes by this
    error times the cotangent of the value, and the numeric derivative by that divided by the step.
    The terms are pairs of a cotangent and a value.
    """
    total = sum(float(np.sum(np.abs(x := g * y), where=np.isfinite(x))) for g, y in terms)
    return ROUNDINGS * float(np.finfo(np.float64).eps) * total / STEP


def _double(x: Any) -> Any:
    floating = isinstance(x, ndarray) and x.dtype.kind == "f"
    return x.astype(np.float64) if floating else x
