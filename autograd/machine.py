"""What the machine can do, and how the kernels use it.

Speeds are measured, and settings are asked of the system or of Numba. Nothing is assumed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from autograd.cpus import usable_cpus as usable_cpus
from autograd.kernels import kernels_enabled


@dataclass(frozen=True)
class Roof:
    """The two limits of a machine's speed: arithmetic and memory.

    A computation takes at least the time that its operations take, and at least the time to read
    and write its bytes (Williams, Waterman and Patterson 2009, "Roofline").

    Attributes
    ----------
    flops : float
        The most floating-point operations in a second. They are measured in a product of large
        matrices.
    bandwidth : float
        The most bytes read and written in a second. They are measured in a copy of arrays that are
        too large for the caches.

    Examples
    --------
    >>> Roof(flops=100e9, bandwidth=10e9).least_seconds(1e9, 2e9)
    0.2
    """

    flops: float
    bandwidth: float

    @classmethod
    def measure(cls, dtype: DTypeLike = np.float32, seconds: float = 0.3) -> Roof:
        """Measure both limits, each for about `seconds`, with all usable CPUs.

        Parameters
        ----------
        dtype : dtype_like
            The dtype of the matrices.
        seconds : float

        Returns
        -------
        Roof
        """
        from concurrent.futures import ThreadPoolExecutor

        from autograd.ops.linalg import product

        def products(n: int) -> float:
            a, b, out = (np.ones((n, n), dtype) for _ in range(3))
            blas = _least(lambda: np.matmul(a, b, out=out), seconds / 2)
            return 2 * n**3 / min(blas, _least(lambda: product(a, b), seconds / 2))

        def copy(size: int) -> float:
            parts = [np.array_split(np.ones(size, np.uint8), usable_cpus()) for _ in range(2)]
            with ThreadPoolExecutor(usable_cpus()) as pool:
                return 2 * size / _least(lambda: list(pool.map(np.copyto, *parts)), seconds)

        # A small product is less often interrupted by other programs; a large one has work for many
        # CPUs. The limit is the better of the two.
        return cls(max(products(512), products(2048)), copy(2**26))

    def least_seconds(self, flops: float, bytes: float) -> float:
        """Return the least number of seconds for `flops` operations on `bytes` bytes."""
        return max(flops / self.flops, bytes / self.bandwidth)


def _least(function: Any, seconds: float) -> float:
    """Call a function for `seconds`, again and again, and return the time of the fastest call."""
    least, end = math.inf, perf_counter() + seconds
    while (start := perf_counter()) < end:
        function()
        least = min(least, perf_counter() - start)
    return least


# ---- the functions below import Numba


def compiles() -> bool:
    """Return whether kernels are on and are compiled, and not run as Python functions."""
    if not kernels_enabled():
        return False
    from autograd.kernels.cache import settings

    return not settings.DISABLE_JIT


def kernel_threads() -> int:
    """Return how many threads kernels use."""
    from autograd.kernels.team import n_threads

    return n_threads()


def kernel_cache() -> Path | None:
    """Return the folder for compiled kernels, or None if no such folder can be written to."""
    from autograd.kernels.cache import writable

    return writable()


def kernel_files() -> dict[str, list[Path]]:
    """Return the files of compiled kernels in three groups: good, old and damaged."""
    from autograd.kernels.cache import survey

    return survey()


def vector_bits() -> int:
    """Return the bits of the vectors that Numba's compiler uses for a plain loop.

    The function compiles a loop and searches its machine code for vector instructions of x86. It
    returns 0 if there are none, which is always so on other processors.
    """
    import numba

    def scale(x: Any, y: Any) -> None:
        for i in range(y.size):
            y[i] = x[i] * 2

    array = numba.float32[::1]
    compiled: Any = numba.njit([numba.void(array, array)], error_model="numpy")(scale)
    (code,) = compiled.inspect_asm().values()
    widths = {"x": 128, "y": 256, "z": 512}
    return max((widths[x] for x in re.findall(r"movups.*%([xyz])mm", code)), default=0)
