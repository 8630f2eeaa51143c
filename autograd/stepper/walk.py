"""The way into the stepper from code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from autograd.anomaly import users_frame
from autograd.modes import current_recorder, observe
from autograd.reading import read_text
from autograd.stepper.record import record, recording_of
from autograd.stepper.trace import Trace, plain, trace
from autograd.tensor import Tensor, tensor


def step(
    function: Any,
    *args: Any,
    gradient: Any = None,
    commands: str | Path | Iterable[str] | None = None,
) -> Any:
    """Walk through a backward pass by hand: a debugger whose program is backpropagation.

    ``step(loss)`` takes a tensor that was computed inside ``with autograd.record():``.
    ``step(f, *args)`` calls a function, with floating-point arrays and numbers as Tensors that
    require a gradient. No ``.grad`` changes, and the tape stays.

    Parameters
    ----------
    function : Tensor or callable
    *args
        Of the callable.
    gradient : array_like, optional
        The cotangent to start with; 1 if the result is a number.
    commands : str, path or iterable of str, optional
        A file of commands to run instead of asking for them, or the commands.

    Raises
    ------
    RuntimeError
        If the tensor was not recorded.

    Examples
    --------
    >>> import autograd
    >>> autograd.step(lambda a, b: a * b + a, 2.0, 3.0, commands=["next", "why a"])
    ... # doctest: +ELLIPSIS
    add_... = 8.0: 2 steps back to 2 leaves
    ...
    (step) why a
    gradient float64[], norm 4, from 2 uses
      multiply(x)  norm 3           +75.0% of the gradient
      add(y)       norm 1           +25.0% of the gradient
    """
    if isinstance(function, Tensor):
        recording_of(function).name_variables(users_frame())
        found = trace(function, gradient)
    elif callable(function):
        with record() as recording:
            leaves = [_leaf_of(x) for x in args]
            out = function(*leaves)
        if not isinstance(out, Tensor):
            raise TypeError(f"step: the function returned {type(out).__name__}, and not a Tensor")
        recording_of(out)
        for name, leaf in zip(_parameters(function, len(args)), leaves, strict=True):
            if isinstance(leaf, Tensor) and leaf._node is not None:
                recording.give_name(leaf._node.number, name)
        found = trace(out, gradient)
    else:
        raise TypeError(f"step needs a tensor or a function, not {type(function).__name__}")
    if isinstance(commands, str | Path):
        commands = read_text(commands, pipes=True).splitlines()
    walk(found, commands)


def walk(trace: Trace, commands: Iterable[str] | None = None) -> bool:
    """Walk through a trace; return whether it was left by ``quit``, or the commands are used up.

    Parameters
    ----------
    trace : Trace
    commands : iterable of str, optional
        To run instead of asking for them.
    """
    from autograd.stepper.terminal import Terminal

    terminal = Terminal(trace)
    if commands is None:
        terminal.talk()
    else:
        terminal.play(commands)
    return terminal.quit or not terminal.done


@contextmanager
def stopping_at_backward(then: Callable[[Trace], None]) -> Iterator[None]:
    """Record what runs inside the block, and call a function with the trace of each pass back.

    That is of each `backward` and `grad`, `autograd.functional`'s included, that starts at one
    recorded tensor. The function is called when the pass has run, before the program goes on. A
    pass that releases its tape takes along what was recorded before it, so that a program may run
    for long.
    """
    module: Any = sys.modules[Tensor.__module__]  # where all of them call the engine
    differentiate, outside = module.differentiate, copy_context()

    def traced(outputs: Any, cotangents: Any, inputs: Any = None, **options: bool) -> list:
        own = current_recorder.get() is None  # a pass of `then`, which runs outside
        if own or len(outputs) != 1 or outputs[0].recording is None:
            return differentiate(outputs, cotangents, inputs, **options)
        recording.name_variables(users_frame())
        (start,), (cotangent,) = outputs, cotangents
        found = Trace(start.recording, start.number, plain(cotangent))
        with observe(found):
            gradients = differentiate(outputs, cotangents, inputs, **options)
        if found.recording is recording and not any(options.values()):  # the tape is released
            found.recording = recording.take()
        outside.copy().run(then, found)
        return gradients

    with record() as recording:
        module.differentiate = traced
        try:
            yield
        finally:
            module.differentiate = differentiate


def _leaf_of(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x
    floating = isinstance(x, float) or isinstance(x, ndarray | np.generic) and x.dtype.kind == "f"
    return tensor(x, requires_grad=True) if floating else x


def _parameters(function: Callable, n: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)[:n]
    except (TypeError, ValueError):
        names = []
    return names + [f"arg{i}" for i in range(len(names), n)]
