"""The tape: nodes, and the one backward pass.

A node is made when an op runs on a tensor that requires a gradient (`autograd.op` does that). Nodes
are numbered as they are made, so descending numbers are a reverse topological order, and
:func:`differentiate` needs neither a sort nor recursion.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from heapq import heappop as pop
from heapq import heappush as push
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from autograd import changes
from autograd.modes import GradMode, current_observer, watched_pass

if TYPE_CHECKING:
    from autograd.op import Op

_numbers = count(1)  # next() on it is atomic: threads never share a number
tick = functools.partial(next, _numbers)  # the time, in nodes

# What threads that share a leaf change: its gradient and its marks. Few locks serve all nodes.
_LOCKS = tuple(RLock() for _ in range(64))


class Node:
    """One recorded result, or a leaf (``op is None``), where gradients accumulate.

    Attributes
    ----------
    number : int
        Its place in time: a node is newer than everything that it was computed from.
    op : Op or None
        What made it.
    steps : tuple of (Rule, residuals, parents), or None
        One entry for each rule that an input needs, its parents in the order of the rule's inputs
        (None for a constant). None once the tape behind it was released.
    shape, dtype
        Of the result, and so of its cotangent.
    outputs : tuple of (shape, dtype), or None
        Of an op with several outputs, whose cotangent is a tuple.
    selects : (Node, int) or None
        Of one output of such an op: the op's node, and which output it is.
    watched : tuple of (name, array, fingerprint)
        What a rule will read and others can write to, to notice when they did.
    lent : bool
        Whether a leaf's array was handed out, so that others may write to it: of the leaf, and of
        results that are views of it.
    made_at, recording
        The user's line, and the `autograd.record` that the node is part of, if somebody recorded.
    grad : Tensor or None
        Of a leaf, and of a result that was asked to retain it.
    retains_grad : bool
        Whether a result keeps its gradient.
    paused : bool
        Whether a leaf was told, by ``requires_grad_(False)``, to collect no gradient for now.
    hooks : tuple of callable
        Functions that see a complete cotangent, and may return another in its place.
    plain : bool
        Whether none of the above was ever set, `grad` apart: the backward pass then looks at none.
    """

    # What every node has is in slots; what few have is in __dict__, made when first set.
    __slots__ = ("__dict__", "dtype", "number", "op", "plain", "shape", "steps")

    outputs: tuple | None = None
    selects: tuple[Node, int] | None = None
    watched: tuple = ()
    lent = False
    made_at = ""
    recording: Any = None
    grad: Any = None
    retains_grad = False
    paused = False
    hooks: tuple = ()

    def __init__(
        self, op: Op | None, steps: tuple | None, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.number = next(_numbers)
        self.op = op
        self.steps = steps
        self.shape = shape
        self.dtype = dtype
        self.plain = True

    def mark(self, **attributes: Any) -> None:
        """Set what few nodes have."""
        with self.lock:
            self.__dict__.update(attributes)
            self.plain = False

    def unmark(self, name: str) -> None:
        """Forget one of the marks."""
        with self.lock:
            self.__dict__.pop(name, None)
            self.plain = self.__dict__.keys() <= {"grad"}

    @property
    def lock(self) -> RLock:
        """What a thread holds while it changes the gradient or the marks of this node."""
        return _LOCKS[self.number & 63]

    def lend(self, data: ndarray) -> None:
        """Note, of a leaf, that its array is handed out."""
        self.mark(lent=True)
        changes.log_loan(data, tick)

    def add_hook(self, hook: Callable) -> None:
        """Let a function see the complete cotangent."""
        with self.lock:
            self.mark(hooks=(*self.hooks, hook))

    def remove_hook(self, hook: Callable) -> None:
        """Undo `add_hook`."""
        with self.lock:
            self.mark(hooks=tuple(h for h in self.hooks if h is not hook))
            if not self.hooks:
                self.unmark("hooks")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "the tape cannot be copied or pickled: a copy would have the numbers of this one; "
            "copy a leaf, or the values of a result (y.detach())"
        )

    def __repr__(self) -> str:
        made_by = "leaf" if self.op is None else self.op.name
        return f"<Node {self.number} {made_by} {self.dtype}{list(self.shape)}>"


class TensorBase:
    """An array and its node: all that the tape knows of a tensor."""

    # _paused, rarely set, is the node of a leaf while it requires no gradient
    __slots__ = ("__weakref__", "_array", "_node", "_paused")

    def __init__(self, data: ndarray, node: Node | None = None) -> None:
        self._array = data
        self._node = node

    def __init_subclass__(cls) -> None:  # results have the type of the one direct subclass
        if TensorBase in cls.__bases__:
            global _tensor_type
            _tensor_type = cls


_tensor_type: type[TensorBase] = TensorBase


_new = object.__new__


def new_result(op: Op, steps: tuple, out: ndarray) -> Any:
    """Return an op's result, on a node of its own: what two constructors do, in half the time."""
    node = _new(Node)
    node.number = tick()
    node.op = op
    node.steps = steps
    node.shape = out.shape
    node.dtype = out.dtype
    node.plain = True
    tensor = _new(_tensor_type)
    tensor._array = out
    tensor._node = node
    return tensor


def log_write(data: ndarray) -> None:
    """Note that an array was changed in place: results that need its old values are stale."""
    changes.log_write(data, tick)


def new_tensor(data: Any, node: Node | None = None) -> Any:
    """Wrap what NumPy returned, which may be a scalar, as a Tensor."""
    return _tensor_type(data if type(data) is ndarray else np.asarray(data), node)


# ---- the backward pass


def differentiate(
    outputs: Sequence[Node],
    cotangents: Sequence[Any],
    inputs: Sequence[Node] | None = None,
    *,
    frontier: int = 0,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Any]:
    """Run the tape backwards: the one loop behind every derivative.

    Parameters
    ----------
    outputs, cotangents
        Where to start, and with what: arrays, or Tensors to differentiate through.
    inputs : sequence of Node, optional
        Whose cotangents to return. Without it, gradients accumulate in the leaves, and in results
        that retain theirs.
    frontier : int
        Nodes up to this number are ends: nothing behind them is searched.
    retain_graph : bool
        Keep the residuals for another pass.
    create_graph : bool
        Run the rules on Tensors, so that the result can be differentiated in turn.

    Returns
    -------
    list
        For each of `inputs` its cotangent, or None where no path leads to it.
    """
    retain_graph = retain_graph or create_graph
    wanted = None if inputs is None else dict.fromkeys(inputs)
    oldest = 0 if wanted is None else min((node.number for node in wanted), default=0)
    frontier = max(frontier, oldest)
    observer = current_observer.get()
    nodes: dict[int, Node] = {}  # what waits, by number
    sums: dict[int, Any] = {}  # the cotangent of each, so far
    heap: list[int] = []  # negated numbers: the newest node on top

    def add(node: Node, contribution: Any) -> None:
        number = node.number
        if number in nodes:
            sums[number] = sums[number] + contribution
        else:
            nodes[number], sums[number] = node, contribution
            push(heap, -number)

    mode: Any = GradMode(create_graph)
    if observer is not None:
        mode = watched_pass(mode, outputs, cotangents, inputs, retain_graph)
    with mode:
        for node, cotangent in zip(outputs, cotangents, strict=True):
            if node.number >= oldest:
                add(node, cotangent)
        following = contribution = None  # in a chain, the next node does not need to wait
        while heap or following is not None:
            if following is None:
                number = -pop(heap)
                node, cotangent = nodes.pop(number), sums.pop(number)
            else:
                node, following = following, None  # its cotangent is the last contribution
                number, cotangent = node.number, contribution
            op, plain = node.op, node.plain
            if not plain:
                for hook in node.hooks:
                    cotangent = _hooked(hook, cotangent)
            if wanted is not None:
                if node in wanted:
                    wanted[node] = cotangent
            elif op is None or not plain and node.retains_grad:
                _accumulate(node, cotangent)
            if op is None or number <= frontier:
                continue  # what lies behind is not wanted, and stays as it is
            if not plain:
                if node.selects is not None:  # one of several outputs: collect it in the op's node
                    owner, index = node.selects
                    if owner.number not in nodes:
                        add(owner, [None] * len(owner.outputs or ()))
                    sums[owner.number][index] = cotangent
                    continue
                if node.outputs is not None:
                    cotangent = tuple(
                        np.zeros(*output) if part is None else part
                        for part, output in zip(cotangent, node.outputs, strict=True)
                    )
            steps = node.steps  # another thread may release them meanwhile
            if steps is None:
                raise RuntimeError(
                    f"the tape behind this result ({op.name}, shape {node.shape}) was "
                    "released by an earlier backward pass; call that one with "
                    "retain_graph=True to run another"
                )
            if changes.last_entry > number or not plain and node.watched:
                changes.check_unchanged(node, steps)
            if create_graph or observer is not None or op.joint:
                if observer is not None:
                    observer.visit(node, cotangent)
                for name, parent, contribution in op.pull_back(
                    node, steps, cotangent, oldest, create_graph
                ):
                    if observer is not None:
                        observer.edge(node, name, parent, contribution)
                    add(parent, contribution)
            else:  # the same for rules of one input, without calls: most of what small arrays cost
                for rule, residuals, (parent,) in steps:
                    number = parent.number
                    if number < oldest:
                        continue
                    contribution = rule.function(cotangent, *residuals)
                    try:
                        fits = (
                            contribution.shape == parent.shape
                            and contribution.dtype is parent.dtype
                        )
                    except AttributeError:  # no array
                        fits = False
                    if not fits:
                        contribution = op.fit(rule.inputs[0], parent, contribution)
                    if not heap and following is None and len(steps) == 1:
                        following = parent
                    elif number in nodes:
                        sums[number] = sums[number] + contribution
                    else:
                        nodes[number], sums[number] = parent, contribution
                        push(heap, -number)
            if not retain_graph:
                node.steps = None
    return [] if inputs is None or wanted is None else [wanted[node] for node in inputs]


def _accumulate(node: Node, cotangent: Any) -> None:
    if not node.plain and node.paused:
        return
    with _LOCKS[node.number & 63]:  # as `node.lock`, sooner
        grad = node.grad
        if isinstance(cotangent, TensorBase):
            if cotangent._node is not None:  # create_graph: the gradient has a tape of its own
                node.grad = cotangent if grad is None else grad + cotangent
                return
            cotangent = cotangent._array
        if grad is None:  # its own array: a cotangent may be a view, or serve several leaves
            node.grad = new_tensor(np.array(cotangent, order="C"))
        elif grad._node is not None:
            node.grad = grad + cotangent
        else:
            np.add(grad._array, cotangent, out=grad._array)


def _hooked(hook: Callable, cotangent: Any) -> Any:
    """Return what a hook makes of a cotangent, which may be other tensors' too: it is read-only."""
    given: Any = cotangent if isinstance(cotangent, TensorBase) else new_tensor(cotangent)
    if given._node is None:
        given = new_tensor(given._array.view())
        given._array.flags.writeable = False
    try:
        result: Any = hook(given)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise ValueError(
            "a hook may not change its gradient in place, since others may share it; "
            "return a new one: g * 2, not g *= 2"
        ) from error
    if result is None:
        return cotangent
    result = result if isinstance(result, TensorBase) else new_tensor(result)
    if result.shape != given.shape or result.dtype.kind not in "fiub":
        raise ValueError(
            f"a hook was given a gradient of shape {given.shape}, and returned "
            f"{result.dtype}{list(result.shape)}"
        )
    if result.dtype != given.dtype:
        result = result.astype(given.dtype)
    return result if isinstance(cotangent, TensorBase) else result._array
