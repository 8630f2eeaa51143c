"""A whole decoding step as one kernel: a program of instructions that all threads work through.

A step that computes one token reads every weight once, and so takes as long as memory does; op by
op, calls from Python and the waking of threads would take half as long again. Here the step is a
list of instructions, each cut into parts. Threads draw parts in order, and who finds an earlier
instruction unfinished waits for it, awake.
"""

import math
import os

import numpy as np
from numba import carray

from autograd.kernels.intrinsics import (
    bytes_,
    counts,
    draw,
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
    jit,
    n_threads,
    settings,
    share,
    takes,
)
from autograd.kernels.rows import block_dot, largest, squares, sum_of
from autograd.kernels.vector import erf, exp

NORM, PRODUCT, ROWS, ROWS_INT8, ADD, ATTEND = range(6)
ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "tanh")
GELU, GELU_TANH, RELU, SILU, TANH = range(1, len(ACTIVATIONS))

MOST_ROWS = 8
SLABS = 4  # parts of x @ weight, which are added in order: the result does not depend on threads
PARTS = 8  # parts of x @ weight.T, where every output is one part's
AHEAD = 6  # rows of int8 that are asked for before they are needed
SCRATCH = "scratch"  # in an instruction: the address of the scratch array, once it is made
PATIENCE = 2000  # looks at a counter, before the thread lets others have its processor

_INTEGERS = (
    "kind", "parts", "first",  # first: how many parts all instructions before it have
    "x", "weight", "scale", "bias", "residual", "keys", "values", "out",  # addresses, or 0
    "n_in", "n_out", "slabs", "activation", "heads", "capacity", "window",
)  # fmt: skip
INSTRUCTION = np.dtype([(name, np.int64) for name in _INTEGERS] + [("real", np.float64)])


# ---- instructions: each function computes one part, for the n rows of x


@inline(EXACT)
def _norm(i, n, b):
    """Layer norm of row b."""
    x, out = carray(floats(i.x), (n, i.n_in))[b], carray(floats(i.out), (n, i.n_in))[b]
    weight = carray(floats(i.weight), (i.n_in,))
    m = np.float32(sum_of(x) / x.size)
    s = np.float32(1 / math.sqrt(squares(x, m) / x.size + i.real))  # real: eps
    for j in range(x.size):
        out[j] = (x[j] - m) * s * weight[j]
    if i.bias:
        _add_row(np.float32(1), carray(floats(i.bias), (i.n_in,)), out)


@inline(EXACT)
def _add_row(x, w, out):
    """Add x * w, for a number x."""
    for j in range(out.size):
        out[j] += x * w[j]


@inline(EXACT)
def _add_rows(x, w, out):
    """Add x @ w, (8,) (8, n_out): so many streams from memory go well beside each other."""
    w0, w1, w2, w3, w4, w5, w6, w7 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    for j in range(out.size):
        y = out[j] + x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
        out[j] = y + x4 * w4[j] + x5 * w5[j] + x6 * w6[j] + x7 * w7[j]


@inline(EXACT)
def _product(i, n, slab):
    """One slab's part of x @ weight, (slabs, n, n_out), with the weights in the order of memory."""
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
    """Compute a part of x @ weight.T, (n, n_out)."""
    x, w = carray(floats(i.x), (n, i.n_in)), carray(floats(i.weight), (i.n_out, i.n_in))
    out = carray(floats(i.out), (n, i.n_out))
    for r in range(i.n_out * part // i.parts, i.n_out * (part + 1) // i.parts):
        for b in range(n):
            out[b, r] = block_dot(x[b], w[r])


@inline(SUMS)
def _dot_int8(x, w):
    total = np.float32(0)
    for j in range(x.size):
        total += x[j] * np.float32(w[j])
    return total


@inline(EXACT)
def _rows_int8(i, n, part):
    """Compute a part of x @ weight.T * scale, (n, n_out), for a weight of int8."""
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
    """Append one head's key and value to the cache, and attend to all that are there."""
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
    if top == -np.inf:  # a row of padding only
        return
    for t in range(scores.size):
        scores[t] = exp(scores[t] - top)
    factor = np.float32(1 / sum_of(scores))
    for t in range(scores.size):
        _add_row(scores[t] * factor, values[first + t], out)


# ---- the program


@inline(EXACT)
def _await(counter, least):
    """Wait, awake; after a while let others have the processor, since one may be who is missing."""
    spins = 0
    while read(counter) < least:
        spins += 1
        if spins > PATIENCE:
            yield_processor()


@jit(EXACT)
def _run(program, n, length, mask, counters):
    """Do parts of the program, with as many other threads as do the same, until all are done."""
    drawn, done = counts(counters), counts(counters + 64)  # a cache line each
    k = 0
    while True:
        ticket = draw(drawn)
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
        draw(done)
    last = program[program.size - 1]
    _await(done, last.first + last.parts)


class Program:
    """Instructions for ``n`` rows of float32, made one by one, then run again and again.

    They read and write the very arrays that they are given, which the program keeps alive.
    """

    def __init__(self, n):
        self.n, self.n_parts, self.size = n, 0, 0
        self.widest = 0  # of the rows that pass through the scratch array
        self.arrays = []
        self.rows = []
        self.table = None
        self.counters = np.zeros(16, np.int64)

    def norm(self, x, weight, bias, eps, out):
        """``out = layer_norm(x)``, with ``x, out (n, width)``."""
        demand((self.n, x.shape[1]), x, out)
        demand(x.shape[1:], weight, bias)
        self._append(
            NORM, self.n, x=x, weight=weight, bias=bias, out=out, n_in=x.shape[1], real=eps
        )

    def linear(self, x, weight, bias, out, scale=None, activation=None, residual=None):
        """``out = activation(x @ weight * scale + bias) + residual``.

        ``x (n, in)``, ``out (n, out)``; ``weight (in, out)`` as it is, or the transpose of an array
        (out, in), which may be of int8 with a scale for each output, (out,).
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
        """Append a key and a value for each head to ``keys, values (n, H, capacity, D)``; attend.

        ``x (n, 3 H D)`` is query, key and value; ``out (n, H D)``.
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

        ``mask (n, length + 1)`` of bool says which of them, and the new one, are looked at.
        """
        if self.table is None:
            self.table = self._write_table()
        mask = np.empty((0, 0), bool) if mask is None else mask
        self.counters[:] = 0
        counters = self.counters.ctypes.data

        def work(_):
            _run(self.table, self.n, length, mask, counters)

        share(work, range(n_threads()), self.size)


def demand(shape, *arrays):
    """Raise ``ValueError`` if an array is not of the shape that an instruction reads or writes."""
    for x in arrays:
        if x is not None and x.shape != shape:
            raise ValueError(f"expected an array of shape {shape}, got {x.shape}")


def program(n_rows):
    """Return an empty program for a number of rows."""
    if settings.DISABLE_JIT or not hasattr(os, "sched_yield") or not 0 < n_rows <= MOST_ROWS:
        return NotImplemented
    return Program(n_rows)


def product_int8(x, values, scale):
    """Return x @ (values * scale[:, None]).T, for a few rows."""
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
