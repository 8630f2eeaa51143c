"""The modes of the engine: whether calls of ops are recorded, and which objects watch.

The *grad mode* says whether an op on a tensor that requires a gradient makes a node on the tape.
A *recorder* sees each call that is recorded (the forward pass), and an *observer* sees each node
that a backward pass visits. All three are context variables: a ``with`` block in one thread or
coroutine does not change another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from autograd.blocks import Block, decorated

if TYPE_CHECKING:
    from autograd.engine import Node
    from autograd.op import Op

# False: calls are not recorded. True: calls are recorded. A Recorder: calls are recorded, and the
# recorder sees each. One variable says all three, so that a call of an op reads only one.
_mode: ContextVar[Any] = ContextVar("grad_mode", default=True)
current_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
current_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
grad_mode = _mode.get


def is_grad_enabled() -> bool:
    """Return whether calls of ops are recorded here."""
    return grad_mode() is not False


class GradMode:
    """A context manager, and a decorator, that sets whether calls of ops are recorded."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._tokens: list = []

    def __enter__(self) -> None:
        mode = self._enabled and (current_recorder.get() or True)
        self._tokens.append(_mode.set(mode))

    def __exit__(self, *exception: object) -> None:
        _mode.reset(self._tokens.pop())

    def __call__(self, function: Any) -> Any:
        """Let a function, a generator or a coroutine run in this mode."""
        return decorated(function, lambda: partial(GradMode, self._enabled))


def no_grad(function: Callable | None = None) -> Any:
    """Record nothing: ``with no_grad():``, or ``@no_grad()`` (or ``@no_grad``) on a function.

    A decorated generator or coroutine records nothing while it runs; its caller, who runs while
    the generator or coroutine is suspended, records as before.

    Raises
    ------
    TypeError
        If a class is decorated: decorate its methods.

    Examples
    --------
    >>> import autograd
    >>> x = autograd.tensor(3.0, requires_grad=True)
    >>> @autograd.no_grad()
    ... def powers(x):
    ...     yield x
    ...     yield x * x
    >>> [(y.requires_grad, (x * y).requires_grad) for y in powers(x * 1)]
    [(True, True), (False, True)]
    """
    return GradMode(False) if function is None else GradMode(False)(function)


def enable_grad(function: Callable | None = None) -> Any:
    """Record again, inside :func:`no_grad`; a decorator, too, as `no_grad` is."""
    return GradMode(True) if function is None else GradMode(True)(function)


class Observer(Protocol):
    """An object that watches backward passes; see :func:`observe`.

    The engine calls `visit` for each node that a backward pass reaches, and `edge` for each
    gradient that the rules of this node return. An observer may have two more methods, which are
    called once for each backward pass:

    ``begin(outputs, cotangents, inputs, retain_graph)``
        The pass is about to start at the nodes `outputs`, with these `cotangents`. `inputs` are the
        nodes whose cotangents the caller asked for, or None if the leaves accumulate gradients.
        `retain_graph` says whether the tape stays after the pass.
    ``end(error)``
        The pass has ended. If `error` is None, all gradients are complete; otherwise `error` is the
        exception that ended the pass.

    One pass may run inside another, for example if a hook calls `backward`. The inner pass then
    begins after the outer one and ends before it.
    """

    def visit(self, node: Node, cotangent: Any) -> None:
        """See a node whose cotangent is complete, before its rules run."""

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """See what `node` adds to the cotangent of `parent`, which is its input `name`."""


class _Observers:
    """Several observers of the same backward passes: those of nested ``observe`` blocks."""

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self.observers = observers

    def visit(self, node: Node, cotangent: Any) -> None:
        for observer in self.observers:
            observer.visit(node, cotangent)

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        for observer in self.observers:
            observer.edge(node, name, parent, contribution)


def current_observers() -> tuple[Observer, ...]:
    """Return the observers that watch here, the one of the outermost block first."""
    observer = current_observer.get()
    if isinstance(observer, _Observers):
        return observer.observers
    return () if observer is None else (observer,)


@contextmanager
def watched_pass(mode: GradMode, *details: Any) -> Iterator[None]:
    """Run a backward pass in its grad mode, and tell the observers when it begins and ends.

    Every observer whose `begin` ran also sees the end, in the opposite order, even if the pass or
    another observer raises an exception.
    """
    with ExitStack() as stack:
        for observer in current_observers():
            stack.enter_context(_told(observer, details))
        stack.enter_context(mode)
        yield


@contextmanager
def _told(observer: Observer, details: tuple) -> Iterator[None]:
    """Call an observer's `begin` before the block and its `end` after it, where it has them."""
    begin, end = getattr(observer, "begin", None), getattr(observer, "end", None)
    if begin is not None:
        begin(*details)
    try:
        yield
    except BaseException as error:
        if end is not None:
            end(error)
        raise
    if end is not None:
        end(None)


class Recorder(Protocol):
    """An object that watches the forward pass; see :func:`record_with`.

    A recorder may also have:

    - a method ``around(op)``, which returns the function to run in the place of ``op.forward``, for
      example one that runs ``op.forward`` and takes the time;
    - a method ``answered(function, args, kwargs, result)``, which sees a call that leaves the tape,
      such as ``x > 0``, ``np.argsort(x)``, ``x.item()`` or an op under `no_grad`; see
      :func:`answered`;
    - an attribute ``witness``, the class (`Fingerprint` or `Copy`) by which `checkpoint` tells
      whether an array has changed;
    - an attribute ``keeps_calls``, which is True if the recorder keeps every call with its
      arguments and results; see :func:`current_recording`.
    """

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """See a call that was recorded, with the Tensor that it returned, or several."""


def answered(function: Callable | None, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
    """Show the recorder, if it wants to see it, a result of tensors off the tape.

    The function computes the result from arrays: `operator.gt` that of ``x > 0``. It is None if
    nothing can compute the result again.
    """
    see = getattr(current_recorder.get(), "answered", None)
    if see is not None:
        see(function, args, kwargs, result)


def forward_of(op: Op, recorder: Recorder) -> Callable:
    """Return what runs an op: its forward function, or what the recorder puts around it."""
    around = getattr(recorder, "around", None)
    return op.forward if around is None else around(op)


def current_recording() -> Any:
    """Return the `Recording` of the ``with autograd.record():`` block that runs here, or None.

    Code that skips steps, such as `checkpoint` or a compiled decoder, asks this first: inside a
    recording, it takes the path on which every step is an op.
    """
    recorder = current_recorder.get()
    return recorder if getattr(recorder, "keeps_calls", False) else None


@contextmanager
def record_with(recorder: Recorder | None) -> Iterator[Recorder | None]:
    """Let a recorder see every op that goes on the tape inside the block."""
    token = current_recorder.set(recorder)
    try:
        with GradMode(is_grad_enabled()):
            yield recorder
    finally:
        current_recorder.reset(token)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Leave the calls in the block out of the recording that runs; the tape keeps them as before.

    A gradient check calls its function hundreds of times, for nobody to look at.
    """
    with nullcontext() if current_recording() is None else record_with(None):
        yield


@contextmanager
def unseen() -> Iterator[None]:
    """Hide a block from the recorder and the observers of the program: a tool looks at its pass."""
    with observing(None), record_with(None):
        yield


def observe(observer: Observer | None) -> Block:
    """Let an observer watch every backward pass inside the block.

    A decorator, too: ``@observe(observer)``. Inside another such block both observers watch. With
    None, no observer watches: neither this block's nor those of the blocks around it.

    Raises
    ------
    TypeError
        If `observer` has no method `visit` or `edge`.

    Examples
    --------
    >>> import autograd
    >>> class Printer:
    ...     def visit(self, node, cotangent):
    ...         print(node.op.name, "has", cotangent)
    ...     def edge(self, node, name, parent, contribution):
    ...         print("   ", name, "gets", contribution)
    ...     def end(self, error):
    ...         print("done")
    >>> x = autograd.tensor(3.0, requires_grad=True)
    >>> with autograd.observe(Printer()):
    ...     (x * 2.0).backward()
    multiply has 1.0
        x gets 2.0
    done
    """
    if observer is not None and not (hasattr(observer, "visit") and hasattr(observer, "edge")):
        raise TypeError(
            f"observe: {observer!r:.60} has no methods visit and edge; see autograd.Observer"
        )
    return Block(lambda: observer, observing)


@contextmanager
def observing(observer: Observer | None) -> Iterator[Observer | None]:
    """Do what :func:`observe` does, without the check of the observer."""
    watching = current_observers()
    together: Any = observer
    if observer is not None and watching:
        if all(observer is not other for other in watching):  # a recursive function enters twice
            watching = (*watching, observer)
        together = _Observers(watching)
    token = current_observer.set(together)
    try:
        yield observer
    finally:
        current_observer.reset(token)
