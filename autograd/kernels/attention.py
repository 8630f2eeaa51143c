"""Attention, head by head and in blocks of queries: no (T, S) matrix is ever stored.

For each block the products go to BLAS, and one pass over the scores does all the rest: the mask,
softmax, dropout. Causality halves the work: a block multiplies the keys that its last query sees.
"""

import math

import numpy as np

from autograd.kernels import blas
from autograd.kernels.blas import PLAIN, ROW_MAJOR, TRANSPOSED, gemm
from autograd.kernels.jit import EXACT, inline, jit, n_threads, share, slices, takes
from autograd.kernels.pointwise import bits_at, mask_constants, row_key
from autograd.kernels.rowwise import block_dot, largest, sum_of
from autograd.kernels.vector import exp

BLOCK = 64  # queries at a time


@inline(EXACT)
def hide(row, mask, t):
    """Set the scores of a query to -inf where its row of a boolean mask says False."""
    seen_by = mask[min(t, mask.shape[0] - 1)]  # a single row is everyone's
    for j in range(row.size):
        row[j] = row[j] if seen_by[j] else -np.inf


@jit(EXACT)
def _attention(heads, q, k, v, mask, sizes, causal, scale, drops, out, lse):
    """Attend for the heads with these numbers.

    ``q (heads, 2)`` and so on: the address of each head's matrix and the length of its rows.
    ``mask (n, T or 1, S)``, one for n heads in turn. ``out (heads, T, V)``, ``lse (heads, T)``.
    """
    real = out.dtype.type
    n_queries, n_keys, depth, width = sizes
    seed, threshold, factor = drops
    scores = np.empty((BLOCK, n_keys), out.dtype)
    s = scores.ctypes.data
    for h in heads:
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            keys = min(start + rows, n_keys) if causal else n_keys
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, keys, depth, scale,
                q[h, 0] + start * q[h, 1] * out.itemsize, q[h, 1], k[h, 0], k[h, 1],
                real(0), s, n_keys,
            )  # (rows, depth) (depth, keys)  # fmt: skip
            for i in range(rows):
                t = start + i
                seen = min(t + 1, keys) if causal else keys
                row = scores[i, :seen]
                if mask.size:
                    hide(row, mask[h % mask.shape[0]], t)
                lse[h, t] = normalize(row)
                if threshold:
                    drop(row, row_key(h * n_queries + t, seed), threshold, factor)
                scores[i, seen:keys] = 0
            gemm(
                ROW_MAJOR, PLAIN, PLAIN, rows, width, keys, real(1),
                s, n_keys, v[h, 0], v[h, 1], real(0), out[h, start:].ctypes.data, width,
            )  # (rows, keys) (keys, width)  # fmt: skip


@inline(EXACT)
def normalize(row):
    """Make a row of scores its softmax; return the logarithm of the sum of exponentials.

    A query that sees no key gets zeros, and infinity, for which exp(score - lse) is those zeros.
    """
    real = row.dtype.type
    top = largest(row)
    top = real(0) if top == -np.inf else top
    for j in range(row.size):
        row[j] = exp(row[j] - top)
    total = real(sum_of(row))
    if total == 0:
        return real(np.inf)
    for j in range(row.size):
        row[j] /= total
    return top + real(math.log(total))


@inline(EXACT)
def drop(row, key, threshold, factor):
    """Multiply a row of weights by its part of the dropout mask."""
    for j in range(row.size):
        kept = bits_at(key[0], key[1], j) >= threshold
        row[j] *= factor if kept else row.dtype.type(0)


@jit(EXACT)
def _attention_vjp(
    heads, g, q, k, v, mask, sizes, causal, scale, drops, out, lse, g_q, g_k, g_v
):  # fmt: skip
    """Pull ``g (heads, T, V)`` back; the results are (heads, T or S, D or V), and begin as 0."""
    real = out.dtype.type
    n_queries, n_keys, depth, width = sizes
    seed, threshold, factor = drops
    weights, slopes = np.empty((BLOCK, n_keys), out.dtype), np.empty((BLOCK, n_keys), out.dtype)
    p, ds = weights.ctypes.data, slopes.ctypes.data
    for h in heads:
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            keys = min(start + rows, n_keys) if causal else n_keys
            q_rows, g_rows = q[h, 0] + start * q[h, 1] * out.itemsize, g[h, start:].ctypes.data
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, keys, depth, scale,
                q_rows, q[h, 1], k[h, 0], k[h, 1], real(0), p, n_keys,
            )  # scores (rows, keys)  # fmt: skip
            gemm(
                ROW_MAJOR, PLAIN, TRANSPOSED, rows, keys, width, real(1),
                g_rows, width, v[h, 0], v[h, 1], real(0), ds, n_keys,
            )  # (rows, width) (width, keys)  # fmt: skip
            for i in range(rows):
                t = start + i
                seen = min(t + 1, keys) if causal else keys
                row, slope = weights[i, :seen], slopes[i, :seen]
                if mask.size:
                    hide(row, mask[h % mask.shape[0]], t)
                mean = block_dot(g[h, t], out[h, t])  # sum over keys of p dp
                for j in range(seen):
                    row[j] = exp(row[j] - lse[h, t])
                if threshold:
                    low, high = row_key(h * n_queries + t, seed)
                    for j in range(seen):
                        kept = factor if bits_at(low, high, j) >= threshold else real(0)
                        slope[j] = row[j] * (slope[j] * kept - mean) * scale
                        row[j] *= kept
                else:
                    for j in range(seen):
                        slope[j] = row[j] * (slope[j] - mean) * scale
                weights[i, seen:keys] = 0
                slopes[i, seen:keys] = 0
            gemm(
                ROW_MAJOR, TRANSPOSED, PLAIN, keys, width, rows, real(1),
                p, n_keys, g_rows, width, real(1), g_v[h].ctypes.data, width,
            )  # (keys, rows) (rows, width)  # fmt: skip
            gemm(
                ROW_MAJOR, PLAIN, PLAIN, rows, depth, keys, real(1),
                ds, n_keys, k[h, 0], k[h, 1], real(0), g_q[h, start:].ctypes.data, depth,
            )  # (rows, keys) (keys, depth)  # fmt: skip
            gemm(
                ROW_MAJOR, TRANSPOSED, PLAIN, keys, depth, rows, real(1),
                ds, n_keys, q_rows, q[h, 1], real(1), g_k[h].ctypes.data, depth,
            )  # (keys, rows) (rows, depth)  # fmt: skip


def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed):
    """Return the attended values, and each query's logarithm of the sum of exponentials."""
    call = settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed)
    if call is None:
        return NotImplemented
    matrices, constants, (n, n_queries, n_keys, _, width) = call
    out = np.empty((*query.shape[:-1], width), query.dtype)
    lse = np.empty((*query.shape[:-1], 1), query.dtype)
    results = out.reshape(n, n_queries, width), lse.reshape(n, n_queries)
    addresses = [x.addresses for x in matrices]

    def run(part):
        _attention(np.arange(n)[part], *addresses, *constants, *results)

    with blas.one_thread():
        share(run, head_groups(n), n * n_queries * n_keys)
    return out, lse


def attention_vjp(
    g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, out, lse, needs
):  # fmt: skip
    """Return the gradients of query, key and value."""
    call = settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed)
    if call is None or needs[3] or not takes(g, query):
        return NotImplemented
    matrices, constants, (n, n_queries, n_keys, depth, width) = call
    g = np.ascontiguousarray(g).reshape(n, n_queries, width)
    saved = out.reshape(n, n_queries, width), lse.reshape(n, n_queries)
    g_query = np.empty(query.shape, query.dtype)
    g_key, g_value = np.zeros(key.shape, key.dtype), np.zeros(value.shape, value.dtype)
    results = (
        g_query.reshape(n, n_queries, depth),
        g_key.reshape(n, n_keys, depth),
        g_value.reshape(n, n_keys, width),
    )
    addresses = [x.addresses for x in matrices]

    def run(part):
        _attention_vjp(np.arange(n)[part], g, *addresses, *constants, *saved, *results)

    with blas.one_thread():
        share(run, head_groups(n), n * n_queries * n_keys)
    return g_query, g_key, g_value, None


def head_groups(n):
    """Cut n heads into groups, a few for each thread: whoever is done takes the next."""
    return slices(n, 4 * n_threads())


def settled(query, key, value, attn_mask, dropout_p, is_causal, scale, seed):
    """Return a call's matrices, constants and sizes, or None if it is for NumPy to handle."""
    if not takes(query, key, value) or not blas.usable() or min(query.ndim, key.ndim) < 2:
        return None
    if query.shape[:-2] != key.shape[:-2] or key.shape[:-1] != value.shape[:-1]:
        return None
    if query.shape[-1] != key.shape[-1] or not (query.size and key.size and value.size):
        return None
    *lead, n_queries, depth = query.shape
    n, n_keys, width = math.prod(lead), key.shape[-2], value.shape[-1]
    mask = np.empty((1, 0, 0), bool)
    if attn_mask is not None:
        if type(attn_mask) is not np.ndarray or attn_mask.dtype != bool:
            return None
        mask = mask_of_heads(attn_mask, lead, n_keys)
    drops = mask_constants(dropout_p, seed, query.dtype)  # with the least bits 0, of no use
    sizes = n_queries, n_keys, depth, width
    constants = mask, sizes, bool(is_causal), query.dtype.type(scale), drops
    return [Matrices(x) for x in (query, key, value)], constants, (n, *sizes)


def mask_of_heads(mask, lead, n_keys):
    """Return a boolean mask as (n, T or 1, S), for n heads in turn."""
    *masks_lead, rows, _ = np.atleast_2d(mask).shape
    mask = np.broadcast_to(np.atleast_2d(mask), (*masks_lead, rows, n_keys))
    if math.prod(masks_lead) != 1:
        mask = np.broadcast_to(mask, (*lead, rows, n_keys))
    return np.array(mask).reshape(-1, rows, n_keys)


class Matrices:
    """The last two axes of an array, for BLAS: ``addresses (n, 2)`` of each and its row length.

    Heads that were cut out of wider rows are read where they are; anything else is copied.
    """

    def __init__(self, x):
        *_, rows, columns = x.shape
        step = x.strides[-2]
        if x.strides[-1] != x.itemsize or step < columns * x.itemsize or step % x.itemsize:
            x = np.ascontiguousarray(x)
        self.array = x  # what the addresses point into
        offsets = np.zeros(1, np.intp)
        for size, stride in zip(x.shape[:-2], x.strides[:-2], strict=True):
            offsets = np.add.outer(offsets, stride * np.arange(size)).reshape(-1)
        row_length = max(x.strides[-2] // x.itemsize, columns)  # of a single row, strides lie
        self.addresses = np.stack(
            [x.ctypes.data + offsets, np.full_like(offsets, row_length)], axis=1
        )
