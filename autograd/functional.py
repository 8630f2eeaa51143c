"""Derivatives of functions, as functions, under the names that JAX and HIPS autograd use.

``grad(f)`` is a function that takes the arguments of ``f`` and returns a gradient. An argument, and
a result, may be an array, a number, or any nesting of tuples, lists, deques, dicts and dataclasses
of these, also of subclasses of these containers. A gradient is nested like its argument: the
gradient for ``{"w": x, "name": "a"}`` is ``{"w": dx, "name": None}``, with None for each value that
is not a floating-point number or array.

If the arguments are arrays, the results are arrays; if an argument is a Tensor, the results are
Tensors. Transformations can be applied to each other: ``grad(grad(f))``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from autograd.changes import Fingerprint
from autograd.engine import Node, differentiate, tick
from autograd.modes import (
    current_recorder,
    current_recording,
    enable_grad,
    is_grad_enabled,
    observing,
)
from autograd.op import alias
from autograd.ops.dropout import seeds_drawn, seeds_replayed
from autograd.tensor import Tensor
from autograd.tensor import grad as gradients_of

__all__ = [
    "checkpoint",
    "elementwise_grad",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "value_and_grad",
    "vjp",
]

# Whether another transformation is running. Results then stay on the tape, because they may depend
# on a variable of the outer transformation: in grad(lambda x: grad(lambda y: x * y)(1.0)) the inner
# result is a function of x.
_nested: ContextVar[bool] = ContextVar("nested", default=False)


def value_and_grad(function: Callable, argnums: int | Sequence[int] = 0) -> Callable:
    """Return a function that returns the value of `function` and its gradient.

    Parameters
    ----------
    function : callable
        Returns a Tensor with one element, for its arguments as Tensors.
    argnums : int or sequence of int
        The positions of the arguments to differentiate by; -1 is the last. For a sequence, the
        gradient is a tuple with one entry for each position.

    Returns
    -------
    callable
        Takes the arguments of `function`, and returns a pair: the value, and the gradient.

    Raises
    ------
    TypeError
        If `argnums` holds anything but integers, or a position that the call does not have; if the
        argument there holds no floating-point number; or if `function` returns no Tensor.
    ValueError
        If `argnums` is empty or names an argument twice; if the value has more than one element;
        or if a container contains itself.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import value_and_grad
    >>> value, gradient = value_and_grad(lambda p: np.sum(p["w"] ** 2))({"w": np.array([1.0, 2.0])})
    >>> float(value), gradient["w"].tolist()
    (5.0, [2.0, 4.0])
    """
    single = _is_one(argnums)

    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with _differentiating(args) as (finish, create_graph):
            lifted, trees, leaves = _lift(args, argnums, "gradient")
            out = _check_scalar(function(*lifted, **kwargs))
            found = _pull_back([out], leaves, create_graph=create_graph)
            results = _fill(trees, [finish(g) for g in found])
            return finish(out), results[0] if single else results

    return differentiated


def grad(function: Callable, argnums: int | Sequence[int] = 0) -> Callable:
    """Return a function that returns the gradient of `function`, whose value is one number.

    Parameters and errors are those of `value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import grad
    >>> float(grad(grad(np.sin))(0.5) + np.sin(0.5))
    0.0
    """
    both = value_and_grad(function, argnums)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def elementwise_grad(function: Callable, argnums: int | Sequence[int] = 0) -> Callable:
    """Return the derivative of a function whose every element depends on one input element only.

    An example is ``np.tanh``: element i of the result depends on element i of the input alone. The
    derivative then has the shape of the input. It is the gradient of the sum of the results.
    Parameters and errors are those of `value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import elementwise_grad
    >>> elementwise_grad(np.square)(np.array([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    return grad(lambda *args, **kwargs: function(*args, **kwargs).sum(), argnums)


def vjp(function: Callable, *primals: Any) -> tuple[Any, Callable]:
    """Return a function's value, and a function from the value's cotangent to the arguments'.

    Parameters
    ----------
    function : callable
    *primals
        The arguments of `function`.

    Returns
    -------
    value
        What `function` returned.
    pull_back : callable
        Takes a cotangent nested like the value, and returns a tuple with a cotangent for each
        argument. It can be called several times.

    Raises
    ------
    TypeError
        If an argument holds no floating-point number, or `function` returns no Tensor.
    ValueError
        From `pull_back`, if the cotangent has another number of arrays than the value.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import vjp
    >>> y, pull_back = vjp(np.exp, np.array([0.0, 1.0]))
    >>> pull_back(np.array([1.0, 0.0]))[0].tolist()
    [1.0, 0.0]
    """
    with _differentiating(primals) as (finish, create_graph):
        lifted, trees, leaves = _lift(primals, range(len(primals)), "vjp")
        outputs, template = _take_apart(function(*lifted))

    def pull_back(cotangent: Any) -> tuple:
        cotangents = _list_arrays("cotangent", cotangent, outputs)
        found = _pull_back(
            outputs, leaves, cotangents, retain_graph=True, create_graph=create_graph
        )
        return _fill(trees, [finish(g) for g in found])

    return _fill((template,), [finish(y) for y in outputs])[0], pull_back


def jvp(function: Callable, primals: Sequence, tangents: Sequence) -> tuple[Any, Any]:
    """Return a function's value, and its derivative along a direction.

    With the Jacobian J, the derivative along v is J v. This engine has reverse mode only, so two
    backward passes compute it: the first gives the vjp Jᵀu as a function of u. That function is
    linear, with the Jacobian Jᵀ, so a backward pass through it, with the cotangent v, gives J v
    (Townsend 2017, "A new trick for calculating Jacobian vector products").

    Parameters
    ----------
    function : callable
    primals : list or tuple
        The arguments of `function`.
    tangents : list or tuple
        The direction: for each argument, arrays of the same shapes.

    Returns
    -------
    value, derivative
        Both nested like the result of `function`.

    Raises
    ------
    TypeError
        If `primals` or `tangents` is neither a list nor a tuple.
    ValueError
        If `tangents` holds another number of arrays than `primals`, or arrays of other shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import jvp
    >>> y, dy = jvp(np.sin, [np.array([0.0, 1.0])], [np.array([2.0, 0.0])])
    >>> dy.tolist()
    [2.0, 0.0]
    """
    _check_sequences("jvp", primals, tangents)
    with _differentiating((*primals, *tangents)) as (finish, create_graph):
        lifted, _, leaves = _lift(tuple(primals), range(len(primals)), "jvp")
        outputs, template = _take_apart(function(*lifted))
        u = [Tensor(np.zeros(y.shape, y.dtype)).requires_grad_() for y in outputs]
        pulled_back = _pull_back(outputs, leaves, u, create_graph=True)  # Jᵀu
        directions = _list_arrays("tangents", tuple(tangents), leaves)
        pushed = _pull_back(pulled_back, u, directions, create_graph=create_graph)  # J v
        value = _fill((template,), [finish(y) for y in outputs])[0]
        return value, _fill((template,), [finish(y) for y in pushed])[0]


def hvp(function: Callable, primals: Sequence, tangents: Sequence) -> Any:
    """Return the Hessian of a function times a direction, without computing the whole Hessian.

    Parameters
    ----------
    function : callable
        Its value is one number.
    primals, tangents : list or tuple
        The arguments of `function`, and the direction; see `jvp`.

    Returns
    -------
    tuple
        For each argument, its part of the product.

    Raises
    ------
    TypeError, ValueError
        As `jvp` and `grad` do.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import hvp
    >>> hvp(lambda x: np.sum(x**3), [np.array([1.0, 2.0])], [np.array([1.0, 1.0])])[0].tolist()
    [6.0, 12.0]
    """
    _check_sequences("hvp", primals, tangents)
    gradient = grad(function, range(len(primals)))
    return jvp(gradient, primals, tangents)[1]


def jacobian(function: Callable, argnum: int = 0) -> Callable:
    """Return a function that returns the Jacobian of a function from one array to another.

    For an argument of shape (n,) and a result of shape (m,), the Jacobian has shape (m, n). In
    general, its axes are those of the result followed by those of the argument. It takes one
    backward pass for each element of the result.

    Parameters
    ----------
    function : callable
    argnum : int
        The position of the argument to differentiate by.

    Raises
    ------
    TypeError
        If `argnum` is not one integer, or if the argument or the result is not one array.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import jacobian
    >>> jacobian(lambda x: np.array([[1.0, 2.0], [3.0, 4.0]]) @ x)(np.ones(2)).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    _check_single(argnum)

    def differentiated(*args: Any, **kwargs: Any) -> Any:
        with _differentiating(args) as (finish, create_graph):
            lifted, _, leaves = _lift(args, argnum, "jacobian")
            out = function(*lifted, **kwargs)
            if len(leaves) != 1 or not isinstance(out, Tensor):
                raise TypeError("jacobian differentiates one array by one array")
            (x,) = leaves
            rows = []
            for i in np.ndindex(out.shape) if out.requires_grad else ():
                one = np.zeros(out.shape, out.dtype)
                one[i] = 1
                rows.append(gradients_of(out, x, one, retain_graph=True, create_graph=create_graph))
            if not rows:
                return finish(Tensor(np.zeros((*out.shape, *x.shape), out.dtype)))
            return finish(np.stack(rows).reshape(*out.shape, *x.shape))

    return differentiated


def hessian(function: Callable, argnum: int = 0) -> Callable:
    """Return a function that returns the Hessian of a function from an array to a number.

    The Hessian holds all second derivatives. For an argument of shape (n,), it is a matrix of shape
    (n, n). Parameters and errors are those of `jacobian`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import hessian
    >>> hessian(lambda x: x[0] ** 2 * x[1])(np.array([3.0, 2.0])).tolist()
    [[4.0, 6.0], [6.0, 0.0]]
    """
    _check_single(argnum)
    return jacobian(grad(function, argnum), argnum)


def checkpoint(function: Callable) -> Callable:
    """Return a function that saves memory: it runs a second time in the backward pass.

    A call keeps its inputs and outputs on the tape, and none of the values in between. When the
    backward pass arrives, the function runs again, this time on the tape, and is differentiated. So
    the memory between the forward and the backward pass shrinks to inputs and outputs, and the
    price is one more forward pass (Chen et al. 2016, arXiv:1604.06174).

    Gradients are the same as without `checkpoint`, also those of tensors that the function takes
    from outside, such as the parameters of a module. Dropout uses the same masks in both runs.
    Inside `autograd.record`, which shows every step, the function runs as if it were not
    checkpointed.

    Parameters
    ----------
    function : callable
        Takes any arguments, and returns Tensors in any nesting. It must compute the same in both
        runs.

    Raises
    ------
    RuntimeError
        In the backward pass, if the second run computed something else: because a parameter, an
        array or an option that the function reads was changed in between, or because the function
        is not deterministic. Everything that the rules of the ops read is compared by fingerprints,
        which takes two passes over memory. To compare the results alone is not enough: 0 times a
        weight is 0 for every weight, but the gradient is not the same.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> w = autograd.tensor([1.0, 2.0], requires_grad=True)
    >>> layer = autograd.functional.checkpoint(lambda x: np.tanh(x * w))
    >>> layer(layer(np.ones(2))).sum().backward()
    >>> w.grad.numpy().round(4).tolist()
    [0.6945, 0.0897]
    """

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not is_grad_enabled() or current_recording() is not None:
            return function(*args, **kwargs)
        start = tick()
        with seeds_drawn() as seeds:
            result = function(*args, **kwargs)
        outputs = _list_outputs(result, start)
        if not outputs:
            return result
        witness = getattr(current_recorder.get(), "witness", Fingerprint)
        summary = _TapeSummary(outputs, start, witness)
        call = _CheckpointedCall(function, args, kwargs, seeds, witness)
        node = Node(call, ((_SAVED, (summary,), summary.sources),), (), outputs[0].dtype)
        node.mark(outputs=tuple((y.shape, y.dtype) for y in outputs))
        replaced = {}
        for i, y in enumerate(outputs):
            selector = Node(call, (), y.shape, y.dtype)
            selector.mark(selects=(node, i))
            replaced[id(y)] = Tensor(y._array, selector)
        return tree_map(lambda leaf: replaced.get(id(leaf), leaf), result)

    return functools.wraps(function)(checkpointed)


class _Saved(NamedTuple):
    """What stands in the place of a rule in the node of a checkpointed call.

    Code that reads `Node.steps` asks a rule for the names of its residuals.
    """

    residuals: tuple[str, ...]


_SAVED = _Saved(("summary",))


class _CheckpointedCall:
    """A call of a checkpointed function: what its node has for an op (`engine.Differentiable`).

    The outputs of the call are on the tape like those of an op with several outputs. Their
    parents are the sources: the older nodes that the function read.
    """

    name = "checkpoint"
    joint = True

    def __init__(
        self, function: Callable, args: tuple, kwargs: dict, seeds: list, witness: Any
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.seeds, self.witness = seeds, witness

    def pull_back(
        self, node: Node, steps: tuple, g: tuple, oldest: int, create_graph: bool
    ) -> list[tuple]:
        """Run the function again, on the tape, and return the cotangents of its sources."""
        start = tick()
        with enable_grad(), seeds_replayed(self.seeds):
            result = self.function(*self.args, **self.kwargs)
        outputs = _list_outputs(result, start)
        ((_, (before,), sources),) = steps
        if difference := _TapeSummary(outputs, start, self.witness).compare(before):
            raise RuntimeError(
                "checkpoint: the function gave another result when it ran again for the backward "
                f"pass: {difference}; a tensor, an array or an option that it reads was changed "
                "meanwhile (change it after backward), or the function is not deterministic"
            )
        wanted = [source for source in sources if source.number >= oldest]
        with observing(None):
            found = differentiate(
                [y._node for y in outputs], g, wanted, frontier=start, create_graph=create_graph
            )
        return [
            ("input", source, part)
            for source, part in zip(wanted, found, strict=True)
            if part is not None
        ]


def _list_outputs(result: Any, start: int) -> list[Any]:
    """Return the Tensors in a function's result that the function computed after a time."""
    found: list[Any] = []
    tree_map(found.append, result)
    tensors = [y for y in found if isinstance(y, Tensor)]
    return [y for y in tensors if y._node is not None and y._node.number > start]


# ---- what a checkpointed function did, in short, to compare two runs

_PLAIN: tuple = (int, float, complex, str, bytes, slice, np.generic, np.dtype, type(None))


class _NodeSummary(NamedTuple):
    """One node on the tape of a checkpointed function, without its arrays."""

    op: str
    shape: tuple[int, ...]
    dtype: np.dtype
    parents: tuple[int | None, ...]  # sources are 0, 1, ...; nodes of the function are -1, -2, ...
    residuals: tuple  # a summary of each value that the op's rules will read


class _TapeSummary:
    """What a function put on the tape since a time, in short.

    Two runs with equal sources and equal summaries have equal gradients, because a gradient depends
    on nothing else. For ``tanh(x * w)``, where w is a parameter, the sources are the nodes of x and
    w, numbered 0 and 1, and the summaries are those of ``multiply`` (-1), with the parents 0 and 1,
    and of ``tanh`` (-2), with the parent -1.

    Parameters
    ----------
    outputs : sequence of Tensor
        The results of the function that are on the tape.
    start : int
        The time when the function began. Nodes up to this number are sources.
    witness : type
        Summarizes an array: `Fingerprint`, or `Copy` in the debug mode.
    """

    def __init__(self, outputs: Sequence[Tensor], start: int, witness: Any) -> None:
        # Walk from the outputs to the parents. The walk ends at nodes that are older than the
        # function's run.
        sources: dict[int, Node] = {}
        inner: dict[int, Node] = {}
        todo: list[Any] = [y._node for y in outputs]
        while todo:
            node = todo.pop()
            if node is not None and node.number not in inner:
                if node.number <= start:
                    sources[node.number] = node
                else:
                    inner[node.number] = node
                    todo += _parents(node)
        place: dict[int, int] = {number: i for i, number in enumerate(sorted(sources))}
        place |= {number: ~i for i, number in enumerate(sorted(inner))}
        known: dict[int, Any] = {}  # summaries by id, for arrays that several rules read

        def places(node: Node) -> tuple[int | None, ...]:
            return tuple([p if p is None else place[p.number] for p in _parents(node)])

        self.sources = tuple(node for _, node in sorted(sources.items()))
        self.nodes = [
            _NodeSummary(
                "a leaf" if node.op is None else node.op.name,
                node.shape,
                node.dtype,
                places(node),
                tuple([_summarize(values, witness, known) for _, values, _ in node.steps or ()]),
            )
            for _, node in sorted(inner.items())
        ]
        arrays = [_summarize(y._array, witness, known) for y in outputs]
        self.results = [(place[y._node.number], x) for y, x in zip(outputs, arrays, strict=True)]  # type: ignore[union-attr]

    def compare(self, other: _TapeSummary) -> str:
        """Return a sentence that says where two runs differ, or an empty text."""
        for mine, others in zip(self.nodes, other.nodes, strict=False):
            if mine != others:
                return f"the inputs of {mine.op}, of shape {mine.shape}, are not what they were"
        if self.sources != other.sources:
            return "other tensors were read"
        if len(self.nodes) != len(other.nodes) or self.results != other.results:
            return "the result is not what it was"
        return ""


def _summarize(value: Any, witness: Any, known: dict[int, Any]) -> Any:
    """Return a summary of a value that a rule will read: equal values have equal summaries."""
    if isinstance(value, ndarray) and not value.dtype.hasobject:
        if id(value) not in known:
            known[id(value)] = value.shape, value.dtype, witness.of(value)
        return known[id(value)]
    if isinstance(value, tuple | list):
        return tuple([_summarize(part, witness, known) for part in value])
    if isinstance(value, _TapeSummary):  # of a checkpoint inside this one
        return value.nodes, value.results
    return repr(value) if isinstance(value, _PLAIN) else type(value)


def _parents(node: Node) -> list[Node | None]:
    if node.selects is not None:
        return [node.selects[0]]
    return [parent for _, _, parents in node.steps or () for parent in parents]


# ---- nested containers


def tree_map(function: Callable, tree: Any) -> Any:
    """Return a nesting of containers with ``function(leaf)`` in the place of each leaf.

    The containers are tuples, lists, deques, dicts, dataclasses, ``UserDict`` and ``UserList``, and
    subclasses of these. Everything else is a leaf.

    Raises
    ------
    ValueError
        If a container contains itself.
    """
    return map_leaves(lambda path, leaf: function(leaf), tree)


def map_leaves(function: Callable, tree: Any, path: str = "", above: tuple[int, ...] = ()) -> Any:
    """Return a nesting of containers with ``function(path, leaf)`` in the place of each leaf.

    The path of a leaf is the Python text that leads to it. In the tree ``{"w": [1.0, 2.0]}``, the
    path of 2.0 is ``['w'][1]``. `path` is the path of the tree itself, and `above` has the ids of
    the containers around it.
    """
    if id(tree) in above:
        raise ValueError(
            f"a {type(tree).__name__} contains itself, so that its numbers cannot be listed; "
            "expected a nesting of containers that ends"
        )

    def inside(value: Any, step: str) -> Any:
        return map_leaves(function, value, path + step, (*above, id(tree)))

    if isinstance(tree, dict):
        ordered = isinstance(tree, OrderedDict)
        put = OrderedDict.__setitem__ if ordered else dict.__setitem__
        other = _copy_attributes(tree, type(tree).__new__(type(tree)))
        if isinstance(tree, defaultdict):
            other.default_factory = tree.default_factory
        for key, value in tree.items():
            put(other, key, inside(value, f"[{key!r}]"))
        return other
    if isinstance(tree, list | deque):
        values = [inside(value, f"[{i}]") for i, value in enumerate(tree)]
        other = _copy_attributes(tree, type(tree).__new__(type(tree)))
        if isinstance(tree, list):
            list.extend(other, values)
        else:
            deque.__init__(other, values, tree.maxlen)
        return other
    if isinstance(tree, tuple):
        fields = getattr(tree, "_fields", None)
        steps = [f".{name}" for name in fields] if fields else [f"[{i}]" for i in range(len(tree))]
        values = [inside(value, step) for value, step in zip(tree, steps, strict=True)]
        return _copy_attributes(tree, tuple.__new__(type(tree), values))
    if isinstance(tree, UserDict | UserList):  # their values are in the attribute `data`
        other = _copy_attributes(tree, object.__new__(type(tree)))
        other.data = inside(tree.data, "")
        return other
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        other = _copy_attributes(tree, object.__new__(type(tree)))
        for field in dataclasses.fields(tree):
            if hasattr(tree, field.name):
                value = inside(getattr(tree, field.name), f".{field.name}")
                object.__setattr__(other, field.name, value)  # a frozen dataclass allows this only
        return other
    return function(path, tree)


def _copy_attributes(tree: Any, other: Any) -> Any:
    """Give a new container the attributes of another one of its class.

    We cannot call the constructor of a user's class instead: it may take other arguments, or
    compute something from the values.
    """
    if hasattr(tree, "__dict__"):
        other.__dict__.update(tree.__dict__)
    for kind in type(tree).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(tree, name):
                object.__setattr__(other, name, getattr(tree, name))
    return other


# A function's result {"y": y, "n": 3} is taken apart into the list [y] and the template
# {"y": _SLOT, "n": 3}. `_fill` puts other values, such as cotangents, into the slots.
_SLOT = object()


def _take_apart(tree: Any) -> tuple[list[Tensor], Any]:
    """Return the floating-point Tensors in a function's result, and the result with slots."""
    found: list[Tensor] = []

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dtype.kind == "f":
            found.append(leaf)
            return _SLOT
        return leaf

    template = tree_map(collect, tree)
    if not found:
        raise TypeError(f"the function returned {type(tree).__name__}, no Tensor: gradient lost")
    return found, template


def _lift(args: tuple, argnums: Any, what: str) -> tuple[list, tuple, list[Tensor]]:
    """Replace the floating-point numbers and arrays in the chosen arguments by new leaves.

    Returns
    -------
    lifted : list
        All arguments, the chosen ones with leaves.
    trees : tuple
        The chosen arguments with a slot for each leaf, and None for everything else.
    leaves : list of Tensor
        The leaves, in order.
    """
    leaves: list[Tensor] = []

    def lift(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaf = alias(leaf)  # a new node, whose parent is the Tensor's own node
        elif isinstance(leaf, Tensor | ndarray | float | np.floating) and _is_real(leaf):
            leaf = Tensor(np.array(leaf.numpy() if isinstance(leaf, Tensor) else leaf))
            leaf.requires_grad_()
        else:
            return leaf
        leaves.append(leaf)
        return leaf

    lifted = list(args)
    chosen = _resolve_argnums(argnums, len(args))
    for i in chosen:
        before = len(leaves)
        lifted[i] = tree_map(lift, args[i])
        if len(leaves) == before:
            raise TypeError(f"{what}: argument {i} {_describe_without_floats(args[i])}")
    mark = {id(leaf) for leaf in leaves}
    trees = tuple(
        tree_map(lambda leaf: _SLOT if id(leaf) in mark else None, lifted[i]) for i in chosen
    )
    return lifted, trees, leaves


def _describe_without_floats(argument: Any) -> str:
    """Return the end of an error message about an argument without floating-point numbers."""
    leaves: list[Any] = []
    tree_map(leaves.append, argument)
    known = (str, bytes, ndarray, Tensor)
    for leaf in leaves:
        if isinstance(leaf, Iterable) and not isinstance(leaf, known):
            return (
                f"is or holds a value of type {type(leaf).__name__}, which is not searched for "
                "numbers; give arrays, numbers, or tuples, lists, deques, dicts and dataclasses "
                "of these"
            )
    return (
        f"holds no real floating-point number, but {type(argument).__name__} "
        f"{argument!r:.40}; give floats (3.0, not 3)"
    )


def _is_one(argnums: Any) -> bool:
    """Return whether `argnums` is one position, and not several; raise if it holds none."""
    if isinstance(argnums, list | tuple | range):
        for i in argnums:
            _check_number(i)
        if not argnums:
            raise ValueError("argnums is empty; expected at least one argument's number")
        return False
    _check_number(argnums)
    return True


def _check_number(argnum: Any) -> None:
    if isinstance(argnum, bool) or not isinstance(argnum, int | np.integer):
        raise TypeError(
            f"argnums is {argnum!r}; expected the number of an argument, 0 for the first, or "
            "several in a tuple"
        )


def _check_single(argnum: Any) -> None:
    if not _is_one(argnum):
        raise TypeError(f"argnum is {argnum!r}; expected one number: call this once for each")


def _resolve_argnums(argnums: Any, n: int) -> list[int]:
    """Return the positions that `argnums` names, counted from the first of n arguments."""
    places = []
    for i in (argnums,) if _is_one(argnums) else argnums:
        if not -n <= i < n:
            raise TypeError(f"argnums names argument {i}, and the call has {n}")
        places.append(int(i) % n)
    if len(set(places)) < len(places):
        raise ValueError(
            f"argnums names an argument twice: {argnums}, of {n} arguments; name each once"
        )
    return places


def _is_real(leaf: Any) -> bool:
    return np.dtype(getattr(leaf, "dtype", type(leaf))).kind == "f"


def _fill(trees: tuple, values: Sequence) -> tuple:
    """Put values into the slots of trees, in order."""
    remaining = iter(values)
    return tuple(
        tree_map(lambda leaf: next(remaining) if leaf is _SLOT else leaf, tree) for tree in trees
    )


def _list_arrays(name: str, tree: Any, like: Sequence[Tensor]) -> list[Any]:
    """Return the arrays in a user's cotangent or direction: one for each of some Tensors."""
    found: list[Any] = []

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, Tensor | ndarray | float | int | np.number):
            found.append(leaf)
        return leaf

    tree_map(collect, tree)
    if len(found) != len(like):
        raise ValueError(f"{name}: expected {len(like)} arrays, and was given {len(found)}")
    for i, (x, y) in enumerate(zip(found, like, strict=True)):
        if np.shape(x) != y.shape:
            raise ValueError(f"{name}: array {i} has shape {np.shape(x)}; expected {y.shape}")
    return found


def _check_scalar(out: Any) -> Tensor:
    """Return the value of a function, or raise if it is not a Tensor with one element."""
    if not isinstance(out, Tensor):
        raise TypeError(f"the function returned {type(out).__name__}, no Tensor: gradient lost")
    if out.size != 1:
        raise ValueError(
            f"the function returned shape {out.shape}; grad needs a number: use jacobian, vjp, or "
            "elementwise_grad if each element depends on its own input alone"
        )
    return out


def _check_sequences(name: str, primals: Any, tangents: Any) -> None:
    for key, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, list | tuple):
            raise TypeError(
                f"{name}: {key} is of type {type(given).__name__}; expected a list with one entry "
                f"for each argument of the function: {name}(f, [x], [v])"
            )


def _pull_back(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Any = None, **options: bool
) -> tuple:
    """Return the gradients of outputs with respect to leaves.

    An output that requires no gradient depends on no leaf, and is left out.
    """
    cotangents = [None] * len(outputs) if cotangents is None else cotangents
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return tuple(Tensor(np.zeros(x.shape, x.dtype)) for x in leaves)
    outputs, cotangents = zip(*pairs, strict=True)
    return gradients_of(outputs, leaves, cotangents, **options)


@contextmanager
def _differentiating(args: Any) -> Iterator[tuple[Callable, bool]]:
    """Record the ops inside the block, for a transformation that was called with some arguments.

    Yields
    ------
    finish : callable
        Turns a Tensor into the kind of result that the caller expects: a Tensor on the tape, a
        detached Tensor, or an array if no argument was a Tensor.
    create_graph : bool
        Whether results stay on the tape: inside another transformation, and if an argument is on
        the tape.
    """
    found: list[Any] = []
    tree_map(found.append, tuple(args))
    given = [leaf for leaf in found if isinstance(leaf, Tensor)]
    stays = _nested.get() or any(leaf.requires_grad for leaf in given)
    token = _nested.set(True)

    def finish(value: Tensor) -> Any:
        if stays:
            return value
        return value.detach() if given else np.array(value.numpy())[()]

    try:
        with enable_grad():
            yield finish, stays
    finally:
        _nested.reset(token)
