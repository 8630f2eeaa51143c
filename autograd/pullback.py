"""Running an op's rules backwards: from the cotangent of a result to those of the inputs.

:func:`run_rules` calls the rules of one node. :func:`fit` gives each contribution the shape and
dtype of its input: a rule of an op that broadcasts returns the broadcast shape, and `fit` sums it.
:func:`differentiate_reference` is the way to second derivatives for ops whose rules read saved
values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd.engine import Node, TensorBase, differentiate, new_tensor
from autograd.modes import observing
from autograd.precision import all_in_single, is_half

if TYPE_CHECKING:
    from autograd.op import Op

_ARRAYS: tuple = (ndarray, np.generic, TensorBase)


def run_rules(
    op: Op, node: Node, steps: tuple, g: Any, oldest: int, create_graph: bool
) -> Iterator[tuple]:
    """Yield what the cotangent of a node contributes to each of its parents, one after the other.

    The caller adds a contribution to its sum before the next rule runs. `autograd.fast` does the
    same: with `create_graph`, rules and sums become nodes, and the order of the nodes decides in
    which order the next backward pass adds, and so how it rounds.

    Parameters
    ----------
    op : Op
    node : Node
        The node of the op's result.
    steps : tuple
        ``node.steps``, which another thread may have released since.
    g : ndarray, Tensor, or a tuple of these
        The cotangent of the result.
    oldest : int
        Parents with a smaller number than this need no cotangent.
    create_graph : bool
        Run the rules on Tensors, so that the contributions are on the tape again.

    Yields
    ------
    (input name, parent, contribution)
    """
    for rule, residuals, parents in steps:
        if create_graph:
            residuals = as_tensors(op, node, steps, rule.sources, residuals)
        if not rule.joint:
            parent = parents[0]
            if parent.number >= oldest:
                name = rule.inputs[0]
                yield name, parent, fit(op, name, parent, rule.function(g, *residuals))
            continue
        needs = tuple([p is not None and p.number >= oldest for p in parents])
        if not any(needs):
            continue
        extra = {"needs": needs} if rule.wants_needs else {}
        results = rule.function(g, *residuals, **extra)
        n_results = len(results) if isinstance(results, (tuple, list)) else _kind(results)
        if n_results != len(parents):
            raise TypeError(
                f"{op.name}: the rule of {', '.join(rule.inputs)} must return "
                f"{len(parents)} cotangents, and returned {n_results}"
            )
        for i, contribution in enumerate(results):
            if needs[i]:
                name = f"{rule.inputs[0]}[{i}]" if op.variadic else rule.inputs[i]
                yield name, parents[i], fit(op, name, parents[i], contribution)


def fit(op: Op, name: str, parent: Node, contribution: Any) -> Any:
    """Return a contribution in the shape and dtype of its input, or raise if that is no gradient.

    Broadcasting is undone by a sum, and promotion by a conversion. If x of shape (3,) was added to
    y of shape (2, 3), the rule of x returns shape (2, 3), and `fit` sums over the first axis.
    """
    if not isinstance(contribution, _ARRAYS):
        raise TypeError(
            f"{op.name}: the rule of input {name!r} returned {_kind(contribution)}; "
            "expected an array"
        )
    if contribution.shape != parent.shape:
        if not (op.broadcasts and _broadcasts(parent.shape, contribution.shape)):
            cause = cause_of_shape(contribution.shape, parent.shape)
            raise ValueError(
                f"{op.name}: the rule of input {name!r} returned a gradient of shape "
                f"{contribution.shape}, and the input has shape {parent.shape}"
                + (f"\n  likely  {cause}" if cause else "")
            )
        contribution = sum_to_shape(contribution, parent.shape)
    if contribution.dtype != parent.dtype:
        if contribution.dtype.kind != "f":
            raise TypeError(
                f"{op.name}: the rule of input {name!r} returned a gradient of dtype "
                f"{contribution.dtype}, and the input has dtype {parent.dtype}"
            )
        contribution = contribution.astype(parent.dtype)
    return contribution


def sum_to_shape(x: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the axes that broadcasting from `shape` to ``x.shape`` added or stretched."""
    added = len(x.shape) - len(shape)
    if x.shape[added:] == shape:
        return np.add.reduce(x, axis=tuple(range(added)))
    axes = [i for i, n in enumerate(x.shape) if i < added or (shape[i - added] == 1 and n != 1)]
    return np.add.reduce(x, axis=tuple(axes)).reshape(shape)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Return whether NumPy broadcasts one shape to the other."""
    added = len(large) - len(small)
    if added < 0 or large[added:] == small:
        return added >= 0
    return all(s in (1, n) for s, n in zip(small, large[added:], strict=True))


def cause_of_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return what is likely wrong with a gradient of another shape, or an empty text.

    Examples
    --------
    >>> cause_of_shape((5, 3), (3, 5))
    'a transpose too many or too few: the axes are in reverse order'
    >>> cause_of_shape((2, 3), (3,))
    'a forgotten sum over axis 0: along it the input was broadcast'
    """
    if found == expected[::-1]:
        return "a transpose too many or too few: the axes are in reverse order"
    if sorted(found) == sorted(expected):
        return "the axes are in another order"
    same = [n for n in found if n != 1] == [n for n in expected if n != 1]
    for small, large, text in (
        (expected, found, "a forgotten sum over {}: along it the input was broadcast"),
        (found, expected, "not repeated along {} of the input"),
    ):
        if _broadcasts(small, large) and not same:
            padded = (-1,) * (len(large) - len(small)) + small
            axes = [str(i) for i, n in enumerate(padded) if n != large[i]]
            return text.format(f"ax{'i' if len(axes) == 1 else 'e'}s {', '.join(axes)}")
    if same:
        more, with_ = ("many", "with") if len(found) > len(expected) else ("few", "without")
        return f"an axis of length 1 too {more}, as {with_} keepdims=True"
    if 0 < np.prod(found) == np.prod(expected):
        return "a reshape is missing: the number of elements is right"
    apart = [i for i, (n, m) in enumerate(zip(found, expected, strict=False)) if n != m]
    if len(found) == len(expected) and len(apart) == 1:
        n, m = found[apart[0]], expected[apart[0]]
        if abs(n - m) == 1:
            return f"one element too {'many' if n > m else 'few'} along axis {apart[0]}"
    return ""


def _kind(value: Any) -> str:
    """Return the words for what a rule returned in the place of an array."""
    return "no gradient" if value is None else f"a value of type {type(value).__name__}"


# ---- second derivatives: the residuals become Tensors, and the rules are recorded


def _arguments(op: Op, steps: tuple) -> dict[int, Any]:
    """Return the parents of a node by the position of their argument, constants left out."""
    found = {}
    if not op.variadic:
        for rule, _, parents in steps:
            for i, parent in enumerate(parents):
                if parent is not None:
                    found[rule.positions[i]] = parent
    return found


def as_tensors(op: Op, node: Node, steps: tuple, sources: tuple[int, ...], residuals: Any) -> list:
    """Return residuals as the Tensors that they were when the op ran: each on its own node.

    The several outputs of an op have nodes that are not known here, and stay plain: a rule that
    reads them computes them again from the arguments.
    """
    nodes = _arguments(op, steps)
    if not op.multiple:
        nodes[len(op.names)] = node  # `out` stands behind the arguments
    values = list(residuals)
    for i, source in enumerate(sources):
        if source in nodes:
            values[i] = new_tensor(values[i], nodes[source])
    if op.variadic and 0 in sources:
        (_, _, parents) = steps[0]
        i = sources.index(0)
        values[i] = tuple(
            value if parent is None else new_tensor(value, parent)
            for value, parent in zip(values[i], parents, strict=True)
        )
    return values


def differentiate_reference(op: Op, steps: tuple, g: Any, oldest: int, alias: Op) -> list[tuple]:
    """Return the contributions of an op that saves values, on the tape, by its reference.

    The saved values (a softmax's sums, say) are plain arrays: a rule that reads them cannot be
    differentiated. The op's reference says the same in primitive ops, so the reference runs on the
    arguments, and its own gradient is taken. `alias` gives each argument a new node, newer than
    everything on the tape: the inner backward pass ends there.
    """
    kept: dict[int, Any] = {}
    for rule, residuals, _ in steps:
        kept.update(zip(rule.sources, residuals, strict=True))
    nodes = _arguments(op, steps)
    all_kept = all(i in kept for i in range(len(op.names)))
    if op.variadic or op.reference_function is None or not all_kept:
        raise RuntimeError(
            f"{op.name}: no route to higher derivatives: an op that saves {', '.join(op.saves)} "
            "needs a reference, rules that keep every argument, and a name for each argument"
        )
    arguments = [kept[i] for i in range(len(op.names))]
    wanted = [i for i, parent in nodes.items() if parent.number >= oldest]
    for i, parent in nodes.items():
        arguments[i] = new_tensor(arguments[i], parent)
    for i in wanted:
        arguments[i] = alias(arguments[i])
    inputs = arguments
    if is_half(nodes.values()):
        g, *inputs = map(all_in_single, (g, *arguments))
    out = op.reference_function(*inputs)
    starts: list[Any] = [arguments[i]._node for i in wanted]
    with observing(None):
        gradients = differentiate([out._node], [g], starts, create_graph=True)
    return [
        (op.names[i], nodes[i], fit(op, op.names[i], nodes[i], gradient))
        for i, gradient in zip(wanted, gradients, strict=True)
        if gradient is not None
    ]
