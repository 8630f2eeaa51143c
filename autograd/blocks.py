"""``with`` blocks that are decorators, too: of functions, generators, coroutines and methods.

What a block sets holds while the body of the decorated function runs. A generator or a coroutine
leaves the block whenever it is suspended, and enters the block again when it goes on: the caller,
who runs in between, never sees what the block sets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

Entering = Callable[[], AbstractContextManager]  # makes what a ``with`` statement enters


class Block:
    """A ``with`` block about an object, which can also be a decorator.

    Parameters
    ----------
    make : callable
        Returns the object: a new one for every ``with``, and for every call of a decorated
        function.
    around : callable
        Takes the object and returns the context manager. A decorated generator enters the context
        manager of the same object once for each of its steps.
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
        """Let a function, a generator or a coroutine run inside this block."""
        return decorated(function, lambda: functools.partial(self._around, self._make()))


def decorated(function: Any, start: Callable[[], Entering]) -> Any:
    """Return a function of the same kind, whose body runs inside a context.

    Parameters
    ----------
    function : callable
        A function, a generator function, a coroutine function or an asynchronous generator
        function; a static method, class method or context manager made of one.
    start : callable
        Called once for each call of the function; returns what makes the context manager, which is
        entered each time that the body runs.

    Raises
    ------
    TypeError
        If `function` is a class, or cannot be called.
    """
    if isinstance(function, staticmethod | classmethod):
        return type(function)(decorated(function.__func__, start))
    makers: Any = contextmanager, asynccontextmanager  # whose functions only make an object
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
    """Yield what a generator yields, inside the context while the generator itself runs."""
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
    """An awaitable whose coroutine is driven by `_driven`."""

    def __init__(self, coroutine: Awaitable, entering: Entering) -> None:
        self._coroutine, self._entering = coroutine, entering

    def __await__(self) -> Generator[Any, Any, Any]:
        return _driven(self._coroutine.__await__(), self._entering)
