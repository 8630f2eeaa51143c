"""Derivatives of functions, as functions: the names of JAX and HIPS autograd.

Arguments and results may be arrays, numbers, or any nesting of tuples, lists, dicts and dataclasses
of them, their subclasses included. Anything else in them, None for example, stays as it is, and
has None for a gradient. Arrays in, arrays out; Tensors in, Tensors out. Transformations nest:
``grad(grad(f))``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
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

# Inside another transformation results stay on the tape, which may lead out of a closure.
_nested: ContextVar[bool] = ContextVar("nested", default=False)


def value_and_grad(function: Callable, argnums: int | Sequence[int] = 0) -> Callable:
    """Return a function that gives `function`'s value, a number, and its gradient.

    Parameters
    ----------
    function : callable
        To a scalar.
    argnums : int or sequence of int
        Which positional arguments to differentiate, -1 for the last; of a sequence, the gradient
        is a tuple.

    Raises
    ------
    TypeError
        If `argnums` holds anything but integers, or names an argument that a call does not have.
    ValueError
        If `argnums` is empty, or names an argument twice.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import value_and_grad
    >>> value, gradient = value_and_grad(lambda p: np.sum(p["w"] ** 2))({"w": np.array([1.0, 2.0])})
    >>> float(value), gradient["w"].tolist()
    (5.0, [2.0, 4.0])
    """
    single = _is_number(argnums)

    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with _differentiating(args) as (finish, create_graph):
            lifted, trees, leaves = _lift(args, argnums, "gradient")
            out = _scalar(function(*lifted, **kwargs))
            found = _pulled([out], leaves, create_graph=create_graph)
            results = _fill(trees, [finish(g) for g in found])
            return finish(out), results[0] if single else results

    return differentiated


def grad(function: Callable, argnums: int | Sequence[int] = 0) -> Callable:
    """Return the gradient of a function to a scalar; the arguments are `value_and_grad`'s.

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
    """Return the derivative of a function that acts on each element by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd.functional import elementwise_grad
    >>> elementwise_grad(np.square)(np.array([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    return grad(lambda *args, **kwargs: function(*args, **kwargs).sum(), argnums)


def vjp(function: Callable, *primals: Any) -> tuple[Any, Callable]:
    """Return a function's value, and the map from a cotangent of it to those of the arguments.

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
        outputs, template = _leaves(function(*lifted))

    def pull_back(cotangent: Any) -> tuple:
        found = _pulled(
            outputs, leaves, _cotangents(cotangent, outputs), retain_graph=True,
            create_graph=create_graph,
        )  # fmt: skip
        return _fill(trees, [finish(g) for g in found])

    return _fill((template,), [finish(y) for y in outputs])[0], pull_back


def jvp(function: Callable, primals: Sequence, tangents: Sequence) -> tuple[Any, Any]:
    """Return a function's value, and its derivative along a direction.

    Forward mode by two reverse passes: the vjp is linear in its cotangent u, and the derivative of
    that with respect to u is the jvp (Townsend 2017, "A new trick for calculating Jacobian vector
    products").

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
        outputs, template = _leaves(function(*lifted))
        u = [Tensor(np.zeros(y.shape, y.dtype)).requires_grad_() for y in outputs]
        pulled = _pulled(outputs, leaves, u, create_graph=True)
        directions = _cotangents(tuple(tangents), leaves)
        pushed = _pulled(pulled, u, directions, create_graph=create_graph)
        value = _fill((template,), [finish(y) for y in outputs])[0]
        return value, _fill((template,), [finish(y) for y in pushed])[0]


def hvp(function: Callable, primals: Sequence, tangents: Sequence) -> Any:
    """Return the Hessian of a function to a scalar, times a direction, without forming it.

    With several primals, the result has one entry for each.

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
    """Return the Jacobian of a function from an array to an array: output axes, then input axes.

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
    """Return the matrix of second derivatives of a function from an array to a scalar.

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
    """Return a function that keeps its inputs alone, and computes the rest again when needed.

    What it takes from outside, its arguments and the tensors that it closes over (a module's
    parameters), gets its gradients as always. Dropout draws its masks once. The memory between
    forward and backward is that of the inputs and outputs; the time is one more forward pass
    (Chen et al. 2016, arXiv:1604.06174). Inside `autograd.record`, which keeps every step to show
    it, this is the function itself.

    Parameters
    ----------
    function : callable
        Of anything, to Tensors in any nesting. It must do the same when called again.

    Raises
    ------
    RuntimeError
        In the backward pass, if the function did something else the second time: a parameter, an
        array or an option that it reads was changed in between, or it is not deterministic. All
        that its rules read is compared (by fingerprints, in two passes over memory), since a
        result can stay as it was while its gradient changes.

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
        if not is_grad_enabled() or current_recording() is not None:  # a recording keeps all
            return function(*args, **kwargs)
        start = tick()
        with seeds_drawn() as seeds:
            result = function(*args, **kwargs)
        outputs = [y for y in _tensors(result) if y._node is not None and y._node.number > start]
        if not outputs:
            return result
        witness = getattr(current_recorder.get(), "witness", Fingerprint)
        tape = _Tape(outputs, start, witness)
        again: Any = _Again(function, args, kwargs, seeds, witness)
        node = Node(again, ((again, (tape,), tape.sources),), (), outputs[0].dtype)
        node.mark(outputs=tuple((y.shape, y.dtype) for y in outputs))
        replaced = {}
        for i, y in enumerate(outputs):
            selector = Node(again, (), y.shape, y.dtype)
            selector.mark(selects=(node, i))
            replaced[id(y)] = Tensor(y._array, selector)
        return tree_map(lambda leaf: replaced.get(id(leaf), leaf), result)

    return functools.wraps(function)(checkpointed)


class _Again:
    """What stands on the tape for a checkpointed call."""

    name = "checkpoint"
    joint = True
    residuals = ("tape",)  # it is its own rule

    def __init__(
        self, function: Callable, args: tuple, kwargs: dict, seeds: list, witness: Any
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.seeds, self.witness = seeds, witness

    def pull_back(
        self, node: Node, steps: tuple, g: tuple, oldest: int, create_graph: bool
    ) -> list[tuple]:
        """Run the function again, on the tape, and differentiate that."""
        start = tick()
        with enable_grad(), seeds_replayed(self.seeds):
            result = self.function(*self.args, **self.kwargs)
        outputs = [y for y in _tensors(result) if y._node is not None and y._node.number > start]
        ((_, (before,), sources),) = steps
        if difference := _Tape(outputs, start, self.witness).differs_from(before):
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


_PLAIN: tuple = (int, float, complex, str, bytes, slice, np.generic, np.dtype, type(None))


class _Step(NamedTuple):
    """A witness of one node on the tape of a checkpointed function."""

    op: str
    shape: tuple[int, ...]
    dtype: np.dtype
    parents: tuple[int | None, ...]  # sources count up from 0, the other nodes down from -1
    kept: tuple  # of what the op's rules will read


class _Tape:
    """What a function recorded since a time: the older nodes that it read, and witnesses of it.

    Two tapes with equal sources and equal witnesses have equal gradients: these depend on nothing
    else. The results alone say too little: 0 times a weight is 0, whatever the weight.

    Parameters
    ----------
    outputs : sequence of Tensor
        What the function returned, of what is on the tape.
    start : int
        The time; nodes up to this number are sources.
    witness : type
        How to know an array again: `Fingerprint` or `Copy`.
    """

    def __init__(self, outputs: Sequence[Tensor], start: int, witness: Any) -> None:
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
        known: dict[int, Any] = {}  # arrays: what several rules read is looked at once

        def places(node: Node) -> tuple[int | None, ...]:
            return tuple([p if p is None else place[p.number] for p in _parents(node)])

        self.sources = tuple(node for _, node in sorted(sources.items()))
        self.steps = [
            _Step(
                "a leaf" if node.op is None else node.op.name,
                node.shape,
                node.dtype,
                places(node),
                tuple([_looks(kept, witness, known) for _, kept, _ in node.steps or ()]),
            )
            for _, node in sorted(inner.items())
        ]
        arrays = [_looks(y._array, witness, known) for y in outputs]
        self.results = [(place[y._node.number], x) for y, x in zip(outputs, arrays, strict=True)]  # type: ignore[union-attr]

    def differs_from(self, other: _Tape) -> str:
        """Say where two tapes differ; nothing if they do not."""
        for mine, others in zip(self.steps, other.steps, strict=False):
            if mine != others:
                return f"the inputs of {mine.op}, of shape {mine.shape}, are not what they were"
        if self.sources != other.sources:
            return "other tensors were read"
        if len(self.steps) != len(other.steps) or self.results != other.results:
            return "the result is not what it was"
        return ""


def _looks(value: Any, witness: Any, known: dict[int, Any]) -> Any:
    """Return what tells whether a value that a rule will read is another one."""
    if isinstance(value, ndarray) and not value.dtype.hasobject:
        if id(value) not in known:
            known[id(value)] = value.shape, value.dtype, witness.of(value)
        return known[id(value)]
    if isinstance(value, tuple | list):
        return tuple([_looks(part, witness, known) for part in value])
    if isinstance(value, _Tape):  # of a checkpoint inside this one
        return value.steps, value.results
    return repr(value) if isinstance(value, _PLAIN) else type(value)


def _parents(node: Node) -> list[Node | None]:
    if node.selects is not None:
        return [node.selects[0]]
    return [parent for _, _, several in node.steps or () for parent in several]


def _tensors(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None, tree)
    return found


# ---- nested containers


def tree_map(function: Callable, tree: Any) -> Any:
    """Apply a function to every leaf of a nesting of tuples, lists, dicts and dataclasses."""
    if isinstance(tree, dict):
        ordered = isinstance(tree, OrderedDict)
        put = OrderedDict.__setitem__ if ordered else dict.__setitem__
        other = _with_attributes(tree, type(tree).__new__(type(tree)))
        if isinstance(tree, defaultdict):
            other.default_factory = tree.default_factory
        for key, value in tree.items():
            put(other, key, tree_map(function, value))
        return other
    if isinstance(tree, list):
        other = _with_attributes(tree, type(tree).__new__(type(tree)))
        list.extend(other, [tree_map(function, value) for value in tree])
        return other
    if isinstance(tree, tuple):
        values = [tree_map(function, value) for value in tree]
        return _with_attributes(tree, tuple.__new__(type(tree), values))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        other = _with_attributes(tree, object.__new__(type(tree)))
        for field in dataclasses.fields(tree):
            if hasattr(tree, field.name):
                value = tree_map(function, getattr(tree, field.name))
                object.__setattr__(other, field.name, value)  # a frozen one has no other way
        return other
    return function(tree)


def _with_attributes(tree: Any, other: Any) -> Any:
    """Give a new container the attributes of another of its class.

    The constructor of a container does not run: a class may have one of its own, with other
    arguments, or one that computes with the values.
    """
    if hasattr(tree, "__dict__"):
        other.__dict__.update(tree.__dict__)
    for kind in type(tree).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(tree, name):
                object.__setattr__(other, name, getattr(tree, name))
    return other


_SLOT = object()  # stands for a leaf in a tree without its leaves


def _leaves(tree: Any) -> tuple[list[Tensor], Any]:
    """Return the Tensors of a function's result in order, and the tree with slots for them."""
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
    """Replace the floating-point leaves of some arguments by Tensors to differentiate by.

    Returns the arguments, the trees of the chosen ones with slots, and the new Tensors in order.
    """
    leaves: list[Tensor] = []

    def lift(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaf = alias(leaf)  # stays connected to what it came from
        elif isinstance(leaf, Tensor | ndarray | float | np.floating) and _is_real(leaf):
            leaf = Tensor(np.array(leaf.numpy() if isinstance(leaf, Tensor) else leaf))
            leaf.requires_grad_()
        else:
            return leaf
        leaves.append(leaf)
        return leaf

    lifted = list(args)
    chosen = _places(argnums, len(args))
    for i in chosen:
        before = len(leaves)
        lifted[i] = tree_map(lift, args[i])
        if len(leaves) == before:
            raise TypeError(
                f"{what}: argument {i} holds no real floating-point number, but "
                f"{type(args[i]).__name__} {args[i]!r:.40}; give floats (3.0, not 3)"
            )
    mark = {id(leaf) for leaf in leaves}
    trees = tuple(
        tree_map(lambda leaf: _SLOT if id(leaf) in mark else None, lifted[i]) for i in chosen
    )
    return lifted, trees, leaves


def _is_number(argnums: Any) -> bool:
    """Return whether `argnums` names one argument, and not several; raise if it names none."""
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
    if not _is_number(argnum):
        raise TypeError(f"argnum is {argnum!r}; expected one number: call this once for each")


def _places(argnums: Any, n: int) -> list[int]:
    """Return which of n arguments are meant, counted from the front, in their order."""
    places = []
    for i in (argnums,) if _is_number(argnums) else argnums:
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


def _cotangents(tree: Any, like: Sequence[Tensor]) -> list[Any]:
    """Return the leaves of a user's cotangent or direction, one for each Tensor."""
    found: list[Any] = []

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, Tensor | ndarray | float | int | np.number):
            found.append(leaf)
        return leaf

    tree_map(collect, tree)
    if len(found) != len(like):
        raise ValueError(f"expected {len(like)} arrays, one for each, and was given {len(found)}")
    return found


def _scalar(out: Any) -> Tensor:
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


def _pulled(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Any = None, **options: bool
) -> tuple:
    """Return the gradients of outputs, of which those that depend on nothing add nothing."""
    cotangents = [None] * len(outputs) if cotangents is None else cotangents
    pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return tuple(Tensor(np.zeros(x.shape, x.dtype)) for x in leaves)
    outputs, cotangents = zip(*pairs, strict=True)
    return gradients_of(outputs, leaves, cotangents, **options)


@contextmanager
def _differentiating(args: Any) -> Iterator[tuple[Callable, bool]]:
    """Record inside the block; give what turns a Tensor into a result, and if it stays on tape."""
    given: list[Tensor] = []
    tree_map(lambda leaf: given.append(leaf) if isinstance(leaf, Tensor) else None, tuple(args))
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
