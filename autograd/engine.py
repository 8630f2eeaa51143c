"""The tape: nodes, the one backward pass, grad mode and observers.

A node is made when an op runs on a tensor that requires a gradient (`autograd.op` does that). Nodes
are numbered as they are made, so descending numbers are a reverse topological order, and
:func:`differentiate` needs neither a sort nor recursion.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from autograd.op import Op

_numbers = count(1)  # next() on it is atomic: threads never share a number


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
    watched : tuple of (array, fingerprint)
        Large constants that a rule will read, to notice when they were changed meanwhile.
    grad : Tensor or None
        Of a leaf, and of a result that was asked to retain it.
    retains_grad : bool
        Whether a result keeps its gradient.
    hooks : tuple of callable
        Functions that see a complete cotangent, and may return another in its place.
    """

    # What every node has is in slots; what few have is in __dict__, made when first set.
    __slots__ = ("__dict__", "dtype", "number", "op", "shape", "steps")

    outputs: tuple | None = None
    selects: tuple[Node, int] | None = None
    watched: tuple = ()
    grad: Any = None
    retains_grad = False
    hooks: tuple = ()

    def __init__(
        self, op: Op | None, steps: tuple | None, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self.number = next(_numbers)
        self.op = op
        self.steps = steps
        self.shape = shape
        self.dtype = dtype

    def __repr__(self) -> str:
        made_by = "leaf" if self.op is None else self.op.name
        return f"<Node {self.number} {made_by} {self.dtype}{list(self.shape)}>"


class TensorBase:
    """An array and its node: all that the tape knows of a tensor."""

    __slots__ = ("__weakref__", "_data", "_node")

    def __init__(self, data: ndarray, node: Node | None = None) -> None:
        self._data = data
        self._node = node

    def __init_subclass__(cls) -> None:  # results have the type of the one direct subclass
        if TensorBase in cls.__bases__:
            global _tensor_type
            _tensor_type = cls


_tensor_type: type[TensorBase] = TensorBase


def new_tensor(data: Any, node: Node | None = None) -> Any:
    """Wrap what NumPy returned, which may be a scalar, as a Tensor."""
    return _tensor_type(data if type(data) is ndarray else np.asarray(data), node)


# ---- grad mode and observers

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
is_grad_enabled = _grad_enabled.get


class _GradMode:
    """Whether ops are recorded: a context manager, and a decorator."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._tokens: list = []

    def __enter__(self) -> None:
        self._tokens.append(_grad_enabled.set(self._enabled))

    def __exit__(self, *exception: object) -> None:
        _grad_enabled.reset(self._tokens.pop())

    def __call__(self, function: Callable) -> Callable:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Iterator:
                iterator = function(*args, **kwargs)
                while True:  # the mode holds while the generator runs, not while it is suspended
                    with _GradMode(self._enabled):
                        try:
                            item = next(iterator)
                        except StopIteration as stop:
                            return stop.value
                    yield item

            return generate

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(self._enabled):
                return function(*args, **kwargs)

        return call


def no_grad() -> _GradMode:
    """Record nothing: ``with no_grad():``, or ``@no_grad()`` on a function."""
    return _GradMode(False)


def enable_grad() -> _GradMode:
    """Record again, inside :func:`no_grad`."""
    return _GradMode(True)


class Observer(Protocol):
    """What may watch a backward pass; see :func:`observe`."""

    def visit(self, node: Node, cotangent: Any) -> None:
        """See a node whose cotangent is complete, before its rules run."""

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """See what a node adds to the cotangent of its input of that name."""


@contextmanager
def observe(observer: Observer) -> Iterator[Observer]:
    """Let an observer watch every backward pass inside the block."""
    token = _observer.set(observer)
    try:
        yield observer
    finally:
        _observer.reset(token)


# ---- the backward pass


def differentiate(
    outputs: Sequence[Node],
    cotangents: Sequence[Any],
    inputs: Sequence[Node] | None = None,
    *,
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
    observer = _observer.get()
    pending: dict[int, list] = {}  # number -> [node, cotangent so far]
    heap: list[int] = []  # negated numbers: the newest node on top

    def add(node: Node, contribution: Any) -> None:
        entry = pending.get(node.number)
        if entry is None:
            pending[node.number] = [node, contribution]
            heapq.heappush(heap, -node.number)
        else:
            entry[1] = entry[1] + contribution

    with _GradMode(create_graph):
        for node, cotangent in zip(outputs, cotangents, strict=True):
            if node.number >= oldest:
                add(node, cotangent)
        while heap:
            node, cotangent = pending.pop(-heapq.heappop(heap))
            for hook in node.hooks:
                cotangent = _hooked(hook, cotangent)
            if wanted is not None:
                if node in wanted:
                    wanted[node] = cotangent
            elif node.op is None or node.retains_grad:
                _accumulate(node, cotangent)
            if node.op is None or node.number <= oldest:
                continue  # what lies behind is not wanted, and stays as it is
            if node.selects is not None:  # one of several outputs: collect it in the op's node
                owner, index = node.selects
                if owner.number not in pending:
                    add(owner, [None] * len(owner.outputs or ()))
                pending[owner.number][1][index] = cotangent
                continue
            if node.outputs is not None:
                cotangent = tuple(
                    np.zeros(*output) if part is None else part
                    for part, output in zip(cotangent, node.outputs, strict=True)
                )
            if node.steps is None:
                raise RuntimeError(
                    f"the tape behind this result ({node.op.name}, shape {node.shape}) was "
                    "released by an earlier backward pass; call that one with "
                    "retain_graph=True to run another"
                )
            if node.watched or _last_write > node.number:
                _check_unchanged(node)
            if observer is not None:
                observer.visit(node, cotangent)
            for name, parent, contribution in node.op.pull_back(
                node, cotangent, oldest, create_graph
            ):
                if observer is not None:
                    observer.edge(node, name, parent, contribution)
                add(parent, contribution)
            if not retain_graph:
                node.steps = None
    return [] if inputs is None or wanted is None else [wanted[node] for node in inputs]


def _accumulate(node: Node, cotangent: Any) -> None:
    if isinstance(cotangent, TensorBase):
        if cotangent._node is not None:  # create_graph: the gradient has a tape of its own
            node.grad = cotangent if node.grad is None else node.grad + cotangent
            return
        cotangent = cotangent._data
    if node.grad is None:  # its own array: a cotangent may be a view, or serve several leaves
        node.grad = new_tensor(np.array(cotangent, order="C"))
    elif node.grad._node is not None:
        node.grad = node.grad + cotangent
    else:
        np.add(node.grad._data, cotangent, out=node.grad._data)


def _hooked(hook: Callable, cotangent: Any) -> Any:
    as_tensor = isinstance(cotangent, TensorBase)
    result = hook(cotangent if as_tensor else new_tensor(cotangent))
    if result is None:
        return cotangent
    if np.shape(result) != cotangent.shape:
        raise ValueError(
            f"a hook returned a gradient of shape {np.shape(result)}, and was given one of shape "
            f"{cotangent.shape}"
        )
    return result._data if isinstance(result, TensorBase) and not as_tensor else result


# ---- changes in place


_written: dict[int, tuple[weakref.ref, int]] = {}  # by an array's id: the array, and when
_last_write = 0


def log_write(data: ndarray) -> None:
    """Note that an array on the tape was changed: results that need its old values are stale."""
    global _last_write
    _last_write = next(_numbers)
    root = _root(data)
    forget = functools.partial(lambda key, _: _written.pop(key, None), id(root))
    _written[id(root)] = weakref.ref(root, forget), _last_write


def _root(x: ndarray) -> ndarray:
    """Return the array whose memory a view shows."""
    while isinstance(x.base, ndarray):
        x = x.base
    return x


def fingerprint(x: ndarray) -> tuple[int, bytes]:
    """Return a cheap witness of an array's contents: the sum of its words, and 64 samples."""
    flat = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    return int(words.sum(dtype=np.uint64)), flat[:: max(1, flat.size // 64)].tobytes()


def _check_unchanged(node: Node) -> None:
    for value, before in node.watched:
        if fingerprint(value) != before:
            raise RuntimeError(
                f"{node.op.name}: a constant of shape {value.shape} was changed in place after the "  # type: ignore[union-attr]
                "forward pass, and a gradient needs its old values; change it after backward"
            )
    if _last_write < node.number:
        return
    for rule, residuals, _ in node.steps or ():
        for name, value in zip(rule.residuals, residuals, strict=True):
            for array in value if isinstance(value, tuple) else (value,):
                if isinstance(array, ndarray):
                    root, clock = _written.get(id(_root(array)), (None, 0))
                    if clock > node.number and root is not None and root() is _root(array):
                        raise RuntimeError(
                            f"{rule.op.name}: {name!r}, of shape {array.shape}, was changed in "
                            "place after the forward pass, and a gradient needs its old values; "
                            "change it after backward"
                        )
