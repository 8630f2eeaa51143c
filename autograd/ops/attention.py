"""Scaled dot-product attention: the function with PyTorch's options, and the op behind it.

The function fills in defaults and draws the seed of dropout. The op computes, block by block of
queries, so that no (T, S) matrix of scores is ever stored.
"""

import math

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.checks import check_count, check_floats, check_number, check_probability
from autograd.ops.dropout import dropout_like, dropout_mask, new_seed
from autograd.ops.index import as_array
from autograd.ops.normalization import softmax
from autograd.precision import in_single
from autograd.pullback import sum_to_shape

# How many queries are treated together. With T = S = 1024, the scores of a block are (64, 1024) in
# the place of (1024, 1024). If attention is causal, the first block multiplies 64 keys only, the
# second 128, and so on: about half of the work is left out.
QUERY_BLOCK = 64


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    generator=None,
    window_size=None,
    enable_gqa=False,
):
    """softmax(query key^T scale + mask) value, as PyTorch's function of that name.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1. Memory is linear in T and S; with a window,
    work is proportional to T times the window.

    Parameters
    ----------
    query : Tensor or ndarray, (..., T, D)
    key : Tensor or ndarray, (..., S, D)
    value : Tensor or ndarray, (..., S, V)
        The leading axes of all three broadcast together. Keys and values are not copied where they
        have the same leading axes, of 1 or of the query's length.
    attn_mask : Tensor or ndarray, broadcasting to (..., T, S), optional
        Booleans (True takes part), or numbers to add, which may require a gradient.
    dropout_p : float
        The probability that a weight, an element of the softmax, becomes 0. Each call draws one
        seed from `generator`, a ``numpy.random.Generator``.
    is_causal : bool
        Hide keys after the query's own position.
    scale : float, optional
        1 / sqrt(D) if not given.
    window_size : int, optional
        With `is_causal`: a query sees its own position and the ``window_size - 1`` before it.
    enable_gqa : bool
        Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245): the axis before T counts
        heads, and `key` and `value` have fewer heads than `query`. With 6 query heads and 2 key
        heads, the query heads 0, 1, 2 look at key head 0, and 3, 4, 5 at key head 1. Keys and
        values are not copied.

    Returns
    -------
    Tensor or ndarray, (..., T, V)
        Zeros for a query that may see no key.

    Raises
    ------
    TypeError
        If the mask holds integers: 0 and 1 could be meant as booleans, or be added.
    ValueError
        If the shapes do not fit, if the number of query heads is no multiple of the number of key
        heads, or if the window is smaller than 1 or without `is_causal`.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> x = np.zeros((4, 1))  # all keys look alike: the result is the mean of the values
    >>> value = np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> look = autograd.nn.scaled_dot_product_attention
    >>> look(x, x, value, is_causal=True, window_size=2).tolist()
    [[1.0], [2.0], [4.0], [6.0]]
    """
    check_probability("scaled_dot_product_attention", "dropout_p", dropout_p)
    if scale is not None:
        check_number("scaled_dot_product_attention", "scale", scale)
    if not isinstance(is_causal, bool | np.bool):
        raise TypeError(
            f"scaled_dot_product_attention: is_causal is {is_causal!r}; expected True or False"
        )
    if window_size is not None:
        check_count("scaled_dot_product_attention", "window_size", window_size, -math.inf)
    if window_size is not None and (window_size < 1 or not is_causal):
        raise ValueError(
            f"scaled_dot_product_attention: window_size is {window_size} and is_causal "
            f"{is_causal}; expected a window of 1 or more, with is_causal=True"
        )
    query, attn_mask = as_array(query), as_array(attn_mask)
    shape = query.shape
    key, value = as_array(key), as_array(value)
    if enable_gqa:
        query, key, value, attn_mask = grouped(query, key, value, attn_mask)
    query, key, value = with_leading_axes(query, key, value)
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1] if query.ndim else 0, 1))
    seed = new_seed(generator, query.shape) if dropout_p else 0
    out = attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)
    if enable_gqa:  # the axes of key heads and of their groups become one again
        out = np.reshape(out, (*out.shape[:-4], *shape[-3:-1], out.shape[-1]))
    return out


def with_leading_axes(query, key, value):
    """Return query, key and value with leading axes that the op `attention` takes.

    They may broadcast in any way: query (2, 1, T, D), key (3, S, D) and value (2, 1, S, V) become
    (2, 3, T, D), (2, 3, S, D) and (2, 3, S, V). The op itself broadcasts keys and values to the
    query, if both have the same leading axes; so with query (2, 3, T, D), key (3, S, D) and value
    (3, S, V) become (1, 3, S, D) and (1, 3, S, V) only.
    """
    lead, shared = query.shape[:-2], key.shape[:-2]
    if shared == value.shape[:-2] and (lead == shared or fits(lead, shared)):
        return query, key, value
    try:
        shared = np.broadcast_shapes(shared, value.shape[:-2])
        lead = np.broadcast_shapes(lead, shared)
    except ValueError:
        return query, key, value  # the op says what does not fit
    shared = (1,) * (len(lead) - len(shared)) + shared
    return tuple(
        x if x.shape[:-2] == axes else np.broadcast_to(x, (*axes, *x.shape[-2:]))
        for x, axes in ((query, lead), (key, shared), (value, shared))
    )


def grouped(query, key, value, attn_mask):
    """Return the arguments of grouped-query attention with an axis for the groups.

    With 6 query heads and 2 key heads, ``query (..., 6, T, D)`` becomes ``(..., 2, 3, T, D)``, and
    ``key (..., 2, S, D)`` becomes ``(..., 2, 1, S, D)``, which is broadcast over the 3 query heads
    of a group.
    """
    if min(query.ndim, key.ndim, value.ndim) < 3 or query.shape[-3] % max(key.shape[-3], 1):
        raise ValueError(
            f"scaled_dot_product_attention: query {query.shape} and key {key.shape} do not fit "
            "enable_gqa; expected (..., H, T, D) and (..., K, S, D), with H a multiple of K"
        )
    heads, key_heads = query.shape[-3], key.shape[-3]
    groups = (key_heads, heads // max(key_heads, 1))
    query = np.reshape(query, (*query.shape[:-3], *groups, *query.shape[-2:]))
    key, value = np.expand_dims(key, -3), np.expand_dims(value, -3)
    if attn_mask is not None and attn_mask.ndim > 2:  # a mask may have an axis of heads, or of 1
        split = groups if attn_mask.shape[-3] == heads else (attn_mask.shape[-3], 1)
        lead = attn_mask.shape[:-3]
        attn_mask = np.reshape(attn_mask, (*lead, *split, *attn_mask.shape[-2:]))
    return query, key, value, attn_mask


def fits(lead, shared):
    """Return whether the leading axes of keys have the query's lengths, or 1."""
    return len(lead) == len(shared) and all(k in (1, q) for q, k in zip(lead, shared, strict=True))


def check_attention(
    query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size=None
):  # fmt: skip
    """Raise unless query, key, value and mask fit each other, and hold numbers to compute with."""
    if (
        min(query.ndim, key.ndim, value.ndim) < 2
        or not fits(query.shape[:-2], key.shape[:-2])
        or query.shape[-1] != key.shape[-1]
        or key.shape[:-1] != value.shape[:-1]
    ):
        raise ValueError(
            f"attention: query {query.shape}, key {key.shape} and value {value.shape} do not fit; "
            "expected (..., T, D), (..., S, D) and (..., S, V), with leading axes that broadcast"
        )
    check_floats("attention", query=query, key=key, value=value)
    if attn_mask is None:
        return
    if attn_mask.dtype.kind not in "bf":
        raise TypeError(
            f"scaled_dot_product_attention: attn_mask has dtype {attn_mask.dtype}; expected "
            "booleans (True takes part), attn_mask.astype(bool), or floating-point numbers to add"
        )
    shape = (*query.shape[:-1], key.shape[-2])
    added = len(shape) - attn_mask.ndim
    if added < 0 or any(n not in (1, shape[added + i]) for i, n in enumerate(attn_mask.shape)):
        raise ValueError(
            f"scaled_dot_product_attention: attn_mask has shape {attn_mask.shape}, which does not "
            f"broadcast to (..., T, S) = {shape}"
        )


@op(saves=("largest",))
@kernel("attention.attention", check=check_attention)
def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size=None):
    """Attention with every argument given; see `scaled_dot_product_attention`.

    Shapes: ``query (..., T, D)``, ``key (..., S, D)``, ``value (..., S, V)`` -> ``(..., T, V)``.
    A leading axis of 1 of keys and values is broadcast to that of the queries, without a copy.
    Each query's largest score, ``(..., T, 1)``, is saved, so that the rule can compute the softmax
    again.
    """
    dtype = query.dtype
    query, key, value = map(in_single, (query, key, value))
    out = np.empty((*query.shape[:-1], value.shape[-1]), query.dtype)
    largest = np.empty((*query.shape[:-1], 1), query.dtype)
    for block in QueryBlocks(query, key, attn_mask, dropout_p, is_causal, seed, window_size):
        p = block.scores(scale)  # (..., block, keys)
        top = np.max(p, axis=-1, keepdims=True, initial=-np.inf)
        top[top == -np.inf] = 0
        largest[..., block.rows, :] = top
        exp_normalized(p, top)
        if dropout_p:
            p *= block.dropout()
        out[..., block.rows, :] = p @ value[..., block.keys, :]
    return out.astype(dtype, copy=False), largest


def exp_normalized(scores, largest):
    """Make scores their softmax, in place; a query that sees no key has weights of 0."""
    scores -= largest
    np.exp(scores, out=scores)
    total = np.sum(scores, axis=-1, keepdims=True)
    total[total == 0] = 1
    scores /= total


@attention.formula(
    r=lambda query_shape, key_shape, dropout_p, seed: dropout_like(
        (*query_shape[:-1], key_shape[-2]), dropout_p, seed, float
    )
)
def _(
    attn_mask=None, dropout_p=0.0, is_causal=True, window_size=None,
    query_shape=(2, 2), key_shape=(2, 2),
):  # fmt: skip
    mask, added = "attn_mask_ts", ""
    hidden = " - ∞ · [s > t]" if is_causal else ""
    if window_size is not None:
        hidden += " - ∞ · [s ≤ t - window_size]"
    if attn_mask is not None:
        mask = "attn_mask_s" if attn_mask.ndim == 1 else mask
        if attn_mask.dtype == bool:
            hidden += f" - ∞ · [{mask} = 0]"
        else:
            added = f" + {mask}"
    dropped = " · r_ts" if dropout_p else ""
    weights = "p_ts = exp(a_ts - m_t) / Σ_u exp(a_tu - m_t)"
    seen = np.ones((1, 1), bool)
    if is_causal:
        seen = seen_keys(query_shape[-2], key_shape[-2], window_size)
    if attn_mask is not None:
        seen = seen & (attn_mask if attn_mask.dtype == bool else attn_mask > -np.inf)
    if not seen.any(axis=-1).all():
        weights = """
            z_t = Σ_u [a_tu > -∞] · exp(a_tu - m_t)
            p_ts = [z_t > 0] · (exp(a_ts - m_t) / z_t)  # 0 for a query that sees no key
        """
    return f"""
        a_ts = scale · (Σ_d query_td · key_sd){added}{hidden}
        m_t = max_s a_ts
        {weights}
        out_te = Σ_s p_ts{dropped} · value_se
        dvalue_se = Σ_t p_ts{dropped} · g_te
        dp_ts = (Σ_e g_te · value_se){dropped}
        da_ts = p_ts · (dp_ts - Σ_u p_tu · dp_tu)
        dquery_td = scale · Σ_s da_ts · key_sd
        dkey_sd = scale · Σ_t da_ts · query_td
        {f"d{mask} = {'' if mask.endswith('ts') else 'Σ_t '}da_ts" if added else ""}
    """


def seen_keys(n_queries, n_keys, window_size):
    """Return which keys each query sees if attention is causal: booleans (T, S)."""
    seen = np.tri(n_queries, n_keys, dtype=bool)
    if window_size is not None:
        seen &= ~np.tri(n_queries, n_keys, -window_size, dtype=bool)
    return seen


@attention.vjp("query", "key", "value", "attn_mask")
@kernel("attention.attention_vjp")
def _(
    g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size, largest, needs
):  # fmt: skip
    # For each block, p is computed again from the scores. Then, with dp the cotangent of p, that of
    # the scores is p (dp - sum(p dp)), as in softmax's rule. A block's queries see many keys, so
    # the gradients of key, value and mask are sums over blocks; that of query is not.
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    g_mask = np.zeros(attn_mask.shape, attn_mask.dtype) if needs[3] else None
    for block in QueryBlocks(query, key, attn_mask, dropout_p, is_causal, seed, window_size):
        p = block.scores(scale)
        exp_normalized(p, largest[..., block.rows, :])
        g_rows = g[..., block.rows, :]
        dp = g_rows @ np.swapaxes(value[..., block.keys, :], -1, -2)  # (..., block, keys)
        dropped = p
        if dropout_p:
            mask = block.dropout()
            dropped = p * mask
            dp *= mask
        add_to_keys(g_value, block.keys, np.swapaxes(dropped, -1, -2) @ g_rows)
        dp -= np.sum(p * dp, axis=-1, keepdims=True)
        dp *= p
        if needs[3]:
            block.add_to_mask(g_mask, dp)
        dp *= scale
        g_query[..., block.rows, :] = dp @ key[..., block.keys, :]
        add_to_keys(g_key, block.keys, np.swapaxes(dp, -1, -2) @ query[..., block.rows, :])
    return g_query, g_key, g_value, g_mask


def add_to_keys(total, keys, part):
    """Add what a block gives for its keys, (..., keys, D), summed over broadcast leading axes."""
    rows = total[..., keys, :]
    rows += sum_to_shape(part, rows.shape)


class QueryBlocks:
    """The blocks of queries of one call; iterating yields this object, set to one block at a time.

    For 150 queries, ``rows`` is slice(0, 64), slice(64, 128), slice(128, 150) in turn. ``keys``
    reaches from the first key to the last that a query of the block may see: if attention is
    causal, slice(0, 64), slice(0, 128), slice(0, 150); with a window of 10 keys in addition,
    slice(0, 64), slice(55, 128), slice(119, 150).
    """

    def __init__(self, query, key, attn_mask, dropout_p, is_causal, seed, window_size):
        self.query, self.key, self.mask = query, key, attn_mask
        self.dropout_p, self.seed = dropout_p, seed
        self.is_causal, self.window_size = is_causal, window_size
        self.n_queries, self.n_keys = query.shape[-2], key.shape[-2]

    def __iter__(self):
        for start in range(0, self.n_queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, self.n_queries)
            self.rows = slice(start, stop)
            end = min(stop, self.n_keys) if self.is_causal else self.n_keys
            first = 0 if self.window_size is None else max(0, start - self.window_size + 1)
            self.keys = slice(min(first, end), end)
            yield self

    def scores(self, scale):
        """Return the scores of the block, (..., block, keys); -inf where a query may not look."""
        keys = np.swapaxes(self.key[..., self.keys, :], -1, -2)
        s = (self.query[..., self.rows, :] * scale) @ keys
        if self.is_causal:
            i, j = np.ogrid[self.rows, self.keys]
            hidden = j > i
            if self.window_size is not None:
                hidden |= j <= i - self.window_size
            np.copyto(s, -np.inf, where=hidden)
        if self.mask is not None:
            shape = (*s.shape[:-2], self.n_queries, self.n_keys)
            mask = np.broadcast_to(self.mask, shape)[..., self.rows, self.keys]
            if mask.dtype == bool:
                np.copyto(s, -np.inf, where=~mask)
            else:
                s += mask.astype(s.dtype)
        return s

    def add_to_mask(self, mask, scores):
        """Add cotangents of the block's scores, (..., block, keys), to the gradient of the mask.

        The mask may have one row for all queries, or one column for all keys; then the cotangents
        are summed over the axes on which it was broadcast.
        """
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        part = mask[
            ...,
            self.rows if mask.shape[-2] > 1 else slice(None),
            self.keys if mask.shape[-1] > 1 else slice(None),
        ]
        part += sum_to_shape(scores, part.shape)

    def dropout(self):
        """Return the block's part of the dropout mask, which spans (..., T, S).

        Row t of head h has the number ``h * T + t``. With 2 heads of 150 queries, the second block
        has the rows 64 to 127 and 214 to 277.
        """
        *lead, n_queries, _ = self.query.shape
        heads, i = np.arange(math.prod(lead)), np.arange(self.rows.start, self.rows.stop)
        numbers = np.add.outer(heads * n_queries, i).reshape(-1)
        keys = np.arange(self.keys.start, self.keys.stop)
        mask = dropout_mask(numbers, keys, self.dropout_p, self.seed, self.query.dtype)
        return mask.reshape(*lead, len(i), len(keys))


@attention.reference
def _(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size=None):
    scores = query @ np.swapaxes(key, -1, -2) * scale  # (..., T, S)
    if is_causal:
        scores = np.where(seen_keys(*scores.shape[-2:], window_size), scores, -np.inf)
    if attn_mask is not None:
        boolean = attn_mask.dtype == bool
        scores = np.where(attn_mask, scores, -np.inf) if boolean else scores + attn_mask
    blind = np.all(scores == -np.inf, axis=-1, keepdims=True)  # queries that see no key
    p = np.where(blind, 0, softmax(np.where(blind, 0, scores), -1))
    if dropout_p:
        p = p * dropout_like(p.shape, dropout_p, seed, p.dtype)
    return p @ value


@attention.sample
def _(draw):
    batch = draw.shape(max_dims=2, max_side=2)
    n_queries, n_keys = draw.integer(1, 4), draw.integer(1, 4)
    query = draw.array(shape=(*batch, n_queries, 2))
    lead = draw.choice([batch, (*batch[:-1], *[1] * len(batch[-1:]))])  # one key for a group
    key, value = draw.array(shape=(*lead, n_keys, 2)), draw.array(shape=(*lead, n_keys, 3))
    mask = draw.integers((n_queries, n_keys), 0, 1).astype(bool)
    if draw.boolean():  # every query sees a key
        mask[:, 0] = True
        np.fill_diagonal(mask, True)
    sizes = [
        (n_queries, n_keys),
        (n_keys,),
        (n_queries, 1),
        (*batch[:1], *[1] * len(batch), n_keys),
    ]
    mask = draw.choice([None, mask, draw.array(shape=draw.choice(sizes))])
    is_causal = draw.boolean()
    window_size = draw.choice([None, 1, 2]) if is_causal else None
    dropout_p, seed = draw.choice([0.0, 0.4]), draw.integer(0, 99)
    return draw.call(query, key, value, mask, dropout_p, is_causal, 0.7, seed, window_size)
