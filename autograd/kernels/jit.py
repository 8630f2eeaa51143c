"""How kernels are compiled and cached, and what they take: one policy for all of them.

A kernel is a plain loop over the rows that it is given, compiled for one thread and without the
GIL; `autograd.kernels.team` runs it on several threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numpy import ndarray

from autograd.kernels.cache import Cache, settings

# ---- compiling

# "numpy": division by zero gives infinity; Python's check alone would stop vectorization.
OPTIONS: dict[str, Any] = dict(nogil=True, error_model="numpy")

# What each kind of loop lets the compiler assume. Never that there is no NaN and no infinity: both
# must come through. `contract` joins a multiplication and an addition, rounding once.
EXACT = {"contract"}  # elementwise, and the vector math, which breaks if terms are reordered
SUMS = {"contract", "reassoc", "nsz"}  # a sum is vectorized only if its terms may be reordered

OVERLOADS: Any = dict(fastmath=EXACT, **OPTIONS)  # for helpers chosen by the type of an argument


# A process is forked when no thread compiles: the child could not finish what another thread began.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def jit(flags: set[str], named: Callable | None = None) -> Callable:
    """Compile a kernel, or take it from the cache, where it has the name of a function."""

    def compile(function: Callable) -> Any:
        compiled: Any = numba.njit(function, fastmath=flags, **OPTIONS)
        if not settings.DISABLE_JIT:
            compiled._cache = Cache(named or function)
        return compiled

    return compile


def inline(flags: set[str]) -> Callable:
    """Compile a helper, as a part of the kernels that call it."""
    return numba.njit(fastmath=flags, **OPTIONS)


# ---- what kernels take

DTYPES = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


def takes(*arrays: Any) -> bool:
    """Return whether these are plain arrays of one dtype that kernels are made for (or None)."""
    kinds = {x.dtype if type(x) is ndarray else type(x) for x in arrays if x is not None}
    return len(kinds) == 1 and DTYPES >= kinds


def alike(*arrays: Any) -> bool:
    """Return whether kernels take these, and they are of one shape: a loop over one fits all."""
    return takes(*arrays) and all(x.shape == arrays[0].shape for x in arrays)


@jit(EXACT)
def address_of(x: ndarray) -> int:
    """Return where the first element of an array lies; outside of kernels, too.

    There, ``x.ctypes.data`` takes five times as long.
    """
    return x.ctypes.data


def as_rows(x: ndarray, n: int) -> ndarray:
    """Return an array as rows of n elements, copied only where they lie otherwise in memory."""
    return np.ascontiguousarray(x).reshape(x.size // n if n else 0, n)


def flat(x: ndarray) -> ndarray:
    """Return an array's elements in C order on one axis, copied only where they lie otherwise."""
    return np.ascontiguousarray(x).reshape(-1)
