"""A matrix product of our own: C = A B + bias, for the sizes at which it is faster than BLAS.

A processor multiplies and adds in *vectors*: with AVX-512, 16 numbers of float32 at once, and two
such vectors in each cycle. It can do so only if the numbers are in its registers. A product of
(m, k) by (k, n) needs each number of A n times and each of B m times, so the work is to load them
into registers as rarely as possible. Three steps do that:

1. B is cut into panels of 64 columns. The panels are *packed* (:func:`pack`): copied, such that
   each row of a panel follows the one before it in memory, and all of a block stay in the cache.
   Where A has few rows, the copy would cost more than it saves, and B is read in place.
2. C is cut into *tiles* of 6 rows and 64 columns. The sums of a tile stay in 24 registers from the
   first of the k terms to the last (:func:`tile`). Each step takes 64 numbers of B and 6 of A, and
   makes 384 products of them.
3. The k terms are taken in blocks of 256 (:func:`multiply`), so that the part of the panels that
   each row of tiles reads again stays in the processor's cache. Meanwhile, the tiles prefetch
   what the next block reads (:func:`lines_for`), so that the next block does not wait for memory.

Each element of C is summed in the same order, whatever rows it is computed with. So results do not
depend on how the rows are shared out over threads.
"""

import platform

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload

from autograd.kernels.jit import EXACT, OVERLOADS, inline

TILE_ROWS = 6
FUSED = ("contract",)  # a multiplication and an addition in one instruction, where there is one
BLOCK = 256  # terms: a panel's block of float32 takes 64 kB
LINE = 64  # bytes: what a cache reads at a time
NOTHING = (0, 0, 0, 0)  # a region of memory without rows, see `lines_for`


_features = binding.get_host_cpu_features()
VECTOR = 64 if _features.get("avx512f") else 32 if _features.get("avx") else 16  # bytes
N_REGISTERS = 32 if VECTOR == 64 or platform.machine() in ("arm64", "aarch64") else 16
VECTORS = 4 if N_REGISTERS == 32 else 2  # side by side in a tile, so that its sums find room
WIDTH = VECTOR * VECTORS  # bytes: of a row of a tile, and of a panel


def tile_of(real: types.Float, tile_rows: int, vectors: int, width: int = VECTOR):
    """Return the intrinsic `tile` for a precision, a number of rows, and vectors of some bytes."""
    scalar = ir.FloatType() if real == types.float32 else ir.DoubleType()
    size = real.bitwidth // 8
    lanes = width // size
    vector = ir.VectorType(scalar, lanes)
    truths = ir.VectorType(ir.IntType(1), lanes)
    name = f"v{lanes}f{real.bitwidth}"
    i32, i64 = ir.IntType(32), ir.IntType(64)
    zeros = ir.Constant(vector, [0.0] * lanes)
    to_all_lanes = ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)

    @intrinsic
    def tile(
        context, a, a_row, a_column, b, b_row, n_terms, plus, plus_row, c, c_row, rows, columns,
        ahead, ahead_row,
    ):  # fmt: skip
        """Write a tile of C = A B + plus: `rows` by `columns`, or fewer than the tile has.

        Everything is given by address, and by the distance in bytes from one row (or column) to the
        next. `b` is a block of a panel. `plus` is 0 to add nothing. For each term, the tile
        prefetches a line of memory: the line at `ahead`, then the line `ahead_row` bytes after it.
        """

        def build(context, builder, signature, args):
            *args, ahead, ahead_row = args
            a, a_row, a_column, b, b_row, n_terms, plus, plus_row, c, c_row, rows, columns = args
            module = builder.module

            def declare(kind, result, *arguments):
                return get_or_insert_function(module, ir.FunctionType(result, arguments), kind)

            pointer = ir.PointerType(vector)
            load = declare(f"llvm.masked.load.{name}.p0", vector, pointer, i32, truths, vector)
            store = declare(
                f"llvm.masked.store.{name}.p0", ir.VoidType(), vector, pointer, i32, truths
            )

            def at(address, kind):
                return builder.inttoptr(address, ir.PointerType(kind))

            def spread(value, kind):
                """Return a vector that holds a number in each lane."""
                empty = ir.Constant(ir.VectorType(kind, lanes), ir.Undefined)
                first = builder.insert_element(empty, value, i32(0))
                return builder.shuffle_vector(first, empty, to_all_lanes)

            # A tile at the lower edge has fewer rows. It computes all anyhow, reading its last row
            # again for those that are not there, and stores what is: one loop serves all.
            last = builder.sub(rows, i64(1))
            a_rows = []
            for i in range(tile_rows):
                row = builder.select(builder.icmp_signed("<", i64(i), last), i64(i), last)
                a_rows.append(builder.add(a, builder.mul(row, a_row)))

            # The tile of C is asked for now, so that it is in the cache when the sums are complete.
            byte = ir.PointerType(ir.IntType(8))
            prefetch = declare("llvm.prefetch.p0", ir.VoidType(), byte, i32, i32, i32)
            to_read, to_write, near, nearest, data = i32(0), i32(1), i32(2), i32(3), i32(1)
            for i in range(tile_rows):
                row = builder.add(c, builder.mul(c_row, i64(i)))
                for v in range(vectors):
                    line = builder.inttoptr(builder.add(row, i64(width * v)), byte)
                    builder.call(prefetch, [line, to_write, nearest, data])

            # The loop over the terms: say, 4 vectors of B, and 6 numbers of A that each meet all 4.
            before = builder.block
            loop, end = builder.append_basic_block("terms"), builder.append_basic_block("end")
            builder.cbranch(builder.icmp_signed(">", n_terms, i64(0)), loop, end)
            builder.position_at_end(loop)
            term, offset = builder.phi(i64), builder.phi(i64)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(tile_rows)]
            line = builder.inttoptr(builder.add(ahead, builder.mul(term, ahead_row)), byte)
            builder.call(prefetch, [line, to_read, near, data])
            b_term = builder.add(b, builder.mul(term, b_row))
            b_vectors = [
                builder.load(at(builder.add(b_term, i64(width * v)), vector), align=size)
                for v in range(vectors)
            ]
            added = []
            for address, row in zip(a_rows, sums, strict=True):
                number = builder.load(at(builder.add(address, offset), scalar), align=size)
                factor = spread(number, scalar)
                added.append(
                    [
                        builder.fadd(builder.fmul(factor, x, flags=FUSED), total, flags=FUSED)
                        for x, total in zip(b_vectors, row, strict=True)
                    ]
                )
            next_term = builder.add(term, i64(1))
            term.add_incoming(i64(0), before)
            term.add_incoming(next_term, loop)
            offset.add_incoming(i64(0), before)
            offset.add_incoming(builder.add(offset, a_column), loop)
            for row, added_row in zip(sums, added, strict=True):
                for total, increased in zip(row, added_row, strict=True):
                    total.add_incoming(zeros, before)
                    total.add_incoming(increased, loop)
            builder.cbranch(builder.icmp_signed("<", next_term, n_terms), loop, end)
            builder.position_at_end(end)
            results = []
            for added_row in added:
                for increased in added_row:
                    result = builder.phi(vector)
                    result.add_incoming(zeros, before)
                    result.add_incoming(increased, loop)
                    results.append(result)

            # The end: add what is to be added, and store. A mask says which columns there are. If
            # nothing is added, a mask of zeros reads nothing, from an address that exists: the
            # processor takes hundreds of cycles to find that it need not read a page that does not.
            adds = builder.icmp_signed("!=", plus, i64(0))
            plus = builder.select(adds, plus, c)
            adds = spread(adds, ir.IntType(1))
            numbers = ir.Constant(ir.VectorType(i64, lanes), list(range(lanes)))
            masks = [
                builder.icmp_signed("<", numbers, spread(builder.sub(columns, i64(lanes * v)), i64))
                for v in range(vectors)
            ]
            for i in range(tile_rows):
                with builder.if_then(builder.icmp_signed("<", i64(i), rows)):
                    for v, mask in enumerate(masks):
                        place = i64(width * v)
                        source = builder.add(
                            builder.add(plus, place), builder.mul(plus_row, i64(i))
                        )
                        target = builder.add(builder.add(c, place), builder.mul(c_row, i64(i)))
                        more = builder.call(
                            load,
                            [at(source, vector), i32(size), builder.and_(mask, adds), zeros],
                        )
                        value = builder.fadd(results[vectors * i + v], more)
                        builder.call(store, [value, at(target, vector), i32(size), mask])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 14), build

    return tile


def _transposed_of(real: types.Float):
    """Return the intrinsic `transpose_square` for one precision."""
    scalar = ir.FloatType() if real == types.float32 else ir.DoubleType()
    size = real.bitwidth // 8
    lanes = VECTOR // size
    vector, numbers = ir.VectorType(scalar, lanes), ir.VectorType(ir.IntType(32), lanes)
    i64 = ir.IntType(64)

    @intrinsic
    def transpose_square(context, source, source_row, target, target_row, factor):
        """Write a square of as many rows as a vector has lanes, transposed, times a factor.

        In registers: 256 numbers take 64 instructions. In a loop, each is loaded and stored alone.
        """

        def build(context, builder, signature, args):
            source, source_row, target, target_row, factor = args

            def row_of(address, step, i):
                address = builder.add(address, builder.mul(step, i64(i)))
                return builder.inttoptr(address, ir.PointerType(vector))

            rows = [builder.load(row_of(source, source_row, i), align=size) for i in range(lanes)]
            # The square is cut into four, and the upper right is exchanged with the lower left.
            # The same is done in each of the four, and so on down to single numbers. Rows i and
            # i + d exchange the lanes whose numbers differ in the bit d.
            d = 1
            while d < lanes:
                upper = [lane if not lane & d else lanes + lane - d for lane in range(lanes)]
                lower = [lane + d if not lane & d else lanes + lane for lane in range(lanes)]
                for i in range(lanes):
                    if not i & d:
                        pair = rows[i], rows[i + d]
                        rows[i] = builder.shuffle_vector(*pair, ir.Constant(numbers, upper))
                        rows[i + d] = builder.shuffle_vector(*pair, ir.Constant(numbers, lower))
                d *= 2
            empty = ir.Constant(vector, ir.Undefined)
            factors = builder.shuffle_vector(
                builder.insert_element(empty, factor, ir.IntType(32)(0)),
                empty,
                ir.Constant(numbers, [0] * lanes),
            )
            for i, row in enumerate(rows):
                builder.store(builder.fmul(row, factors), row_of(target, target_row, i), align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, real), build

    return transpose_square


def _copied_of(real: types.Float):
    """Return the intrinsic `copy_vector` for one precision."""
    scalar = ir.FloatType() if real == types.float32 else ir.DoubleType()
    size = real.bitwidth // 8
    vector = ir.VectorType(scalar, VECTOR // size)
    to_all_lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)

    @intrinsic
    def copy_vector(context, source, target, factor):
        """Write a vector of numbers, times a factor."""

        def build(context, builder, signature, args):
            source, target = (builder.inttoptr(x, ir.PointerType(vector)) for x in args[:2])
            empty = ir.Constant(vector, ir.Undefined)
            first = builder.insert_element(empty, args[2], ir.IntType(32)(0))
            factors = builder.shuffle_vector(first, empty, to_all_lanes)
            numbers = builder.load(source, align=size)
            builder.store(builder.fmul(numbers, factors), target, align=size)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, real), build

    return copy_vector


def by_precision(make, *options):
    """Return a function whose first argument says in which precision the others are meant."""
    made = {real: make(real, *options) for real in (types.float32, types.float64)}

    def function(like, *arguments):
        raise RuntimeError("this runs in compiled kernels only")

    @overload(function, jit_options=OVERLOADS)
    def _(like, *arguments):
        chosen = made[like.dtype]
        return lambda like, *arguments: chosen(*arguments)

    return function


tile = by_precision(tile_of, TILE_ROWS, VECTORS)
narrow_tile = by_precision(tile_of, 2 * TILE_ROWS, VECTORS // 2)
transpose_square = by_precision(_transposed_of)
copy_vector = by_precision(_copied_of)


@inline(EXACT)
def panel_columns(n_columns, size):
    """Return how many columns the panels of a matrix have; a narrow one has panels of half width.

    So a product of 20 columns computes 32 columns and not 64.
    """
    columns = WIDTH // size
    return columns // 2 if n_columns <= columns // 2 else columns


@inline(EXACT)
def new_panels(n_terms, n_columns, like):
    """Return room for the panels of a matrix (n_terms, n_columns), see `pack`."""
    columns = panel_columns(n_columns, like.itemsize)
    return room_for(-(-n_columns // columns), n_terms, columns, like)


@inline(EXACT)
def room_for(n_panels, n_terms, columns, like):
    """Return an array for panels, (n_panels, n_terms, columns), which begins where a line begins.

    A vector of AVX-512 fills a line; one that lies across two lines is read in two steps.
    """
    n, line = n_panels * n_terms * columns, LINE // like.itemsize
    room = np.empty(n + line, like.dtype)
    first = -(room.ctypes.data // like.itemsize) % line
    return room[first : first + n].reshape(n_panels, n_terms, columns)


@inline(EXACT)
def new_rest(n_terms, n_columns, like):
    """Return room for the last panel of a matrix that is read in place, if that panel is no whole.

    Of a matrix of 80 columns, columns 0 to 63 are read in place, and 64 to 79 are packed.
    """
    columns = panel_columns(n_columns, like.itemsize)
    return room_for(1 if n_columns % columns else 0, n_terms, columns, like)


@inline(EXACT)
def pack_rest(panels, b):
    """Copy the last panel of B to what `new_rest` returned, if that panel is no whole."""
    if len(panels):
        pack_panel(panels[0], b.shape[1] // panels.shape[2], b, False, b.dtype.type(1))


@inline(EXACT)
def pack(panels, b, is_transposed, factor):
    """Copy B, times a factor, to ``panels (n, k, columns)``.

    With 64 columns, panel 0 holds columns 0-63 of B, panel 1 columns 64-127, and so on; the last
    panel is filled up with zeros. `b` is ``(k, n)``, or ``(n, k)`` if it is the transpose of B; a
    row of `b` has no gaps.
    """
    _, n_terms, columns = panels.shape
    whole = 0 if is_transposed else b.shape[1] // columns
    # Row by row through all whole panels: so B is read in the order in which it lies in memory.
    size, row = panels.itemsize, b.strides[0]
    for p in range(n_terms if whole else 0):
        source = b.ctypes.data + p * row
        for number in range(whole):
            target = panels[number, p:].ctypes.data
            for place in range(0, columns * size, VECTOR):
                copy_vector(panels, source + place, target + place, factor)
            source += columns * size
    for number in range(whole, len(panels)):
        pack_panel(panels[number], number, b, is_transposed, factor)


@inline(EXACT)
def pack_panel(panel, number, b, is_transposed, factor):
    """Copy a panel of B, see `pack`."""
    n_terms, columns = panel.shape
    first, size = number * columns, panel.itemsize
    there = min(columns, (b.shape[0] if is_transposed else b.shape[1]) - first)
    lanes, row = VECTOR // size, b.strides[0]
    source, target, panel_row = b.ctypes.data, panel.ctypes.data, columns * size
    wide = there - there % lanes
    if not is_transposed:
        for p in range(n_terms):
            here, copy = source + p * row + first * size, target + p * panel_row
            for place in range(0, wide * size, VECTOR):
                copy_vector(panel, here + place, copy + place, factor)
            for j in range(wide, there):
                panel[p, j] = b[p, first + j] * factor
            for j in range(there, columns):
                panel[p, j] = 0
    else:
        # A column of the panel is a row of `b`. Squares are transposed in registers; what is left
        # at the right and at the end, number by number.
        high = n_terms - n_terms % lanes
        for j in range(0, wide, lanes):
            for p in range(0, high, lanes):
                transpose_square(
                    panel, source + (first + j) * row + p * size, row,
                    target + p * panel_row + j * size, panel_row, factor,
                )  # fmt: skip
        for j in range(there):
            for p in range(high if j < wide else 0, n_terms):
                panel[p, j] = b[first + j, p] * factor
        panel[:, there:] = 0


@inline(EXACT)
def multiply(
    m, n, k, a, a_row, a_column, b, b_row, panels, first, term, plus, plus_row, c, c_row,
    soon=(NOTHING, NOTHING), turn=0,
):  # fmt: skip
    """Write ``C (m, n) = A (m, k) @ B (k, n) + plus``; return the number of the next tile.

    A, B, C and what is added are given by address, and by how many bytes away the next row (and, of
    A, column) is. If `b` is not 0, whole panels of B are read where they are, and `panels` holds
    what is left of B, if there is any. If `b` is 0, all of B lies in `panels`, from panel `first`
    and from term `term` on.

    For m = 200 and k = 600, terms 0-255 of rows 0-5 meet the first panel, the second, and so on;
    then those of rows 6-11, and so on to 199. Then come terms 256-511, whose products are added to
    what stands in C, and then 512-599. Six rows at a time lie in few pages of memory, so the
    processor finds their addresses without a look at the table of pages.

    Meanwhile, the tiles prefetch the regions `soon`, see :func:`lines_for`. The first tile has the
    number `turn`.
    """
    _, panel_terms, columns = panels.shape
    panel_row = columns * panels.itemsize
    n_whole = n // columns if b else 0
    n_wide, n_narrow = n // columns, n % columns  # panels, and the columns of half a panel
    if panel_row < WIDTH:
        n_wide, n_narrow = 0, n
    elif 2 * n_narrow > columns:
        n_wide, n_narrow = n_wide + 1, 0
    for block in range(0, max(k, 1), BLOCK):
        n_terms, there = min(BLOCK, k - block), a + block * a_column
        in_place = n_whole, b + block * b_row, b_row
        packed = panels.ctypes.data + ((first - n_whole) * panel_terms + term + block) * panel_row
        for i in range(0, m, TILE_ROWS):
            more, more_row = what_is_added(block, i, plus, plus_row, c, c_row)
            for number in range(n_wide):
                panel, row = panel_of(number, in_place, packed, panel_terms, panel_row)
                left = number * panel_row
                ahead, ahead_row = lines_for(soon, turn, panel)
                turn += 1
                tile(
                    panels, there + i * a_row, a_row, a_column, panel, row, n_terms,
                    more + left if more else 0, more_row, c + i * c_row + left, c_row,
                    min(TILE_ROWS, m - i), min(columns, n - number * columns), ahead, ahead_row,
                )  # fmt: skip
        panel, row = panel_of(n_wide, in_place, packed, panel_terms, panel_row)
        left = n_wide * panel_row
        for i in range(0, m if n_narrow else 0, 2 * TILE_ROWS):
            more, more_row = what_is_added(block, i, plus, plus_row, c, c_row)
            ahead, ahead_row = lines_for(soon, turn, panel)
            turn += 1
            narrow_tile(
                panels, there + i * a_row, a_row, a_column, panel, row, n_terms,
                more + left if more else 0, more_row, c + i * c_row + left, c_row,
                min(2 * TILE_ROWS, m - i), n_narrow, ahead, ahead_row,
            )  # fmt: skip
    return turn


@inline(EXACT)
def lines_for(soon, turn, otherwise):
    """Return the address of the first line that tile number `turn` prefetches, and their distance.

    `soon` has two regions of memory. A region is given by its address, its number of rows, the
    distance of two rows in bytes, and the number of lines in a row. A tile prefetches one line of
    each of up to 256 rows: of 256 rows of 12 lines, tile 0 prefetches the first line of each row,
    and tile 11 the last. When no line is left, a tile prefetches the line `otherwise`, which is in
    the cache.
    """
    for first, n_rows, row, n_lines in soon:
        n_turns = n_lines * -(-n_rows // BLOCK)
        if turn < n_turns:
            return first + turn % n_lines * LINE + turn // n_lines * BLOCK * row, row
        turn -= n_turns
    return otherwise, 0


@inline(EXACT)
def panel_of(number, in_place, packed, panel_terms, panel_row):
    """Return where a panel begins, and how far its rows are apart: whole ones may be in place."""
    n_whole, b, b_row = in_place
    if number < n_whole:
        return b + number * panel_row, b_row
    return packed + number * panel_terms * panel_row, panel_row


@inline(EXACT)
def what_is_added(block, i, plus, plus_row, c, c_row):
    """Return where the row that is added to row i of C begins, or 0, and how far rows are apart.

    To all blocks of terms but the first, the sums of the terms before are added, which stand in C.
    """
    if block:
        return c + i * c_row, c_row
    return plus + i * plus_row if plus else 0, plus_row
