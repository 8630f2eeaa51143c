"""The tape: its nodes, and the backward pass over them.

When an op runs on a tensor that requires a gradient, `autograd.tape` makes a :class:`Node` for
the result. The node keeps the op, the values that the op's rules will read (the *residuals*), and
the nodes of the inputs (its *parents*). All nodes together are the tape.

:func:`differentiate` is the backward pass. It visits a node only when the cotangent of the node is
complete, that is, after all nodes that were computed from it. Nodes are numbered in the order in
which they are made, and a result is made after its inputs. So the pass visits nodes in descending
order of their numbers, and needs neither a sort nor recursion.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy import ndarray

from autograd import changes
from autograd.forks import in_child
from autograd.modes import GradMode, current_observer, watched_pass

if TYPE_CHECKING:
    from autograd.op import Op

_numbers = count(1)
tick = functools.partial(next, _numbers)  # the next number; atomic, so that no two threads share it

# Threads that share a leaf add to the same gradient. A lock for each node would cost memory, so 64
# locks serve all nodes: node i uses lock i % 64.
_LOCKS = tuple(RLock() for _ in range(64))


@in_child
def _renew_locks() -> None:
    global _LOCKS
    _LOCKS = tuple(RLock() for _ in _LOCKS)


class Differentiable(Protocol):
    """What a node and the backward pass need of the op that computed the node's result.

    `Op` is one such class. The class of checkpointed calls (`autograd.functional.checkpoint`) is
    another: its `pull_back` runs the function again instead of calling rules.
    """

    name: str
    joint: bool
    """Whether `autograd.fast` must leave the nodes of this op to the general code."""

    def pull_back(
        self, node: Node, steps: tuple, g: Any, oldest: int, create_graph: bool
    ) -> Iterable[tuple]:
        """Return for each input (its name, its node, its contribution); see `run_rules`."""


class Node:
    """A result on the tape, or a leaf, where gradients accumulate (``op is None``).

    Attributes
    ----------
    number : int
        When the node was made: greater than the numbers of all nodes that it was computed from.
    op : Differentiable or None
        The op that computed the result.
    steps : tuple of (Rule, residuals, parents), or None
        One entry for each rule that an input needs. The parents stand in the order of the rule's
        inputs, with None for a constant. None after a backward pass released the residuals.
    shape, dtype
        Of the result, and so of its cotangent.
    outputs : tuple of (shape, dtype), or None
        For an op with several outputs: the shape and dtype of each. The cotangent is a tuple then.
    selects : (Node, int) or None
        For one output of such an op: the node of the op, and the position of the output.
    watched : tuple of (name, array, fingerprint)
        Residuals that code outside the engine can write to. The backward pass compares each with
        its fingerprint, and raises if the array was written to.
    is_shared : bool
        Whether code outside the engine may hold the array of this leaf (or of the leaf that this
        result is a view of), and so may write to it.
    made_at, recording
        The line of the user's program that made the node, and the `autograd.record` that the node
        belongs to, if such a recording was on.
    grad : Tensor or None
        The accumulated gradient of a leaf, or of a result that retains its gradient.
    retains_grad : bool
        Whether a result keeps its gradient.
    paused : bool
        Whether ``requires_grad_(False)`` told a leaf to collect no gradient for now.
    hooks : tuple of callable
        Functions that are given the complete cotangent, and may return another one.
    plain : bool
        Whether none of the rare attributes (`outputs` and those below, `grad` apart) was ever set.
        The backward pass need not look at them then.
    """

    # The attributes that every node has are slots. The rare ones are class attributes, and an
    # instance has its own in __dict__ only after they were set.
    __slots__ = ("__dict__", "__weakref__", "dtype", "number", "op", "plain", "shape", "steps")

    outputs: tuple | None = None
    selects: tuple[Node, int] | None = None
    watched: tuple = ()
    is_shared = False
    made_at = ""
    recording: Any = None
    grad: Any = None
    retains_grad = False
    paused = False
    hooks: tuple = ()

    def __init__(
        self,
        op: Differentiable | None,
        steps: tuple | None,
        shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        self.number = tick()
        self.op = op
        self.steps = steps
        self.shape = shape
        self.dtype = dtype
        self.plain = True

    def mark(self, **attributes: Any) -> None:
        """Set rare attributes."""
        with self.lock:
            self.__dict__.update(attributes)
            self.plain = False

    def unmark(self, name: str) -> None:
        """Give a rare attribute its default again."""
        with self.lock:
            self.__dict__.pop(name, None)
            self.plain = self.__dict__.keys() <= {"grad"}

    @property
    def lock(self) -> RLock:
        """The lock to hold while the gradient or a rare attribute of this node is changed."""
        return _LOCKS[self.number & 63]

    def share(self, data: ndarray) -> None:
        """Note that code outside the engine was given the array of this leaf."""
        self.mark(is_shared=True)
        changes.log_shared(data, tick)

    def add_hook(self, hook: Callable) -> None:
        """Call a function with the cotangent whenever the cotangent is complete."""
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
    """An array and its node: everything that the engine knows of a tensor."""

    # _paused is the node of a leaf while the leaf requires no gradient; it is rarely set
    __slots__ = ("__weakref__", "_array", "_node", "_paused")

    def __init__(self, data: ndarray, node: Node | None = None) -> None:
        self._array = data
        self._node = node

    def __init_subclass__(cls) -> None:  # results have the type of the one direct subclass
        if TensorBase in cls.__bases__:
            global _tensor_type
            _tensor_type = cls


_tensor_type: type[TensorBase] = TensorBase


def new_tensor(data: Any, node: Node | None = None) -> Any:
    """Return what NumPy returned, an array or a scalar, as a Tensor."""
    return _tensor_type(data if type(data) is ndarray else np.asarray(data), node)


_new = object.__new__


def new_result(op: Op, steps: tuple, out: ndarray) -> Any:
    """Return an op's result as a Tensor with a new node.

    This does the same as ``Tensor(out, Node(op, steps, out.shape, out.dtype))``, without calling
    the two constructors, which would take twice the time.
    """
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
    """Note an in-place write to an array: results that need the old values are stale."""
    changes.log_write(data, tick)


# ---- the backward pass

# `autograd.fast` puts its function here. That function does what the second half of the loop
# below does, for the plainest nodes and with fewer calls. Without it everything works, slower.
visit_quickly: Callable | None = None

LARGE = 65536  # bytes: larger arrays are not copied, and added to in place, where that is safe


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
        The nodes to start from, and the cotangent of each: arrays, or Tensors if the gradient is
        to be differentiated in turn.
    inputs : sequence of Node, optional
        The nodes whose cotangents to return. Without it, gradients accumulate in the leaves, and
        in the results that retain their gradient.
    frontier : int
        The pass does not go beyond nodes whose number is at most this: they may receive a
        cotangent, but their rules do not run.
    retain_graph : bool
        Keep the residuals, so that another pass can run.
    create_graph : bool
        Run the rules on Tensors, so that the gradient is itself on the tape.

    Returns
    -------
    list
        For each of `inputs` its cotangent, or None if no path leads to it.

    Raises
    ------
    RuntimeError
        If an earlier pass released the residuals of a node, or if an array that a rule needs was
        written to after the op ran.
    """
    retain_graph = retain_graph or create_graph
    wanted = None if inputs is None else dict.fromkeys(inputs)
    oldest = 0 if wanted is None else min((node.number for node in wanted), default=0)
    frontier = max(frontier, oldest)  # what is older than every wanted node cannot depend on one
    observer = current_observer.get()
    quick = visit_quickly if observer is None else None
    nodes: dict[int, Node] = {}  # the nodes that wait for their turn, by number
    sums: dict[int, Any] = {}  # by number: the sum of the contributions that arrived so far
    heap: list[int] = []  # the same numbers, negated, so that the greatest comes first

    def add(node: Node, contribution: Any) -> None:
        number = node.number
        if number in nodes:
            add_to(sums, number, contribution)
        else:
            nodes[number], sums[number] = node, contribution
            heappush(heap, -number)

    # The loop takes the newest node that waits. All nodes that were computed from it are newer, so
    # they were visited before, and its cotangent is complete. Its rules say how much the cotangent
    # contributes to each parent, and the parents wait in turn. For x = 3 (node 1), y = x * x
    # (node 2) and z = y + x (node 3):
    #
    #     visit   cotangent   contributes             waiting afterwards
    #     3  add      1       1 to node 2, 1 to 1     2: 1, 1: 1
    #     2  mul      1       3 and 3 to node 1       1: 1 + 3 + 3
    #     1  leaf     7       7 to x.grad             nothing
    mode: Any = GradMode(create_graph)
    if observer is not None:
        mode = watched_pass(mode, outputs, cotangents, inputs, retain_graph)
    with mode:
        for node, cotangent in zip(outputs, cotangents, strict=True):
            if node.number >= oldest:
                add(node, cotangent)
        contribution = None
        while heap:
            number = -heappop(heap)
            node, cotangent = nodes.pop(number), sums.pop(number)
            if quick is not None and node.op is not None:  # follow plain nodes on a single path
                node, cotangent = quick(
                    node, cotangent, nodes, sums, heap, wanted, oldest, frontier, retain_graph,
                    create_graph,
                )  # fmt: skip
                if node is None:
                    continue
                number = node.number
            op, plain = node.op, node.plain
            if not plain:
                for hook in node.hooks:
                    cotangent = _call_hook(hook, cotangent)
            if wanted is not None:
                if node in wanted:
                    wanted[node] = cotangent
            elif op is None or not plain and node.retains_grad:
                arrived = [cotangent]
                if op is None:  # the leaf may keep this array, if no other variable refers to it
                    cotangent = contribution = None
                _accumulate(node, arrived)
            if op is None or number <= frontier:
                continue
            if not plain:
                if node.selects is not None:  # one of several outputs: the op's node collects them
                    owner, index = node.selects
                    if owner.number not in nodes:
                        add(owner, [None] * len(owner.outputs or ()))
                    sums[owner.number][index] = cotangent
                    continue
                if node.outputs is not None:  # an output that nothing used has a cotangent of zeros
                    cotangent = tuple(
                        np.zeros(*output) if part is None else part
                        for part, output in zip(cotangent, node.outputs, strict=True)
                    )
            steps = node.steps  # read once: another thread may release them at any time
            if steps is None:
                raise RuntimeError(
                    f"the tape behind this result ({op.name}, shape {node.shape}) was "
                    "released by an earlier backward pass; call that one with "
                    "retain_graph=True to run another"
                )
            if changes.last_entry > number or not plain and node.watched:
                changes.check_unchanged(node, steps)
            if observer is not None:
                observer.visit(node, cotangent)
            for name, parent, contribution in op.pull_back(
                node, steps, cotangent, oldest, create_graph
            ):
                if observer is not None:
                    observer.edge(node, name, parent, contribution)
                add(parent, contribution)
            if not retain_graph:
                node.steps = None
    return [] if inputs is None or wanted is None else [wanted[node] for node in inputs]


def add_to(sums: dict[int, Any], number: int, contribution: Any) -> None:
    """Add a contribution to a sum.

    A large sum is added to in place, if nothing else refers to its array: a new array would cost
    more time than the addition, since the system clears each page of new memory.
    """
    total = sums[number]
    if type(total) is ndarray and total.nbytes > LARGE and type(contribution) is ndarray:
        del total
        flags = sums[number].flags
        is_whole = flags.writeable and flags.forc  # no element stands twice in memory
        del flags
        if is_whole and changes.is_alone(sums, number):
            np.add(sums[number], contribution, out=sums[number])
            return
    sums[number] = sums[number] + contribution


def _accumulate(node: Node, arrived: list) -> None:
    """Add a cotangent, the only element of a list, to the gradient of a leaf or of a result.

    The first cotangent becomes the gradient. It is copied if something else refers to its memory
    too: another leaf, say, to which an addition sent the same cotangent.
    """
    if not node.plain and node.paused:
        return
    with _LOCKS[node.number & 63]:  # `node.lock`, without the call
        grad = node.grad
        if isinstance(arrived[0], TensorBase):
            if arrived[0]._node is not None:  # create_graph: the gradient is on the tape
                node.grad = arrived[0] if grad is None else grad + arrived[0]
                return
            arrived[0] = arrived[0]._array
        if grad is None:
            if (
                arrived[0].nbytes <= LARGE  # a copy takes no longer than to ask who else has it
                or not changes.is_alone(arrived, 0)
                or not arrived[0].flags.carray
            ):
                arrived[0] = np.array(arrived[0], order="C")
            node.grad = new_tensor(arrived[0])
        elif grad._node is not None:
            node.grad = grad + arrived[0]
        else:
            np.add(grad._array, arrived[0], out=grad._array)


def _call_hook(hook: Callable, cotangent: Any) -> Any:
    """Return the cotangent that a hook returns, or the same one if the hook returns None.

    The hook is given a read-only tensor, since other tensors may have the same cotangent.
    """
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
