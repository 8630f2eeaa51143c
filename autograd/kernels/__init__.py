"""Compiled kernels: the hot loops of ops in Numba, each beside the NumPy function that explains it.

A function that has a kernel says so with one line, ``@kernel("normalization.softmax")``. A call has
three steps:

1. ``check``, if one is given, raises for wrong arguments: a shape, a dtype, a number out of range.
   Neither the kernel nor the function looks at them again. A rule has no check: its arguments are
   those of the forward call, and the tape has fitted the cotangent to the output.
2. The kernel computes, or returns ``NotImplemented``. It does so for one reason alone: it is not
   compiled for these arrays (Tensors, float16, two dtypes in one call, arrays without elements).
3. If the kernel returned ``NotImplemented``, the NumPy function computes.

Kernels are off with ``AUTOGRAD_KERNELS=0`` in the environment, inside ``use_kernels(False)``, and
where Numba is missing. Nothing here imports Numba before a kernel is first called.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, update_wrapper
from importlib import import_module
from importlib.util import find_spec
from numbers import Integral
from threading import Lock
from typing import Any

from autograd.blocks import decorated
from autograd.forks import in_child

_default = _wanted = os.environ.get("AUTOGRAD_KERNELS", "1") != "0"
_available: bool | None = None  # whether Numba is there; None until someone asks


class use_kernels:
    """Switch kernels on or off for the whole process, for a ``with`` block, or for a function.

    As a decorator, ``@use_kernels(False)``, it switches while the function runs, and at no other
    time. A switch is for all threads; the last one that has not ended counts.

    Examples
    --------
    >>> from autograd.kernels import kernels_enabled, use_kernels
    >>> with use_kernels(False):
    ...     kernels_enabled()
    False
    """

    def __init__(self, enabled: bool = True) -> None:
        if not isinstance(enabled, int):
            raise TypeError(
                f"use_kernels: {enabled!r:.60} is no bool; write use_kernels(True), or "
                "@use_kernels(True) before a function"
            )
        self._enabled = enabled
        self.__enter__()

    def __enter__(self) -> use_kernels:
        if self not in _switches:
            _switches.append(self)
        _switch()
        return self

    def __exit__(self, *_: object) -> None:
        # not "as it was before": of two threads, the one that began first may end first
        if self in _switches:
            _switches.remove(self)
        _switch()

    def __call__(self, function: Any) -> Any:
        """Let a function, a generator or a coroutine run with kernels on or off."""
        self.__exit__()
        return decorated(function, lambda: partial(use_kernels, self._enabled))


_switches: list[use_kernels] = []  # those that have not ended


def _switch() -> None:
    global _wanted
    _wanted = _switches[-1]._enabled if _switches else _default


def kernels_enabled() -> bool:
    """Return whether kernels run: they are switched on, and Numba is installed.

    Raises
    ------
    UserError
        If ``NUMBA_NUM_THREADS`` is a number with which Numba cannot be imported.
    """
    global _available
    if _wanted and _available is None:
        installed = find_spec("numba") is not None
        said = os.environ.get("NUMBA_NUM_THREADS", "1")
        try:
            n_threads = int(said)
        except ValueError:  # Numba warns of what is no number, and takes its default
            n_threads = 1
        if installed and n_threads < 1:
            from autograd.schema import UserError

            raise UserError(f"NUMBA_NUM_THREADS is {said!r}; expected a number of 1 or more")
        _available = installed
    return _wanted and bool(_available)


_limits: list[int] = []  # of the `use_threads` blocks that have not ended
_of_blas: list[tuple[Any, int]] = []  # libraries, and their threads before the first of the blocks
_limiting = Lock()


def most_threads() -> int:
    """Return the largest number of threads that kernels may use, as `use_threads` says."""
    return min(_limits, default=sys.maxsize)


@contextmanager
def use_threads(n: int) -> Iterator[None]:
    """Let kernels and BLAS use at most n threads inside the block, in the whole process.

    Processes that share the cores of a machine take their parts of the cores by it. Where several
    blocks run, one inside another or in several threads, the smallest n counts. BLAS never gets
    more threads than it had before.

    Raises
    ------
    TypeError
        If n is no integer.
    ValueError
        If n is less than 1.

    Examples
    --------
    >>> from autograd.kernels import most_threads, use_threads
    >>> with use_threads(1):
    ...     most_threads()
    1
    """
    wrong = f"use_threads: n is {n!r}; expected an integer of 1 or more"
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise TypeError(wrong)
    if n < 1:
        raise ValueError(wrong)
    _limit(_limits.append, n)
    try:
        yield
    finally:
        _limit(_limits.remove, n)


def _limit(change: Callable[[int], None], n: int) -> None:
    """Add or remove a limit; after the last, BLAS has the threads that it had before the first."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    blas = sys.modules.get("autograd.kernels.blas")  # another thread may be inside a product
    with _limiting, blas.as_outside() if blas else nullcontext():
        if not _limits:
            found = ThreadpoolController().select(user_api="blas").lib_controllers
            _of_blas[:] = [(library, library.get_num_threads()) for library in found]
        change(n)
        for library, before in _of_blas:
            # Of several threads that set the number of OpenBLAS's threads, new versions of
            # threadpoolctl obey the first alone, until that thread is forgotten.
            forget = getattr(library, "clear_controlling_thread", lambda **_: None)
            forget(force=True)
            library.set_num_threads(int(min([before, *_limits])))
            forget(force=True)


@in_child
def _renew_lock() -> None:
    global _limiting
    _limiting = Lock()


def product_choice(measure: bool = True) -> str:
    """Return which matrix product is used, as ``AUTOGRAD_PRODUCT`` takes it: own, blas, own,blas.

    The first call on a machine measures, unless `measure` is False; the result is empty then. See
    `autograd.kernels.product`.
    """
    if not kernels_enabled():
        return "blas"
    from autograd.kernels.cache import settings
    from autograd.kernels.product import choice, known_choice

    if settings.DISABLE_JIT:
        return "blas"
    return str((choice() if measure else known_choice()) or "")


class kernel:
    """Let the kernel of a name, ``"file.function"``, stand in for a function where it can.

    In all but calls the result is the NumPy function: its name, source, signature and globals.
    ``check(*args)`` raises for wrong arguments, before the kernel or the function runs.
    """

    def __init__(self, name: str, check: Callable[..., None] | None = None) -> None:
        self._module, self._name = name.split(".")
        self._kernel: Callable | None = None
        self.check = check

    def __call__(self, function: Callable) -> Any:
        """Decorate the NumPy function."""
        return _Accelerated(self, function)

    def load(self) -> Callable:
        """Import the kernel's file; where Numba does not work here, say so and do without."""
        global _available
        try:
            module = import_module(f"autograd.kernels.{self._module}")
        except ImportError as error:
            if (error.name or "").startswith("autograd"):
                raise
            _available = False
            warnings.warn(f"Numba does not work here ({error}); NumPy computes all", stacklevel=4)
            return _declines
        self._kernel = getattr(module, self._name)
        return self._kernel


class _Accelerated:
    """A NumPy function and its kernel."""

    def __init__(self, kernel: kernel, function: Callable) -> None:
        update_wrapper(self, function)
        self._kernel = kernel
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        check = self._kernel.check
        if check is not None:
            check(*args, **kwargs)
        if kernels_enabled():
            run = self._kernel._kernel or self._kernel.load()
            result = run(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_function"], name)

    def __reduce__(self) -> str:  # by name, as the function itself
        return self._function.__qualname__


def _declines(*_: Any, **__: Any) -> Any:
    return NotImplemented
