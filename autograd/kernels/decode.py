"""A whole decoding step as one kernel: a program of instructions that all threads work through.

`npgpt.generation.decode` writes the program of a model once, and runs it for each new token. A step
that computes one token reads every weight once, so at best it takes as long as the memory does. Op
by op, the calls from Python and the waking of threads would add half of that time.

Here the step is a list of instructions: a layer norm, a product, an addition, an attention. Each is
cut into parts, and the parts of all instructions are numbered in order. For a norm of 1 part, a
product of 4 and an addition of 1, the numbers are 0, then 1 to 4, then 5. Each thread draws the
lowest number that nobody has, computes that part, and draws again. Before it computes, it waits
until all parts of the earlier instructions are done, since it reads their results.

All numbers are float32; weights may be packed (`autograd.kernels.packed`). Every part adds in a
fixed order, so results have the same bits with any number of threads; they agree with the modules'
within rounding.
"""

import math

import numpy as np
from numba import carray, types

from autograd.kernels.cache import settings
from autograd.kernels.gemm import BLOCK, LINE, VECTOR, tile_of
from autograd.kernels.intrinsics import (
    THREADS_CAN_WAIT,
    add,
    counts,
    floats,
    prefetch,
    read,
    yield_processor,
)
from autograd.kernels.jit import (
    EXACT,
    as_rows,
    inline,
    takes,
)
from autograd.kernels.normalization import inverse_root, mean_and_rstd
from autograd.kernels.packed import (
    NAMES,
    demand_packed,
    dot_packed,
    multiply_packed,
    unpack,
)
from autograd.kernels.rows import block_dot, largest, sum_of
from autograd.kernels.team import n_threads, row_kernel, split
from autograd.kernels.vector import erf, exp

NORM, PRODUCT, ROWS, ROWS_PACKED, ADD, ROTATE, ATTEND = range(7)
ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "tanh")
GELU, GELU_TANH, RELU, SILU, TANH = range(1, len(ACTIVATIONS))

MOST_ROWS = 24  # of x: for more, the modules' products take less time
SLABS = 4  # parts of x @ weight: each gives a partial sum, and these are added in order
PARTS = 8  # parts of x @ weight.T: each computes some of the outputs
TILE = 8  # rows of x in a tile of x @ weight, or of the weight in a tile of x @ weight.T
FEW = 3  # rows of x: for more, x @ weight.T is computed in tiles
LANES = VECTOR // 4  # numbers of a vector
PANEL = min(LANES, 8)  # rows of x whose numbers stand side by side for x @ weight.T
AHEAD = 6  # how many rows of a packed weight before its turn a row is prefetched
SCRATCH = "scratch"  # in an instruction: the address of the scratch array, once it is made
PATIENCE = 2000  # how often a waiting thread looks before it lets others have its processor

_INTEGERS = (
    "kind", "parts", "first",  # first: how many parts all instructions before it have
    # addresses, or 0:
    "x", "weight", "scale", "bias", "factor", "residual", "cos", "sin",
    "key", "value", "keys", "values", "out",
    "n_in", "n_out", "slabs", "format", "row_bytes", "centred", "activation",
    "depth", "heads", "key_heads",
    "row", "key_row",  # from one row of x to the next, and of key and value
    "capacity", "window",
)  # fmt: skip
INSTRUCTION = np.dtype([(name, np.int64) for name in _INTEGERS] + [("real", np.float64)])


tile_1, tile_2, tile_4, tile_8 = (tile_of(types.float32, n, 1) for n in (1, 2, 4, TILE))
tile_of_dots = tile_of(types.float32, TILE, 1, 4 * PANEL)


# ---- instructions: each function computes one part of one instruction, `i`, for the n rows of x
#
# An instruction holds addresses, since a table of arrays of many shapes is no type that Numba
# knows. ``carray(floats(i.x), (n, i.n_in))`` is the array of float32 at an address. `Program` keeps
# the arrays in memory, and has checked their shapes.


@inline(EXACT)
def _norm(i, n, b):
    """Compute the norm of row b, with an eps of ``i.real``: layer norm if centred, or RMS norm."""
    x, out = carray(floats(i.x), (n, i.n_in))[b], carray(floats(i.out), (n, i.n_in))[b]
    weight = carray(floats(i.weight), (i.n_in,))
    m, s = np.float32(0), np.float32(0)
    if i.centred:
        m, s = mean_and_rstd(x, i.real)
    else:
        s = np.float32(inverse_root(x, m, i.real))
    for j in range(x.size):
        out[j] = (x[j] - m) * s * weight[j]
    if i.bias:
        _add_row(np.float32(1), carray(floats(i.bias), (i.n_in,)), out)


@inline(EXACT)
def _add_row(x, w, out):
    """Add x * w to out, where x is a number and w has the shape of out."""
    for j in range(out.size):
        out[j] += x * w[j]


@inline(EXACT)
def _product(i, n, slab):
    """Compute the part of x @ weight, (slabs, n, n_out), that one slab of the weight's rows gives.

    With 4 slabs of a weight (768, 3072), slab 1 holds the rows 192 to 383, and is multiplied by the
    columns 192 to 383 of x. `_add` sums the four results.

    First, x meets the rows 192 to 199, one vector of their columns after the other; then it meets
    the rows 200 to 207. So a slab is read from one end to the other, which is the fastest way to
    read memory. While a number is multiplied, the one eight rows below it is prefetched. If x has
    more than eight rows, as many rows of the weight are taken at a time, so that the sums are read
    and written less often.
    """
    row, x_row, strip = 4 * i.n_out, 4 * i.n_in, max(TILE, n)
    whole = i.n_out - i.n_out % LANES
    begin, stop = i.n_in * slab // i.parts, i.n_in * (slab + 1) // i.parts
    for r in range(begin, stop, strip):
        x, w, n_terms = i.x + 4 * r, i.weight + r * row, min(strip, stop - r)
        for j in range(0, 4 * whole, VECTOR):
            ahead = w + strip * row + j
            for b in range(0, n, TILE):
                out = i.out + (slab * n + b) * row + j
                plus = out if r > begin else 0
                _tile(min(TILE, n - b), x + b * x_row, x_row, w + j, row, n_terms, plus, out, ahead)
    if whole < i.n_out:
        _last_columns(i, n, slab, begin, stop, whole)


@inline(EXACT)
def _tile(n, x, x_row, w, row, n_terms, plus, out, ahead):
    """Write x @ w + plus, (n, terms) (terms, LANES), by the smallest tile of at least n rows."""
    if n == 1:
        tile_1(x, x_row, 4, w, row, n_terms, plus, row, out, row, n, LANES, ahead, row)
    elif n == 2:
        tile_2(x, x_row, 4, w, row, n_terms, plus, row, out, row, n, LANES, ahead, row)
    elif n <= 4:
        tile_4(x, x_row, 4, w, row, n_terms, plus, row, out, row, n, LANES, ahead, row)
    else:
        tile_8(x, x_row, 4, w, row, n_terms, plus, row, out, row, n, LANES, ahead, row)


@inline(EXACT)
def _last_columns(i, n, slab, begin, stop, first):
    """Compute the columns of `_product` from `first` on, which fill no vector."""
    x, w = carray(floats(i.x), (n, i.n_in)), carray(floats(i.weight), (i.n_in, i.n_out))
    out = carray(floats(i.out), (i.parts, n, i.n_out))
    for b in range(n):
        for j in range(first, i.n_out):
            total = np.float32(0)
            for r in range(begin, stop):
                total += x[b, r] * w[r, j]
            out[slab, b, j] = total


@inline(EXACT)
def _rows(i, n, part):
    """Compute some columns of x @ weight.T, (n, n_out), each as a dot product with a weight's row.

    With 8 parts of a weight (50257, 768), part 0 computes the columns 0 to 6281.
    """
    first, stop = i.n_out * part // i.parts, i.n_out * (part + 1) // i.parts
    panels, sums = _panels_of(i, n), np.empty((TILE, PANEL), np.float32)
    for r in range(first, stop, TILE):
        rows = i.weight + 4 * r * i.n_in
        _dots(i, n, panels, r, min(TILE, stop - r), rows, rows + 4 * TILE * i.n_in, sums)


@inline(EXACT)
def _panels_of(i, n):
    """Return x as panels for `_dots`, (panels, n_in, 8): one for eight rows, none for a few."""
    x = carray(floats(i.x), (n, i.n_in))
    panels = np.zeros((-(-n // PANEL) if n > FEW else 0, i.n_in, PANEL), np.float32)
    for b in range(n if n > FEW else 0):
        for j in range(i.n_in):
            panels[b // PANEL, j, b % PANEL] = x[b, j]
    return panels


@inline(EXACT)
def _dots(i, n, panels, first, n_rows, rows, ahead, sums):
    """Compute ``out[:, first : first + n_rows] = x @ rows.T``, for up to 8 rows of a weight.

    The rows are given by address. For a few rows of x, one dot product is computed after the other.
    For more, each number of the weight is multiplied by those of 8 rows of x, and 64 sums stay in
    registers. Meanwhile, as many bytes are prefetched from `ahead` on.
    """
    out, to = carray(floats(i.out), (n, i.n_out)), sums.ctypes.data
    if n <= FEW:
        x, w = carray(floats(i.x), (n, i.n_in)), carray(floats(rows), (n_rows, i.n_in))
        for r in range(n_rows):
            for b in range(n):
                out[b, first + r] = block_dot(x[b], w[r])
        return
    row, width = 4 * i.n_in, 4 * PANEL
    for number in range(len(panels)):
        for term in range(0, i.n_in, BLOCK):
            tile_of_dots(
                rows + 4 * term, row, 4, panels[number, term:].ctypes.data, width,
                min(BLOCK, i.n_in - term), to if term else 0, width, to, width, n_rows, PANEL,
                ahead + 4 * TILE * term, 4 * TILE,
            )  # fmt: skip
        for b in range(number * PANEL, min(n, (number + 1) * PANEL)):
            for r in range(n_rows):
                out[b, first + r] = sums[r, b - number * PANEL]


@inline(EXACT)
def _rows_packed(i, n, part):
    """Compute some columns of x @ weight.T * scale, (n, n_out), for a packed weight.

    A row of few bits is read so fast that the memory falls behind: the loop prefetches each row six
    rows before it is needed. For several rows of x, a row of the weight is unpacked only once.
    """
    x, out = carray(floats(i.x), (n, i.n_in)), carray(floats(i.out), (n, i.n_out))
    scale, unpacked = carray(floats(i.scale), (i.n_out,)), np.empty((TILE, i.n_in), np.float32)
    panels, sums = _panels_of(i, n), np.empty((TILE, PANEL), np.float32)
    first, stop = i.n_out * part // i.parts, i.n_out * (part + 1) // i.parts
    step = TILE if n > FEW else 1
    for begin in range(first, stop, step):
        end = min(begin + step, stop)
        for r in range(begin, end):
            row = i.weight + r * i.row_bytes
            for line in range(row + AHEAD * i.row_bytes, row + (AHEAD + 1) * i.row_bytes, LINE):
                prefetch(line)
            if n == 1:
                out[0, r] = dot_packed(i.format, x[0], row)
            else:
                unpack(i.format, row, unpacked[r - begin])
        if n > 1:
            rows = unpacked.ctypes.data
            _dots(i, n, panels, begin, end - begin, rows, rows, sums)
        for b in range(n if i.scale else 0):
            for r in range(begin, end):
                out[b, r] *= scale[r]


@inline(EXACT)
def _add(i, n, b):
    """Row b of activation(sum of the slabs + bias) * factor + residual, (n, n_out)."""
    slabs = carray(floats(i.x), (i.slabs, n, i.n_out))
    out = carray(floats(i.out), (n, i.n_out))[b]
    total = slabs[0, b]
    for slab in range(1, i.slabs):
        _add_row(np.float32(1), slabs[slab, b], total)
    if i.bias:
        _add_row(np.float32(1), carray(floats(i.bias), (i.n_out,)), total)
    _activate(i.activation, total)
    if i.factor:
        factor = carray(floats(i.factor), (n, i.n_out))[b]
        for j in range(i.n_out):
            total[j] *= factor[j]
    if i.residual:
        _add_row(np.float32(1), carray(floats(i.residual), (n, i.n_out))[b], total)
    for j in range(i.n_out):
        out[j] = total[j]


@inline(EXACT)
def _activate(activation, x):
    """Apply an activation to a row, in place; the formulas are those of `kernels.activation`."""
    one, half = np.float32(1), np.float32(0.5)
    if activation == GELU:
        for j in range(x.size):
            x[j] *= (one + erf(x[j] * np.float32(math.sqrt(0.5)))) * half
    elif activation == GELU_TANH:
        linear, cubic = np.float32(-math.sqrt(8 / math.pi)), np.float32(0.044715)
        for j in range(x.size):
            x[j] /= one + exp(linear * (x[j] + cubic * x[j] * x[j] * x[j]))
    elif activation == RELU:
        for j in range(x.size):
            x[j] = np.float32(0) if x[j] < 0 else x[j]
    elif activation == SILU:
        for j in range(x.size):
            x[j] /= one + exp(-x[j])
    elif activation == TANH:
        for j in range(x.size):
            x[j] = math.tanh(x[j])


@inline(EXACT)
def _rotate(i, n, b):
    """Rotate the pairs of channels of all heads of row b by the row's angles, as ``rope`` does."""
    half = i.depth // 2
    x = carray(floats(i.x), (n, i.heads, 2, half))[b]
    out = carray(floats(i.out), (n, i.heads, 2, half))[b]
    cos, sin = carray(floats(i.cos), (n, half))[b], carray(floats(i.sin), (n, half))[b]
    for h in range(i.heads):
        for j in range(half):
            out[h, 0, j] = x[h, 0, j] * cos[j] - x[h, 1, j] * sin[j]
            out[h, 1, j] = x[h, 1, j] * cos[j] + x[h, 0, j] * sin[j]


@inline(EXACT)
def _attend(i, n, part, length, mask):
    """Attend with one head's query to the keys in the cache and to the new key.

    With 10 positions in the cache, the new key becomes number 10 and the query sees keys 0 to 10;
    with a window of 4, keys 7 to 10. Then softmax over the scores, and the weighted sum of the
    values, as `kernels.attention` computes them for many queries.

    With 9 heads and 3 heads of keys, the heads 0 to 2 share the key head 0. Head 0 appends the new
    key and value to the cache. The others may run at the same time, so no head reads the new key
    and value from the cache.
    """
    b, h = divmod(part, i.heads)
    depth, group = i.depth, i.heads // i.key_heads
    k = h // group
    query = carray(floats(i.x + 4 * (b * i.row + h * depth)), (depth,))
    key = carray(floats(i.key + 4 * (b * i.key_row + k * depth)), (depth,))
    value = carray(floats(i.value + 4 * (b * i.key_row + k * depth)), (depth,))
    shape, at = (n * i.key_heads, i.capacity, depth), b * i.key_heads + k
    keys, values = carray(floats(i.keys), shape)[at], carray(floats(i.values), shape)[at]
    out = carray(floats(i.out), (n, i.heads, depth))[b, h]
    for j in range(depth):
        out[j] = 0
    if h == k * group:
        for j in range(depth):
            keys[length, j], values[length, j] = key[j], value[j]
    first = max(0, length + 1 - i.window)
    scores, scale = np.empty(length + 1 - first, np.float32), np.float32(i.real)
    for t in range(scores.size):
        seen = keys[first + t] if first + t < length else key
        scores[t] = block_dot(query, seen) * scale
        if mask.size and not mask[b, first + t]:
            scores[t] = -np.inf
    top = largest(scores)
    if top == -np.inf:  # the mask hides every key, since all are padding: the result stays 0
        return
    for t in range(scores.size):
        scores[t] = exp(scores[t] - top)
    factor = np.float32(1 / sum_of(scores))
    for t in range(scores.size - 1):
        _add_row(scores[t] * factor, values[first + t], out)
    _add_row(scores[-1] * factor, value, out)


# ---- the program


@inline(EXACT)
def _await(counter, least):
    """Spin until a counter has reached `least`.

    Spinning answers within a fraction of a microsecond, a sleeping thread after 50. If there are
    more threads than processors, the thread that is waited for may need this one's processor: so
    after `PATIENCE` looks, each further look is followed by an offer to let others run.
    """
    spins = 0
    while read(counter) < least:
        spins += 1
        if spins > PATIENCE:
            yield_processor()


@row_kernel(EXACT)
def _run(threads, program, n, length, mask, counters):
    """Draw parts of the program and compute them, until all are done; every thread runs this.

    The rows of this kernel, ``threads``, are the threads themselves, and have nothing in them.

    `drawn` counts the parts that are taken, `done` those that are finished. A thread that draws
    part 3 looks for the instruction that has it, waits until `done` has reached the number of the
    instruction's first part (so every earlier instruction is finished), computes, and adds 1 to
    `done`. The draws are in order, so whatever a thread waits for is already being computed.
    """
    drawn, done = counts(counters), counts(counters + 64)  # in two cache lines of 64 bytes
    k = 0
    while True:
        ticket = add(drawn, 1)
        while k < program.size and ticket >= program[k].first + program[k].parts:
            k += 1
        if k == program.size:
            break
        i = program[k]
        part = ticket - i.first
        _await(done, i.first)
        if i.kind == NORM:
            _norm(i, n, part)
        elif i.kind == PRODUCT:
            _product(i, n, part)
        elif i.kind == ROWS:
            _rows(i, n, part)
        elif i.kind == ROWS_PACKED:
            _rows_packed(i, n, part)
        elif i.kind == ADD:
            _add(i, n, part)
        elif i.kind == ROTATE:
            _rotate(i, n, part)
        else:
            _attend(i, n, part, length, mask)
        add(done, 1)
    last = program[program.size - 1]
    _await(done, last.first + last.parts)


class Program:
    """Instructions for ``n`` rows of float32, which are added one by one and then run many times.

    The methods `norm`, `linear`, `rotate` and `attend` check the shapes of their arrays and add an
    instruction. Instructions read and write the given arrays themselves, not copies: each run finds
    in them what the caller has written there since.
    """

    def __init__(self, n):
        self.n, self.n_parts, self.size = n, 0, 0
        self.widest = 0  # of the rows that pass through the scratch array
        self.arrays = []
        self.rows = []
        self.table = None
        self.counters = np.zeros(16, np.int64)

    def norm(self, x, weight, bias, eps, out, centred=True):
        """Add ``out = layer_norm(x)``, or RMS norm if not centred, with ``x, out (n, width)``."""
        demand((self.n, x.shape[1]), x, out)
        demand(x.shape[1:], weight, bias)
        self._append(
            NORM, self.n, x=x, weight=weight, bias=bias, out=out, n_in=x.shape[1], real=eps,
            centred=int(centred),
        )  # fmt: skip

    def linear(
        self, x, weight, bias, out, scale=None, packing=None, activation=None, factor=None,
        residual=None,
    ):  # fmt: skip
        """Add ``out = activation(x @ weight * scale + bias) * factor + residual``.

        ``x (n, in)``, ``out (n, out)``; ``weight (in, out)``, either contiguous or the transpose of
        a contiguous array (out, in). With a packing, a key of `autograd.kernels.packed.FORMATS`, it
        is the transpose of (out, bytes of a row), and may have a scale for each output, (out,).
        """
        n_in, n_out = x.shape[1], out.shape[1]
        demand((self.n, n_in), x)
        demand((self.n, n_out), out, factor, residual)
        demand((n_out,), bias)
        sizes = dict(n_in=n_in, n_out=n_out)
        self.size += n_in * n_out
        slabs = 1
        if packing:
            demand_packed(weight.T, packing, scale, n_in, n_out)
            kind, parts = ROWS_PACKED, min(PARTS, n_out)
            number, row_bytes = NAMES.index(packing), len(weight)
            stored = dict(weight=weight.T, scale=scale, format=number, row_bytes=row_bytes)
        else:
            demand((n_in, n_out), weight)
            if weight.flags.c_contiguous:
                slabs = min(SLABS, n_in)
                kind, parts = PRODUCT, slabs
            else:
                kind, parts, weight = ROWS, min(PARTS, n_out), weight.T
            stored = dict(weight=weight)
        plain = kind != PRODUCT and bias is activation is factor is residual is None
        self._append(kind, parts, x=x, out=out if plain else SCRATCH, **stored, **sizes)
        if plain:
            return
        self.widest = max(self.widest, n_out)
        self._append(
            ADD, self.n, x=SCRATCH, bias=bias, factor=factor, residual=residual, out=out,
            slabs=slabs, activation=ACTIVATIONS.index(activation), **sizes,
        )  # fmt: skip

    def rotate(self, x, cos, sin, out):
        """Add ``out = rope(x, cos, sin)``, ``x, out (n, H D)`` and ``cos, sin (n, D / 2)``."""
        depth = 2 * cos.shape[1]
        heads = x.shape[1] // depth
        demand((self.n, heads * depth), x, out)
        demand((self.n, depth // 2), cos, sin)
        self._append(ROTATE, self.n, x=x, cos=cos, sin=sin, out=out, depth=depth, heads=heads)

    def attend(self, query, key, value, keys, values, out, scale, window=None):
        """Add causal attention of new tokens, whose keys and values it appends to a cache.

        ``query (n, H D)``, ``key`` and ``value (n, K D)``, which may be columns of larger arrays;
        ``keys`` and ``values (n, K, capacity, D)`` are the cache; ``out (n, H D)``. H is K, or a
        multiple.
        """
        _, key_heads, capacity, depth = keys.shape
        heads = query.shape[1] // depth
        if heads % key_heads:
            raise ValueError(f"{heads} heads cannot share {key_heads} heads of keys")
        demand((self.n, key_heads, capacity, depth), keys, values)
        demand((self.n, heads * depth), query, out)
        demand((self.n, key_heads * depth), key, value)
        if any(x.dtype != np.float32 or x.strides[1] != 4 for x in (query, key, value)):
            raise TypeError("query, key and value must be float32, the elements of a row together")
        if key.strides != value.strides:
            raise ValueError("key and value must have rows that lie equally far apart")
        self.arrays += query, key, value
        self._append(
            ATTEND, self.n * heads, x=query.ctypes.data, key=key.ctypes.data,
            value=value.ctypes.data, row=query.strides[0] // 4, key_row=key.strides[0] // 4,
            keys=keys, values=values, out=out, depth=depth, heads=heads, key_heads=key_heads,
            capacity=capacity, window=window or capacity, real=scale,
        )  # fmt: skip

    def _append(self, kind, parts, **fields):
        """Add an instruction: arrays become addresses, and what is not given becomes 0."""
        fields |= dict(kind=kind, parts=parts, first=self.n_parts)
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                is_known = value.dtype in (np.float32, np.int8, np.uint8)
                if not value.flags.c_contiguous or not is_known:
                    raise TypeError(f"{name} is {value.dtype}, or not contiguous")
                self.arrays.append(value)
                fields[name] = value.ctypes.data
        self.rows.append(fields)
        self.n_parts += parts

    def _write_table(self):
        """Return the instructions as an array, with the address of the scratch array in them.

        Every linear layer uses the same scratch array, which stays in the cache of the processor.
        It is made here, when the widest layer is known.
        """
        scratch = np.empty((SLABS, self.n, self.widest), np.float32)
        self.arrays.append(scratch)
        rows = []
        for fields in self.rows:
            values = [fields.get(name) or 0 for name in INSTRUCTION.names]
            rows.append(tuple(scratch.ctypes.data if v is SCRATCH else v for v in values))
        return np.array(rows, INSTRUCTION)

    def __call__(self, length=0, mask=None):
        """Run the program, with `length` positions in the cache.

        ``mask (n, length + 1)`` of bool says which of these positions, and of the new one, a query
        may look at; without a mask, at all.
        """
        if self.table is None:
            self.table = self._write_table()
        mask = np.empty((0, 0), bool) if mask is None else mask
        self.counters[:] = 0
        threads, counters = np.zeros(n_threads(), bool), self.counters.ctypes.data
        split(_run, (threads,), self.table, self.n, length, mask, counters, size=self.size)


def demand(shape, *arrays):
    """Raise ``ValueError`` unless arrays, or those that are not None, have a shape."""
    for x in arrays:
        if x is not None and x.shape != shape:
            raise ValueError(f"expected an array of shape {shape}, got {x.shape}")


def program(n_rows):
    """Return an empty program for a number of rows."""
    if settings.DISABLE_JIT or not THREADS_CAN_WAIT or not 0 < n_rows <= MOST_ROWS:
        return NotImplemented
    return Program(n_rows)


def product_packed(x, values, scale=None, name="int8"):
    """Return ``x @ weight.T`` for the weight that a format packs into ``values (n_out, bytes)``.

    A few rows of x are multiplied as in a step of generation, by a program of one instruction.
    """
    if settings.DISABLE_JIT or not takes(x, scale) or x.dtype != np.float32 or not x.size:
        return NotImplemented
    n_out = len(values)
    rows = as_rows(x, x.shape[-1])
    demand_packed(values, name, scale, x.shape[-1], n_out)
    step = program(len(rows))
    if step is NotImplemented:
        out = multiply_packed(rows, values, name, scale)
    else:
        out = np.empty((len(rows), n_out), np.float32)
        step.linear(rows, values.T, None, out, scale, name)
        step()
    return out.reshape(*x.shape[:-1], n_out)
