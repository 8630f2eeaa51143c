"""Large matrix products, shared out over the kernels' threads: by BLAS, or by our own product.

BLAS's own threads spin while they wait for each other. They keep the kernels' threads from their
processors, and where other programs want these too, a product can take ten times as long. So BLAS
multiplies on one thread, and each thread of our team multiplies its own rows, or columns. A product
of our own (`autograd.kernels.gemm`) is faster on some machines, and at some sizes.
"""

import math
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]

from autograd.files import write_json
from autograd.kernels import blas
from autograd.kernels.blas import PLAIN, ROW_MAJOR, TRANSPOSED, gemm
from autograd.kernels.cache import folders, settings, writable
from autograd.kernels.gemm import TILE_ROWS, multiply, pack_panel, panel_columns
from autograd.kernels.intrinsics import matrix_at
from autograd.kernels.jit import EXACT, takes
from autograd.kernels.team import parts_of, row_kernel, split
from autograd.reading import read_json
from autograd.schema import UserError


@row_kernel(EXACT)
def _product(starts, stops, x, y, by_rows, bias, out):
    """Compute parts of ``out (n, m) = x (n, k) @ y (k, m) + bias (m,)``.

    A part is some rows of the result, or some columns: with two parts of 768 rows, the first is
    ``out[:384] = x[:384] @ y``. A bias without elements is none. An operand is its address, its
    number of columns, the length of what is a row in memory, the order that BLAS knows this by,
    and how many bytes its next row and its next column are away.
    """
    x_first, depth, x_length, x_order, x_row, _ = x
    y_first, m, y_length, y_order, _, y_column = y
    n = out.shape[0]
    for part in range(starts.size):
        start, stop = starts[part], stops[part]
        top, bottom, left, right = (start, stop, 0, m) if by_rows else (0, n, start, stop)
        gemm(
            ROW_MAJOR, x_order, y_order, bottom - top, right - left, depth, out.dtype.type(1),
            x_first + top * x_row, x_length, y_first + left * y_column, y_length,
            out.dtype.type(0), out[top:, left:].ctypes.data, m,
        )  # fmt: skip
        if bias.size:
            for r in range(top, bottom):
                row, some = out[r, left:right], bias[left:right]
                for j in range(row.size):
                    row[j] += some[j]


def blas_product(x, y, bias):
    """Return ``x @ y + bias``, each part by BLAS on one thread.

    There are as many parts as BLAS has threads, so that on these alone the rounding depends.
    """
    n_parts = blas.n_threads()
    if n_parts == 1:
        return NotImplemented
    n, m = len(x), y.shape[1]
    out, by_rows = np.empty((n, m), x.dtype), n >= m
    parts = parts_of(n if by_rows else m, n_parts)
    (_x, left), (_y, right) = operand(x), operand(y)
    with blas.one_thread():
        split(_product, parts, left, right, by_rows, bias, out, size=x.size * m)
    return out


def operand(x):
    """Return a matrix, which must stay in memory, and what `_product` needs to know of it.

    BLAS reads a matrix where it is if its rows or its columns have no gaps; others are copied.
    """
    (rows, columns), (row, column) = x.shape, x.strides
    if column == x.itemsize and row >= columns * column and row % column == 0:
        return x, (x.ctypes.data, columns, row // column, PLAIN, row, column)
    if row == x.itemsize and column >= rows * row and column % row == 0:
        return x, (x.ctypes.data, columns, column // row, TRANSPOSED, row, column)
    x = np.array(x, order="C")
    row, column = columns * x.itemsize, x.itemsize
    return x, (x.ctypes.data, columns, max(columns, 1), PLAIN, row, column)


# ---- our own product


WORTH_PACKING = 256  # rows of x: for fewer, to copy y costs more than it saves


@row_kernel(EXACT)
def _pack(panels, numbers, y):
    """Copy panels of y, each of which has a number."""
    first, columns, length, order, _, _ = y
    terms = panels.shape[1]
    shape = (terms, columns) if order == PLAIN else (columns, terms)
    stored = matrix_at(panels, first, shape[0], length, shape[1])
    for i in range(numbers.size):
        pack_panel(panels[i], numbers[i], stored, order != PLAIN, panels.dtype.type(1))


@row_kernel(EXACT)
def _multiply(starts, stops, x, y, y_row, panels, bias, out):
    """Compute rows of ``out = x @ y + bias``, from the first start to the last stop.

    Panels of y are read at the address `y`, or are in `panels`; see `gemm.multiply`.
    """
    top, n = starts[0], out.shape[1]
    address, terms, _, _, row, column = x
    multiply(
        stops[-1] - top, n, terms, address + top * row, row, column, y, y_row, panels, 0, 0,
        bias.ctypes.data if bias.size else 0, 0, out[top:].ctypes.data, n * out.itemsize,
    )  # fmt: skip


def own_product(x, y, bias):
    """Return ``x @ y + bias``, multiplied by `autograd.kernels.gemm`.

    The result has the same bits on any number of threads.
    """
    (m, k), n = x.shape, y.shape[1]
    out = np.empty((m, n), x.dtype)
    if not out.size:
        return out
    (_x, left), (_y, right) = operand(x), operand(y)
    address, _, _, order, row, _ = right
    columns = panel_columns(n, x.itemsize)
    in_place = order == PLAIN and m < WORTH_PACKING
    n_panels, n_whole = -(-n // columns), n // columns if in_place else 0
    panels = np.empty((n_panels - n_whole, k, columns), x.dtype)
    if panels.size:
        numbers = parts_of(n_panels, n_panels)[0][n_whole:]
        split(_pack, (panels, numbers), right)
    parts = parts_of(m, -(-m // TILE_ROWS))
    where = address if in_place else 0
    split(_multiply, parts, left, where, row, panels, bias, out, size=m * k * n // 16)
    return out


# ---- the choice between the two

Way = Literal["own", "blas"]


@dataclass
class Choice:
    """Which product multiplies: below and above `LARGE`."""

    small: Way
    large: Way

    def __str__(self) -> str:
        """Return the choice as ``AUTOGRAD_PRODUCT`` takes it."""
        return self.small if self.small == self.large else f"{self.small},{self.large}"


LARGE = 2**27  # multiplications
SHAPES = ((768, 128, 512), (512, 768, 3072))  # of a small model's layer, and of GPT-2's: m, k, n


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices, by the product that was faster on this machine."""
    if not takes(x, y, bias) or x.shape[1] != y.shape[0] or settings.DISABLE_JIT:
        return NotImplemented
    if bias is not None and bias.shape != y.shape[1:]:
        return NotImplemented
    bias = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    way = choice().large if x.size * y.shape[1] > LARGE else choice().small
    return (own_product if way == "own" else blas_product)(x, y, bias)


@cache
def choice() -> Choice:
    """Return which product multiplies on this machine.

    The two round differently, so the choice is made once on a machine, and stays: it is measured
    when a product is first needed, and kept in a file beside the compiled kernels. If no file can
    be kept, BLAS multiplies, since another process could choose otherwise.
    """
    if (known := known_choice()) is not None:
        return known
    folder = writable()
    if folder is None:
        return Choice("blas", "blas")
    found = Choice(*(_faster(*shape) for shape in SHAPES))
    write_json(folder / "product.json", {_machine(): asdict(found)})
    return found


def known_choice() -> Choice | None:
    """Return the choice that ``AUTOGRAD_PRODUCT`` or the file says, or None if there is none.

    The variable in the environment comes first: own, blas, or one for small and one for large
    products, as in ``own,blas``.

    Raises
    ------
    UserError
        If ``AUTOGRAD_PRODUCT`` is something else.
    """
    wanted = os.environ.get("AUTOGRAD_PRODUCT", "auto")
    if wanted != "auto":
        small, _, large = wanted.partition(",")
        if {small, large or small} <= {"own", "blas"}:
            return Choice(small, large or small)  # type: ignore[arg-type]
        raise UserError(f"AUTOGRAD_PRODUCT is {wanted!r}; expected own, blas, own,blas or auto")
    for folder in folders():
        with suppress(UserError, KeyError):
            return read_json(folder / "product.json", dict[str, Choice])[_machine()]
    return None


def _machine() -> str:
    """Return what a choice depends on."""
    return f"{binding.get_host_cpu_name()}, NumPy {np.__version__}"


def _faster(m: int, k: int, n: int) -> Way:
    """Return which product is faster for ``(m, k) @ (k, n)``; our own must win by 3 %."""
    x, y, bias = np.ones((m, k), np.float32), np.ones((k, n), np.float32), np.empty(0, np.float32)
    best = dict.fromkeys((own_product, blas_product), math.inf)
    for _ in range(9):
        for multiply_by in best:
            start = time.perf_counter()
            if multiply_by(x, y, bias) is NotImplemented:
                np.matmul(x, y)
            best[multiply_by] = min(best[multiply_by], time.perf_counter() - start)
    return "own" if best[own_product] < 0.97 * best[blas_product] else "blas"
