"""What the machine can do, and what our kernels make of it: measured or asked, never guessed."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from autograd.kernels import kernels_enabled


@dataclass(frozen=True)
class Roof:
    """What a machine does at best in a second, by two measures.

    A computation needs the time of its operations or the time of its bytes, whichever is longer
    (Williams, Waterman and Patterson 2009, "Roofline").

    Attributes
    ----------
    flops : float
        Floating-point operations a second, in NumPy's product of large matrices.
    bandwidth : float
        Bytes read and written a second, in a copy of arrays that no cache holds.

    Examples
    --------
    >>> Roof(flops=100e9, bandwidth=10e9).least_seconds(1e9, 2e9)
    0.2
    """

    flops: float
    bandwidth: float

    @classmethod
    def measure(cls, dtype: DTypeLike = np.float32, seconds: float = 0.3) -> Roof:
        """Measure both, for so long each: products on threads, copies on all CPUs."""
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

        # the small product fits between other programs' turns, the large one keeps many CPUs busy
        return cls(max(products(512), products(2048)), copy(2**26))

    def least_seconds(self, flops: float, bytes: float) -> float:
        """Return the least time for so many operations on so many bytes."""
        return max(flops / self.flops, bytes / self.bandwidth)


def _least(function: Any, seconds: float) -> float:
    """Return the shortest time of a call, tried again and again for so long."""
    least, end = math.inf, perf_counter() + seconds
    while (start := perf_counter()) < end:
        function()
        least = min(least, perf_counter() - start)
    return least


def usable_cpus() -> int:
    """Return how many CPUs this process may use: by its affinity, and by its container's quota.

    Examples
    --------
    >>> 1 <= usable_cpus() <= os.cpu_count()
    True
    """
    affinity = getattr(os, "sched_getaffinity", None)
    n = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.floor(min(n, cpu_quota())))


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many CPUs the control group allows (Linux, versions 2 and 1); else infinity."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # there is none, or it is "max"
        return math.inf


# ---- what follows imports Numba


def compiles() -> bool:
    """Return whether kernels are on, and compiled: not run as Python."""
    if not kernels_enabled():
        return False
    from autograd.kernels.jit import settings

    return not settings.DISABLE_JIT


def kernel_threads() -> int:
    """Return how many threads kernels use."""
    from autograd.kernels.jit import n_threads

    return n_threads()


def kernel_cache() -> Path | None:
    """Return the folder that compiled kernels are written to; None if none can be written."""
    from autograd.kernels.cache import writable

    return writable()


def kernel_files() -> dict[str, list[Path]]:
    """Return the files of compiled kernels, by what they are: good, old or damaged."""
    from autograd.kernels.cache import survey

    return survey()


def vector_bits() -> int:
    """Return how wide the vectors are that Numba's compiler makes of a plain loop; 0 if none.

    It compiles one and reads its machine code; 0, too, where that is none of x86.
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
