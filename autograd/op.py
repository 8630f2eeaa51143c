"""What an op is: a NumPy function, and beside it a rule for each differentiable input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from copy import copy
from functools import cached_property
from importlib import import_module
from operator import itemgetter
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import changes
from autograd.dispatch import NUMPY as NUMPY
from autograd.dispatch import implements as implements
from autograd.engine import Node, TensorBase, differentiate, new_result, new_tensor
from autograd.formula import Formula
from autograd.modes import forward_of, grad_mode, observing

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
        others = set(op.names).difference(inputs)
        self.reads_others = any(n.removesuffix("_shape") in others for n in self.residuals)
        # a slice where there is at most one residual, since itemgetter(i) returns no tuple
        first = self.sources[0] if self.sources else 0
        self.keep: Callable = (
            itemgetter(*self.sources)
            if len(self.sources) > 1
            else itemgetter(slice(first, first + len(self.sources)))
        )

    @cached_property
    def in_single(self) -> Rule:
        """The same rule for inputs in float16: it computes in float32, and the tape rounds.

        Float16 has neither the range nor the digits for what a rule computes on its way: a square
        of 300 and a count of 70,000 are infinite, and a sum of ones ends at 2048.
        """
        rule = copy(self)

        def function(*values: Any, **needs: Any) -> Any:
            return self.function(*map(_in_single, values), **needs)

        rule.function = function
        return rule


class Op:
    """A differentiable function, made by :func:`op`; see there for the options."""

    def __new__(cls, forward: Callable, **options: Any) -> Op:
        """Choose the class for calls of one or two arrays, which need no general treatment."""
        kinds = [p.kind for p in inspect.signature(forward).parameters.values()]
        plain = len(kinds) in (1, 2) and inspect.Parameter.VAR_POSITIONAL not in kinds
        if plain and not options.get("saves") and not options.get("multiple"):
            cls = (UnaryOp, BinaryOp)[len(kinds) - 1]
        return super().__new__(cls)

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
        self._check_signature()
        self.sampler: Callable | None = None
        self.stated: Formula | None = None
        self.reference_function: Callable | None = None
        self.rules: list[Rule] = []
        self.differentiable: set[int] = set()  # positions of arguments that have a rule
        self.joint = False  # whether a rule serves several inputs
        self.reads_shapes = False
        self._plain_rules: list[Any] = [None] * len(self.names)  # those of one input, by position
        self._plans: dict[tuple[int, ...], tuple] = {}
        self.namespace = (*self.names, "out", *saves, *(f"{name}_shape" for name in self.names))

    def _check_signature(self) -> None:
        """Raise for a function that cannot be called with its arguments in order."""
        for i, p in enumerate(self.signature.parameters.values()):
            named_only = p.kind is p.KEYWORD_ONLY and not self.variadic
            if named_only or p.kind is p.VAR_KEYWORD or (p.kind is p.VAR_POSITIONAL and i > 0):
                raise TypeError(
                    f"op {self.name!r}: parameter {str(p)!r} of {self.name}{self.signature}; "
                    "expected ordinary ones (k=2.0 without a * before it), or *arrays as the first"
                )
        for name in self.domain:
            if name not in self.names:
                raise TypeError(
                    f"op {self.name!r}: domain names {name!r}, which is none of "
                    f"{', '.join(self.names)}"
                )

    def __repr__(self) -> str:
        return f"<op {self.name}{self.signature}>"

    # ---- copies: there is one op of a name, as there is one function

    def __copy__(self) -> Op:
        return self

    def __deepcopy__(self, memo: dict) -> Op:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple:
        if REGISTRY.get(self.name) is not self:
            raise TypeError(
                f"op {self.name!r} cannot be pickled: an op is pickled by its name, and this one "
                "is not registered; make it with @autograd.op"
            )
        return _op_named, (self.name, self.__module__)

    # ---- declaring

    def vjp(self, *inputs: str, **rules: Callable) -> Any:
        """Declare rules: ``vjp(x=rule, y=rule)``, or ``@op.vjp("x", "y")`` for a joint one."""

        def declare(function: Callable, inputs: tuple[str, ...] = inputs) -> Callable:
            rule = Rule(self, inputs, function)
            self.rules.append(rule)
            self.joint |= rule.joint
            self.differentiable.update(rule.positions)
            self.reads_shapes |= any(name.endswith("_shape") for name in rule.residuals)
            self._plans.clear()
            if not rule.joint:
                self._plain_rules[rule.positions[0]] = rule
            return function

        for name, function in rules.items():
            declare(function, (name,))
        return declare

    def reference(self, function: Callable) -> Callable:
        """Declare the op's meaning in primitives on Tensors: its proof, and its higher orders."""
        self.reference_function = function
        return function

    def formula(self, text: str | Callable | None = None, **options: Any) -> Any:
        """Declare what the op and its rules compute, in the notation of `autograd.formula`.

        ``formula("out = ...; dx = ...")``, or as a decorator of a function that returns the text
        for some of the call's arguments. The options are `Formula`'s.
        """

        def declare(text: str | Callable) -> Any:
            self.stated = Formula(self, text, **options)
            return text

        return declare if text is None else declare(text)

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
                if arg._node is not None:
                    parents[position] = arg._node
                    if arg._node.lent and not changes.is_held(arg):
                        arg._node.unmark("lent")
                raw[position] = arg._array
            elif type(arg) in (list, tuple) and position in self.differentiable:
                return self(*args[:position], np.asarray(arg), *args[position + 1 :])
        mode = grad_mode()
        out = (self.forward if type(mode) is bool else forward_of(self, mode))(*raw)
        if parents and mode:
            return self._record(args, raw, parents, out)
        taped = [raw[i] for i, node in parents.items() if node.op is not None] if parents else []
        return self._unrecorded(out, is_tensor, taped)

    def _call_variadic(self, arrays: tuple, static: tuple) -> Any:
        arrays = tuple([np.asarray(a) if type(a) in (list, tuple) else a for a in arrays])
        for x in arrays:
            if isinstance(x, TensorBase) and x._node is not None and x._node.lent:
                if not changes.is_held(x):
                    x._node.unmark("lent")
        raw = tuple([a._array if isinstance(a, TensorBase) else a for a in arrays])
        nodes = tuple([a._node if isinstance(a, TensorBase) else None for a in arrays])
        mode = grad_mode()
        forward = self.forward if type(mode) is bool else forward_of(self, mode)
        out = forward(*raw, **dict(zip(self.names[1:], static, strict=True)))
        if any(nodes) and mode:
            return self._record((arrays, *static), [raw, *static], {0: nodes}, out)
        taped = [x for x, node in zip(raw, nodes, strict=True) if node and node.op is not None]
        return self._unrecorded(out, any(isinstance(a, TensorBase) for a in arrays), taped)

    def named(self, args: tuple) -> list[tuple[str, Any]]:
        """Return a call's arguments by name; those of a variadic op are x0, x1, ..."""
        if not self.variadic:
            return list(zip(self.names, args, strict=True))
        return [(f"x{i}", x) for i, x in enumerate(args[0])] + list(
            zip(self.names[1:], args[1:], strict=True)
        )

    def _unrecorded(self, out: Any, as_tensor: bool, taped: list[ndarray]) -> Any:
        """Return what a call gave that made no node; `taped` are its inputs that are results."""
        if self.saves:
            out = out[0]
        if not as_tensor:
            return out
        if self.multiple:
            return tuple([new_tensor(changes.guarded(part, taped)) for part in out])
        return new_tensor(changes.guarded(out, taped) if taped else out)

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

    def _record(self, args: tuple, raw: list, parents: dict[int, Any], out: Any) -> Any:
        """Make the node of a call, with what the rules of its parents will read."""
        positions = tuple(parents)
        rules, kept, uses_shapes = self._plans.get(positions) or self._plan(positions)
        if is_half(self._nodes(parents)):
            rules = [(rule.in_single, only) for rule, only in rules]
        watched: list[tuple] = []
        for i in kept:
            if i == 0 and self.variadic:
                raw[0] = tuple(
                    self._keep(f"{self.names[0]}[{k}]", value, parent, watched)
                    for k, (value, parent) in enumerate(zip(raw[0], parents[0], strict=True))
                )
            else:
                raw[i] = self._keep(self.names[i], raw[i], parents.get(i), watched)
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
            result = self._select(steps, out, watched, self._is_lent(parents))
        else:
            out = self._checked(out)
            result = new_result(self, steps, out)
            if watched:
                result._node.mark(watched=tuple(watched))
            if self._is_lent(parents) and (out.base is not None or any(out is x for x in raw)):
                result._node.mark(lent=True)  # a view of what was handed out, or itself
        if (recorder := grad_mode()) is not True:
            recorder.recorded(self, args, result)
        return result

    @staticmethod
    def _keep(name: str, value: Any, parent: Node | None, watched: list) -> Any:
        """Return what a rule may keep of an argument, such that no change to it goes unnoticed."""
        if parent is not None:
            if parent.lent:
                watched.append((name, value, changes.Fingerprint.of(value)))
        elif type(value) is ndarray and value.nbytes > COPY_LIMIT:
            watched.append((name, value, changes.Fingerprint.of(value)))
        elif type(value) not in _IMMUTABLE:
            return _own(value)
        return value

    def _is_lent(self, parents: dict[int, Any]) -> bool:
        """Return whether an argument was handed out: then what is a view of it was, too."""
        return any(node is not None and node.lent for node in self._nodes(parents))

    def _nodes(self, parents: dict[int, Any]) -> Iterable[Node | None]:
        """Return the nodes of a call's arguments, some of which may be None."""
        return parents[0] if self.variadic else parents.values()

    def _select(self, steps: tuple, out: Any, watched: list, lent: bool) -> tuple:
        """Return a tensor for each of several outputs; their nodes merge in the op's own."""
        out = tuple(map(self._checked, out))
        node = Node(self, steps, (), out[0].dtype)
        outputs = tuple((part.shape, part.dtype) for part in out)
        node.mark(watched=tuple(watched), outputs=outputs)
        selectors = []
        for index, (shape, dtype) in enumerate(outputs):
            selector = Node(self, (), shape, dtype)
            selector.mark(selects=(node, index), lent=lent)
            selectors.append(new_tensor(out[index], selector))
        return tuple(selectors)

    def _checked(self, out: Any) -> ndarray:
        """Return a result as an array; an error if it is none that has a gradient."""
        if isinstance(out, np.matrix | np.ma.MaskedArray):
            raise TypeError(
                f"{self.name}: {type(out).__name__} means other things by the same operators; "
                "give np.asarray(...) of it"
            )
        out = np.asarray(out)
        if out.dtype.kind != "f":
            raise TypeError(
                f"{self.name}: the result has dtype {out.dtype}, and gradients exist for real "
                "floating point only; detach() the inputs if none is wanted"
            )
        return out

    def _plan(self, positions: tuple[int, ...]) -> tuple:
        """Work out, once for each set of arguments that need gradients, what a call must keep.

        Returns the rules that apply, each with its argument's position if it has just one, the
        arguments that they read, and whether they read shapes.
        """
        rules = [r for r in self.rules if not set(r.positions).isdisjoint(positions)]
        unruled = set(positions).difference(*(rule.positions for rule in rules))
        if unruled:
            name = self.names[min(unruled)]
            raise TypeError(
                f"{self.name}: input {name!r} requires a gradient, and the op has no rule for it; "
                f"pass it detached if it is a constant"
            )
        kept = sorted({source for rule in rules for source in rule.sources})
        first_shape = len(self.names) + 1 + len(self.saves)
        only = [
            r.positions[0] if len(r.positions) == 1 and not self.variadic else None for r in rules
        ]
        paired = list(zip(rules, only, strict=True))
        arguments = [source for source in kept if source < len(self.names)]
        plan = paired, arguments, any(source >= first_shape for source in kept)
        self._plans[positions] = plan
        return plan

    # ---- pulling a cotangent back

    def pull_back(
        self, node: Node, steps: tuple, g: Any, oldest: int, create_graph: bool
    ) -> list[tuple]:
        """Return (input name, parent, contribution) for each edge that leads to a wanted node.

        `steps` are the node's, `g` is the cotangent of the output, `oldest` the number of the
        oldest node that matters. With `create_graph` the rules run on Tensors: on the tape again.
        """
        if create_graph and self.saves:
            return self._pull_back_through_reference(steps, g, oldest)
        edges = []
        for rule, residuals, parents in steps:
            if create_graph:
                residuals = self._as_tensors(node, steps, rule.sources, residuals)
            if not rule.joint:
                parent = parents[0]
                if parent.number >= oldest:
                    name = rule.inputs[0]
                    contribution = rule.function(g, *residuals)
                    edges.append((name, parent, self.fit(name, parent, contribution)))
                continue
            needs = tuple([p is not None and p.number >= oldest for p in parents])
            if not any(needs):
                continue
            extra = {"needs": needs} if rule.wants_needs else {}
            results = rule.function(g, *residuals, **extra)
            n_results = len(results) if isinstance(results, (tuple, list)) else _kind(results)
            if n_results != len(parents):
                raise TypeError(
                    f"{self.name}: the rule of {', '.join(rule.inputs)} must return "
                    f"{len(parents)} cotangents, and returned {n_results}"
                )
            for i, contribution in enumerate(results):
                if needs[i]:
                    name = f"{rule.inputs[0]}[{i}]" if self.variadic else rule.inputs[i]
                    edges.append((name, parents[i], self.fit(name, parents[i], contribution)))
        return edges

    def fit(self, name: str, parent: Node, contribution: Any) -> Any:
        """Undo broadcasting and promotion; anything else that is not the input's is an error."""
        if not isinstance(contribution, _ARRAYS):
            raise TypeError(
                f"{self.name}: the rule of input {name!r} returned {_kind(contribution)}; "
                "expected an array"
            )
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

    def _as_tensors(
        self, node: Node, steps: tuple, sources: tuple[int, ...], residuals: Any
    ) -> list:
        """Return residuals as the Tensors that they were when the op ran."""
        nodes: dict[int, Any] = {len(self.names): node}
        for rule, _, parents in steps:
            nodes.update(self.arguments(rule, parents))
        values = [
            new_tensor(value, nodes[source]) if source in nodes else value
            for source, value in zip(sources, residuals, strict=True)
        ]
        if self.variadic and 0 in sources:
            (_, _, parents) = steps[0]
            i = sources.index(0)
            values[i] = tuple(
                value if parent is None else new_tensor(value, parent)
                for value, parent in zip(values[i], parents, strict=True)
            )
        return values

    def _pull_back_through_reference(self, steps: tuple, g: Any, oldest: int) -> list[tuple]:
        """Differentiate an op whose rules read extra saved values, through its reference."""
        kept: dict[int, Any] = {}
        nodes: dict[int, Node] = {}
        for rule, residuals, parents in steps:
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
        inputs = arguments
        if is_half(nodes.values()):
            g, *inputs = map(_in_single, (g, *arguments))
        out = self.reference_function(*inputs)
        starts: list[Any] = [arguments[i]._node for i in wanted]
        with observing(None):
            gradients = differentiate([out._node], [g], starts, create_graph=True)
        return [
            (self.names[i], nodes[i], self.fit(self.names[i], nodes[i], gradient))
            for i, gradient in zip(wanted, gradients, strict=True)
            if gradient is not None
        ]


# The plainest calls, without loops, since they decide what an op on a small array costs. They do
# what Op.__call__ does, and leave to it what they do not know.


class UnaryOp(Op):
    """An op of one argument."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if its argument requires a gradient."""
        if len(args) == 1 and not kwargs and isinstance(given := args[0], TensorBase):
            parent, rule = given._node, self._plain_rules[0]
            if parent is not None and parent.plain and rule is not None and grad_mode() is True:
                x = given._array
                out = self.forward(x)
                if type(out) is not ndarray or out.dtype not in _USUAL:
                    return self._record(args, [x], {0: parent}, out)
                values: tuple = (x, out, x.shape) if self.reads_shapes else (x, out)
                steps = ((rule, rule.keep(values), (parent,)),)
                return new_result(self, steps, out)
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
            rule_x = self._plain_rules[0]
            if (
                rule_x is None
                or not p.plain
                or (q is None and rule_x.reads_others and type(y) not in _IMMUTABLE)
            ):
                return super().__call__(*args)
        if q is not None:
            rule_y = self._plain_rules[1]
            if (
                rule_y is None
                or not q.plain
                or (p is None and rule_y.reads_others and type(x) not in _IMMUTABLE)
            ):
                return super().__call__(*args)
        if p is None and q is None:
            return super().__call__(*args)
        x = x._array if p is not None or isinstance(x, TensorBase) else x
        y = y._array if q is not None or isinstance(y, TensorBase) else y
        out = self.forward(x, y)
        if type(out) is not ndarray or out.dtype not in _USUAL:
            parents = {i: node for i, node in enumerate((p, q)) if node is not None}
            return self._record(args, [x, y], parents, out)
        values: tuple = (x, y, out)
        if self.reads_shapes:
            values = x, y, out, getattr(x, "shape", ()), getattr(y, "shape", ())
        steps: tuple = ()
        if rule_x is not None:
            steps = ((rule_x, rule_x.keep(values), (p,)),)
        if rule_y is not None:
            steps += ((rule_y, rule_y.keep(values), (q,)),)
        return new_result(self, steps, out)


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

    Raises
    ------
    TypeError
        If a parameter can be given by its name alone, or `domain` names none.
    ValueError
        If there is an op of that name.

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


def _op_named(name: str, module: str) -> Op:
    """Return a pickled op: the one of that name, which a module registers."""
    if name not in REGISTRY:
        import_module(module)
    if name not in REGISTRY:
        raise LookupError(f"module {module!r} registers no op named {name!r}, which was pickled")
    return REGISTRY[name]


@op
def alias(x: ndarray) -> ndarray:
    """Return the same values, under a new node."""
    return x


alias.formula("out = x; dx = g")
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


def is_half(nodes: Iterable[Node | None]) -> bool:
    """Return whether one of an op's inputs is in half precision, float16."""
    return any(node is not None and node.dtype.char == "e" for node in nodes)


def in_single(x: Any) -> Any:
    """Return an array of float16 as float32, and any other array as it is."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def in_float(x: Any) -> Any:
    """Return integers and booleans as float64, as NumPy's functions do, and floats as they are."""
    return x.astype(np.float64) if x.dtype.kind in "biu" else x


def _in_single(value: Any) -> Any:
    """Return what a rule reads, with all arrays of float16 as float32."""
    if isinstance(value, _ARRAYS):
        return in_single(value)
    return tuple(map(_in_single, value)) if type(value) is tuple else value


_ARRAYS: tuple = (ndarray, np.generic, TensorBase)
_USUAL = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # what the plainest calls take
_IMMUTABLE = {int, float, bool, str, type(None), np.float64, np.float32, slice}


def _own(value: Any) -> Any:
    """Copy arrays and lists, also inside an index: the caller may change them before backward."""
    if isinstance(value, ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        items = map(_own, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _kind(value: Any) -> str:
    """Return what an error says that a rule returned."""
    return "no gradient" if value is None else f"a value of type {type(value).__name__}"


def _shape_of(value: Any) -> Any:
    if type(value) is ndarray:
        return value.shape
    return tuple(map(np.shape, value)) if isinstance(value, tuple) else np.shape(value)
