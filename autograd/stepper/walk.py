"""Starting the stepper from code: `step` at a tensor or a function, or at every backward pass."""

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
from autograd.engine import Node
from autograd.modes import observe
from autograd.reading import read_text
from autograd.stepper.notebook import in_notebook
from autograd.stepper.record import Recording, record, recording_of
from autograd.stepper.steps import plain
from autograd.stepper.trace import Trace, trace
from autograd.tensor import Tensor, tensor


def step(
    function: Any,
    *args: Any,
    gradient: Any = None,
    commands: str | Path | Iterable[str] | None = None,
) -> Any:
    """Walk through a backward pass step by step, as a debugger walks through a program.

    ``step(loss)`` takes a tensor that was computed inside ``with autograd.record():``.
    ``step(f, *args)`` records a call of a function; floating-point numbers and arrays among the
    arguments become Tensors that require a gradient. The pass changes no ``.grad``, and keeps the
    tape.

    In a notebook, the output of the cell is the page of the pass (`autograd.page`), in which values
    can be changed if `anywidget` is installed; `walk` asks for commands there, too.

    Parameters
    ----------
    function : Tensor or callable
        A recorded tensor, or a function that returns a Tensor.
    *args
        The arguments of the function.
    gradient : array_like, optional
        The cotangent to start with. It may be left out if the result is a number; it is 1 then.
    commands : str, path or iterable of str, optional
        The name of a file with commands, or the commands themselves. They run instead of those that
        the user would type.

    Raises
    ------
    TypeError
        If `function` is neither, or returns no Tensor.
    RuntimeError
        If the tensor was not recorded.
    SystemExit
        After the command ``quit``, if it was typed, unless Python itself asks for commands.

    Examples
    --------
    >>> import autograd
    >>> autograd.step(lambda a, b: a * b + a, 2.0, 3.0, commands=["next", "why a"])
    ... # doctest: +ELLIPSIS
    a * b + a = 8.0: 2 steps back to 2 leaves
    ...
    (step) why a
    gradient of a: +4, from 2 uses
      +3  +75.0%  a * b  multiply(x) ...
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
    if commands is None and in_notebook():
        from autograd.page.notebook import show

        show(found)
        return
    if isinstance(commands, str | Path):
        commands = read_text(commands, pipes=True).splitlines()
    walk(found, commands)
    if commands is None and _typed[-1].quit and not hasattr(sys, "ps1"):
        raise SystemExit


def walk(
    trace: Trace,
    commands: Iterable[str] | None = None,
    terminal: Callable[[Trace], Any] | None = None,
) -> bool:
    """Walk through a trace in the terminal.

    Parameters
    ----------
    trace : Trace
    commands : iterable of str, optional
        Commands to run instead of those that the user would type.
    terminal : callable, optional
        Returns the terminal for a trace: one with more commands, or that of the pass before, after
        `Terminal.enter`. By default the commands that are typed go on with the same terminal, so
        breakpoints live as long as the program, as in pdb.

    Returns
    -------
    bool
        Whether to end the program: after the command ``quit``, or when no command is left.
    """
    from autograd.stepper.terminal import Terminal

    made = (terminal or (Terminal if commands is not None else _go_on_with))(trace)
    if made.done:  # the program runs on to a breakpoint in another pass
        return False
    if commands is None:
        made.talk()
    else:
        made.play(commands)
    return made.quit or not made.done


_typed: list[Any] = []  # the terminal of the commands that are typed, when there is one


def _go_on_with(trace: Trace) -> Any:
    """Return the terminal of the commands that are typed; it stops at the first step."""
    from autograd.stepper.terminal import Terminal

    if _typed:
        _typed[-1].is_running = False
        _typed[-1].enter(trace)
    else:
        _typed.append(Terminal(trace))
    return _typed[-1]


@contextmanager
def stopping_at_backward(then: Callable[[Trace], None]) -> Iterator[None]:
    """Record the block, and call a function with the trace of each backward pass in the block.

    A pass is traced if it starts at one recorded tensor. The function is called when the pass has
    run, before the program goes on. What the function itself computes is neither recorded nor
    traced.

    A pass that releases its tape also removes from the recording what was recorded so far, so the
    memory of a program with many passes does not grow. The trace keeps the removed part.

    Parameters
    ----------
    then : callable
        Takes a `Trace`. An exception from it ends the program's `backward` or `grad`.

    Examples
    --------
    >>> import autograd
    >>> from autograd.stepper import stopping_at_backward
    >>> w = autograd.tensor(1.0, requires_grad=True)
    >>> with stopping_at_backward(print):
    ...     for x in (2.0, 3.0):
    ...         loss = w * x
    ...         loss.backward()
    <Trace of 1 steps back from loss>
    <Trace of 1 steps back from loss>
    """
    outside = copy_context()  # the context of the caller, without this block's recording
    with record() as recording:
        stops = _Stops(recording, lambda found: outside.copy().run(then, found))
        with observe(stops):
            yield


class _Stops:
    """An observer that traces each backward pass, and calls a function when the pass has run.

    Passes may be nested, so the traces of the open passes are kept on a stack. The entry of a pass
    that is not traced is None.
    """

    def __init__(self, recording: Recording, then: Callable[[Trace], None]) -> None:
        self.recording, self.then = recording, then
        self.open: list[tuple[Trace | None, bool]] = []

    def begin(self, outputs: Any, cotangents: Any, inputs: Any, retain_graph: bool) -> None:
        """Begin the trace of a pass, if the pass starts at one recorded tensor."""
        trace = None
        if len(outputs) == 1 and outputs[0].recording is not None:
            self.recording.name_variables(users_frame())
            trace = Trace(outputs[0].recording, outputs[0].number, plain(cotangents[0]))
        self.open.append((trace, retain_graph))

    def visit(self, node: Node, cotangent: Any) -> None:
        """Add a step to the trace."""
        if trace := self.open[-1][0]:
            trace.visit(node, cotangent)

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """Add to the step what it sends."""
        if trace := self.open[-1][0]:
            trace.edge(node, name, parent, contribution)

    def end(self, error: BaseException | None) -> None:
        """Hand over the trace of the pass, unless an exception ended the pass."""
        trace, retain_graph = self.open.pop()
        if trace is None or error is not None:
            return
        if trace.recording is self.recording and not retain_graph:
            trace.recording = self.recording.take()
        self.then(trace)


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
