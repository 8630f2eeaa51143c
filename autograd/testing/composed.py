"""A composed function as its steps, with the right cotangent of each value.

:class:`Composition` runs a function once on Tensors. The backward pass of this library then gives
the right gradient, and the cotangents of all values on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.engine import Node, differentiate
from autograd.kernels import use_kernels
from autograd.modes import enable_grad, observing, record_with
from autograd.op import Op
from autograd.tensor import Tensor
from autograd.testing.differences import duplicate
from autograd.testing.look import Look

INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "power": "**", "matmul": "@",
}  # fmt: skip
SHORT = 32  # characters of an expression in a message
MOST_NUMBERS = 50_000  # of the inputs and outputs of a function, or of all its values
TOLERANCE = 1e-7  # of an error that a mistake must explain


class Step(NamedTuple):
    """A call of an op."""

    number: int
    """The place of the call in the order of all calls, also of those without a gradient."""
    op: Op
    args: tuple
    node: Node

    def position(self, parent: Node) -> int:
        """Return which argument has a node."""
        return next(i for i, x in enumerate(self.args) if getattr(x, "_node", None) is parent)


class Edge(NamedTuple):
    """What a step contributes to the cotangent of an argument: the sum over its uses there."""

    step: Step
    parent: Node
    contribution: ndarray


class Composition:
    """The steps of a function at one point, and the cotangents of all values.

    Parameters
    ----------
    look : Look
    left_out : (int, int), optional
        A step that does nothing: its number, and the position of the argument that it returns.

    Attributes
    ----------
    steps : dict of Node to Step
    values : dict of Node to ndarray
        The results of the steps, and the inputs.
    cotangents : dict of Node to ndarray
    edges : list of Edge
    uses : list of Edge
        The same, with an edge of its own for each use of a value in a step.
    right : ndarray
        The right gradient, for the sampled elements.
    """

    def __init__(self, look: Look, left_out: tuple[int, int] | None = None) -> None:
        sizes = [x.size for x in (*look.problem.arrays, *look.outputs)]
        if look.problem.composed is None or sum(sizes) > MOST_NUMBERS:
            raise ValueError("the steps are not known, or too large for experiments")
        self.look, self.left_out, self.n_calls = look, left_out, 0
        self.steps: dict[Node, Step] = {}
        self.values: dict[Node, ndarray] = {}
        self.cotangents: dict[Node, ndarray] = {}
        self.contributions: list[tuple[Node, Node, ndarray]] = []
        leaves: Any = [Tensor(duplicate(x)).requires_grad_() for x in look.problem.arrays]
        # in NumPy: to compile kernels would take longer than all experiments
        with use_kernels(False), enable_grad(), observing(None), record_with(self):
            outputs: Any = look.problem.composed(leaves)
        self.names = {}
        for leaf, name in zip(leaves, look.problem.names, strict=True):
            self.names[leaf._node], self.values[leaf._node] = name, leaf.numpy()
        self.x: Node = leaves[look.position]._node
        pairs = zip(outputs, look.cotangents, strict=True)
        starts = [(y._node, u) for y, u in pairs if y.requires_grad]
        self.right = self.run_backward(starts)
        shifts = [n for n in self.steps if self.is_shift(n)]
        if shifts:
            for node in shifts:
                node.steps = ()
            self.run_backward(starts)
        self.uses = [
            Edge(self.steps[node], parent, contribution)
            for node, parent, contribution in self.contributions
            if node in self.steps
        ]
        totals: dict[tuple[Node, Node], Edge] = {}
        for edge in self.uses:
            key = edge.step.node, edge.parent
            total = edge.contribution + totals[key].contribution if key in totals else edge[2]
            totals[key] = Edge(edge.step, edge.parent, total)
        self.edges = list(totals.values())

    def run_backward(self, starts: list[tuple]) -> ndarray:
        """Compute the cotangents and contributions, and return the gradient of the input."""
        self.cotangents.clear()
        self.contributions.clear()
        with observing(None), observing(self):
            nodes, cotangents = zip(*starts, strict=True)
            gradient = self.pulled_back(nodes, cotangents, self.x)
        self.cotangents[self.x] = gradient
        return gradient.reshape(-1)[self.look.chosen]

    def is_shift(self, node: Node) -> bool:
        """Return whether a value is a maximum without influence, as that in a softmax.

        The exponentials of x - max(x), divided by their sum, are those of x. So the rule of a
        softmax has no term of the maximum, and no gradient goes through it here.
        """
        if self.steps[node].op.name != "max" or node not in self.cotangents:
            return False
        term = self.arriving(node, self.cotangents[node])
        return bool(np.max(np.abs(term)) <= 1e-9 * np.max(np.abs(self.right)))

    # ---- as the recorder and the observer of its own passes

    def around(self, op: Op) -> Callable:
        """Return what runs in the place of an op's function."""
        self.n_calls += 1
        if self.left_out and self.left_out[0] == self.n_calls:
            position = self.left_out[1]
            return lambda *args: args[position].copy()
        return op.forward

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """Keep a call, unless it has several results."""
        if isinstance(result, Tensor):
            node: Any = result._node
            self.steps[node] = Step(self.n_calls, op, args, node)
            self.values[node] = result.numpy()

    def visit(self, node: Node, cotangent: Any) -> None:
        """Keep the cotangent of a value."""
        self.cotangents[node] = cotangent

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Keep what a step contributes to an argument."""
        self.contributions.append((node, parent, contribution))

    # ---- comparisons

    def pulled_back(self, nodes: Any, cotangents: Any, to: Node) -> ndarray:
        """Return what cotangents of values contribute to the cotangent of an earlier value."""
        with use_kernels(False):
            (total,) = differentiate(nodes, cotangents, [to], retain_graph=True)
        return np.zeros(to.shape) if total is None else total

    def arriving(self, node: Node, cotangent: Any) -> ndarray:
        """Return what a cotangent contributes to the gradient, for the sampled elements."""
        return self.pulled_back([node], [cotangent], self.x).reshape(-1)[self.look.chosen]

    def explains(self, *changes: tuple[Node, Any]) -> bool:
        """Return whether changes to the cotangents of values give the rule's gradient."""
        error = self.look.found - self.right
        found = sum(self.arriving(*change) for change in changes)
        size = np.max(np.abs(error if changes else self.right))
        return bool(np.max(np.abs(found - error)) <= TOLERANCE * size)

    def is_before(self, node: Node, later: Node) -> bool:
        """Return whether a value is computed from an earlier one, or is this one."""
        waiting, seen = [later], set()
        while waiting:
            at = waiting.pop()
            if at is node:
                return True
            if at in self.steps and at not in seen:
                seen.add(at)
                waiting += [x._node for x in tensors_in(self.steps[at].args)]
        return False

    # ---- words

    def written(self, x: Any, room: int = SHORT) -> str:
        """Return a value as the expression that computes it; deep parts are left out."""
        node = x if isinstance(x, Node) else getattr(x, "_node", None)
        if node in self.names:
            return self.names[node]
        if node not in self.steps or room < 4:
            return f"{x:.4g}" if isinstance(x, int | float) else "…"
        op, args = self.steps[node].op, self.steps[node].args
        if op.name in INFIX:
            left, right = (self._factor(arg, room // 2) for arg in args)
            return f"{left} {INFIX[op.name]} {right}"
        if op.name == "negative":
            return f"-{self._factor(args[0], room)}"
        kinds: Any = (Tensor, ndarray, int, float) if op.broadcasts else Tensor
        shown = [arg for arg in _flat(args) if isinstance(arg, kinds)]
        inner = (room - len(op.name) - 2) // len(shown)
        return f"{op.name}({', '.join(self.written(arg, inner) for arg in shown)})"

    def _factor(self, x: Any, room: int) -> str:
        text = self.written(x, room)
        node = getattr(x, "_node", None)
        is_sum = node in self.steps and self.steps[node].op.name in (*INFIX, "negative")
        return f"({text})" if is_sum and text != "…" else text


def tensors_in(args: tuple) -> list[Any]:
    """Return the arguments of a call that have a gradient."""
    return [x for x in _flat(args) if isinstance(x, Tensor) and x._node is not None]


def _flat(args: tuple) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, tuple | list):
            yield from _flat(tuple(arg))
        else:
            yield arg
