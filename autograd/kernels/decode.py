"""A whole decoding step as one kernel: a program of instructions that all threads work through.

`npgpt.generation.decode` writes the program of a model once, and runs it for each new token. A step
that computes one token reads every weight once, so at best it takes as long as the memory does. Op
by op, the calls from Python and the waking of threads would add half of that time.

Here the step is a list of instructions: a layer norm, a product, an addition, an attention. Each is
cut into parts, and the parts of all instructions are numbered in order. For a norm of 1 part, a
product of 4 and an addition of 1, the numbers are 0, then 1 to 4, then 5. Each thread draws the
lowest number that nobody has, computes that part, and draws again. Before it computes, it waits
until all parts of the earlier instructions are done, since it reads their results.

All numbers are float32, weights may be int8. Every part adds in a fixed order, so results have the
same bits with any number of threads; they agree with the modules' within rounding.
"""

import math

import numpy as np
from numba import carray

from autograd.kernels.cache import settings
from autograd.kernels.intrinsics import (
    THREADS_CAN_WAIT,
    add,
    bytes_,
    counts,
    floats,
    prefetch,
    read,
    yield_processor,
)
from autograd.kernels.jit import (
    EXACT,
    SUMS,
    as_rows,
    inline,
    takes,
)
from autograd.kernels.normalization import mean_and_rstd
from autograd.kernels.rows import block_dot, largest, sum_of
from autograd.kernels.team import n_threads, row_kernel, split
from autograd.kernels.vector import erf, exp

NORM, PRODUCT, ROWS, ROWS_INT8, ADD, ATTEND = range(6)
ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "tanh")
GELU, GELU_TANH, RELU, SILU, TANH = range(1, len(ACTIVATIONS))

MOST_ROWS = 8  # of x: for more, products by BLAS take less time
SLABS = 4  # parts of x @ weight: each gives a partial sum, and these are added in order
PARTS = 8  # parts of x @ weight.T: each computes some of the outputs
AHEAD = 6  # how many rows of an int8 weight before its turn a row is asked for
SCRATCH = "scratch"  # in an instruction: the address of the scratch array, once it is made
PATIENCE = 2000  # how often a waiting thread looks before it lets others have its processor

_INTEGERS = (
    "kind", "parts", "first",  # first: how many parts all instructions before it have
    "x", "weight", "scale", "bias", "residual", "keys", "values", "out",  # addresses, or 0
    "n_in", "n_out", "slabs", "activation", "heads", "capacity", "window",
)  # fmt: skip
INSTRUCTION = np.dtype([(name, np.int64) for name in _INTEGERS] + [("real", np.float64)])


# ---- instructions: each function computes one part of one instruction, `i`, for the n rows of x
#
# An instruction holds addresses, since a table of arrays of many shapes is no type that Numba
# knows. ``carray(floats(i.x), (n, i.n_in))`` is the array of float32 at an address. `Program` keeps
# the arrays in memory, and has checked their shapes.


@inline(EXACT)
def _norm(i, n, b):
    """Compute the layer norm of row b, with an eps of ``i.real``."""
    x, out = carray(floats(i.x), (n, i.n_in))[b], carray(floats(i.out), (n, i.n_in))[b]
    weight = carray(floats(i.weight), (i.n_in,))
    m, s = mean_and_rstd(x, i.real)
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
def _add_rows(x, w, out):
    """Add x @ w to out, (8,) (8, n_out): eight rows of the weight in one pass.

    Row by row, out would be read and written eight times as often. Eight rows are also as many
    sequences of addresses as the processor can fetch ahead at the same time.
    """
    w0, w1, w2, w3, w4, w5, w6, w7 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    for j in range(out.size):
        y = out[j] + x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
        out[j] = y + x4 * w4[j] + x5 * w5[j] + x6 * w6[j] + x7 * w7[j]


@inline(EXACT)
def _product(i, n, slab):
    """Compute the part of x @ weight, (slabs, n, n_out), that one slab of the weight's rows gives.

    With 4 slabs of a weight (768, 3072), slab 1 holds the rows 192 to 383, and is multiplied by the
    columns 192 to 383 of x. `_add` sums the four results. The rows of a slab are read one after the
    other, in the order of memory, which is the fastest way to read them.
    """
    x, w = carray(floats(i.x), (n, i.n_in)), carray(floats(i.weight), (i.n_in, i.n_out))
    out = carray(floats(i.out), (i.parts, n, i.n_out))[slab]
    out[:] = 0
    r, stop = i.n_in * slab // i.parts, i.n_in * (slab + 1) // i.parts
    while r + 8 <= stop:
        for b in range(n):
            _add_rows(x[b, r : r + 8], w[r : r + 8], out[b])
        r += 8
    while r < stop:
        for b in range(n):
            _add_row(x[b, r], w[r], out[b])
        r += 1


@inline(EXACT)
def _rows(i, n, part):
    """Compute some columns of x @ weight.T, (n, n_out), each as a dot product with a weight's row.

    With 8 parts of a weight (50257, 768), part 0 computes the columns 0 to 6281.
    """
    x, w = carray(floats(i.x), (n, i.n_in)), carray(floats(i.weight), (i.n_out, i.n_in))
    out = carray(floats(i.out), (n, i.n_out))
    for r in range(i.n_out * part // i.parts, i.n_out * (part + 1) // i.parts):
        for b in range(n):
            out[b, r] = block_dot(x[b], w[r])


@inline(SUMS)
def _dot_int8(x, w):
    """Return the dot product of float32 and int8, in float32."""
    total = np.float32(0)
    for j in range(x.size):
        total += x[j] * np.float32(w[j])
    return total


@inline(EXACT)
def _rows_int8(i, n, part):
    """Compute some columns of x @ weight.T * scale, (n, n_out), for a weight of int8.

    A row of int8 is read so fast that the memory falls behind: the loop asks for each row six rows
    before it is needed.
    """
    x, w = carray(floats(i.x), (n, i.n_in)), carray(bytes_(i.weight), (i.n_out, i.n_in))
    out, scale = carray(floats(i.out), (n, i.n_out)), carray(floats(i.scale), (i.n_out,))
    for r in range(i.n_out * part // i.parts, i.n_out * (part + 1) // i.parts):
        for line in range((r + AHEAD) * i.n_in, (r + AHEAD + 1) * i.n_in, 64):
            prefetch(i.weight + line)
        for b in range(n):
            out[b, r] = _dot_int8(x[b], w[r]) * scale[r]


@inline(EXACT)
def _add(i, n, b):
    """Row b of activation(sum of the slabs + bias) + residual, (n, n_out)."""
    slabs = carray(floats(i.x), (i.slabs, n, i.n_out))
    out = carray(floats(i.out), (n, i.n_out))[b]
    total = slabs[0, b]
    for slab in range(1, i.slabs):
        _add_row(np.float32(1), slabs[slab, b], total)
    if i.bias:
        _add_row(np.float32(1), carray(floats(i.bias), (i.n_out,)), total)
    _activate(i.activation, total)
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
def _attend(i, n, part, length, mask):
    """Append one head's new key and value to the cache, and attend to the keys in it.

    With 10 positions in the cache, the new key becomes number 10 and the query sees keys 0 to 10;
    with a window of 4, keys 7 to 10. Then softmax over the scores, and the weighted sum of the
    values, as `kernels.attention` computes them for many queries.
    """
    b, h = divmod(part, i.heads)
    width = i.n_out
    depth = width // i.heads
    heads = carray(floats(i.x), (n, 3, i.heads, depth))
    query, key, value = heads[b, 0, h], heads[b, 1, h], heads[b, 2, h]
    shape = (n * i.heads, i.capacity, depth)
    keys, values = carray(floats(i.keys), shape)[part], carray(floats(i.values), shape)[part]
    out = carray(floats(i.out), (n, i.heads, depth))[b, h]
    for j in range(depth):
        keys[length, j], values[length, j], out[j] = key[j], value[j], 0
    first = max(0, length + 1 - i.window)
    scores, scale = np.empty(length + 1 - first, np.float32), np.float32(i.real)
    for t in range(scores.size):
        scores[t] = block_dot(query, keys[first + t]) * scale
        if mask.size and not mask[b, first + t]:
            scores[t] = -np.inf
    top = largest(scores)
    if top == -np.inf:  # the mask hides every key, since all are padding: the result stays 0
        return
    for t in range(scores.size):
        scores[t] = exp(scores[t] - top)
    factor = np.float32(1 / sum_of(scores))
    for t in range(scores.size):
        _add_row(scores[t] * factor, values[first + t], out)


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
        elif i.kind == ROWS_INT8:
            _rows_int8(i, n, part)
        elif i.kind == ADD:
            _add(i, n, part)
        else:
            _attend(i, n, part, length, mask)
        add(done, 1)
    last = program[program.size - 1]
    _await(done, last.first + last.parts)


class Program:
    """Instructions for ``n`` rows of float32, which are added one by one and then run many times.

    The methods `norm`, `linear` and `attend` check the shapes of their arrays and add an
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

    def norm(self, x, weight, bias, eps, out):
        """Add ``out = layer_norm(x)``, with ``x, out (n, width)``."""
        demand((self.n, x.shape[1]), x, out)
        demand(x.shape[1:], weight, bias)
        self._append(
            NORM, self.n, x=x, weight=weight, bias=bias, out=out, n_in=x.shape[1], real=eps
        )

    def linear(self, x, weight, bias, out, scale=None, activation=None, residual=None):
        """Add ``out = activation(x @ weight * scale + bias) + residual``.

        ``x (n, in)``, ``out (n, out)``; ``weight (in, out)``, either contiguous or the transpose of
        a contiguous array (out, in). Such an array may be of int8, with a scale for each output,
        (out,).
        """
        n_in, n_out = weight.shape
        demand((self.n, n_in), x)
        demand((self.n, n_out), out, residual)
        demand((n_out,), bias, scale)
        sizes = dict(n_in=n_in, n_out=n_out)
        self.size += weight.size
        if scale is None and weight.flags.c_contiguous:
            slabs = min(SLABS, n_in)
            self._append(PRODUCT, slabs, x=x, weight=weight, out=SCRATCH, **sizes)
        else:
            slabs = 1
            plain = bias is None and activation is None and residual is None
            self._append(
                ROWS if scale is None else ROWS_INT8, min(PARTS, n_out),
                x=x, weight=weight.T, scale=scale, out=out if plain else SCRATCH, **sizes,
            )  # fmt: skip
            if plain:
                return
        self.widest = max(self.widest, n_out)
        self._append(
            ADD, self.n, x=SCRATCH, bias=bias, residual=residual, out=out, slabs=slabs,
            activation=ACTIVATIONS.index(activation), **sizes,
        )  # fmt: skip

    def attend(self, x, keys, values, out, scale, window=None):
        """Add causal attention of new tokens, whose keys and values it appends to a cache.

        ``x (n, 3 H D)`` holds the query, the key and the value of each row; ``keys`` and ``values
        (n, H, capacity, D)`` are the cache; ``out (n, H D)``.
        """
        _, heads, capacity, depth = keys.shape
        demand((self.n, heads, capacity, depth), keys, values)
        demand((self.n, 3 * heads * depth), x)
        demand((self.n, heads * depth), out)
        self._append(
            ATTEND, self.n * heads, x=x, keys=keys, values=values, out=out, n_out=out.shape[1],
            heads=heads, capacity=capacity, window=window or capacity, real=scale,
        )  # fmt: skip

    def _append(self, kind, parts, **fields):
        """Add an instruction: arrays become addresses, and what is not given becomes 0."""
        fields |= dict(kind=kind, parts=parts, first=self.n_parts)
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                if not value.flags.c_contiguous or value.dtype not in (np.float32, np.int8):
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


def product_int8(x, values, scale):
    """Return x @ (values * scale[:, None]).T for a few rows: a program of one instruction."""
    if not takes(x, scale) or x.dtype != np.float32 or x.shape[-1:] != values.shape[1:]:
        return NotImplemented
    rows = as_rows(x, values.shape[1])
    step = program(len(rows))
    if step is NotImplemented:
        return NotImplemented
    out = np.empty((len(rows), len(values)), np.float32)
    step.linear(rows, values.T, None, out, scale)
    step()
    return out.reshape(*x.shape[:-1], len(values))
