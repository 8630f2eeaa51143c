"""What an op is: a NumPy function, and beside it a rule for each differentiable input.

An op is declared once, and everything else follows from the declaration::

    @op
    def multiply(x, y):                      # the forward computation, on plain arrays
        return np.multiply(x, y)

    multiply.vjp(
        x=lambda g, y: g * y,                # the cotangent of x; it reads y, so the tape keeps y
        y=lambda g, x: g * x,
    )

A rule names what it reads. The tape keeps exactly these values for the backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from copy import copy
from functools import cached_property
from importlib import import_module
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

from numpy import ndarray

from autograd.dispatch import NUMPY as NUMPY
from autograd.dispatch import implements as implements
from autograd.dispatch import import_rarely_used
from autograd.engine import Node
from autograd.precision import single_rule
from autograd.pullback import differentiate_reference, fit, run_rules
from autograd.tape import bind, call

if TYPE_CHECKING:
    from autograd.formula import Formula

REGISTRY: dict[str, Op] = {}


class Rule:
    """The vector-Jacobian product of one input, or a *joint* rule of several that share work.

    The rule's function takes the cotangent of the output first. Its other parameters are residuals,
    by name: an argument of the op, ``out``, a value that the op ``saves``, or
    ``<argument>_shape``. A joint rule may also take ``needs``, a boolean for each of its inputs,
    which says whether a gradient is wanted.
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
        """The same rule for inputs of float16; see `precision.single_rule`."""
        rule = copy(self)
        rule.function = single_rule(self.function)
        return rule


class Op:
    """A differentiable function, made by :func:`op`; see there for the options."""

    # Subclasses for ops of one plain argument, of two, of three or more: from `autograd.fast`
    shortcuts: ClassVar[dict[int, type[Op]]] = {}

    def __new__(cls, forward: Callable, **options: Any) -> Op:
        """Choose the subclass whose calls are quicker, if the op is of the plainest kind."""
        kinds = [p.kind for p in inspect.signature(forward).parameters.values()]
        is_plain = inspect.Parameter.VAR_POSITIONAL not in kinds and not (
            options.get("saves") or options.get("multiple")
        )
        return super().__new__(cls.shortcuts.get(min(len(kinds), 3), cls) if is_plain else cls)

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
        self.__module__ = forward.__module__ or "__main__"  # None in code that exec runs
        self.signature = inspect.signature(forward)
        self.names = tuple(self.signature.parameters)
        parameters = self.signature.parameters.values()
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.n_plain = -1 if self.variadic else len(self.names)  # arguments of a call without names
        self.saves, self.broadcasts, self.multiple = saves, broadcasts, multiple
        self.domain, self.kinks = domain or {}, kinks
        self._check_signature()
        self.sampler: Callable | None = None
        self._formula: tuple[str | Callable, dict] | None = None
        self.reference_function: Callable | None = None
        self.rules: list[Rule] = []
        self.differentiable: set[int] = set()  # positions of the arguments that have a rule
        self.joint = False  # whether a rule serves several inputs
        self.reads_shapes = False
        self.single_rules: list[Any] = [None] * len(self.names)  # rules of one input, by position
        self.plans: dict[tuple[int, ...], tuple] = {}  # see `tape._plan`
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
            self.plans.clear()
            if not rule.joint:
                self.single_rules[rule.positions[0]] = rule
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

        Raises
        ------
        FormulaError
            If the text cannot be read, or names what nothing defines. The formulas of this library
            are read when they are first asked for, since reading takes time at each start.
        """

        def declare(text: str | Callable) -> Any:
            if not self.__module__.startswith("autograd."):
                from autograd.formula import Formula

                Formula(self, text, **options).check()
            self._formula = text, options
            self.__dict__.pop("stated", None)
            return text

        return declare if text is None else declare(text)

    @cached_property
    def stated(self) -> Formula | None:
        """The formula that was declared, read when it is first asked for; None without one."""
        if self._formula is None:
            return None
        from autograd.formula import Formula  # only those who look at formulas pay for the import

        text, options = self._formula
        return Formula(self, text, **options)

    def sample(self, function: Callable) -> Callable:
        """Declare ``function(draw)``, which draws the arguments of one call for property tests."""
        self.sampler = function
        return function

    # ---- running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the op, on the tape if an argument requires a gradient."""
        return call(self, args, kwargs)

    def composed(self, *args: Any, **kwargs: Any) -> Any:
        """Run the reference, or the function, on Tensors: each step is an op of its own."""
        if self.reference_function is not None:
            return self.reference_function(*args, **kwargs)
        result = self.forward(*args, **kwargs)
        return result[0] if self.saves else result

    def pull_back(
        self, node: Node, steps: tuple, g: Any, oldest: int, create_graph: bool
    ) -> Iterable[tuple]:
        """Return (input name, parent, contribution) for each parent; see `pullback.run_rules`."""
        if create_graph and self.saves:
            return differentiate_reference(self, steps, g, oldest, alias)
        return run_rules(self, node, steps, g, oldest, create_graph)

    def fit(self, name: str, parent: Node, contribution: Any) -> Any:
        """Return a contribution in the shape and dtype of its input; see `pullback.fit`."""
        return fit(self, name, parent, contribution)

    def bind(self, args: tuple, kwargs: dict) -> tuple:
        """Return every argument of a call in order, with defaults where none was given."""
        return bind(self, args, kwargs)

    def named(self, args: tuple) -> list[tuple[str, Any]]:
        """Return the arguments of a call by name; those of a variadic op are x0, x1, ..."""
        if not self.variadic:
            return list(zip(self.names, args, strict=True))
        return [(f"x{i}", x) for i, x in enumerate(args[0])] + list(
            zip(self.names[1:], args[1:], strict=True)
        )


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
        if not made.__module__.startswith("autograd."):
            import_rarely_used()  # the names of their ops are taken, too
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
