"""Large matrix products, shared out over the kernels' threads: by BLAS, or by our own product.

BLAS's own threads spin while they wait for each other. They keep the kernels' threads from their
processors, and where other programs want these too, a product can take ten times as long. So BLAS
multiplies on one thread, and each thread of our team multiplies its own rows, or columns. A product
of our own (`autograd.kernels.gemm`) is faster on some machines, and at some sizes. The result is
cut into pieces of at most some hundred rows and columns, whose operands fit the cache of a core.
"""

import math
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]

from autograd.files import locked, write_json
from autograd.kernels import blas
from autograd.kernels.blas import PLAIN, ROW_MAJOR, TRANSPOSED, gemm
from autograd.kernels.cache import folders, settings, writable
from autograd.kernels.gemm import (
    BLOCK,
    LINE,
    TILE_ROWS,
    multiply,
    new_panels,
    new_rest,
    pack,
    pack_rest,
    panel_columns,
    room_for,
)
from autograd.kernels.intrinsics import matrix_at
from autograd.kernels.jit import EXACT, address_of, inline, takes
from autograd.kernels.team import n_threads, parts_of, row_kernel, split
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
        return x, (address_of(x), columns, row // column, PLAIN, row, column)
    if row == x.itemsize and column >= rows * row and column % row == 0:
        return x, (address_of(x), columns, column // row, TRANSPOSED, row, column)
    x = np.array(x, order="C")
    row, column = columns * x.itemsize, x.itemsize
    return x, (address_of(x), columns, max(columns, 1), PLAIN, row, column)


# ---- our own product


WORTH_PACKING = 256  # rows of x: for fewer, to copy y costs more than it saves
HEIGHT, WIDTH = 1024, 512  # of a piece, at most
GROUP = 48  # rows of x that stand side by side where a transposed x is copied: 8 tiles
COPYING = 40  # multiplications: they take the time in which a number is copied


@row_kernel(EXACT)
def _multiply(tops, bottoms, lefts, rights, x, y, in_place, bias, out):
    """Compute pieces of ``out = x @ y + bias``, as `pieces` cuts them."""
    for i in range(tops.size):
        _multiply_piece(tops[i], bottoms[i], lefts[i], rights[i], x, y, in_place, bias, out)


@inline(EXACT)
def _multiply_piece(top, bottom, left, right, x, y, in_place, bias, out):
    """Compute ``out[top:bottom, left:right]``, in blocks of terms.

    What a block needs of y is copied to panels, if y is not read in place. If x lies in memory as
    its transpose, the numbers of a row of x are far from each other, and they are copied, too. The
    copies of a block stay in the cache, where the copies of the next block replace them. While a
    block is multiplied, its tiles prefetch what the next block reads.
    """
    x_first, n_terms, x_length, x_order, x_row, x_column = x
    y_first, _, y_length, y_order, y_row, y_column = y
    size, one = out.itemsize, out.dtype.type(1)
    m, n, out_row = bottom - top, right - left, out.shape[1] * size
    copies_x = x_order != PLAIN
    added = bias[left:].ctypes.data if bias.size else 0
    for block in range(0, max(n_terms, 1), BLOCK):
        terms = min(BLOCK, n_terms - block)
        x_here = x_first + top * x_row + block * x_column
        y_here = y_first + block * y_row + left * y_column
        shape = (terms, n) if y_order == PLAIN else (n, terms)
        columns = matrix_at(out, y_here, shape[0], y_length, shape[1])
        y_where = y_here if in_place else 0
        if in_place:
            panels = new_rest(terms, n, out)
            pack_rest(panels, columns)
        else:
            panels = new_panels(terms, n, out)
            pack(panels, columns, y_order != PLAIN, one)
        step = GROUP if copies_x else m
        groups = room_for(-(-m // GROUP) if copies_x else 0, terms, GROUP, out)
        if copies_x:
            pack(groups, matrix_at(out, x_here, terms, x_length, m), False, one)
        later = min(BLOCK, n_terms - block - terms)
        soon = (
            region(x_here + BLOCK * x_column, later, m, x_order != PLAIN, x_length, size),
            region(y_here + BLOCK * y_row, later, n, y_order == PLAIN, y_length, size),
        )
        turn = 0
        for begin in range(0, m, step):
            rows, row, column = x_here + begin * x_row, x_row, x_column
            if copies_x:
                rows, row, column = groups[begin // GROUP :].ctypes.data, size, GROUP * size
            here = out[top + begin :, left:].ctypes.data
            plus, plus_row = (here, out_row) if block else (added, 0)
            turn = multiply(
                min(step, m - begin), n, terms, rows, row, column,
                y_where, y_row, panels, 0, 0, plus, plus_row, here, out_row, soon, turn,
            )  # fmt: skip


@inline(EXACT)
def region(first, n_terms, n, by_terms, length, size):
    """Return a region of x or y as `autograd.kernels.gemm.lines_for` takes it.

    The region holds some terms of n rows of x, or of n columns of y. If x lies in memory as its
    transpose, `by_terms` is true: each row of memory then holds one term of all n.
    """
    n_rows, n_columns = (n_terms, n) if by_terms else (n, n_terms)
    return first, n_rows, length * size, -(-n_columns * size // LINE)


def own_product(x, y, bias):
    """Return ``x @ y + bias``, multiplied by `autograd.kernels.gemm`.

    The result has the same bits on any number of threads.
    """
    (m, k), n = x.shape, y.shape[1]
    out = np.empty((m, n), x.dtype)
    if not out.size:
        return out
    (_x, left), (_y, right) = operand(x), operand(y)
    in_place = right[3] == PLAIN and m < WORTH_PACKING
    cuts = pieces(m, n, panel_columns(1, x.itemsize), n_threads())  # at half panels
    split(_multiply, cuts, left, right, in_place, bias, out, size=m * k * n // 16)
    return out


@lru_cache(maxsize=64)
def pieces(m, n, columns, n_threads):
    """Cut a result (m, n) into pieces; return where each begins and ends: in rows, and in columns.

    One thread computes a piece, and copies what the piece needs of x and y. For 192 rows and 768
    columns on two threads, two pieces of (192, 384) copy 192 + 384 numbers for each term, and two
    of (96, 768) copy 96 + 768. So the first cut is chosen: of all cuts, it takes the least time.
    """
    tiles, panels = -(-m // TILE_ROWS), -(-n // columns)
    down = -(-m // HEIGHT) + np.arange(n_threads)[:, None]
    across = -(-n // WIDTH) + np.arange(n_threads)
    height, width = -(-tiles // down) * TILE_ROWS, -(-panels // across) * columns
    turns = -(-down * across // n_threads)
    times = turns * (height * width + COPYING * (height + width))
    i, j = np.unravel_index(times.argmin(), times.shape)
    tops, bottoms = (np.minimum(TILE_ROWS * edge, m) for edge in parts_of(tiles, int(down[i, 0])))
    lefts, rights = (np.minimum(columns * edge, n) for edge in parts_of(panels, int(across[j])))
    rows, parts = np.divmod(np.arange(len(tops) * len(lefts)), len(lefts))
    return tops[rows], bottoms[rows], lefts[parts], rights[parts]


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


EDITION = 4  # of our own product: when it becomes faster, the choice is measured anew
LARGE = 2**27  # multiplications
SHAPES = ((768, 128, 512), (512, 768, 3072))  # of a small model's layer, and of GPT-2's: m, k, n
SECONDS = 0.3  # of repetitions, at least


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices, by the product that was faster on this machine.

    A single row is multiplied by BLAS, whose products of a vector and a matrix are as fast as
    memory is read; our own would compute a tile of 6 rows.
    """
    if not takes(x, y, bias) or x.shape[1] != y.shape[0] or settings.DISABLE_JIT:
        return NotImplemented
    if bias is not None and bias.shape != y.shape[1:]:
        return NotImplemented
    bias = np.empty(0, x.dtype) if bias is None else np.ascontiguousarray(bias)
    if len(x) == 1:
        return blas_product(x, y, bias)
    way = choice().large if x.size * y.shape[1] > LARGE else choice().small
    return (own_product if way == "own" else blas_product)(x, y, bias)


@cache
def choice() -> Choice:
    """Return which product multiplies on this machine.

    The two round differently, so the choice is made once on a machine, and stays: it is measured
    when a product is first needed, and kept in a file beside the compiled kernels. One process
    measures, and others wait for what it finds. If no file can be kept, BLAS multiplies, since
    another process could choose otherwise.
    """
    if (known := known_choice()) is not None:
        return known
    if (folder := writable()) is not None:
        with suppress(OSError), locked(folder):  # of a full disk, say
            known = known_choice()  # another process may have measured meanwhile
            if known is None:
                known = Choice(*(_faster(*shape) for shape in SHAPES))
                kept = _kept(folder) | {_machine(): known}
                choices = {machine: asdict(each) for machine, each in kept.items()}
                write_json(folder / "product.json", choices)
            return known
    return Choice("blas", "blas")


def _kept(folder: Path) -> dict[str, Choice]:
    """Return the choices that are kept in a folder: one for each machine that uses it."""
    with suppress(UserError, OSError):
        return read_json(folder / "product.json", dict[str, Choice])
    return {}


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
        if (known := _kept(folder).get(_machine())) is not None:
            return known
    return None


def _machine() -> str:
    """Return what a choice depends on."""
    return f"{binding.get_host_cpu_name()}, NumPy {np.__version__}, own product {EDITION}"


def _faster(m: int, k: int, n: int) -> Way:
    """Return which product is faster for a layer ``(m, k) @ (k, n)`` and its two gradients.

    BLAS must win by 3 %, since its rounding depends on the number of threads. Other programs may
    run meanwhile, so each product is repeated for a while, and its shortest time counts.
    """
    x, y, g = (np.ones(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
    pairs, bias = ((x, y), (g, y.T), (x.T, g)), np.empty(0, np.float32)
    ways = (own_product, blas_product)
    best = np.full((len(ways), len(pairs)), math.inf)
    begin, rounds = time.perf_counter(), 0
    while rounds < 9 or time.perf_counter() < begin + SECONDS:
        rounds += 1
        for i, multiply_by in enumerate(ways):
            for j, (left, right) in enumerate(pairs):
                start = time.perf_counter()
                if multiply_by(left, right, bias) is NotImplemented:
                    np.matmul(left, right)
                best[i, j] = min(best[i, j], time.perf_counter() - start)
    own, blas = best.sum(axis=1)
    return "blas" if blas < 0.97 * own else "own"
