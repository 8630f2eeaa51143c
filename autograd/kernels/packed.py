"""Products with weights of few bits, which are unpacked in registers and never as a whole.

A *format* says how the numbers of a row are stored: in blocks of 32 numbers, which `FORMATS` lists.
A row of "Q4_1" has for each block the factor d and the shift m, in float16, and 32 integers q of 4
bits. Its numbers are d * q + m. They take 20 bytes, and not the 128 of float32, so memory delivers
six times as many of them in the same time.

All formats share two loops, which a table of LLVM code for one block completes: `dot_packed` is the
dot product of a row with a vector, for a single token. `unpack` writes the numbers of a row. For
many tokens, 64 rows at a time are unpacked, and the matrix product of `autograd.kernels.gemm`
multiplies them.
"""

import platform

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from autograd.kernels.cache import settings
from autograd.kernels.gemm import multiply, pack_panel, panel_columns
from autograd.kernels.intrinsics import bytes_
from autograd.kernels.jit import EXACT, SUMS, inline
from autograd.kernels.team import parts_of, row_kernel, split

BLOCK = 32  # numbers
FORMATS = {"int8": 32, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "F16": 64, "BF16": 64}  # bytes a block
NAMES = tuple(FORMATS)
TERMS = 512  # of a row that are unpacked at a time: 64 rows of them take 128 kB

# ---- one block: LLVM code that returns its numbers as two vectors of 16

_HALF = BLOCK // 2
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
_REAL = ir.VectorType(_F32, _HALF)
_FUSED = ("contract",)
# Whether the processor has an instruction that makes float32 of float16; those of ARM have.
_named = settings.CPU_FEATURES if settings.CPU_NAME else None
HAS_FLOAT16 = platform.machine() in ("arm64", "aarch64") or (
    bool(binding.get_host_cpu_features().get("f16c")) if _named is None else "+f16c" in _named
)


def _at(builder, address, offset, kind):
    """Return what is stored `offset` bytes behind an address, which may be any."""
    pointer = builder.inttoptr(builder.add(address, _I64(offset)), kind.as_pointer())
    return builder.load(pointer, align=1)


def _halves(kind):
    return ir.VectorType(kind, _HALF)


def _spread(builder, number):
    """Return a vector that holds a number in each lane."""
    empty = ir.Constant(_halves(number.type), ir.Undefined)
    first = builder.insert_element(empty, number, _I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(_halves(_I32), [0] * _HALF))


def _widen(builder, bits):
    """Return float16 numbers, which are given as integers of 16 bits, as float32.

    Without an instruction for it, the exponent, 5 bits, and the fraction, 10 bits, are moved to
    where float32 has them. The exponents count from -15 and from -127, so 2^112 is missing. This
    is exact for numbers below the normal range, too. Infinity and NaN have the largest exponent.
    """
    is_vector = isinstance(bits.type, ir.VectorType)
    half, whole, real = (_halves(t) if is_vector else t for t in (_F16, _I32, _F32))

    def constant(kind, number):
        return ir.Constant(kind, [number] * _HALF if is_vector else number)

    if HAS_FLOAT16:
        return builder.fpext(builder.bitcast(bits, half), real)
    wide = builder.zext(bits, whole)
    moved = builder.shl(builder.and_(wide, constant(whole, 0x7FFF)), constant(whole, 13))
    value = builder.fmul(builder.bitcast(moved, real), constant(real, 2.0**112))
    endless = builder.icmp_unsigned(">=", moved, constant(whole, 0x7C00 << 13))
    largest = builder.or_(moved, constant(whole, 0x7F800000))
    value = builder.select(endless, largest, builder.bitcast(value, whole))
    sign = builder.shl(builder.and_(wide, constant(whole, 0x8000)), constant(whole, 16))
    return builder.bitcast(builder.or_(value, sign), real)


def _factor(builder, address, offset):
    """Return a float16 number in all lanes, as float32."""
    return _spread(builder, _widen(builder, _at(builder, address, offset, _I16)))


def _nibbles(builder, address, offset, minus):
    """Return 32 integers of 4 bits, minus a number: the lower halves of 16 bytes, then the upper.

    They are extended to 32 bits before they are cut, since no vector shifts bytes.
    """
    wide = builder.zext(_at(builder, address, offset, _halves(_I8)), _halves(_I32))
    low = builder.and_(wide, ir.Constant(_halves(_I32), [15] * _HALF))
    parts = low, builder.lshr(wide, ir.Constant(_halves(_I32), [4] * _HALF))
    shift = ir.Constant(_halves(_I32), [minus] * _HALF)
    return [builder.sitofp(builder.sub(part, shift), _REAL) for part in parts]


def _int8(builder, address, offset=0):
    parts = (_at(builder, address, offset + i, _halves(_I8)) for i in (0, _HALF))
    return [builder.sitofp(part, _REAL) for part in parts]


def _q8_0(builder, address):
    d = _factor(builder, address, 0)
    return [builder.fmul(q, d) for q in _int8(builder, address, 2)]


def _q4_0(builder, address):
    d = _factor(builder, address, 0)
    return [builder.fmul(q, d) for q in _nibbles(builder, address, 2, 8)]


def _q4_1(builder, address):
    d, m = _factor(builder, address, 0), _factor(builder, address, 2)
    return [
        builder.fadd(builder.fmul(q, d, flags=_FUSED), m, flags=_FUSED)
        for q in _nibbles(builder, address, 4, 0)
    ]


def _f16(builder, address):
    parts = (_at(builder, address, i, _halves(_I16)) for i in (0, BLOCK))
    return [_widen(builder, part) for part in parts]


def _bf16(builder, address):
    parts = (_at(builder, address, i, _halves(_I16)) for i in (0, BLOCK))
    shift = ir.Constant(_halves(_I32), [16] * _HALF)
    return [
        builder.bitcast(builder.shl(builder.zext(part, _halves(_I32)), shift), _REAL)
        for part in parts
    ]


_UNPACK = dict(zip(NAMES, (_int8, _q8_0, _q4_0, _q4_1, _f16, _bf16), strict=True))

# ---- a row of blocks


def _for_each_format(builder, number, emit):
    """Emit ``emit(name)`` for each format, of which the one with a number runs."""
    end = builder.append_basic_block("end")
    cases = builder.switch(number, end)
    for i, name in enumerate(NAMES):
        block = builder.append_basic_block(name)
        cases.add_case(_I64(i), block)
        builder.position_at_end(block)
        emit(name)
        builder.branch(end)
    builder.position_at_end(end)


def _loop(builder, n, sums, emit):
    """Emit a loop: ``sums = emit(i, sums)`` for i below n; return the last sums."""
    before, body = builder.block, builder.append_basic_block("blocks")
    end = builder.append_basic_block("blocks_end")
    builder.cbranch(builder.icmp_signed(">", n, _I64(0)), body, end)
    builder.position_at_end(body)
    i = builder.phi(_I64)
    inside = [builder.phi(x.type) for x in sums]
    after = emit(i, inside)
    following = builder.add(i, _I64(1))
    for phi, first, then in zip([i, *inside], [_I64(0), *sums], [following, *after], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, body)
    builder.cbranch(builder.icmp_signed("<", following, n), body, end)
    builder.position_at_end(end)
    results = []
    for first, then in zip(sums, after, strict=True):
        phi = builder.phi(first.type)
        phi.add_incoming(first, before)
        phi.add_incoming(then, body)
        results.append(phi)
    return results


@intrinsic
def _dot_blocks(context, number, x, row, n_blocks):
    """Return the dot product of blocks and of float32 numbers, which stand at two addresses.

    Two blocks are taken at a time, each into sums of its own: an addition waits for the one before
    it to the same sum.
    """

    def build(context, builder, signature, args):
        number, x, row, n_blocks = args
        total = builder.alloca(_F32)
        builder.store(_F32(0), total)
        zeros = ir.Constant(_REAL, [0.0] * _HALF)

        def emit(name):
            def add(i, sums):
                block = builder.add(row, builder.mul(i, _I64(FORMATS[name])))
                place = builder.add(x, builder.mul(i, _I64(4 * BLOCK)))
                after = []
                for k, value in enumerate(_UNPACK[name](builder, block)):
                    other = _at(builder, place, 2 * BLOCK * k, _REAL)
                    term = builder.fmul(value, other, flags=_FUSED)
                    after.append(builder.fadd(term, sums[k], flags=_FUSED))
                return after

            def add_two(i, sums):
                i = builder.mul(i, _I64(2))
                return add(i, sums[:2]) + add(builder.add(i, _I64(1)), sums[2:])

            pairs = builder.lshr(n_blocks, _I64(1))
            sums = _loop(builder, pairs, [zeros] * 4, add_two)
            # the last block, if their number is odd
            rest = builder.and_(n_blocks, _I64(1))
            last = builder.sub(n_blocks, _I64(1))
            sums[:2] = _loop(builder, rest, sums[:2], lambda _, sums: add(last, sums))
            whole = builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3]))
            kind = ir.FunctionType(_F32, [_F32, _REAL])
            add_up = get_or_insert_function(
                builder.module, kind, f"llvm.vector.reduce.fadd.v{_HALF}f32"
            )
            builder.store(builder.call(add_up, [_F32(0), whole], fastmath=("reassoc",)), total)

        _for_each_format(builder, number, emit)
        return builder.load(total)

    return types.float32(*[types.int64] * 4), build


@intrinsic
def _unpack_blocks(context, number, row, n_blocks, out):
    """Write the numbers of blocks at one address to another address, as float32."""

    def build(context, builder, signature, args):
        number, row, n_blocks, out = args

        def emit(name):
            def write(i, sums):
                block = builder.add(row, builder.mul(i, _I64(FORMATS[name])))
                place = builder.add(out, builder.mul(i, _I64(4 * BLOCK)))
                for k, value in enumerate(_UNPACK[name](builder, block)):
                    target = builder.add(place, _I64(2 * BLOCK * k))
                    target = builder.inttoptr(target, _REAL.as_pointer())
                    builder.store(value, target, align=4)
                return []

            _loop(builder, n_blocks, [], write)

        _for_each_format(builder, number, emit)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), build


@inline(SUMS)
def dot_packed(number, x, row):
    """Return the dot product of x and of the row at an address, in float32.

    Only a row of int8 may end within a block.
    """
    whole = x.size // BLOCK * BLOCK
    total = _dot_blocks(number, x.ctypes.data, row, whole // BLOCK)
    for j in range(whole, x.size):
        total += x[j] * np.float32(bytes_(row)[j])
    return total


@inline(EXACT)
def unpack(number, row, out):
    """Write the numbers of the row at an address to `out`; see `dot_packed`."""
    whole = out.size // BLOCK * BLOCK
    _unpack_blocks(number, row, whole // BLOCK, out.ctypes.data)
    for j in range(whole, out.size):
        out[j] = np.float32(bytes_(row)[j])


# ---- many tokens


@row_kernel(EXACT)
def _multiply(panels, x, weight, bytes_a_row, bytes_a_block, number, scale, out):
    """Compute the columns of ``out = x @ (weight * scale[:, None]).T`` that some panels have.

    Up to 64 columns are a panel, for which as many rows of the weight are unpacked, 512 terms at a
    time. The products of the first terms stand in `out` when those of the next are added.
    """
    (m, k), n = x.shape, out.shape[1]
    width = panel_columns(n, 4)
    rows = np.empty((width, min(k, TERMS)), np.float32)
    panel = np.empty((1, min(k, TERMS), width), np.float32)
    row, out_row = x.strides[0], out.strides[0]
    for i in range(panels.size):
        first = panels[i] * width
        there = min(width, n - first)
        target = out[:, first:].ctypes.data
        plus = 0
        for term in range(0, k, TERMS):
            some = min(TERMS, k - term)
            place = weight + first * bytes_a_row + term // BLOCK * bytes_a_block
            for j in range(there):
                unpack(number, place + j * bytes_a_row, rows[j, :some])
                if scale.size:
                    for t in range(some):
                        rows[j, t] *= scale[first + j]
            pack_panel(panel[0, :some], 0, rows[:there, :some], True, np.float32(1))
            multiply(
                m, there, some, x[:, term:].ctypes.data, row, 4, 0, 0, panel, 0, 0,
                plus, out_row, target, out_row,
            )  # fmt: skip
            plus = target


def demand_packed(values, name, scale, n_in, n_out):
    """Raise ``ValueError`` unless a packed matrix has the shape (n_out, n_in)."""
    n_blocks, rest = divmod(n_in, BLOCK)
    if name not in FORMATS or rest and name != "int8":
        raise ValueError(f"expected rows of whole blocks of {BLOCK}, got {n_in} numbers of {name}")
    expected = n_out, n_blocks * FORMATS[name] + rest
    if values.shape != expected or values.itemsize != 1 or not values.flags.c_contiguous:
        raise ValueError(f"expected contiguous bytes of shape {expected}, got {values.shape}")
    if scale is not None and scale.shape != (n_out,):
        raise ValueError(f"expected {n_out} scales, got {scale.shape}")


def multiply_packed(x, values, name, scale):
    """Return ``x @ (weight * scale[:, None]).T``, for many rows of x, (m, n_in) float32."""
    out = np.empty((len(x), len(values)), np.float32)
    if not out.size:
        return out
    scale = np.empty(0, np.float32) if scale is None else scale
    n_panels = -(-len(values) // panel_columns(len(values), 4))
    panels = parts_of(n_panels, n_panels)[0]
    split(
        _multiply, (panels,), x, values.ctypes.data, values.shape[1], FORMATS[name],
        NAMES.index(name), scale, out,
        size=values.size * max(1, len(x) // 8),
    )  # fmt: skip
    return out
