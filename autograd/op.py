"""What an op is: a NumPy function, and beside it a rule for each differentiable input."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import (
    Node,
    TensorBase,
    differentiate,
    fingerprint,
    is_grad_enabled,
    new_tensor,
)

REGISTRY: dict[str, Op] = {}
COPY_LIMIT = 65536  # bytes: a constant that a rule keeps is copied up to here, and watched above


class Rule:
    """The vector-Jacobian product of one input, or of several that share work.

    Its function takes the cotangent of the output, then residuals by name: any of the op's
    arguments, ``out``, what the op ``saves``, ``<argument>_shape``, and ``needs``, which tells a
    joint rule for which of its inputs a gradient is wanted.
    """

    def __init__(self, op: Op, inputs: tuple[str, ...], function: Callable) -> None:
        names = tuple(inspect.signature(function).parameters)[1:]
        self.residuals = tuple(name for name in names if name != "needs")
        known_names = [(n, op.names) for n in inputs] + [(n, op.namespace) for n in self.residuals]
        for name, known in known_names:
            if name not in known:
                raise TypeError(
                    f"op {op.name!r}: the rule of {', '.join(inputs)} names {name!r}, "
                    f"which is none of {', '.join(known)}"
                )
        self.op = op
        self.inputs = inputs
        self.function = function
        self.wants_needs = "needs" in names
        self.joint = len(inputs) > 1 or op.variadic  # returns a tuple
        self.positions = tuple(op.names.index(name) for name in inputs)
        self.sources = tuple(op.namespace.index(name) for name in self.residuals)
        # a slice where there is at most one residual, since itemgetter(i) returns no tuple
        first = self.sources[0] if self.sources else 0
        self.keep: Callable = (
            itemgetter(*self.sources)
            if len(self.sources) > 1
            else itemgetter(slice(first, first + len(self.sources)))
        )


class Op:
    """A differentiable function, made by :func:`op`; see there for the options."""

    def __init__(
        self,
        forward: Callable,
        *,
        saves: tuple[str, ...] = (),
        broadcasts: bool = False,
        multiple: bool = False,
        domain: dict[str, tuple[float, float]] | None = None,
        kinks: tuple[float, ...] = (),
    ) -> None:
        self.forward = forward
        self.name = forward.__name__.strip("_")
        self.__name__, self.__doc__ = self.name, forward.__doc__
        self.__module__ = forward.__module__
        self.signature = inspect.signature(forward)
        self.names = tuple(self.signature.parameters)
        parameters = self.signature.parameters.values()
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self._n_plain = -1 if self.variadic else len(self.names)  # arguments of the plainest call
        self.saves, self.broadcasts, self.multiple = saves, broadcasts, multiple
        self.domain, self.kinks = domain or {}, kinks
        self.sampler: Callable | None = None
        self.reference_function: Callable | None = None
        self.rules: list[Rule] = []
        self._plans: dict[tuple[int, ...], tuple] = {}
        self.namespace = (*self.names, "out", *saves, *(f"{name}_shape" for name in self.names))

    def __repr__(self) -> str:
        return f"<op {self.name}{self.signature}>"

    # ---- declaring

    def vjp(self, *inputs: str, **rules: Callable) -> Any:
        """Declare rules: ``vjp(x=rule, y=rule)``, or ``@op.vjp("x", "y")`` for a joint one."""

        def declare(function: Callable, inputs: tuple[str, ...] = inputs) -> Callable:
            self.rules.append(Rule(self, inputs, function))
            self._plans.clear()
            return function

        for name, function in rules.items():
            declare(function, (name,))
        return declare

    def reference(self, function: Callable) -> Callable:
        """Declare the op's meaning in primitives on Tensors: its proof, and its higher orders."""
        self.reference_function = function
        return function

    def sample(self, function: Callable) -> Callable:
        """Declare ``function(draw)``, which draws the arguments of one call for property tests."""
        self.sampler = function
        return function

    # ---- calling, and recording the call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if an argument requires a gradient."""
        if kwargs or len(args) != self._n_plain:
            args = self._bind(args, kwargs)
            if self.variadic:
                return self._call_variadic(args[0], args[1:])
        raw = list(args)
        parents: dict[int, Any] = {}
        is_tensor = False
        for position, arg in enumerate(args):
            if isinstance(arg, TensorBase):
                is_tensor = True
                raw[position] = arg._data
                if arg._node is not None:
                    parents[position] = arg._node
        out = self.forward(*raw)
        if parents and is_grad_enabled():
            return self._record(raw, parents, out)
        return self._unrecorded(out, is_tensor)

    def _call_variadic(self, arrays: tuple, static: tuple) -> Any:
        raw = tuple([a._data if isinstance(a, TensorBase) else a for a in arrays])
        nodes = tuple([a._node if isinstance(a, TensorBase) else None for a in arrays])
        out = self.forward(*raw, **dict(zip(self.names[1:], static, strict=True)))
        if any(nodes) and is_grad_enabled():
            return self._record([raw, *static], {0: nodes}, out)
        return self._unrecorded(out, any(isinstance(a, TensorBase) for a in arrays))

    def _unrecorded(self, out: Any, as_tensor: bool) -> Any:
        if self.saves:
            out = out[0]
        if not as_tensor:
            return out
        return tuple(map(new_tensor, out)) if self.multiple else new_tensor(out)

    def _bind(self, args: tuple, kwargs: dict) -> tuple:
        """Return every argument in order (at a hundredth of the cost of ``signature.bind``)."""
        bound = [args] if self.variadic else list(args)
        taken = 0
        for name in self.names[len(bound) :]:
            if name in kwargs:
                bound.append(kwargs[name])
                taken += 1
            elif name in self.defaults:
                bound.append(self.defaults[name])
        if len(bound) != len(self.names) or taken != len(kwargs):
            try:
                self.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self.name}{self.signature}: {error}") from None
        return tuple(bound)

    def _record(self, raw: list, parents: dict[int, Any], out: Any) -> Any:
        """Make the node of a call, with what the rules of its parents will read."""
        positions = tuple(parents)
        rules, constants, uses_shapes = self._plans.get(positions) or self._plan(positions)
        watched = self._keep_constants(raw, constants) if constants else ()
        if self.variadic and any(0 in rule.sources for rule, _ in rules):
            arrays = list(raw[0])
            which = tuple(i for i, parent in enumerate(parents[0]) if parent is None)
            watched += self._keep_constants(arrays, which)
            raw[0] = tuple(arrays)
        if self.saves:
            out, *saved = out
            values = [*raw, out, *saved]
        else:
            values = [*raw, out]
        if uses_shapes:
            values += [_shape_of(value) for value in raw]
        steps = tuple(
            [
                (rule, rule.keep(values), (parents[only],) if only is not None
                 else parents[0] if self.variadic else tuple(map(parents.get, rule.positions)))
                for rule, only in rules
            ]
        )  # fmt: skip
        if self.multiple:
            return self._select(steps, out, watched)
        if type(out) is not ndarray:
            out = np.asarray(out)
        node = Node(self, steps, out.shape, self._checked(out.dtype))
        if watched:
            node.watched = watched
        return new_tensor(out, node)

    def _select(self, steps: tuple, out: Any, watched: tuple) -> tuple:
        """Return a tensor for each of several outputs; their nodes merge in the op's own."""
        node = Node(self, steps, (), self._checked(out[0].dtype))
        node.watched = watched
        node.outputs = tuple((part.shape, self._checked(part.dtype)) for part in out)
        selectors = []
        for index, (shape, dtype) in enumerate(node.outputs):
            selector = Node(self, (), shape, dtype)
            selector.selects = node, index
            selectors.append(new_tensor(out[index], selector))
        return tuple(selectors)

    def _checked(self, dtype: np.dtype) -> np.dtype:
        if dtype.kind != "f":
            raise TypeError(
                f"{self.name}: the result has dtype {dtype}, and gradients exist for real floating "
                "point only; detach() the inputs if none is wanted"
            )
        return dtype

    @staticmethod
    def _keep_constants(raw: list, constants: tuple[int, ...]) -> tuple:
        """Copy what the caller could change before backward; fingerprint what is too large."""
        watched = []
        for position in constants:
            value = raw[position]
            if isinstance(value, ndarray) and value.nbytes > COPY_LIMIT:
                watched.append((value, fingerprint(value)))
            elif isinstance(value, ndarray | list | tuple):
                raw[position] = _own(value)
        return tuple(watched)

    def _plan(self, positions: tuple[int, ...]) -> tuple:
        """Work out, once for each set of arguments that need gradients, what a call must keep.

        Returns the rules that apply, each with its argument's position if it has just one, the
        constants that they read, and whether they read shapes.
        """
        rules = [r for r in self.rules if not set(r.positions).isdisjoint(positions)]
        unruled = set(positions).difference(*(rule.positions for rule in rules))
        if unruled:
            name = self.names[min(unruled)]
            raise TypeError(
                f"{self.name}: input {name!r} requires a gradient, and the op has no rule for it; "
                f"pass it detached if it is a constant"
            )
        kept = {source for rule in rules for source in rule.sources}
        constants = tuple(i for i in range(len(self.names)) if i in kept and i not in positions)
        first_shape = len(self.names) + 1 + len(self.saves)
        only = [
            r.positions[0] if len(r.positions) == 1 and not self.variadic else None for r in rules
        ]
        paired = list(zip(rules, only, strict=True))
        plan = paired, constants, any(source >= first_shape for source in kept)
        self._plans[positions] = plan
        return plan

    # ---- pulling a cotangent back

    def pull_back(self, node: Node, g: Any, oldest: int, create_graph: bool) -> list[tuple]:
        """Return (input name, parent, contribution) for each edge that leads to a wanted node.

        `g` is the cotangent of the output, `oldest` the number of the oldest node that matters.
        With `create_graph` the rules run on Tensors: on the tape again.
        """
        if create_graph and self.saves:
            return self._pull_back_through_reference(node, g, oldest)
        edges = []
        for rule, residuals, parents in node.steps or ():
            if create_graph:
                residuals = self._as_tensors(node, rule.sources, residuals)
            if not rule.joint:
                parent = parents[0]
                if parent.number >= oldest:
                    name = rule.inputs[0]
                    contribution = rule.function(g, *residuals)
                    edges.append((name, parent, self._fit(name, parent, contribution)))
                continue
            needs = tuple([p is not None and p.number >= oldest for p in parents])
            if not any(needs):
                continue
            extra = {"needs": needs} if rule.wants_needs else {}
            results = tuple(rule.function(g, *residuals, **extra))
            if len(results) != len(parents):
                raise TypeError(
                    f"{self.name}: the rule of {', '.join(rule.inputs)} must return "
                    f"{len(parents)} cotangents, and returned {len(results)}"
                )
            for i, contribution in enumerate(results):
                if needs[i]:
                    name = f"{rule.inputs[0]}[{i}]" if self.variadic else rule.inputs[i]
                    edges.append((name, parents[i], self._fit(name, parents[i], contribution)))
        return edges

    def _fit(self, name: str, parent: Node, contribution: Any) -> Any:
        """Undo broadcasting and promotion; anything else that is not the input's is an error."""
        if contribution is None:
            raise TypeError(f"{self.name}: the rule of input {name!r} returned no gradient")
        if contribution.shape != parent.shape:
            if not (self.broadcasts and _broadcasts(parent.shape, contribution.shape)):
                raise ValueError(
                    f"{self.name}: the rule of input {name!r} returned a gradient of shape "
                    f"{contribution.shape}, and the input has shape {parent.shape}"
                )
            contribution = sum_to_shape(contribution, parent.shape)
        if contribution.dtype != parent.dtype:
            if contribution.dtype.kind != "f":
                raise TypeError(
                    f"{self.name}: the rule of input {name!r} returned a gradient of dtype "
                    f"{contribution.dtype}, and the input has dtype {parent.dtype}"
                )
            contribution = contribution.astype(parent.dtype)
        return contribution

    def arguments(self, rule: Rule, parents: tuple) -> dict[int, Any]:
        """Return, of a rule's parents, those that are whole arguments, by position."""
        if self.variadic:
            return {}
        return {i: p for i, p in zip(rule.positions, parents, strict=True) if p is not None}

    def _as_tensors(self, node: Node, sources: tuple[int, ...], residuals: Any) -> list:
        """Return residuals as the Tensors that they were when the op ran."""
        nodes: dict[int, Any] = {len(self.names): node}
        for rule, _, parents in node.steps or ():
            nodes.update(self.arguments(rule, parents))
        values = [
            new_tensor(value, nodes[source]) if source in nodes else value
            for source, value in zip(sources, residuals, strict=True)
        ]
        if self.variadic and 0 in sources:
            (_, _, parents) = node.steps[0]  # type: ignore[index]
            i = sources.index(0)
            values[i] = tuple(
                value if parent is None else new_tensor(value, parent)
                for value, parent in zip(values[i], parents, strict=True)
            )
        return values

    def _pull_back_through_reference(self, node: Node, g: Any, oldest: int) -> list[tuple]:
        """Differentiate an op whose rules read extra saved values, through its reference."""
        kept: dict[int, Any] = {}
        nodes: dict[int, Node] = {}
        for rule, residuals, parents in node.steps or ():
            kept.update(zip(rule.sources, residuals, strict=True))
            nodes.update(self.arguments(rule, parents))
        if self.reference_function is None or not all(i in kept for i in range(len(self.names))):
            raise RuntimeError(
                f"{self.name}: no route to higher derivatives: an op that saves "
                f"{', '.join(self.saves)} needs a reference, and rules that keep every argument"
            )
        arguments = [kept[i] for i in range(len(self.names))]
        wanted = [i for i, parent in nodes.items() if parent.number >= oldest]
        for i, parent in nodes.items():
            arguments[i] = new_tensor(arguments[i], parent)
        for i in wanted:  # aliases are newer than all that came before: the pass below ends there
            arguments[i] = alias(arguments[i])
        out = self.reference_function(*arguments)
        gradients = differentiate(
            [out._node], [g], [arguments[i]._node for i in wanted], create_graph=True
        )
        return [
            (self.names[i], nodes[i], self._fit(self.names[i], nodes[i], gradient))
            for i, gradient in zip(wanted, gradients, strict=True)
            if gradient is not None
        ]


def op(function: Callable | None = None, **options: Any) -> Any:
    """Make a differentiable op of a NumPy function, and register it.

    Parameters
    ----------
    function : callable
        The forward computation, on plain arrays. Its name is the op's, and its argument names are
        what rules refer to. One variadic argument (``*arrays``) may come first.
    saves : tuple of str
        Names of values that the function returns after its result, for the rules alone.
    broadcasts : bool
        Whether the inputs broadcast: a rule may then return the broadcast shape, and the tape sums
        it to the input's. Otherwise a rule must return the input's shape itself.
    multiple : bool
        Whether the function returns a sequence of results.
    domain : dict of str to (low, high)
        Where an input may lie, if not anywhere: property tests sample there.
    kinks : tuple of float
        Where the function has no derivative: property tests keep away.

    Returns
    -------
    Op

    Examples
    --------
    >>> import numpy as np, autograd
    >>> @autograd.op
    ... def cube(x):
    ...     return x**3
    >>> _ = cube.vjp(x=lambda g, x: g * 3 * x**2)
    >>> x = autograd.tensor(2.0, requires_grad=True)
    >>> cube(x).backward()
    >>> x.grad.item()
    12.0
    >>> del autograd.REGISTRY["cube"]
    """

    def make(function: Callable) -> Op:
        made = Op(function, **options)
        if made.name in REGISTRY:
            raise ValueError(f"an op named {made.name!r} is registered already")
        REGISTRY[made.name] = made
        return made

    return make if function is None else make(function)


NUMPY: dict[Any, Callable] = {}  # NumPy's function -> what it does on tensors


def implements(*functions: Callable) -> Callable:
    """Declare what some of NumPy's functions do when they are called on tensors."""

    def declare(implementation: Callable) -> Callable:
        NUMPY.update(dict.fromkeys(functions, implementation))
        return implementation

    return declare


@op
def alias(x: ndarray) -> ndarray:
    """Return the same values, under a new node."""
    return x


alias.vjp(x=lambda g: g)


def sum_to_shape(x: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the axes that broadcasting to ``x.shape`` added or stretched."""
    added = len(x.shape) - len(shape)
    axes = [i for i, n in enumerate(x.shape) if i < added or (shape[i - added] == 1 and n != 1)]
    return np.add.reduce(x, axis=tuple(axes)).reshape(shape)


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    padded = (1,) * (len(large) - len(small)) + small
    return len(padded) == len(large) and all(
        s in (1, n) for s, n in zip(padded, large, strict=True)
    )


def _own(value: Any) -> Any:
    """Copy arrays and lists, also inside an index: the caller may change them before backward."""
    if isinstance(value, ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        return type(value)([_own(item) for item in value])
    return value


def _shape_of(value: Any) -> Any:
    return tuple(map(np.shape, value)) if isinstance(value, tuple) else np.shape(value)
