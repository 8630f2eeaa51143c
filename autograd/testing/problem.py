"""The form into which every gradient check brings its function: a :class:`Problem`.

A problem is a function of a list of float64 arrays, and a second function that claims to be its
gradient. `gradcheck` makes one from a function of Tensors, `check_vjp` from a NumPy function and a
rule for its gradient.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.functional import map_leaves, tree_map
from autograd.modes import enable_grad
from autograd.op import Op
from autograd.pullback import cause_of_shape
from autograd.tensor import Tensor, grad
from autograd.testing.differences import duplicate

__tracebackhide__ = True  # pytest shows the line that called a check, and the message

Arrays = Sequence[ndarray]


class GradientError(AssertionError):
    """A derivative does not agree with its numeric value, or could not be computed."""

    __module__ = "autograd.testing"  # the public module to import it from


def frames_of_the_user(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this library and of NumPy."""
    outside = []
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").split(".")[0] not in ("autograd", "numpy"):
            outside.append(trace)
        trace = trace.tb_next
    found = None
    for entry in reversed(outside):
        found = TracebackType(found, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return found


@dataclass(frozen=True)
class Problem:
    """A function of float64 arrays, and its gradient, which is to be checked.

    Attributes
    ----------
    name : str
        The name of the function in messages.
    labels, names : sequence of str
        Two names for each array: ``input 0`` for messages, and the function's own, such as ``x``.
    arrays : sequence of ndarray
        The point at which to check.
    values : callable
        Takes arrays and returns the list of outputs, as arrays.
    gradients : callable
        Takes arrays and a cotangent for each output, and returns a gradient for each array.
    plain : callable
        Like `values`, but without Tensors, so that the arrays may be complex.
    composed : callable, optional
        Takes Tensors and returns the list of outputs, without the rule that is checked: the tape
        then has the steps of the function.
    test : callable
        Returns the source of a test that repeats the check.
    """

    name: str
    labels: Sequence[str]
    names: Sequence[str]
    arrays: Arrays
    values: Callable[[Arrays], list[ndarray]]
    gradients: Callable[[Arrays, Arrays], list[ndarray]]
    plain: Callable[[Arrays], list[ndarray]]
    composed: Callable[[Sequence[Tensor]], list[Tensor]] | None = None
    test: Callable[[], str] = str

    def at(self, arrays: Arrays) -> Problem:
        """Return the same problem at another point."""
        return replace(self, arrays=list(arrays))

    def along(self, position: int, cotangents: Arrays, values: Callable) -> Callable:
        """Return a function of one array: the sum of all outputs times their cotangents."""

        def function(x: ndarray) -> Any:
            arrays = [x if i == position else a for i, a in enumerate(self.arrays)]
            return sum(np.sum(u * y) for u, y in zip(cotangents, values(arrays), strict=True))

        return function


def of_tensors(func: Callable, inputs: Any, name: str | None) -> Problem:
    """Return the problem of a function written with Tensors."""
    name = name_of(func, name)
    args, paths, arrays = split(inputs, name)

    def run(arrays: Arrays) -> tuple[list[Tensor], list[Tensor]]:
        with enable_grad():  # also for the values, because the function may call grad itself
            leaves = [Tensor(x).requires_grad_() for x in arrays]
            return leaves, tensors_of(func(*fill(args, leaves)), name)

    def values(arrays: Arrays) -> list[ndarray]:
        return [y.numpy() for y in run(arrays)[1]]

    def gradients(arrays: Arrays, cotangents: Arrays) -> list[ndarray]:
        leaves, outputs = run(arrays)
        reached = [(y, u) for y, u in zip(outputs, cotangents, strict=True) if y.requires_grad]
        if not reached:
            return [np.zeros(x.shape) for x in arrays]
        ys, us = zip(*reached, strict=True)
        return [gradient.numpy() for gradient in grad(ys, leaves, us)]

    def plain(arrays: Arrays) -> list[ndarray]:
        return _floating(func(*fill(args, arrays)))

    def composed(leaves: Sequence[Tensor]) -> list[Tensor]:
        return tensors_of(getattr(func, "composed", func)(*fill(args, leaves)), name)

    names = _names(func, args, paths)
    return Problem(name, _labels(paths), names, arrays, values, gradients, plain, composed)


def of_vjp(func: Callable, vjp: Callable, inputs: Any, name: str | None) -> Problem:
    """Return the problem of a NumPy function and its vector-Jacobian product, written by hand."""
    name = name_of(func, name)
    args, paths, arrays = split(inputs, name)
    labels = _labels(paths)

    def values(arrays: Arrays) -> list[ndarray]:
        return _floating(func(*fill(args, arrays)))

    def gradients(arrays: Arrays, cotangents: Arrays) -> list[ndarray]:
        g = tuple(cotangents) if len(cotangents) > 1 else cotangents[0]
        found: list[Any] = []
        result = vjp(g, *fill(args, arrays))
        tree_map(found.append, result if isinstance(result, list | tuple | dict) else [result])
        if len(found) != len(arrays):
            raise GradientError(
                f"the vjp of {name} must return a cotangent for each floating-point array among "
                f"the inputs, {len(arrays)} in all, and returned {len(found)}"
            )
        gradients = [
            np.zeros(x.shape) if g is None else np.asarray(g)
            for g, x in zip(found, arrays, strict=True)
        ]
        for i, (gradient, x) in enumerate(zip(gradients, arrays, strict=True)):
            if gradient.dtype.kind not in "fiub":
                raise GradientError(
                    f"the vjp of {name} returned a gradient of dtype {gradient.dtype} for "
                    f"{labels[i]}; expected real numbers"
                )
            if gradient.shape != x.shape:
                cause = _cause_of_shape(gradients, arrays, i, labels)
                raise GradientError(
                    f"the vjp of {name} returned a gradient of shape {gradient.shape} for "
                    f"{labels[i]}, which has shape {x.shape}"
                    + (f"\n  likely  {cause}" if cause else "")
                )
        return gradients

    def composed(leaves: Sequence[Tensor]) -> list[Tensor]:
        return tensors_of(func(*fill(args, leaves)), name)

    names = _names(func, args, paths)
    return Problem(name, labels, names, arrays, values, gradients, values, composed)


def _cause_of_shape(gradients: Arrays, arrays: Arrays, i: int, labels: Sequence[str]) -> str:
    """Return why gradient i has the wrong shape: inputs are swapped, or the shape says more."""
    for j, other in enumerate(arrays):
        if gradients[i].shape == other.shape and gradients[j].shape == arrays[i].shape:
            return f"inputs swapped: this is the shape of {labels[j]}"
    return cause_of_shape(gradients[i].shape, arrays[i].shape)


# ---- inputs and outputs


def is_floating(x: Any) -> bool:
    """Return whether gradients exist for an input: for floating-point arrays and Tensors."""
    return isinstance(x, Tensor | ndarray) and x.dtype.kind == "f"


def name_of(func: Callable, name: str | None = None) -> str:
    """Return what messages call a function."""
    found = name or getattr(func, "__name__", "function")
    return "function" if found == "<lambda>" else str(found)


def arguments(inputs: Any) -> tuple:
    """Return the inputs as a tuple: a list or tuple holds several, anything else is one input."""
    return tuple(inputs) if type(inputs) in (list, tuple) else (inputs,)


def split(inputs: Any, name: str) -> tuple[tuple, list[str], list[ndarray]]:
    """Return the arguments, and the paths and float64 copies of the floating-point arrays in them.

    A path is ``[0]``, or ``[0]['w']`` inside a container.
    """
    args = arguments(inputs)
    paths: list[str] = []
    arrays: list[ndarray] = []

    def add(path: str, leaf: Any) -> None:
        if is_floating(leaf):
            x = leaf.numpy() if isinstance(leaf, Tensor) else leaf
            paths.append(path)
            arrays.append(duplicate(x) if x.dtype == np.float64 else x.astype(np.float64))

    for i, arg in enumerate(args):
        map_leaves(add, arg, f"[{i}]")
    if not arrays:
        given = ", ".join(map(_described, args)) or "nothing"
        raise ValueError(
            f"gradient check of {name}: none of the inputs is a real floating-point array or "
            f"Tensor; given: {given}; convert them, as in np.asarray(x, float)"
        )
    return args, paths, arrays


def _described(x: Any) -> str:
    """Return the dtype and shape of an array, or the type of another value."""
    if isinstance(x, Tensor | ndarray):
        return f"{x.dtype}{list(x.shape)}"
    return f"a value of type {type(x).__name__}"


def fill(args: tuple, values: Sequence) -> tuple:
    """Return the arguments with other values in the place of the floating-point arrays."""
    remaining = iter(values)
    return tree_map(lambda leaf: next(remaining) if is_floating(leaf) else leaf, args)


def _labels(paths: Sequence[str]) -> list[str]:
    return ["input " + path[1:].replace("]", "", 1) for path in paths]


def _names(func: Callable, args: tuple, paths: Sequence[str]) -> list[str]:
    """Return the function's name for each array: ``x``, or ``p['w']`` inside a container."""
    names = parameter_names(func, len(args))
    found = []
    for path in paths:
        number, rest = path[1:].split("]", 1)
        found.append(names[int(number)] + rest)
    return found


def parameter_names(func: Callable, n: int) -> list[str]:
    """Return the names of a function's first n positional arguments.

    Arguments without a name of their own, such as those of ``*arrays``, are called x0, x1, ...
    """
    names = [] if isinstance(func, Op) and func.variadic else list(getattr(func, "names", ()))
    if not names:
        try:
            parameters = inspect.signature(func).parameters.values()
        except (TypeError, ValueError):  # some of NumPy's functions
            return [f"x{i}" for i in range(n)]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in parameters if p.kind in positional]
    return names[:n] + [f"x{i}" for i in range(len(names), n)]


def tensors_of(result: Any, name: str) -> list[Tensor]:
    """Return the floating-point Tensors in a function's result; integers are left out."""
    found: list[Tensor] = []

    def collect(leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            if leaf.dtype.kind == "f":
                found.append(leaf)
        elif np.asarray(leaf).dtype.kind == "f":
            raise _lost(name, leaf)

    tree_map(collect, result)
    if not found:
        raise _lost(name, result)
    return found


def _lost(name: str, result: Any) -> GradientError:
    return GradientError(
        f"{name} returned {type(result).__name__}, not a Tensor: gradient lost, as after .numpy(), "
        ".item() or a comparison"
    )


def _floating(result: Any) -> list[ndarray]:
    """Return the real and complex arrays and numbers of a function's result."""
    found: list[ndarray] = []

    def collect(leaf: Any) -> None:
        y = leaf.numpy() if isinstance(leaf, Tensor) else np.asarray(leaf)
        if y.dtype.kind in "fc":
            found.append(y)

    tree_map(collect, result)
    return found
