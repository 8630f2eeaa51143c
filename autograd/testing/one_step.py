"""Mistakes in one step of a composed function, such as a network of two layers.

Each detector applies a common mistake to one step of a :class:`Composition`, and compares the
result with the rule's gradient. If the derivative of ``tanh`` is left out in ``tanh(x @ w)``, for
example, then the gradient of ``w`` is ``x.T @ g``.

So a cause is exact: with this mistake, the chain rule gives the numbers that the rule gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from autograd.engine import Node
from autograd.kernels import use_kernels
from autograd.tensor import Tensor
from autograd.testing.composed import MOST_NUMBERS, TOLERANCE, Composition, Edge, Step
from autograd.testing.differences import central_difference
from autograd.testing.look import Look, axes_text, close, factor_text, orders

Mistake = Callable[[Composition], Iterator[str]]

MOST_STEPS = 60  # of a function: the experiments with more would take seconds


def one_step(look: Look, mistakes: Sequence[Mistake] = ()) -> Iterator[str]:
    """Yield which mistake in one step of the function explains the gradient."""
    composition = Composition(look)
    numbers = sum(value.size for value in composition.values.values())
    if len(composition.steps) > MOST_STEPS or numbers > MOST_NUMBERS:
        return
    if not close(composition.right, look.numeric, look.scale):
        return  # a part of the function is no op
    if close(composition.right, look.found, look.scale):
        return  # the rule is right
    for mistake in mistakes or MISTAKES:
        found: list[str] = []
        with suppress(Exception):  # of a step with values that it never has in the function
            found += mistake(composition)
        yield from found


def broadcast_sum(look: Look) -> Iterator[str]:
    """Yield a wrong sum over axes along which an input is broadcast."""
    yield from one_step(look, [wrong_sums])


# ---- the rules of ops


def wrong_rule(look: Look) -> Iterator[str]:
    """Yield the op whose own rule is wrong; if all are right, that the tape misses a dependence.

    This explains a function of Tensors, whose gradient is that of its steps.
    """
    c = Composition(look)
    if not close(c.right, look.found, look.scale) or len(c.uses) < len(c.contributions):
        return
    random = np.random.default_rng(0)
    for edge in c.edges:
        step, parent, contribution = edge
        if step.op.variadic:
            return
        direction = random.uniform(0.5, 1, parent.shape) * random.choice([-1, 1], parent.shape)
        numeric = np.vdot(c.cotangents[step.node], _forward(c, step, parent, direction))
        terms = np.sum(np.abs(contribution * direction))
        if abs(np.vdot(contribution, direction) - numeric) > 1e-6 * terms + 1e-8:
            if len(c.steps) > 1:  # of a single op, other detectors say more
                yield f"the rule of {step.op.name} is wrong, for {_use(c, edge)}"
            return
    yield (
        f"a value that depends on {c.names[c.x]} is used as a constant, as after detach(), "
        ".data or no_grad()"
    )


# ---- terms


def lost_terms(c: Composition) -> Iterator[str]:
    """Yield the terms that the gradient must have, and has not: one, or two."""
    lost = c.right - c.look.found
    size = TOLERANCE * np.max(np.abs(lost))
    terms = [(edge, c.arriving(edge.parent, edge.contribution)) for edge in reversed(c.edges)]
    for edge, term in terms:
        if np.all(np.abs(term - lost) <= size):
            yield f"the term of {_use(c, edge)} is missing"
    for edge in c.uses if len(c.uses) > len(c.edges) else ():
        if np.all(np.abs(c.arriving(edge.parent, edge.contribution) - lost) <= size):
            yield f"the term of one use of {_use(c, edge)} is missing"
    for (one, first), (other, second) in combinations(terms, 2):
        if np.all(np.abs(first + second - lost) <= size) and not (
            c.is_before(one.step.node, other.parent) or c.is_before(other.step.node, one.parent)
        ):
            yield f"the terms of {_use(c, one)} and of {_use(c, other)} are missing"


def scaled_terms(c: Composition) -> Iterator[str]:
    """Yield the term of the gradient that has a wrong sign, or a wrong factor."""
    error = c.look.found - c.right
    for edge in reversed(c.edges):
        term = c.arriving(edge.parent, edge.contribution)
        if np.count_nonzero(term) < 2:
            continue  # a number is always a multiple of another one
        factor = 1 + float(error @ term / (term @ term))
        if abs(factor) > TOLERANCE and np.max(
            np.abs(error - (factor - 1) * term)
        ) <= TOLERANCE * np.max(np.abs(error)):
            factor = -1.0 if abs(factor + 1) < TOLERANCE else factor
            yield f"{factor_text(factor, c.look)}, in the term of {_use(c, edge)}"


def _use(c: Composition, edge: Edge) -> str:
    return f"{c.written(edge.parent)} in {c.written(edge.step.node)}"


# ---- derivatives


def without_derivative(c: Composition) -> Iterator[str]:
    """Yield the step, or the steps, in whose place g has another factor than the derivative."""
    for step, parent, contribution in c.edges:
        g = c.cotangents[step.node]
        if parent.shape == g.shape:
            if c.explains((parent, g - contribution)):
                yield _unchanged(c, step.node, parent)
            if c.explains((parent, g * c.values[step.node] - contribution)):
                yield f"g is multiplied by the value of {c.written(step.node)}, not its derivative"
    for later, earlier in combinations(c.cotangents, 2):
        if later.shape == earlier.shape and c.is_before(earlier, later):
            g = c.cotangents[later]
            if c.explains((earlier, g - c.pulled_back([later], [g], earlier))):
                yield _unchanged(c, later, earlier)


def _unchanged(c: Composition, later: Node, earlier: Node) -> str:
    return (
        f"g passes from {c.written(later)} to {c.written(earlier)} unchanged: the derivative is "
        "missing"
    )


def left_out(c: Composition) -> Iterator[str]:
    """Yield the step without which the rule would be right."""
    nodes = list(c.steps)
    for step in c.steps.values():
        for position, arg in enumerate(step.args):
            if not isinstance(arg, Tensor) or arg.shape != step.node.shape or step.op.saves:
                continue
            other = Composition(c.look, (step.number, position))
            if other.explains():
                yield (
                    f"the derivatives are taken at {c.written(arg)}, and not at "
                    f"{c.written(step.node)}: this step, such as an eps or a factor, is left out"
                )
            node = list(other.steps)[nodes.index(step.node)]
            passed_to = other.steps[node].args[position]._node
            changes = [(e.parent, -e.contribution) for e in other.edges if e.step.node is node]
            if changes and other.explains(*changes, (passed_to, other.cotangents[node])):
                yield f"right for the function without the step {c.written(step.node)}"


# ---- orders


def reordered(c: Composition) -> Iterator[str]:
    """Yield the step whose rule has a transpose, or another order, too many or too few."""
    for edge in reversed(c.edges):
        step, parent, contribution = edge
        where, g = f"in the gradient of {_use(c, edge)}", c.cotangents[step.node]
        for text, other in orders(contribution):
            if other.shape == parent.shape and c.explains((parent, other - contribution)):
                yield f"{where}: {text}"
        for text, other in orders(g):
            if other.shape == g.shape:
                change = _pulled_back(step, parent, other) - contribution
                if c.explains((parent, change)):
                    yield f"{where}: in the cotangent g, {text}"
        if parent.shape == g.shape and g.size > 1 and not step.op.variadic:
            if c.explains((parent, _forward(c, step, parent, g) - contribution)):
                yield f"{where}: a Jacobian that is not transposed: J g, and should be Jᵀ g"
            if step.op.name == "matmul" and g.ndim == 2 and len({*g.shape}) == 1:
                exchanged = _forward(c, step, parent, g.T).T
                if c.explains((parent, exchanged - contribution)):
                    yield f"{where}: the factors of a product stand in the other order"


def _pulled_back(step: Step, parent: Node, g: ndarray) -> ndarray:
    """Return what a step contributes to an argument for a cotangent."""
    with use_kernels(False):
        edges = list(step.op.pull_back(step.node, step.node.steps or (), g, 0, False))
    return sum((part for _, to, part in edges if to is parent), start=np.zeros(parent.shape))


def _forward(c: Composition, step: Step, parent: Node, direction: ndarray) -> ndarray:
    """Return the derivative of a step's result along a direction of one argument."""

    def value(x: ndarray) -> ndarray:
        args = [x if getattr(arg, "_node", None) is parent else arg for arg in step.args]
        return step.op.forward(*(a.numpy() if isinstance(a, Tensor) else a for a in args))

    with use_kernels(False):
        return central_difference(value, c.values[parent], direction)


# ---- sums over axes


def wrong_sums(c: Composition) -> Iterator[str]:
    """Yield the value that is broadcast in a step, and whose gradient is a wrong sum."""
    for edge in reversed(c.edges):
        step, parent, contribution = edge
        g, where = c.cotangents[step.node], f"in the gradient of {_use(c, edge)}"
        if not step.op.broadcasts or parent.shape == g.shape:
            continue
        added = g.ndim - len(parent.shape)
        right = {k for k in range(g.ndim) if k < added or parent.shape[k - added] < g.shape[k]}
        for rule, residuals, parents in step.node.steps or ():
            terms = rule.function(g, *residuals)  # before the sum
            if parents == (parent,) and terms.shape == g.shape:
                for axes in combinations(range(g.ndim), len(right)):
                    total = terms.sum(axes)
                    if total.size == contribution.size:
                        change = total.reshape(parent.shape) - contribution
                        if change.any() and c.explains((parent, change)):
                            yield (
                                f"{where}: a sum over {axes_text({*axes})}, in the place of "
                                f"{axes_text(right)}"
                            )
        for axis in range(g.ndim):
            total = np.repeat(g.sum(axis, keepdims=True), g.shape[axis], axis)
            found = _pulled_back(step, parent, total)
            if np.max(np.abs(found)) <= TOLERANCE * np.max(np.abs(contribution)):
                continue  # a lost term, rather
            if c.explains((parent, found - contribution)):
                yield f"{where}: g is summed over axis {axis} before the product, and not after it"


class Normalization(NamedTuple):
    """A function v of an array u of the same shape that sums over an axis.

    Attributes
    ----------
    name : str
    value : callable
        Takes u, v and the axis, and returns v, if v is this function of u.
    rule : callable
        Takes g, u, v, the axis, the axes over which the rule sums, and those of the softmax before
        the sum; returns the cotangent of u.
    """

    name: str
    value: Callable[[ndarray, ndarray, int], ndarray]
    rule: Callable[..., ndarray]


def _softmax(u: ndarray, axes: int | tuple[int, ...]) -> ndarray:
    e = np.exp(u - u.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _softmax_rule(g, u, v, axis, summed, over):  # type: ignore[no-untyped-def]
    return g * v - _softmax(u, over) * np.sum(g * v, summed, keepdims=True)


def _log_softmax_rule(g, u, v, axis, summed, over):  # type: ignore[no-untyped-def]
    return g - _softmax(u, over) * np.sum(g, summed, keepdims=True)


def _scaled(u: ndarray, v: ndarray, axis: int) -> ndarray:
    """Return u with the length that v has, along each line."""
    return u / _length(u, v, axis)


def _scaled_rule(g, u, v, axis, summed, over):  # type: ignore[no-untyped-def]
    return (g - v * np.mean(g * v, summed, keepdims=True)) / _length(u, v, axis)


def _standardized_rule(g, u, v, axis, summed, over):  # type: ignore[no-untyped-def]
    g = g - np.mean(g, summed, keepdims=True)
    return _scaled_rule(g, _centred(u, axis), v, axis, summed, over)


def _centred(u: ndarray, axis: int) -> ndarray:
    return u - u.mean(axis, keepdims=True)


def _length(u: ndarray, v: ndarray, axis: int) -> ndarray:
    """Return the number by which each line of u is divided in v."""
    return np.sqrt(np.sum(u * u, axis, keepdims=True) / np.sum(v * v, axis, keepdims=True))


NORMALIZATIONS = (
    Normalization("softmax", lambda u, v, axis: _softmax(u, axis), _softmax_rule),
    Normalization(
        "logarithm of a softmax", lambda u, v, axis: np.log(_softmax(u, axis)), _log_softmax_rule
    ),
    Normalization("norm", _scaled, _scaled_rule),
    Normalization(
        "norm", lambda u, v, axis: _scaled(_centred(u, axis), v, axis), _standardized_rule
    ),
)


def wrong_axes(c: Composition) -> Iterator[str]:
    """Yield the softmax or the norm whose rule sums over other axes than the function."""
    for later, earlier in combinations(c.cotangents, 2):
        shape = later.shape
        if len(shape) < 2 or earlier.shape != shape or not c.is_before(earlier, later):
            continue
        u, v, g = c.values[earlier], c.values[later], c.cotangents[later]
        for axis, (name, value, rule) in product(range(len(shape)), NORMALIZATIONS):
            if not close(value(u, v, axis), v, 1e-4):
                continue
            right, own = rule(g, u, v, axis, axis, axis), axes_text({axis})
            for k in range(len(shape) + 1):
                axes = (k,) if k < len(shape) else tuple(range(len(shape)))
                mistakes = {"sum": rule(g, u, v, axis, axes, axis)}
                if "softmax" in name:
                    mistakes["softmax"] = rule(g, u, v, axis, axis, axes)
                for what, found in mistakes.items():
                    if k != axis and c.explains((earlier, found - right)):
                        yield (
                            f"in the {name} {c.written(later)}: a {what} over "
                            f"{axes_text({*axes})}, in the place of {own}"
                        )


MISTAKES: tuple[Mistake, ...] = (
    lost_terms, without_derivative, wrong_axes, wrong_sums, reordered, left_out, scaled_terms,
)  # fmt: skip
