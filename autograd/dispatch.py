"""NumPy's functions on tensors: what runs when one of them is called.

NumPy looks at the arguments of each call. If one is a tensor, NumPy calls the tensor's
``__array_ufunc__`` (NEP 13, for ufuncs as ``np.add``) or ``__array_function__`` (NEP 18, for
functions as ``np.concatenate``), and these call `call_ufunc` and `call_function` here.

`NUMPY` maps a function of NumPy to its implementation on tensors: an op, or a function that is
written in ops. Each parameter of such a function is of one of three kinds:

- An *input*: the gradient flows through it (`x` of ``np.sum``).
- A parameter that the function *asks* something of: the result depends on its shape and dtype alone
  (`a` of ``np.full_like``), or has no derivative (all of ``np.argmax``). No gradient is lost.
- Anything else is *static* (`axis`). A tensor there is taken as a constant; if it requires a
  gradient, the call raises, since that gradient would be lost.

A function, or an argument of it, may have no implementation. If nothing in the call requires a
gradient, NumPy's own function then runs on the plain arrays; otherwise the call raises.

Importing the implementations of functions that few programs call would slow down every program's
start. The modules of these functions are in `RARELY_USED`: the first call of a function that is not
in `NUMPY` imports them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import TensorBase, log_write, new_tensor
from autograd.modes import answered, is_grad_enabled

NUMPY: dict[Any, Callable] = {}  # NumPy's function -> its implementation on tensors
METHODS: dict[tuple[np.ufunc, str], Callable] = {}  # the same, for methods of ufuncs

# Modules that add to both tables, and that are imported when a function is not found there
RARELY_USED: list[str] = []

# NumPy's functions that change their first argument
WRITERS = {np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask}

# NumPy's defaults of arguments that no signature shows: of ufuncs and of functions with **kwargs
USUAL: dict[str, Any]
USUAL = {"casting": "same_kind", "dtype": None, "order": "K", "out": None, "where": True}
UFUNC_LIKE = {np.clip: {*USUAL, "subok"}, np.einsum: USUAL.keys() - {"where"}}
NOT_GIVEN: Any = np._NoValue

# What a message proposes in the place of assigning to elements of an array
JOINING = "np.stack([x, y]) to make one tensor of several, np.broadcast_to(x, shape) to fill one, "

_SIMPLE = {int, float, bool, str, type(None)}


class NoRule(TypeError):
    """Raised by an implementation for an argument that it has no rule for: ``"mode='edge'"``."""


class OnTensors:
    """The implementation of a function of NumPy, written in ops; made by :func:`implements`."""

    def __init__(
        self, name: str, run: Callable, inputs: Iterable[str] | None, asks: Iterable[str]
    ) -> None:
        self.name, self.run = name, run
        self.signature = self.__signature__ = inspect.signature(run)
        parameters = self.signature.parameters.values()
        self.names = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.inputs = frozenset(self.names[:1] if inputs is None else inputs)
        self.asks = frozenset(asks)
        self._static = [i for i, name in enumerate(self.names) if name not in self.inputs]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the implementation, with plain values in the place of tensors that are no inputs."""
        for i in self._static:
            if i < len(args) and not _is_plain(args[i]):
                args = (*args[:i], self._constant(self.names[i], args[i]), *args[i + 1 :])
        for name, value in kwargs.items():
            if name not in self.inputs and not _is_plain(value):
                kwargs[name] = self._constant(name, value)
        return self.run(*args, **kwargs)

    def _constant(self, name: str, value: Any) -> Any:
        """Return the plain value of an argument through which no gradient flows."""
        if value is NOT_GIVEN:
            # `call_function` catches this, and tries again without the argument
            raise TypeError(f"{self.name}: {name} is not given")
        if name not in self.asks and is_grad_enabled() and requires_gradient(value):
            raise TypeError(
                f"{self.name} has no derivative with respect to {name}, and was given a tensor "
                "there that requires a gradient; use .detach() for a constant"
            )
        if name == "dtype" and isinstance(value, TensorBase | ndarray):
            # as in NumPy: without its array, a number as 1 would name a dtype
            raise TypeError(f"{self.name}: dtype is {value!r}; expected a dtype, as np.float32")
        value = plain(value)
        return value[()] if isinstance(value, ndarray) and value.ndim == 0 else value


class Question:
    """The implementation of a function whose result has no derivative: NumPy's own, on arrays."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call NumPy's function on the arrays of the tensors."""
        return _on_arrays(name_of(self.function), self.function, args, kwargs)


def implements(
    *functions: Callable, inputs: Iterable[str] | None = None, asks: Iterable[str] = ()
) -> Callable:
    """Declare the implementation of some of NumPy's functions on tensors, as a decorator.

    An op takes tensors in all its arguments. A function that is written in ops gets tensors only in
    the parameters that `inputs` names, or in its first parameter. A tensor in a parameter that
    `asks` names may require a gradient, and arrives as a plain array; in any other, it may not.
    """

    def declare(implementation: Callable) -> Callable:
        if not str(getattr(implementation, "__module__", "")).startswith("autograd."):
            import_rarely_used()  # or these modules would later replace a user's implementation
        known = implementation
        if inspect.isfunction(implementation):
            known = OnTensors(name_of(functions[0]), implementation, inputs, asks)
        NUMPY.update(dict.fromkeys(functions, known))
        return implementation

    return declare


def answers(*functions: Callable) -> None:
    """Declare that the results of some of NumPy's functions have no derivative: they are plain."""
    NUMPY.update({function: Question(function) for function in functions})


def import_rarely_used() -> None:
    """Import the modules in `RARELY_USED`."""
    for module in RARELY_USED:
        import_module(module)


def find(table: dict, key: Any) -> Any:
    """Return the implementation that `NUMPY` or `METHODS` has, or None."""
    if key not in table:
        import_rarely_used()
    return table.get(key)


def name_of(function: Any) -> str:
    """Return how a user writes one of NumPy's functions."""
    return f"{getattr(function, '__module__', 'np')}.{function.__name__}".replace("numpy", "np")


# ---- calls


def call_function(function: Callable, args: tuple, kwargs: dict, name: str = "") -> Any:
    """Run one of NumPy's functions on tensors; `name` is that of a method, if the user called one.

    There are up to three attempts. The implementation is called with the arguments as they are. If
    it does not know one of them, as in ``np.sum(x, where=True)``, it is called again without the
    arguments that have NumPy's default value. If one is still unknown, or the implementation raises
    `NoRule`, NumPy's function runs on plain arrays, provided that no gradient is lost.
    """
    implementation = find(NUMPY, function)
    if implementation is None:
        name = name or name_of(function)
        _refuse_gradients(name, args, kwargs, JOINING if function in WRITERS else "")
        return _on_arrays(name, function, args, kwargs)
    given, lacking = (args, kwargs), ""
    try:
        try:
            return implementation(*args, **kwargs)
        except TypeError:
            if isinstance(implementation, Question) or _fits(implementation, args, kwargs):
                raise
        name = name or name_of(function)
        given = _without_defaults(function, implementation, name, args, kwargs)
        known = _signature(implementation).parameters
        lacking = ", ".join(f"{key}=" for key in given[1] if key not in known)
        if not lacking:
            return implementation(*given[0], **given[1])
    except NoRule as value:
        lacking = str(value)
    name = name or name_of(function)
    _refuse_gradients(f"{name} with {lacking}", args, kwargs)
    result = _on_arrays(name, function, args, kwargs)
    return result if "out=" in lacking else as_tensors(result)


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, kwargs: dict) -> Any:
    """Run one of NumPy's ufuncs, or a method of it, on tensors."""
    if method == "outer" and len(inputs) == 2:  # of shapes (2,) and (3,), x is (2, 1) below
        x, y = inputs
        return ufunc(np.reshape(x, np.shape(x) + (1,) * np.ndim(y)), y, **kwargs)
    called = method == "__call__"
    implementation = find(NUMPY, ufunc) if called else find(METHODS, (ufunc, method))
    asked = isinstance(NUMPY.get(ufunc), Question)
    kwargs = {key: x for key, x in kwargs.items() if not _is_usual(key, x)}
    if implementation is not None and not asked:
        known = _signature(implementation).parameters.keys() if kwargs else ()
        lacking = [key for key in kwargs if key not in known]
        if not lacking:
            return implementation(*inputs, **kwargs)
    else:
        lacking = list(kwargs)
    name = f"np.{ufunc.__name__}" + ("" if called else f".{method}")
    if lacking:
        name += " with " + ", ".join(f"{key}=" for key in lacking)
    if any(x is inputs[0] for x in kwargs.get("out", ())):
        name += " (as in `a += b`; write `a = a + b`)"
    if not asked:
        instead = "autograd.nn.scatter_add to add at places, " if method == "at" else ""
        _refuse_gradients(name, inputs, kwargs, instead)
    result = _on_arrays(name, getattr(ufunc, method), inputs, kwargs, writes=method == "at")
    return result if asked or implementation is None or "out" in kwargs else as_tensors(result)


def _refuse_gradients(name: str, args: tuple, kwargs: dict, instead: str = "") -> None:
    if is_grad_enabled() and requires_gradient([args, kwargs]):
        raise TypeError(
            f"{name} has no derivative here, and a tensor that requires a gradient was given; "
            f"use {instead}.detach() for a constant, or ops of autograd"
        )


def _on_arrays(
    name: str, function: Callable, args: tuple, kwargs: dict, writes: bool = False
) -> Any:
    """Call a function of NumPy on the arrays of tensors, and return tensors it has written to.

    A tensor may be written to by ``out=``, by ``np.add.at``, or by a function as ``np.copyto``.
    That is an in-place write, which would make saved values wrong: it is refused if the tape may
    need the tensor, and logged otherwise.
    """
    written = list(tensors_in(kwargs.get("out")))
    if writes or function in WRITERS:
        written += tensors_in(args[:1])
    elif len(args) > 1 and any(isinstance(x, TensorBase) for x in args[1:]):
        written += tensors_in(_positional_out(function, args))
    for x in written:
        if x._node is not None and (x._node.op is not None or is_grad_enabled()):
            raise RuntimeError(
                f"{name} would write to a tensor that the tape may need; only a leaf "
                "under autograd.no_grad(), or a tensor without a gradient, can be written to"
            )
    result = function(*plain(args, written), **plain(kwargs, written))
    for x in written:
        log_write(x._array)
    if not written:
        into = args[0] if writes or function in WRITERS else result
        outs = kwargs.get("out")
        outs = outs if isinstance(outs, tuple) else (outs,)
        if into is not result or any(into is x for x in (*args, *outs)):
            answered(None, args, {}, into)  # to call it again would write again
        else:
            answered(function, args, kwargs, result)
        return result
    tensors = {id(x._array): x for x in written}
    if isinstance(result, tuple):
        return tuple(tensors.get(id(part), part) for part in result)
    return tensors.get(id(result), result)


def _positional_out(function: Any, args: tuple) -> Any:
    try:
        return inspect.signature(function).bind_partial(*args).arguments.get("out")
    except (TypeError, ValueError):
        return None


def as_tensors(result: Any) -> Any:
    """Return a result of NumPy with its real arrays as tensors, as results of ops are."""
    if isinstance(result, ndarray | np.generic):
        return new_tensor(result) if result.dtype.kind in "fiub" else result
    if isinstance(result, tuple | list):
        return rebuilt(result, [as_tensors(part) for part in result])
    return result


# ---- the arguments of a call


def _signature(implementation: Any) -> inspect.Signature:
    return getattr(implementation, "signature", None) or inspect.signature(implementation)


def _fits(implementation: Callable, args: tuple, kwargs: dict) -> bool:
    if any(value is NOT_GIVEN for value in (*args, *kwargs.values())):
        return False
    try:
        _signature(implementation).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _without_defaults(
    function: Callable, implementation: Callable, name: str, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    """Return a call without arguments that the implementation lacks and that change nothing."""
    theirs = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_POSITIONAL for p in theirs.values()):
        try:
            bound = inspect.signature(function).bind(*args, **kwargs).arguments
        except TypeError as error:
            hint = "; NumPy's name for dim is axis" if "'dim'" in str(error) else ""
            raise TypeError(f"{name}: {error}{hint}") from None
        args, kwargs = (), {}
        for key, value in bound.items():
            extra = theirs[key].kind is inspect.Parameter.VAR_KEYWORD
            kwargs.update(value if extra else {key: value})
    ours = _signature(implementation).parameters
    kept = {}
    for key, value in kwargs.items():
        default = theirs[key].default if key in theirs else NOT_GIVEN
        usual = _equals(value, default) or key == "subok"
        if default is NOT_GIVEN:
            known = key in theirs or key in UFUNC_LIKE.get(function, ())
            usual = known and (value is NOT_GIVEN or _is_usual(key, value))
        if value is not NOT_GIVEN if key in ours else not usual:
            kept[key] = value
    return args, kept


def _is_usual(key: str, value: Any) -> bool:
    """Return whether an argument of a ufunc has its default value, and so changes nothing."""
    if value is NOT_GIVEN or key == "subok":
        return key in {*USUAL, "initial", "subok"}
    if key == "out" and isinstance(value, tuple):
        return all(x is None for x in value)
    return key in USUAL and _equals(value, USUAL[key])


def _equals(value: Any, default: Any) -> bool:
    return value is default or (type(value) in _SIMPLE and value == default)


def tensors_in(x: Any) -> Iterator[TensorBase]:
    """Yield the tensors in an argument, also those inside lists, tuples and dicts."""
    if isinstance(x, TensorBase):
        yield x
    elif isinstance(x, tuple | list | dict):
        for part in x.values() if isinstance(x, dict) else x:
            yield from tensors_in(part)


def _is_plain(x: Any) -> bool:
    """Return whether an argument is of a common type that holds no tensor: a quick test."""
    kind = type(x)
    return (
        kind in _SIMPLE
        or (kind is tuple and _SIMPLE.issuperset(map(type, x)))
        or (kind is ndarray and x.ndim > 0)
    )


def requires_gradient(x: Any) -> bool:
    """Return whether a tensor in an argument requires a gradient."""
    return any(tensor._node is not None for tensor in tensors_in(x))


def plain(x: Any, written: Iterable[TensorBase] = ()) -> Any:
    """Return an argument with arrays in the place of the tensors in it.

    The array of a tensor on the tape is a read-only view, so that nobody changes saved values. The
    tensors in `written` are an exception: their arrays are returned themselves.
    """
    if isinstance(x, TensorBase):
        if x._node is None or any(x is y for y in written):
            return x._array
        view = x._array.view()
        view.flags.writeable = False
        return view
    if isinstance(x, tuple | list):
        parts = [plain(part, written) for part in x]
        return x if all(a is b for a, b in zip(x, parts, strict=True)) else rebuilt(x, parts)
    return {key: plain(v, written) for key, v in x.items()} if isinstance(x, dict) else x


def rebuilt(x: Any, parts: list) -> Any:
    """Return a list or tuple of the type of `x`, also a named tuple, with other parts."""
    return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
