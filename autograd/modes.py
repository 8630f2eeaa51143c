"""Whether ops are recorded, and who watches: grad mode, recorders and observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from autograd.blocks import Block, decorated

if TYPE_CHECKING:
    from autograd.engine import Node
    from autograd.op import Op

# Whether ops are recorded: False, True, or the Recorder that wants to know.
_mode: ContextVar[Any] = ContextVar("grad_mode", default=True)
current_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)
current_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)
grad_mode = _mode.get


def is_grad_enabled() -> bool:
    """Return whether ops are recorded here."""
    return grad_mode() is not False


class GradMode:
    """Whether ops are recorded: a context manager, and a decorator."""

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
    """What may watch a backward pass; see :func:`observe`."""

    def visit(self, node: Node, cotangent: Any) -> None:
        """See a node whose cotangent is complete, before its rules run."""

    def edge(self, node: Node, name: str, parent: Node, contribution: Any) -> None:
        """See what a node, given its cotangent, adds to that of its input of that name."""


class Recorder(Protocol):
    """What may watch the forward pass; see :func:`record_with`.

    It may also have a method ``around(op)``, which returns what runs in the place of
    ``op.forward``: the same, between two looks at a clock. It may have an attribute ``witness``,
    the class by which an array that should not change is known again (`Fingerprint` or `Copy`).
    """

    def recorded(self, op: Op, args: tuple, result: Any) -> None:
        """See a call that was recorded, with the Tensor that it returned, or several."""


def forward_of(op: Op, recorder: Recorder) -> Callable:
    """Return what runs an op: its forward function, or what the recorder puts around it."""
    around = getattr(recorder, "around", None)
    return op.forward if around is None else around(op)


@contextmanager
def record_with(recorder: Recorder) -> Iterator[Recorder]:
    """Let a recorder see every op that goes on the tape inside the block."""
    token = current_recorder.set(recorder)
    try:
        with GradMode(is_grad_enabled()):
            yield recorder
    finally:
        current_recorder.reset(token)


def observe(observer: Observer | None) -> Block:
    """Let an observer watch every backward pass inside the block, or nobody.

    A decorator, too: ``@observe(observer)``.

    Raises
    ------
    TypeError
        If `observer` has no method `visit` or `edge`.
    """
    if observer is not None and not (hasattr(observer, "visit") and hasattr(observer, "edge")):
        raise TypeError(
            f"observe: {observer!r:.60} has no methods visit and edge; see autograd.Observer"
        )
    return Block(lambda: observer, observing)


@contextmanager
def observing(observer: Observer | None) -> Iterator[Observer | None]:
    """Do what :func:`observe` does, for those who know their observer."""
    token = current_observer.set(observer)
    try:
        yield observer
    finally:
        current_observer.reset(token)
