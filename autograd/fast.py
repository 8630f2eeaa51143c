"""Shortcuts for small arrays. You can skip this file: everything works without it.

An op on a few numbers takes NumPy about a microsecond, and the general code of `autograd.tape`
and `autograd.engine` several. Two shortcuts here do the same with fewer calls:

- :class:`UnaryOp`, :class:`BinaryOp` and :class:`OptionsOp` record the plainest calls of ops with
  one argument, with two, and with one before options such as `axis`;
- :func:`visit_plain` pulls cotangents back through the plainest nodes.

Each shortcut first asks whether the case is plain (no option given, float32 or float64, no hook,
no recorder, ...), and otherwise leaves the case to the general code. ``AUTOGRAD_SHORTCUTS=0`` in
the environment switches the shortcuts off: results are the same, bit for bit.
"""

from __future__ import annotations

import os
from heapq import heappop, heappush, heapreplace
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import changes, engine
from autograd.engine import Node, TensorBase, add_to, new_result
from autograd.modes import grad_mode
from autograd.op import Op
from autograd.pullback import as_tensors
from autograd.tape import IMMUTABLE, record

_USUAL = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


class UnaryOp(Op):
    """An op of one argument."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if its argument requires a gradient."""
        if len(args) == 1 and not kwargs and isinstance(given := args[0], TensorBase):
            parent, rule = given._node, self.single_rules[0]
            if (
                parent is not None
                and not parent.is_shared
                and rule is not None
                and grad_mode() is True
            ):
                x = given._array
                out = self.forward(x)
                if type(out) is not ndarray or out.dtype not in _USUAL:
                    return record(self, args, [x], {0: parent}, out)
                values: tuple = (x, out, x.shape) if self.reads_shapes else (x, out)
                steps = ((rule, rule.keep(values), (parent,)),)
                return new_result(self, steps, out)
        return super().__call__(*args, **kwargs)


class OptionsOp(Op):
    """An op of an array and at least two options, such as ``sum_(x, axis, keepdims)``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if its first argument requires a gradient."""
        if not kwargs and len(args) == self.n_plain and isinstance(given := args[0], TensorBase):
            parent, rule, options = given._node, self.single_rules[0], args[1:]
            if (
                parent is not None
                and not parent.is_shared
                and rule is not None
                and IMMUTABLE.issuperset(map(type, options))
                and grad_mode() is True
            ):
                x = given._array
                out = self.forward(x, *options)
                if type(out) is not ndarray or out.dtype not in _USUAL:
                    return record(self, args, [x, *options], {0: parent}, out)
                values = (x, *options, out, x.shape) if self.reads_shapes else (x, *options, out)
                return new_result(self, ((rule, rule.keep(values), (parent,)),), out)
        return super().__call__(*args, **kwargs)


class BinaryOp(Op):
    """An op of two arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if an argument requires a gradient."""
        if len(args) != 2 or kwargs or grad_mode() is not True:
            return super().__call__(*args, **kwargs)
        x, y = args
        p = x._node if isinstance(x, TensorBase) else None
        q = y._node if isinstance(y, TensorBase) else None
        rule_x = rule_y = None
        if p is not None:
            rule_x = self.single_rules[0]
            if (
                rule_x is None
                or p.is_shared
                or (q is None and rule_x.reads_others and type(y) not in IMMUTABLE)
            ):
                return super().__call__(*args)
        if q is not None:
            rule_y = self.single_rules[1]
            if (
                rule_y is None
                or q.is_shared
                or (p is None and rule_y.reads_others and type(x) not in IMMUTABLE)
            ):
                return super().__call__(*args)
        if p is None and q is None:
            return super().__call__(*args)
        x = x._array if p is not None or isinstance(x, TensorBase) else x
        y = y._array if q is not None or isinstance(y, TensorBase) else y
        out = self.forward(x, y)
        if type(out) is not ndarray or out.dtype not in _USUAL:
            parents = {i: node for i, node in enumerate((p, q)) if node is not None}
            return record(self, args, [x, y], parents, out)
        values: tuple = (x, y, out)
        if self.reads_shapes:
            values = x, y, out, getattr(x, "shape", ()), getattr(y, "shape", ())
        steps: tuple = ()
        if rule_x is not None:
            steps = ((rule_x, rule_x.keep(values), (p,)),)
        if rule_y is not None:
            steps += ((rule_y, rule_y.keep(values), (q,)),)
        return new_result(self, steps, out)


def visit_plain(
    node: Node,
    cotangent: Any,
    nodes: dict[int, Node],
    sums: dict[int, Any],
    heap: list[int],
    wanted: dict | None,
    oldest: int,
    frontier: int,
    retain_graph: bool,
    create_graph: bool,
) -> tuple:
    """Visit a node and those after it, as the loop of `engine.differentiate` does.

    A parent that is newer than all nodes that wait is visited at once, without a turn through the
    heap. In ``tanh(sin(exp(x)))``, that is each parent; in ``x @ w + b``, it is the product, and
    the leaf b waits.

    Parameters
    ----------
    node, cotangent
        The node to visit, and its complete cotangent.
    nodes, sums, heap, wanted, oldest, frontier, retain_graph, create_graph
        The state of `differentiate`.

    Returns
    -------
    node, cotangent
        The first node that is not plain, a leaf, or a wanted node, for `differentiate` to visit; or
        ``(None, None)`` if no node waits.
    """
    op: Any
    while True:
        op, number = node.op, node.number
        if (
            op is None
            or op.joint
            or (create_graph and op.saves)
            or not node.plain
            or number <= frontier
            or (steps := node.steps) is None
            or changes.last_entry > number
            or (wanted is not None and node in wanted)
        ):
            return node, cotangent
        contribution = None
        following = arriving = None  # a parent that may be next, and its cotangent
        for rule, residuals, (parent,) in steps:
            number = parent.number
            if number < oldest:
                continue
            if create_graph:
                residuals = as_tensors(op, node, steps, rule.sources, residuals)
            contribution = rule.function(cotangent, *residuals)
            try:
                fits = contribution.shape == parent.shape and contribution.dtype is parent.dtype
            except AttributeError:  # not an array
                fits = False
            if not fits:
                contribution = rule.op.fit(rule.inputs[0], parent, contribution)
            if number in nodes:
                add_to(sums, number, contribution)
            elif following is None:
                following, arriving = parent, contribution
            elif following is parent:  # as in x * x
                nodes[number], sums[number] = parent, arriving
                heappush(heap, -number)
                following = arriving = None
                add_to(sums, number, contribution)
            else:
                nodes[number], sums[number] = parent, contribution
                heappush(heap, -number)
        if not retain_graph:
            node.steps = None
        if following is not None:
            if not heap or following.number > -heap[0]:
                node, cotangent = following, arriving
                continue
            number = following.number
            nodes[number], sums[number] = following, arriving
            number = -heapreplace(heap, -number)
        elif heap:
            number = -heappop(heap)
        else:
            return None, None
        node, cotangent = nodes.pop(number), sums.pop(number)


if os.environ.get("AUTOGRAD_SHORTCUTS", "1") != "0":
    Op.shortcuts = {1: UnaryOp, 2: BinaryOp, 3: OptionsOp}
    engine.visit_quickly = visit_plain
