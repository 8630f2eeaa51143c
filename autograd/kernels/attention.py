"""Attention, head by head and in blocks of queries: no (T, S) matrix is ever stored.

For each block the products go to BLAS, and one pass over the scores does all the rest: the mask,
softmax, dropout. A block multiplies only the keys from the first to the last that its queries see:
causality halves the work, and a window makes it proportional to the window.
"""

import math
from functools import lru_cache

import numpy as np
from numba import types
from numba.extending import overload

from autograd.kernels import blas
from autograd.kernels.blas import PLAIN, ROW_MAJOR, TRANSPOSED, gemm
from autograd.kernels.dropout import bits_at, mask_constants, row_key
from autograd.kernels.jit import EXACT, OVERLOADS, inline, jit, split, takes
from autograd.kernels.rows import dot, largest, sum_of
from autograd.kernels.vector import exp

BLOCK = 64  # queries at a time


@inline(EXACT)
def seen_by(start, stop, n_keys, window):
    """Return the first key that queries ``start`` to ``stop - 1`` see, and the end of them.

    With a window, a query sees so many keys, of which its own position is the last; 0 is none.
    """
    if window == 0:
        return 0, n_keys
    return min(max(start - window + 1, 0), n_keys), min(stop, n_keys)


@inline(EXACT)
def score_buffer(n_queries, n_keys, window, like):
    """Return room for the scores of a block, (queries, keys)."""
    rows = min(BLOCK, n_queries)
    return np.empty((rows, min(n_keys, rows + window) if window else n_keys), like.dtype)


@inline(EXACT)
def mask_row(row, mask):
    """Apply one query's row of a mask to its scores."""
    for j in range(row.size):
        row[j] = masked(row[j], mask[j])


def masked(score, mask):
    """Return -inf where a boolean mask says False; the sum with a mask of numbers."""
    raise NotImplementedError("attention's kernels call BLAS, and run compiled only")


@overload(masked, jit_options=OVERLOADS)
def _(score, mask):
    if mask == types.boolean:
        return lambda score, mask: score if mask else -np.inf
    return lambda score, mask: score + mask


@jit(EXACT)
def _attention(
    start_head, stop_head, q, k, v, mask, masks, sizes, window, scale, drops, out, largests
):  # fmt: skip
    """Attend for some heads.

    ``q``, ``k``, ``v (heads,)``: the address of each head's matrix. ``mask (n, T or 1, S)``, of
    which head h takes ``masks[h]``; empty if there is none. ``out (heads, T, V)``,
    ``largests (heads, T)``.
    """
    real = out.dtype.type
    n_queries, n_keys, depth, width, q_row, k_row, v_row = sizes
    seed, threshold, factor = drops
    scores = score_buffer(n_queries, n_keys, window, out)
    s, s_row = scores.ctypes.data, scores.shape[1]
    for h in range(start_head, stop_head):
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            first, end = seen_by(start, start + rows, n_keys, window)
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, end - first, depth, scale,
                q[h] + start * q_row * out.itemsize, q_row,
                k[h] + first * k_row * out.itemsize, k_row, real(0), s, s_row,
            )  # (rows, depth) (depth, keys)  # fmt: skip
            for i in range(rows):
                t = start + i
                low, high = seen_by(t, t + 1, n_keys, window)
                row = scores[i, low - first : high - first]
                if mask.size:
                    mask_row(row, mask[masks[h], min(t, mask.shape[1] - 1), low:high])
                largests[h, t] = normalize(row)
                if threshold:
                    drop(row, row_key(h * n_queries + t, seed), low, threshold, factor)
                scores[i, : low - first] = 0
                scores[i, high - first : end - first] = 0
            gemm(
                ROW_MAJOR, PLAIN, PLAIN, rows, width, end - first, real(1), s, s_row,
                v[h] + first * v_row * out.itemsize, v_row,
                real(0), out[h, start:].ctypes.data, width,
            )  # (rows, keys) (keys, width)  # fmt: skip


@inline(EXACT)
def normalize(row):
    """Make a row of scores its softmax; return their maximum.

    A query that sees no key gets zeros.
    """
    real = row.dtype.type
    top = largest(row)
    top = real(0) if top == -np.inf else top
    for j in range(row.size):
        row[j] = exp(row[j] - top)
    total = real(sum_of(row))
    if total != 0:
        for j in range(row.size):
            row[j] /= total
    return top


@inline(EXACT)
def drop(row, key, first, threshold, factor):
    """Multiply a row of weights, of keys from ``first`` on, by its part of the dropout mask."""
    for j in range(row.size):
        kept = bits_at(key[0], key[1], first + j) >= threshold
        row[j] *= factor if kept else row.dtype.type(0)


@jit(EXACT)
def _attention_vjp(
    start_head, stop_head, g, q, k, v, mask, masks, sizes, window, scale, drops, largests,
    g_q, g_k, g_v,
):  # fmt: skip
    """Pull ``g (heads, T, V)`` back; the results are (heads, T or S, D or V), and begin as 0."""
    real = g.dtype.type
    n_queries, n_keys, depth, width, q_row, k_row, v_row = sizes
    seed, threshold, factor = drops
    weights = score_buffer(n_queries, n_keys, window, g)
    slopes = np.empty_like(weights)
    p, ds, s_row = weights.ctypes.data, slopes.ctypes.data, weights.shape[1]
    for h in range(start_head, stop_head):
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            first, end = seen_by(start, start + rows, n_keys, window)
            q_rows, g_rows = q[h] + start * q_row * g.itemsize, g[h, start:].ctypes.data
            k_rows = k[h] + first * k_row * g.itemsize
            v_rows = v[h] + first * v_row * g.itemsize
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, end - first, depth, scale,
                q_rows, q_row, k_rows, k_row, real(0), p, s_row,
            )  # scores (rows, keys)  # fmt: skip
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, end - first, width, real(1),
                g_rows, width, v_rows, v_row, real(0), ds, s_row,
            )  # (rows, width) (width, keys)  # fmt: skip
            for i in range(rows):
                t = start + i
                low, high = seen_by(t, t + 1, n_keys, window)
                row = weights[i, low - first : high - first]
                slope = slopes[i, low - first : high - first]
                if mask.size:
                    mask_row(row, mask[masks[h], min(t, mask.shape[1] - 1), low:high])
                key = row_key(h * n_queries + t, seed)
                for j in range(row.size):
                    row[j] = exp(row[j] - largests[h, t])
                if threshold:
                    drop(slope, key, low, threshold, factor)
                total = sum_of(row)
                total = total if total else 1.0  # of a query that sees no key
                mean, part = real(dot(row, slope) / total), real(1 / total)
                for j in range(row.size):
                    row[j] *= part
                    slope[j] = row[j] * (slope[j] - mean) * scale
                if threshold:
                    drop(row, key, low, threshold, factor)
                for array in (weights, slopes):
                    array[i, : low - first] = 0
                    array[i, high - first : end - first] = 0
            gemm(
                ROW_MAJOR, TRANSPOSED, PLAIN, end - first, width, rows, real(1),
                p, s_row, g_rows, width, real(1), g_v[h, first:].ctypes.data, width,
            )  # (keys, rows) (rows, width)  # fmt: skip
            gemm(
                ROW_MAJOR, PLAIN, PLAIN, rows, depth, end - first, real(1),
                ds, s_row, k_rows, k_row, real(0), g_q[h, start:].ctypes.data, depth,
            )  # (rows, keys) (keys, depth)  # fmt: skip
            gemm(
                ROW_MAJOR, TRANSPOSED, PLAIN, end - first, depth, rows, real(1),
                ds, s_row, q_rows, q_row, real(1), g_k[h, first:].ctypes.data, depth,
            )  # (keys, rows) (rows, depth)  # fmt: skip


def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size):
    """Return the attended values, and each query's largest score."""
    call = settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)
    if call is None:
        return NotImplemented
    _held, static, n = call
    *lead, n_queries, _ = query.shape
    out = np.empty((*lead, n_queries, value.shape[-1]), query.dtype)
    largest = np.empty((*lead, n_queries, 1), query.dtype)
    results = out.reshape(n, *out.shape[-2:]), largest.reshape(n, n_queries)

    def run(part):
        _attention(part.start, part.stop, *static, *results)

    with blas.one_thread():
        split(run, n, work(query, key))
    return out, largest


def attention_vjp(
    g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size, largest, needs
):  # fmt: skip
    """Return the gradients of query, key and value."""
    call = settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)
    if call is None or needs[3] or not takes(g, query):
        return NotImplemented
    if g.shape != (*query.shape[:-1], value.shape[-1]):
        return NotImplemented
    _held, static, n = call
    g = np.ascontiguousarray(g)
    g_query = np.empty(query.shape, query.dtype)
    g_key, g_value = np.zeros(key.shape, key.dtype), np.zeros(value.shape, value.dtype)
    g, *results = (x.reshape(n, *x.shape[-2:]) for x in (g, g_query, g_key, g_value))
    largest = largest.reshape(n, query.shape[-2])  # (heads, T)

    def run(part):
        _attention_vjp(part.start, part.stop, g, *static, largest, *results)

    with blas.one_thread():
        split(run, n, work(query, key))
    return g_query, g_key, g_value, None


def work(query, key):
    """Return a call's size in elements: its scores, and what reading the keys is worth."""
    return key.size // key.shape[-1] * (query.shape[-2] + key.shape[-1] // 16)


def settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size):
    """Return what must stay in memory, a call's arguments, and the number of heads.

    Or None, if it is for NumPy to handle.
    """
    if not takes(query, key, value) or not blas.usable() or min(query.ndim, key.ndim) < 2:
        return None
    if query.shape[:-2] != key.shape[:-2] or key.shape[:-1] != value.shape[:-1]:
        return None
    if query.shape[-1] != key.shape[-1] or not (query.size and key.size and value.size):
        return None
    (n_queries, depth), (n_keys, width) = query.shape[-2:], value.shape[-2:]
    mask, masks = NO_MASK
    if attn_mask is not None:
        if type(attn_mask) is not np.ndarray or attn_mask.dtype.kind not in "bf":
            return None
        if attn_mask.ndim > 1 and attn_mask.shape[-2] not in (1, n_queries):
            return None
        mask, masks = masks_of_heads(attn_mask, query.shape[:-2], n_keys, query.dtype)
    window = min(window_size or n_queries, n_queries) if is_causal else 0
    drops = mask_constants(dropout_p, seed, query.dtype)  # with the least bits 0, of no use
    matrices, addresses, row_lengths = zip(*map(by_address, (query, key, value)), strict=True)
    sizes = n_queries, n_keys, depth, width, *row_lengths
    static = *addresses, mask, masks, sizes, window, query.dtype.type(scale), drops
    return matrices, static, len(addresses[0])


NO_MASK = np.empty((1, 0, 0), bool), np.empty(0, np.intp)


def masks_of_heads(mask, lead, n_keys, dtype):
    """Return a mask as (n, T or 1, S), and for each head which of the n is its own."""
    rows = mask.shape[-2] if mask.ndim > 1 else 1
    if mask.ndim < 2 or mask.shape[-1] != n_keys:
        mask = np.broadcast_to(mask, (*mask.shape[:-2], rows, n_keys))
    masks = mask_numbers(mask.shape[:-2], lead)
    mask = np.require(mask, bool if mask.dtype == bool else dtype, "CW")  # read-only is a type
    return mask.reshape(-1, rows, n_keys), masks


@lru_cache(maxsize=64)
def mask_numbers(masks_lead, lead):
    """Return for each head the number of its mask, where their leading axes broadcast."""
    numbers = np.arange(math.prod(masks_lead)).reshape(masks_lead)
    return np.array(np.broadcast_to(numbers, lead)).reshape(-1)


def by_address(x):
    """Return an array, the address of each of its matrices, and the length of their rows.

    Heads that were cut out of wider rows are read where they are; anything else is copied.
    """
    *_, rows, columns = x.shape
    step = x.strides[-2] if rows > 1 else columns * x.itemsize  # of a single row, strides lie
    if x.strides[-1] != x.itemsize or step < columns * x.itemsize or step % x.itemsize:
        x, step = np.ascontiguousarray(x), columns * x.itemsize
    return x, x.ctypes.data + offsets(x.shape[:-2], x.strides[:-2]), step // x.itemsize


@lru_cache(maxsize=64)
def offsets(shape, strides):
    """Return how many bytes after the first each element of an array is."""
    out = np.zeros(1, np.intp)
    for size, stride in zip(shape, strides, strict=True):
        out = np.add.outer(out, stride * np.arange(size)).reshape(-1)
    return out
