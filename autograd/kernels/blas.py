"""NumPy's own matrix product, for kernels: the BLAS that NumPy brings along, by its C interface."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np
from numba import types
from numba.extending import overload

from autograd.forks import in_child
from autograd.kernels.cache import settings
from autograd.kernels.jit import OVERLOADS

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # CBLAS's names for them


@cache
def library() -> Any:
    """Return NumPy's OpenBLAS with 64-bit integers, its products known to LLVM; else None."""
    numpys = Path(np.__file__).parent
    for folder in (numpys.parent / "numpy.libs", numpys / ".dylibs"):
        for path in folder.glob("*openblas64*"):
            found = ctypes.CDLL(str(path))
            if hasattr(found, "scipy_cblas_sgemm64_"):
                for name in ("sgemm", "dgemm", "sgemv", "dgemv"):
                    product = getattr(found, f"scipy_cblas_{name}64_")
                    address = ctypes.cast(product, ctypes.c_void_p).value
                    llvmlite.binding.add_symbol(f"autograd_{name}", address)
                return found
    return None


def usable() -> bool:
    """Return whether kernels can multiply matrices here."""
    return not settings.DISABLE_JIT and library() is not None


_flag, _size, _address = types.int32, types.int64, types.intp


def _gemm(real: Any) -> Any:
    return types.ExternalFunction(
        "autograd_sgemm" if real == types.float32 else "autograd_dgemm",
        types.void(
            _flag, _flag, _flag, _size, _size, _size,  # order, which are transposed, m, n, k
            real, _address, _size, _address, _size, real, _address, _size,  # alpha, A, B, beta, C
        ),
    )  # fmt: skip


def _gemv(real: Any) -> Any:
    return types.ExternalFunction(
        "autograd_sgemv" if real == types.float32 else "autograd_dgemv",
        types.void(
            _flag, _flag, _size, _size,  # order, whether A is transposed, m, n
            real, _address, _size, _address, _size, real, _address, _size,  # alpha, A, x, beta, y
        ),
    )  # fmt: skip


_products = {real: (_gemm(real), _gemv(real)) for real in (types.float32, types.float64)}


def gemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """C = alpha A B + beta C, with A (m, k), B (k, n), C (m, n) by address and row length."""
    raise RuntimeError("a BLAS is called from compiled kernels only")


@overload(gemm, jit_options=OVERLOADS)
def _(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    matrix_product, vector_product = _products[alpha]

    def call(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        if m == 1 and k > 0 and trans_a == PLAIN:  # a row: faster as B^T times a vector
            if trans_b == PLAIN:
                vector_product(order, TRANSPOSED, k, n, alpha, b, ldb, a, 1, beta, c, 1)
            else:
                vector_product(order, PLAIN, n, k, alpha, b, ldb, a, 1, beta, c, 1)
        else:
            matrix_product(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)

    return call


_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS's products on the thread that asks for them, while our own threads share them."""
    global _inside, _before
    blas = library()
    with _lock:
        if _inside == 0:
            _before = blas.scipy_openblas_get_num_threads64_()
            blas.scipy_openblas_set_num_threads64_(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                blas.scipy_openblas_set_num_threads64_(_before)


@contextmanager
def as_outside() -> Iterator[None]:
    """Give BLAS the threads that it has outside of `one_thread`; their number may change then."""
    global _before
    blas = library()
    with _lock:
        if _inside:
            blas.scipy_openblas_set_num_threads64_(_before)
        try:
            yield
        finally:
            if _inside:
                _before = blas.scipy_openblas_get_num_threads64_()
                blas.scipy_openblas_set_num_threads64_(1)


@in_child
def _leave() -> None:
    """Leave `one_thread`, and unlock the lock, for the threads that a forked process lacks."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        library().scipy_openblas_set_num_threads64_(_before)
        _inside = 0


def n_threads() -> int:
    """Return how many threads BLAS has, outside of `one_thread`."""
    blas = library()
    with _lock:
        return _before if _inside else blas.scipy_openblas_get_num_threads64_() if blas else 1
