"""Kernels of attention, called by ``attention`` and its rule in `autograd.ops.attention`.

They go head by head and in blocks of 24 queries: no (T, S) matrix is ever stored. Keys are packed
once for each head (see `autograd.kernels.gemm`). For each block, the queries are
multiplied by the keys, and one pass over the scores does the rest: the mask, softmax, dropout. A
block multiplies only the keys from the first to the last that one of its queries sees. If attention
is causal, that halves the work; with a window, the work is proportional to the window. The threads
share the heads.

The results differ from NumPy's in the last digits, since products of blocks are summed in another
order and the sums of a row are in float64. They have the same bits with any number of threads. The
gradient of a mask is left to NumPy.
"""

import math
from functools import lru_cache
from itertools import combinations

import numpy as np
from numba import types
from numba.extending import overload
from numpy import ndarray

from autograd.kernels.cache import settings
from autograd.kernels.dropout import bits_at, mask_constants, row_key
from autograd.kernels.gemm import WIDTH, multiply, new_panels, new_rest, pack, pack_rest
from autograd.kernels.intrinsics import matrix_at
from autograd.kernels.jit import EXACT, OVERLOADS, address_of, inline, takes
from autograd.kernels.rows import dot, largest, sum_of
from autograd.kernels.team import row_kernel, split
from autograd.kernels.vector import exp

BLOCK = 24  # queries at a time: few, since causal attention computes all pairs of a block


@inline(EXACT)
def seen_by(start, stop, n_keys, window):
    """Return the first key that one of the queries ``start`` to ``stop - 1`` sees, and the end.

    A window of 3 means that query t sees the keys t - 2, t - 1 and t; of 60 keys, the queries 48
    to 71 then see keys from 46 up to the end, (46, 60). A window of 0 means that there is none,
    and every query sees all keys.
    """
    if window == 0:
        return 0, n_keys
    return min(max(start - window + 1, 0), n_keys), min(stop, n_keys)


@inline(EXACT)
def score_buffer(n_queries, n_keys, window, like):
    """Return an array that is large enough for the scores of any block, (queries, keys)."""
    rows = min(BLOCK, n_queries)
    seen = min(n_keys, rows + window + WIDTH // like.itemsize) if window else n_keys
    return np.empty((rows, seen), like.dtype)


@inline(EXACT)
def mask_row(row, mask):
    """Apply the part of a mask that belongs to one query to the query's scores."""
    for j in range(row.size):
        row[j] = masked(row[j], mask[j])


def masked(score, mask):
    """Return the score under one element of a mask.

    A boolean mask leaves the score where it is True and makes it -inf where it is False, so that
    the weight becomes exp(-inf) = 0. A mask of numbers is added. The type of the mask decides when
    the kernel is compiled; no branch is left in the loop.
    """
    raise RuntimeError("the kernels of attention run compiled only")


@overload(masked, jit_options=OVERLOADS)
def _(score, mask):
    if mask == types.boolean:
        return lambda score, mask: score if mask else -np.inf
    return lambda score, mask: score + mask


@row_kernel(EXACT)
def _attention(numbers, q, k, v, masks, out, largests, mask, sizes, window, scale, drops):
    """Attend for some heads; ``numbers (heads,)`` are their numbers among all heads.

    ``q``, ``k``, ``v`` and ``out (heads,)`` hold the address of each head's matrix, and ``sizes``
    the length of their rows, so that parts of a larger array need not be copied. Head h takes the
    mask ``mask[masks[h]]`` of ``mask (n, T or 1, S)``, which is empty if there is none. ``largests
    (heads, T)``.
    """
    n_queries, n_keys, depth, width, q_row, k_row, v_row, out_row = sizes
    seed, threshold, factor = drops
    size = largests.itemsize
    scores = score_buffer(n_queries, n_keys, window, largests)
    s, s_row = scores.ctypes.data, scores.shape[1] * size
    k_panels, v_rest = new_panels(depth, n_keys, largests), new_rest(n_keys, width, largests)
    columns = k_panels.shape[2]
    for h in range(numbers.size):
        if h == 0 or k[h] != k[h - 1] or v[h] != v[h - 1]:  # else the panels of h - 1 are its own
            keys = matrix_at(largests, k[h], n_keys, k_row, depth)
            pack(k_panels, keys, True, scale)  # scale K^T
            pack_rest(v_rest, matrix_at(largests, v[h], n_keys, v_row, width))
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            first, end = seen_by(start, start + rows, n_keys, window)
            first -= first % columns  # where a panel of keys begins
            # The scores of the block, Q (scale K^T). For queries 48 to 71 and causal attention,
            # these are queries (24, depth) times keys 0 to 71: (24, 72).
            multiply(
                rows, end - first, depth,
                q[h] + start * q_row * size, q_row * size, size,
                0, 0, k_panels, first // columns, 0, 0, 0, s, s_row,
            )  # fmt: skip
            # Row by row, softmax over the keys that query t itself sees. The block's other keys,
            # before `low` and from `high` on, get a weight of 0: query 50 sees keys 0 to 50, and
            # the last 21 of the 72 columns become 0.
            for i in range(rows):
                t = start + i
                low, high = seen_by(t, t + 1, n_keys, window)
                row = scores[i, low - first : high - first]
                if mask.size:
                    mask_row(row, mask[masks[h], min(t, mask.shape[1] - 1), low:high])
                largests[h, t] = normalize(row)
                if threshold:
                    drop(row, row_key(numbers[h] * n_queries + t, seed), low, threshold, factor)
                scores[i, : low - first] = 0
                scores[i, high - first : end - first] = 0
            # The weighted sums of the values.
            multiply(
                rows, width, end - first, s, s_row, size,
                v[h] + first * v_row * size, v_row * size, v_rest, 0, first, 0, 0,
                out[h] + start * out_row * size, out_row * size,
            )  # fmt: skip


@inline(EXACT)
def normalize(row):
    """Replace a row of scores by its softmax; return the largest score.

    A query that sees no key has scores of -inf alone, or none: all its weights become 0, and 0 is
    returned in the place of -inf, since -inf - (-inf) would be NaN.
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
    """Multiply a row by its part of the dropout mask; the row begins with key number `first`."""
    for j in range(row.size):
        kept = bits_at(key[0], key[1], first + j) >= threshold
        row[j] *= factor if kept else row.dtype.type(0)


@row_kernel(EXACT)
def _attention_vjp(
    numbers, q, k, v, masks, g, largests, g_q, g_k, g_v, mask, sizes, window, scale, drops
):  # fmt: skip
    """Compute the gradients of query, key and value from that of the output, all by address.

    The heads of a group share their keys: ``g`` and ``g_q (groups, heads)``, ``g_k`` and ``g_v
    (groups,)``. A group has one head if all heads have keys of their own.
    """
    for i in range(len(g_k)):
        _group_vjp(
            numbers[i], q[i], k[i], v[i], masks[i], g[i], largests[i], g_q[i], g_k[i], g_v[i],
            mask, sizes, window, scale, drops,
        )  # fmt: skip


@inline(EXACT)
def _group_vjp(
    numbers, q, k, v, masks, g, largests, g_q, g_k, g_v, mask, sizes, window, scale, drops
):  # fmt: skip
    """Compute the gradients of the queries of some heads, and of the keys that these share.

    They are written at ``g_q (heads,)``, where each head has a matrix (T, D), and at ``g_k`` (S, D)
    and ``g_v`` (S, V), which begin as zeros: each head and each block of queries adds to them.
    """
    real, like = largests.dtype.type, largests
    n_queries, n_keys, depth, width, q_row, k_row, v_row, g_row, g_q_row, g_k_row, g_v_row = sizes
    seed, threshold, factor = drops
    size = like.itemsize
    matrix_at(like, g_k, n_keys, g_k_row, depth)[:] = 0
    matrix_at(like, g_v, n_keys, g_v_row, width)[:] = 0
    weights = score_buffer(n_queries, n_keys, window, like)
    slopes = np.empty_like(weights)
    p, ds, s_row = weights.ctypes.data, slopes.ctypes.data, weights.shape[1] * size
    k_panels, v_panels = new_panels(depth, n_keys, like), new_panels(width, n_keys, like)
    k_rest, columns = new_rest(n_keys, depth, like), k_panels.shape[2]
    keys = matrix_at(like, k[0], n_keys, k_row, depth)
    pack(k_panels, keys, True, scale)  # scale K^T
    values = matrix_at(like, v[0], n_keys, v_row, width)
    pack(v_panels, values, True, real(1))  # V^T
    pack_rest(k_rest, keys)
    for h in range(numbers.size):
        for start in range(0, n_queries, BLOCK):
            rows = min(BLOCK, n_queries - start)
            first, end = seen_by(start, start + rows, n_keys, window)
            first -= first % columns
            q_rows, g_rows = q[h] + start * q_row * size, g[h] + start * g_row * size
            q_rest, g_rest = new_rest(rows, depth, like), new_rest(rows, width, like)
            pack_rest(q_rest, matrix_at(like, q_rows, rows, q_row, depth))
            pack_rest(g_rest, matrix_at(like, g_rows, rows, g_row, width))
            # Two products: the scores again, as in the forward pass, and dp = g V^T, the cotangent
            # of the weights, which is written to where the cotangent of the scores will stand.
            multiply(
                rows, end - first, depth, q_rows, q_row * size, size,
                0, 0, k_panels, first // columns, 0, 0, 0, p, s_row,
            )  # fmt: skip
            multiply(
                rows, end - first, width, g_rows, g_row * size, size,
                0, 0, v_panels, first // columns, 0, 0, 0, ds, s_row,
            )  # fmt: skip
            # Row by row: the weights p from the scores and the saved maximum, and the cotangent of
            # the scores, ds = p (dp - sum(p dp)) scale. The loop over j first leaves exp(score) in
            # `row`; `part` = 1 / total makes weights of these, and `mean` is sum(p dp). With
            # dropout dp passes through the mask before, and the weights that multiply g after.
            for i in range(rows):
                t = start + i
                low, high = seen_by(t, t + 1, n_keys, window)
                row = weights[i, low - first : high - first]
                slope = slopes[i, low - first : high - first]
                if mask.size:
                    mask_row(row, mask[masks[h], min(t, mask.shape[1] - 1), low:high])
                key = row_key(numbers[h] * n_queries + t, seed)
                for j in range(row.size):
                    row[j] = exp(row[j] - largests[h, t])
                if threshold:
                    drop(slope, key, low, threshold, factor)
                total = sum_of(row)
                total = total if total else 1.0  # 0 for a query that sees no key
                mean, part = real(dot(row, slope) / total), real(1 / total)
                for j in range(row.size):
                    row[j] *= part
                    slope[j] = row[j] * (slope[j] - mean) * scale
                if threshold:
                    drop(row, key, low, threshold, factor)
                for array in (weights, slopes):
                    array[i, : low - first] = 0
                    array[i, high - first : end - first] = 0
            # Three products: P^T g is added to the gradient of the values, dS K is that of the
            # queries, and dS^T Q is added to that of the keys.
            there = g_v + first * g_v_row * size
            multiply(
                end - first, width, rows, p, size, s_row, g_rows, g_row * size,
                g_rest, 0, 0, there, g_v_row * size, there, g_v_row * size,
            )  # fmt: skip
            multiply(
                rows, depth, end - first, ds, s_row, size,
                k[h] + first * k_row * size, k_row * size, k_rest, 0, first, 0, 0,
                g_q[h] + start * g_q_row * size, g_q_row * size,
            )  # fmt: skip
            there = g_k + first * g_k_row * size
            multiply(
                end - first, depth, rows, ds, size, s_row, q_rows, q_row * size,
                q_rest, 0, 0, there, g_k_row * size, there, g_k_row * size,
            )  # fmt: skip


def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size):
    """Return the attended values, and each query's largest score."""
    call = prepare(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)
    if call is None:
        return NotImplemented
    _alive, heads, static = call
    out = empty_like_rows(query, (*query.shape[:-1], value.shape[-1]))
    largest = np.empty((*query.shape[:-1], 1), query.dtype)
    _, where, out_row = by_address(out)
    rows = largest.reshape(len(where), -1)
    split(_attention, (*heads, where, rows), *with_rows(static, out_row), size=work(query, key))
    return out, largest


def attention_vjp(
    g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size, largest, needs
):  # fmt: skip
    """Return the gradients of query, key and value."""
    call = prepare(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)
    if call is None or needs[3] or not takes(g, query):
        return NotImplemented
    _alive, heads, static = call
    n, groups = len(heads[0]), math.prod(key.shape[:-2])
    if not lie_together(key.shape[:-2], query.shape[:-2]):
        return NotImplemented
    gradients = empty_like_parts(query, key, value)
    _arrays, places, row_lengths = zip(*map(by_address, (g, *gradients)), strict=True)
    of_g, of_query, of_key, of_value = places
    heads = [x.reshape(groups, -1) for x in (*heads, of_g)]
    largest = largest.reshape(groups, n // groups, -1)  # (groups, heads, T)
    results = of_query.reshape(groups, -1), of_key, of_value
    static = with_rows(static, *row_lengths)
    split(_attention_vjp, (*heads, largest, *results), *static, size=work(query, key))
    return *gradients, None


def with_rows(static, *row_lengths):
    """Return what `prepare` returned for all heads, with more lengths of rows among its sizes."""
    mask, sizes, *others = static
    return mask, (*sizes, *row_lengths), *others


def empty_like_rows(x, shape):
    """Return a new array whose axes lie in memory in the order of those of x.

    A model cuts its heads out of (B, T, H D) and joins them again: queries (B, H, T, D) that lie in
    memory as (B, T, H, D) give a result that lies so, too, and nothing is copied to join the heads.
    """
    out = np.empty_like(x, shape=shape)
    return out if out.strides[-1] == out.itemsize else np.empty(shape, x.dtype)


def empty_like_parts(*parts):
    """Return a new array for each of some arrays, which lie in memory as these do.

    If these are the parts of one array, as after ``np.split``, so are the new arrays, and the
    gradient of the split need not join them.
    """
    whole = parts[0].base
    if (
        type(whole) is ndarray
        and whole.dtype == parts[0].dtype  # not so after byteswap().view(...)
        and whole.flags.c_contiguous
        and all(x.base is whole and x.strides[-1] == x.itemsize for x in parts)
        and sum(x.size for x in parts) == whole.size
        and not any(np.shares_memory(x, y) for x, y in combinations(parts, 2))
    ):
        new, start = np.empty_like(whole), address_of(whole)
        return [ndarray(x.shape, x.dtype, new, address_of(x) - start, x.strides) for x in parts]
    return [empty_like_rows(x, x.shape) for x in parts]


def work(query, key):
    """Return how much a call computes, in the unit of `split`, elements of a simple loop.

    The scores count one each. Reading a key costs as much as depth / 16 scores, which matters for a
    single query.
    """
    return query.size // query.shape[-1] * key.shape[-2] + key.size // 16


def prepare(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size):
    """Return the arrays that a call reads, and what the loops need for each head and for all.

    Or None, if the kernels are not compiled for these arrays, or not at all. The loops get
    addresses, which do not keep an array in memory: so the caller keeps the arrays until they are
    done.
    """
    if not takes(query, key, value) or settings.DISABLE_JIT:
        return None
    if not (query.size and key.size and value.size):
        return None
    (n_queries, depth), (n_keys, width) = query.shape[-2:], value.shape[-2:]
    mask, masks = NO_MASK, numbers_of((), query.shape[:-2])
    if attn_mask is not None:
        mask, masks = masks_of_heads(attn_mask, query.shape[:-2], n_keys, query.dtype)
    window = min(window_size or n_queries, n_queries) if is_causal else 0
    drops = mask_constants(dropout_p, seed, query.dtype)  # a threshold of 0 means no dropout
    matrices, addresses, row_lengths = zip(*map(by_address, (query, key, value)), strict=True)
    if key.shape[:-2] != query.shape[:-2]:
        numbers = numbers_of(key.shape[:-2], query.shape[:-2])
        addresses = addresses[0], addresses[1][numbers], addresses[2][numbers]
    sizes = n_queries, n_keys, depth, width, *row_lengths
    heads = np.arange(len(addresses[0])), *addresses, masks
    return matrices, heads, (mask, sizes, window, query.dtype.type(scale), drops)


NO_MASK = np.empty((1, 0, 0), bool)


def masks_of_heads(mask, lead, n_keys, dtype):
    """Return a mask as (n, T or 1, S), and for each head the number of its mask.

    For 2 sequences of 3 heads, ``lead`` is (2, 3). A mask (2, 1, 1, S), one for each sequence,
    becomes (2, 1, S), and the heads take the masks [0, 0, 0, 1, 1, 1]. Nothing is repeated.
    """
    rows = mask.shape[-2] if mask.ndim > 1 else 1
    if mask.ndim < 2 or mask.shape[-1] != n_keys:
        mask = np.broadcast_to(mask, (*mask.shape[:-2], rows, n_keys))
    masks = numbers_of(mask.shape[:-2], lead)
    # Numba compiles a second version of a kernel for read-only arrays, so we ask for a writable
    # array, which is copied if the mask was not.
    mask = np.require(mask, bool if mask.dtype == bool else dtype, "CW")
    return mask.reshape(-1, rows, n_keys), masks


@lru_cache(maxsize=64)
def numbers_of(few, lead):
    """Return for each head the number of its mask, or of its keys, whose leading axes broadcast.

    For ``few`` = (2, 1) and ``lead`` = (2, 3), that is [0, 0, 0, 1, 1, 1].
    """
    numbers = np.arange(math.prod(few)).reshape(few)
    return np.array(np.broadcast_to(numbers, lead)).reshape(-1)


@lru_cache(maxsize=64)
def lie_together(few, lead):
    """Return whether the heads that share their keys lie side by side, as [0, 0, 0, 1, 1, 1]."""
    numbers = numbers_of(few, lead)
    return np.array_equal(numbers, np.sort(numbers))


def by_address(x):
    """Return an array, the address of each of its matrices, and how far apart their rows begin.

    BLAS needs the elements of a row side by side; the rows may be any distance apart. A model cuts
    its heads out of one projection (T, 3 * 12 * 64): each has rows of 64 elements that begin 2304
    elements apart, and is read where it is. Anything else is copied first.
    """
    *_, rows, columns = x.shape
    # NumPy may give any stride to an axis of one element: it says nothing about the distance
    step = x.strides[-2] if rows > 1 else columns * x.itemsize
    if x.strides[-1] != x.itemsize or step < columns * x.itemsize or step % x.itemsize:
        x, step = np.ascontiguousarray(x), columns * x.itemsize
    return x, address_of(x) + offsets(x.shape[:-2], x.strides[:-2]), step // x.itemsize


@lru_cache(maxsize=64)
def offsets(shape, strides):
    """Return the distance of each element from the first, in bytes, in C order.

    For shape (2, 3) and strides (24, 8) that is [0, 8, 16, 24, 32, 40].
    """
    out = np.zeros(1, np.intp)
    for size, stride in zip(shape, strides, strict=True):
        out = np.add.outer(out, stride * np.arange(size)).reshape(-1)
    return out
