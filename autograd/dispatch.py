"""NumPy's functions on tensors: what runs when one of them is called (NEP 13 and 18).

`NUMPY` says what a function does on tensors. Each parameter of such a function is of one of three
kinds:

- An *input*: the gradient flows through it (`x` of ``np.sum``).
- The function *asks* something of it: the result depends on its shape and dtype alone (`a` of
  ``np.full_like``), or has no derivative (all of ``np.argmax``). No gradient is lost.
- Anything else is *static* (`axis`). A tensor there is a constant; if it requires a gradient, the
  call raises.

What no rule covers, since the function or one of its arguments has none, runs on plain arrays if
nothing in the call requires a gradient, and raises otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.engine import TensorBase, log_write, new_tensor
from autograd.modes import is_grad_enabled

NUMPY: dict[Any, Callable] = {}  # NumPy's function -> what it does on tensors
METHODS: dict[tuple[np.ufunc, str], Callable] = {}  # the same, for methods of ufuncs

# NumPy's functions that change their first argument
WRITERS = {np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask}

# NumPy's defaults where no signature tells them: of ufuncs, and of functions that take **kwargs
USUAL: dict[str, Any]
USUAL = {"casting": "same_kind", "dtype": None, "order": "K", "out": None, "where": True}
UFUNC_LIKE = {np.clip, np.einsum}
NOT_GIVEN: Any = np._NoValue

# What to write instead of elements of an array
JOINING = "np.stack([x, y]) to make one tensor of several, np.broadcast_to(x, shape) to fill one, "

_SIMPLE = {int, float, bool, str, type(None)}


class NoRule(TypeError):
    """What an implementation raises for a value, ``"mode='edge'"``, that it has no rule for."""


class OnTensors:
    """What a function of NumPy's does on tensors, written in ops; made by :func:`implements`."""

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
        """Run it, with plain values for all but the inputs."""
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
            raise TypeError(f"{self.name}: {name} is not given")  # and is left out in the next try
        if name not in self.asks and is_grad_enabled() and requires_gradient(value):
            raise TypeError(
                f"{self.name} has no derivative with respect to {name}, and was given a tensor "
                "there that requires a gradient; use .detach() for a constant"
            )
        value = plain(value)
        return value[()] if isinstance(value, ndarray) and value.ndim == 0 else value


class Question:
    """What a function of NumPy's does on tensors whose results have no derivative: it answers."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Ask the arrays."""
        return _on_arrays(name_of(self.function), self.function, args, kwargs)


def implements(
    *functions: Callable, inputs: Iterable[str] | None = None, asks: Iterable[str] = ()
) -> Callable:
    """Declare what some of NumPy's functions do when they are called on tensors.

    A function that is written in ops sees tensors only in its `inputs` (its first parameter, if
    none are named). What it `asks` something of may require a gradient; the rest may not.
    """

    def declare(implementation: Callable) -> Callable:
        known = implementation
        if inspect.isfunction(implementation):
            known = OnTensors(name_of(functions[0]), implementation, inputs, asks)
        NUMPY.update(dict.fromkeys(functions, known))
        return implementation

    return declare


def answers(*functions: Callable) -> None:
    """Declare that some of NumPy's functions have no derivative: their results are plain."""
    NUMPY.update({function: Question(function) for function in functions})


def name_of(function: Any) -> str:
    """Return how a user writes one of NumPy's functions."""
    return f"{getattr(function, '__module__', 'np')}.{function.__name__}".replace("numpy", "np")


# ---- calls


def call_function(function: Callable, args: tuple, kwargs: dict, name: str = "") -> Any:
    """Run one of NumPy's functions on tensors; `name` is that of the method, if one was called."""
    implementation = NUMPY.get(function)
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
    return result if "out=" in lacking else _as_tensors(result)


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, kwargs: dict) -> Any:
    """Run one of NumPy's ufuncs, or a method of it, on tensors."""
    asked = isinstance(NUMPY.get(ufunc), Question)
    implementation = NUMPY.get(ufunc) if method == "__call__" else METHODS.get((ufunc, method))
    kwargs = {key: x for key, x in kwargs.items() if not _is_usual(key, x)}
    if implementation is not None and not asked:
        if not kwargs or kwargs.keys() <= _signature(implementation).parameters.keys():
            return implementation(*inputs, **kwargs)
    name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
    if kwargs:
        name += " with " + ", ".join(f"{key}=" for key in kwargs)
    if any(x is inputs[0] for x in kwargs.get("out", ())):
        name += " (as in `a += b`; write `a = a + b`)"
    if not asked:
        _refuse_gradients(name, inputs, kwargs)
    result = _on_arrays(name, getattr(ufunc, method), inputs, kwargs, writes=method == "at")
    return result if asked or implementation is None or "out" in kwargs else _as_tensors(result)


def _refuse_gradients(name: str, args: tuple, kwargs: dict, instead: str = "") -> None:
    if is_grad_enabled() and requires_gradient([args, kwargs]):
        raise TypeError(
            f"{name} has no derivative here, and a tensor that requires a gradient was given; "
            f"use {instead}.detach() for a constant, or ops of autograd"
        )


def _on_arrays(
    name: str, function: Callable, args: tuple, kwargs: dict, writes: bool = False
) -> Any:
    """Call a function of NumPy's on the arrays of tensors, also where they are written to."""
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


def _as_tensors(result: Any) -> Any:
    """Return what NumPy computed as it would come from ops: real arrays as tensors."""
    if isinstance(result, ndarray | np.generic):
        return new_tensor(result) if result.dtype.kind in "fiub" else result
    if isinstance(result, tuple | list):
        return _rebuilt(result, [_as_tensors(part) for part in result])
    return result


# ---- what a call was given


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
    """Return a call without what the implementation lacks and what is NumPy's default."""
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
            known = key in theirs or function in UFUNC_LIKE
            usual = known and (value is NOT_GIVEN or _is_usual(key, value))
        if value is not NOT_GIVEN if key in ours else not usual:
            kept[key] = value
    return args, kept


def _is_usual(key: str, value: Any) -> bool:
    """Return whether an argument of a ufunc says what happens without it."""
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
    """Return whether an argument surely holds no tensor: a quick look at what most are."""
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
    """Return an argument with the arrays of the tensors in it, read-only if on the tape.

    Only the arrays of those to be `written` are themselves.
    """
    if isinstance(x, TensorBase):
        if x._node is None or any(x is y for y in written):
            return x._array
        view = x._array.view()
        view.flags.writeable = False
        return view
    if isinstance(x, tuple | list):
        parts = [plain(part, written) for part in x]
        return x if all(a is b for a, b in zip(x, parts, strict=True)) else _rebuilt(x, parts)
    return {key: plain(v, written) for key, v in x.items()} if isinstance(x, dict) else x


def _rebuilt(x: Any, parts: list) -> Any:
    """Return a list or tuple like another, with other parts."""
    return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
