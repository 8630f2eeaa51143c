"""Objects such as ``no_grad()`` that work as ``with`` blocks and as decorators.

A decorated function, method, generator or coroutine runs inside the block. A generator is special:
between two ``yield``s its caller runs. If the block stayed open then, a generator decorated with
``no_grad`` would switch recording off for its caller. So a generator, and likewise a coroutine,
leaves the block whenever it is suspended, and enters the block again when it continues.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

Entering = Callable[[], AbstractContextManager]  # makes a context manager for a ``with`` statement


class Block:
    """A ``with`` block that can also be a decorator.

    The block has an object, such as a new `Recording`, and a context manager made for this object.

    Parameters
    ----------
    make : callable
        Returns the object. It is called once for each ``with`` statement, and once for each call of
        a decorated function.
    around : callable
        Takes the object and returns the context manager. A decorated generator calls `around` each
        time that it continues, always with the object of this call of the generator.

    Examples
    --------
    >>> from contextlib import contextmanager
    >>> from autograd.blocks import Block
    >>> @contextmanager
    ... def announce(name):
    ...     print("begin", name)
    ...     yield name
    ...     print("end", name)
    >>> @Block(lambda: "a", announce)
    ... def double(x):
    ...     return 2 * x
    >>> double(3)
    begin a
    end a
    6
    """

    def __init__(self, make: Callable[[], Any], around: Callable[[Any], Any]) -> None:
        self._make, self._around = make, around
        self._entered: list[AbstractContextManager] = []

    def __enter__(self) -> Any:
        manager = self._around(self._make())
        value = manager.__enter__()
        self._entered.append(manager)
        return value

    def __exit__(self, *exception: Any) -> bool | None:
        return self._entered.pop().__exit__(*exception)

    def __call__(self, function: Any) -> Any:
        """Return a function, generator or coroutine that runs inside this block."""
        return decorated(function, lambda: functools.partial(self._around, self._make()))


def decorated(function: Any, start: Callable[[], Entering]) -> Any:
    """Return a function of the same kind whose body runs inside a context manager.

    Parameters
    ----------
    function : callable
        A function, a generator function, a coroutine function or an asynchronous generator
        function; or a static method, class method or context manager made from one of these.
    start : callable
        It is called once for each call of the function, and returns a function that makes context
        managers. The body enters a new context manager each time that it starts or continues.

    Raises
    ------
    TypeError
        If `function` is a class, or cannot be called.
    """
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorated(function.__func__, start))
    # The body of a function under @contextmanager runs when its ``with`` block is entered, and not
    # when the function is called. So we decorate the generator inside, and wrap the result again.
    makers: Any = contextmanager, asynccontextmanager
    for make in makers:
        if getattr(function, "__code__", None) is make(decorated).__code__:
            return make(decorated(function.__wrapped__, start))
    if isinstance(function, type) or not callable(function):
        kind = type(function).__name__
        kind = "a class" if isinstance(function, type) else f"an object of type {kind}"
        raise TypeError(
            f"cannot decorate {kind}: expected a function or a method; decorate each method of a "
            "class, and a property's function below @property"
        )

    def is_a(kind: Callable[[Any], bool]) -> bool:
        return kind(function) or kind(getattr(function, "__call__", None))  # noqa: B004

    wraps = functools.wraps(function)
    if is_a(inspect.isgeneratorfunction):

        @wraps
        def generate(*args: Any, **kwargs: Any) -> Iterator:
            return (yield from _driven(function(*args, **kwargs), start()))

        return generate

    if is_a(inspect.iscoroutinefunction):

        @wraps
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await _Driven(function(*args, **kwargs), start())

        return run

    if is_a(inspect.isasyncgenfunction):

        @wraps
        async def generate_async(*args: Any, **kwargs: Any) -> AsyncIterator:
            generator, entering = function(*args, **kwargs), start()
            try:
                item = await _Driven(generator.asend(None), entering)
                while True:
                    try:
                        sent = yield item
                    except BaseException as error:  # what the caller throws, GeneratorExit too
                        item = await _Driven(generator.athrow(error), entering)
                    else:
                        item = await _Driven(generator.asend(sent), entering)
            except StopAsyncIteration:
                return

        return generate_async

    @wraps
    def call(*args: Any, **kwargs: Any) -> Any:
        with start()():
            return function(*args, **kwargs)

    return call


def _driven(iterator: Any, entering: Entering) -> Generator[Any, Any, Any]:
    """Yield what a generator yields; the context manager is open only while the generator runs.

    The loop continues the generator inside the context, and yields the item to the caller outside
    of it. What the caller sends or throws goes to the generator, again inside the context.
    """
    try:
        with entering():
            item = iterator.send(None)
        while True:
            try:
                sent = yield item
            except BaseException as error:  # what the caller throws, GeneratorExit too
                with entering():
                    item = iterator.throw(error)
            else:
                with entering():
                    item = iterator.send(sent)
    except StopIteration as stop:
        return stop.value


class _Driven:
    """An awaitable that runs a coroutine through `_driven`."""

    def __init__(self, coroutine: Awaitable, entering: Entering) -> None:
        self._coroutine, self._entering = coroutine, entering

    def __await__(self) -> Generator[Any, Any, Any]:
        return _driven(self._coroutine.__await__(), self._entering)
