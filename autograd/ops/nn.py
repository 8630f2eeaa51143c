"""What networks need and NumPy lacks, with the argument names of ``torch.nn.functional``.

Most ops here are *fused*: one step on the tape, written in NumPy with a rule of its own, and beside
it a reference that says the same in primitives. The reference is the proof of the op (tests compare
values and gradients) and its route to higher derivatives.
"""

import math

import numpy as np

from autograd.op import op
from autograd.ops.linalg import rows
from autograd.ops.special import erf, random_bits

# ---- activations


@op(kinks=(0.0,))
def relu(input):
    """max(0, x); the gradient at 0 is 0."""
    return np.maximum(input, 0)


relu.vjp(input=lambda g, out: g * (out > 0))


@op(kinks=(0.0,))
def leaky_relu(input, negative_slope=0.01):
    """Return x where it is positive, negative_slope x elsewhere; at 0 the gradient is the slope."""
    return np.where(input > 0, input, negative_slope * input)


@leaky_relu.vjp("input")
def _(g, input, negative_slope):
    return np.where(input > 0, g, negative_slope * g)


@op(kinks=(0.0,))
def elu(input, alpha=1.0):
    """Return x where it is positive, alpha (e^x - 1) elsewhere. Clevert et al. 2015."""
    return np.where(input > 0, input, alpha * np.expm1(np.minimum(input, 0)))


elu.vjp(input=lambda g, input, alpha, out: np.where(input > 0, g, g * (out + alpha)))


@op
def sigmoid(input):
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # 1 / infinity is the 0 that it is
        return 1 / (1 + np.exp(-input))


sigmoid.vjp(input=lambda g, out: g * (out * (1 - out)))


@op
def silu(input):
    """Swish, x sigmoid(x)."""
    return input * sigmoid(input)


@silu.vjp("input")
def _(g, input, out):
    s = sigmoid(input)
    return g * (s + out * (1 - s))


@op
def softplus(input):
    """log(1 + e^x), without overflow."""
    return np.logaddexp(input, 0)


softplus.vjp(input=lambda g, input, out: g * np.exp(input - out))


def logsigmoid(input):
    """log(sigmoid(x)), without overflow."""
    return -softplus(-input)


@op(saves=("phi",))
def gelu(input, approximate="none"):
    """Gaussian error linear unit, x Phi(x), with Phi the normal distribution function.

    ``approximate="tanh"`` takes 1/2 (1 + tanh(u)) for Phi, with u = sqrt(2/pi) (x + 0.044715 x^3):
    GPT-2's choice. Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    phi = np.empty_like(input, order="C")
    for x, out in blocks(input, phi):
        if approximate == "tanh":  # 1/2 (1 + tanh(u)) = 1 / (1 + exp(-2u)), at half the cost
            with np.errstate(over="ignore"):  # 1 / infinity is the 0 that Phi is
                np.multiply(x, x, out=out)
                out *= -2 * 0.044715 * _SQRT_2_PI
                out -= 2 * _SQRT_2_PI
                out *= x
                np.exp(out, out=out)
            out += 1
            np.divide(1, out, out=out)
        else:
            out[...] = erf(x * math.sqrt(0.5))
            out += 1
            out *= 0.5
    return input * phi, phi


_SQRT_2_PI = math.sqrt(2 / math.pi)


@gelu.vjp("input")
def _(g, input, approximate, phi):
    gradient = np.empty_like(phi)
    for x, p, gx, out in blocks(input, phi, g, gradient):  # g (Phi + x dPhi/dx)
        square = x * x
        if approximate == "tanh":  # dPhi/dx = 2 Phi (1 - Phi) du/dx
            np.multiply(square, 6 * 0.044715 * _SQRT_2_PI, out=out)
            out += 2 * _SQRT_2_PI
            out *= p
            out *= 1 - p
        else:  # dPhi/dx is the normal density
            square *= -0.5
            np.exp(square, out=out)
            out *= 1 / math.sqrt(2 * math.pi)
        out *= x
        out += p
        out *= gx
    return gradient


@gelu.reference
def _(input, approximate):
    if approximate == "tanh":
        return input * 0.5 * (1 + np.tanh(_SQRT_2_PI * (input + 0.044715 * input**3)))
    return input * 0.5 * (1 + error_function(input * math.sqrt(0.5)))


@gelu.sample
def _(draw):
    return draw.call(draw.array(low=-4, high=4), draw.choice(["none", "tanh"]))


@op
def error_function(x):
    """erf(x) = 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return erf(x)


error_function.vjp(x=lambda g, x: g * (2 / math.sqrt(math.pi) * np.exp(-x * x)))


# ---- normalization


@op
def softmax(input, dim=-1):
    """exp(x) / sum(exp(x)) along an axis."""
    out = np.exp(input - np.max(input, axis=dim, keepdims=True))
    out /= np.sum(out, axis=dim, keepdims=True)
    return out


softmax.vjp(input=lambda g, out, dim: out * (g - np.sum(g * out, axis=dim, keepdims=True)))


@softmax.reference
def _(input, dim):
    e = np.exp(input)
    return e / np.sum(e, axis=dim, keepdims=True)


@softmax.sample
def _(draw):
    x = draw.array(min_dims=1, min_side=1)
    return draw.call(x, draw.axis(x.ndim))


@op
def log_softmax(input, dim=-1):
    """Logarithm of softmax: x - log(sum(exp(x))) along an axis."""
    shifted = input - np.max(input, axis=dim, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True))


log_softmax.vjp(
    input=lambda g, out, dim: g - np.exp(out) * np.sum(g, axis=dim, keepdims=True),
)


@log_softmax.reference
def _(input, dim):
    return input - np.log(np.sum(np.exp(input), axis=dim, keepdims=True))


log_softmax.sample(softmax.sampler)


@op(saves=("mean", "rstd"))
def layer_norm(input, normalized_shape, weight, bias, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, or the last few.

    Shapes: ``input (..., *normalized_shape)``, ``weight`` and ``bias`` ``normalized_shape`` or
    None. Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 3 and 4.
    """
    if input.shape[input.ndim - len(normalized_shape) :] != tuple(normalized_shape):
        raise ValueError(
            f"layer_norm: the last axes of input, of shape {input.shape}, are not "
            f"normalized_shape {tuple(normalized_shape)}"
        )
    n = math.prod(normalized_shape)
    x = input.reshape(-1, n)  # (rows, n)
    ones = np.ones(n, x.dtype)  # the sum of a row as a product: BLAS is three times faster
    mean = (x @ ones / n)[:, None]
    out = x - mean
    rstd = 1 / np.sqrt(np.vecdot(out, out)[:, None] / n + eps)
    out *= rstd
    if weight is not None:
        out *= weight.reshape(n)
    if bias is not None:
        out += bias.reshape(n)
    return out.reshape(input.shape), mean, rstd


@layer_norm.vjp("input", "weight", "bias")
def _(g, input, normalized_shape, weight, bias, eps, mean, rstd, needs):
    n = math.prod(normalized_shape)
    x, g = input.reshape(-1, n), g.reshape(-1, n)  # (rows, n)
    normal = x - mean
    normal *= rstd
    g_input = g_weight = g_bias = None
    if needs[2]:
        g_bias = np.add.reduce(g, axis=0).reshape(bias.shape)
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - mean(g') - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(n)
        normal *= (np.vecdot(g_normal, normal) / n)[:, None]
        g_input = g_normal - (g_normal @ np.ones(n, g.dtype) / n)[:, None]
        g_input -= normal
        g_input *= rstd
        g_input = g_input.reshape(input.shape)
    return g_input, g_weight, g_bias


@layer_norm.reference
def _(input, normalized_shape, weight, bias, eps):
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - np.mean(input, axis=axes, keepdims=True)
    out = centred / np.sqrt(np.mean(centred**2, axis=axes, keepdims=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


@layer_norm.sample
def _(draw):
    shape = (*draw.shape(max_dims=2), draw.integer(2, 4))
    normalized = shape[-1:] if draw.boolean() else shape[-2:]
    if 0 in normalized:
        normalized = shape[-1:]
    x = draw.array(shape=shape, low=-0.5, high=0.5)
    x += 2 * np.arange(shape[-1])  # the function is as good as singular where the variance is 0
    weight, bias = draw.array(shape=normalized), draw.array(shape=normalized)
    return draw.call(x, normalized, weight, draw.choice([bias, None]), 1e-5)


@op(saves=("rstd",))
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Scale x / sqrt(mean(x^2) + eps) * weight over the last axis, or the last few.

    Without `eps`, the spacing of the dtype at 1. Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    n = math.prod(normalized_shape)
    x = input.reshape(-1, n)  # (rows, n)
    eps = np.finfo(x.dtype).eps if eps is None else eps
    rstd = (1 / np.sqrt(np.vecdot(x, x) / n + eps))[:, None].astype(x.dtype)
    out = x * rstd
    if weight is not None:
        out *= weight.reshape(n)
    return out.reshape(input.shape), rstd


@rms_norm.vjp("input", "weight")
def _(g, input, normalized_shape, weight, eps, rstd, needs):
    n = math.prod(normalized_shape)
    normal, g = input.reshape(-1, n) * rstd, g.reshape(-1, n)  # (rows, n)
    g_input = g_weight = None
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(n)
        normal *= (np.vecdot(g_normal, normal) / n)[:, None]
        g_input = ((g_normal - normal) * rstd).reshape(input.shape)
    return g_input, g_weight


@rms_norm.reference
def _(input, normalized_shape, weight, eps):
    axes = tuple(range(-len(normalized_shape), 0))
    eps = np.finfo(input.dtype).eps if eps is None else eps
    out = input / np.sqrt(np.mean(input * input, axis=axes, keepdims=True) + eps)
    return out if weight is None else out * weight


@rms_norm.sample
def _(draw):
    shape = (*draw.shape(max_dims=2), draw.integer(1, 4))
    x = draw.array(shape=shape, low=0.5)
    return draw.call(x, shape[-1:], draw.choice([draw.array(shape=shape[-1:]), None]), 1e-5)


# ---- tables, products and losses


@op
def affine(input, weight, bias):
    """Input @ weight + bias, with ``weight (in, out)`` and ``bias (out,)`` or None."""
    out = rows(input) @ weight  # (..., in) -> (n, in) @ (in, out)
    if bias is not None:
        out += bias
    return out.reshape(*input.shape[:-1], weight.shape[1])


affine.vjp(
    input=lambda g, weight, input_shape: np.reshape(
        rows(g) @ np.swapaxes(weight, 0, 1), input_shape
    ),
    weight=lambda g, input: np.swapaxes(rows(input), 0, 1) @ rows(g),
    bias=lambda g: np.add.reduce(rows(g), axis=0),
)


@affine.reference
def _(input, weight, bias):
    return input @ weight + (0 if bias is None else bias)


@affine.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), 3))
    return draw.call(x, draw.array(shape=(3, 2)), draw.choice([draw.array(shape=(2,)), None]))


@op
def embedding(input, weight):
    """Rows of a table: ``weight[input]``, for an integer array of any shape."""
    return weight[input]


@embedding.vjp("weight")
def _(g, input, weight_shape):
    return scatter_rows(g, input, weight_shape)


@embedding.sample
def _(draw):
    return draw.call(draw.integers(draw.shape(), 0, 2), draw.array(shape=(3, 2)))


@op
def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of ``values`` added to the row that ``index`` names."""
    index, flat = index.reshape(-1), rows(values)
    out = np.zeros(shape, values.dtype)
    if index.size:
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        out[ordered[starts]] = np.add.reduceat(flat[order], starts, axis=0)
    return out


scatter_rows.vjp(values=lambda g, index: embedding(index, g))


@scatter_rows.sample
def _(draw):
    index = draw.integers(draw.shape(), 0, 2)
    return draw.call(draw.array(shape=(*index.shape, 2)), index, (3, 2))


@op(saves=("lse",))
def cross_entropy(input, target, ignore_index=-100, reduction="mean"):
    """Negative log-probability of the target classes under softmax(input).

    Shapes: ``input (..., C)`` with ``target (...)`` of integers, any number of leading axes.
    Positions whose target is ``ignore_index`` count for nothing. ``reduction`` is ``"mean"`` over
    the positions that count, ``"sum"`` or ``"none"``.
    """
    if input.shape[:-1] != np.shape(target):
        raise ValueError(
            f"cross_entropy: input has shape {input.shape} and target {np.shape(target)}; "
            f"expected a target of shape {input.shape[:-1]}"
        )
    logits, classes = rows(input), np.reshape(target, -1)
    counted = classes != ignore_index
    if (
        classes.size
        and not (0 <= classes[counted]).all() & (classes[counted] < input.shape[-1]).all()
    ):
        raise ValueError(
            f"cross_entropy: targets range from {classes[counted].min()} to "
            f"{classes[counted].max()}, and input has {input.shape[-1]} classes"
        )
    largest = np.max(logits, axis=-1, keepdims=True)
    e = logits - largest
    picked = np.take_along_axis(e, np.where(counted, classes, 0)[:, None], axis=-1)[:, 0]
    np.exp(e, out=e)
    lse = np.log(np.sum(e, axis=-1))
    losses = np.where(counted, lse - picked, 0).astype(input.dtype, copy=False)
    lse += largest[:, 0]
    if reduction == "none":
        return losses.reshape(input.shape[:-1]), lse
    total = np.sum(losses)
    return total / counted.sum().astype(input.dtype) if reduction == "mean" else total, lse


@cross_entropy.vjp("input")
def _(g, input, target, ignore_index, reduction, lse):
    logits, classes = rows(input), np.reshape(target, -1)
    counted = classes != ignore_index
    weights = counted * np.reshape(g, -1).astype(input.dtype)  # of each row
    if reduction == "mean":
        weights /= counted.sum().astype(input.dtype)
    p = logits - lse[:, None]
    np.exp(p, out=p)
    p[np.arange(len(p)), np.where(counted, classes, 0)] -= 1
    p *= weights[:, None]
    return p.reshape(input.shape)


@cross_entropy.reference
def _(input, target, ignore_index, reduction):
    target = np.asarray(target)
    counted = target != ignore_index
    one_hot = np.where(counted, target, 0)[..., None] == np.arange(input.shape[-1])
    log_p = input - np.log(np.sum(np.exp(input), axis=-1, keepdims=True))
    losses = -np.sum(log_p * (one_hot & counted[..., None]), axis=-1)
    if reduction == "none":
        return losses
    return np.sum(losses) / (counted.sum() if reduction == "mean" else 1)


@cross_entropy.sample
def _(draw):
    shape = draw.shape(max_dims=2, min_side=1)
    classes = draw.integer(1, 4)
    target = draw.integers(shape, 0, classes - 1)
    if draw.boolean() and target.size > 1:
        target.flat[0] = -100
    x = draw.array(shape=(*shape, classes))
    return draw.call(x, target, -100, draw.choice(["mean", "sum", "none"]))


def linear(input, weight, bias=None):
    """Input @ weight.T + bias, with ``weight (out, in)``: PyTorch's orientation."""
    return affine(input, np.swapaxes(weight, 0, 1), bias)


def reduced(losses, reduction):
    """Return the mean or the sum of losses, or all of them for ``"none"``."""
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")
    return losses.mean() if reduction == "mean" else losses.sum()


def mse_loss(input, target, reduction="mean"):
    """Squared difference, element by element."""
    return reduced((input - target) ** 2, reduction)


def binary_cross_entropy_with_logits(input, target, reduction="mean"):
    """Negative log-likelihood of targets in [0, 1] under sigmoid(input)."""
    return reduced(softplus(input) - input * target, reduction)


# ---- dropout


def new_seed(generator=None):
    """Draw the seed of one dropout mask; without a generator, from NumPy's entropy."""
    return int((generator or np.random.default_rng()).integers(2**63))


def dropout(input, p=0.5, training=True, generator=None):
    """Set each element to 0 with probability p and divide the others by 1 - p, while training.

    The mask is a function of a seed and of the element's position. The seed is drawn here, once a
    call, from `generator`, a ``numpy.random.Generator``.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p is {p}, and must be at least 0 and less than 1")
    return dropout_seeded(input, p, new_seed(generator)) if training and p > 0 else input


def dropout_mask(rows, n_columns, p, seed, dtype):
    """Return 0 (with probability p) and 1 / (1 - p) for each of some rows of a mask."""
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    mask = (random_bits(rows, n_columns, seed) >= threshold).astype(dtype)
    mask *= 1 / (1 - p)
    return mask


def dropout_like(x_shape, p, seed, dtype):
    """Return the mask of a whole array, its last axis the columns."""
    *lead, n_columns = x_shape or (1,)
    mask = dropout_mask(np.arange(math.prod(lead)), n_columns, p, seed, dtype)
    return mask.reshape(x_shape)


@op
def dropout_seeded(input, p, seed):
    """Dropout with the mask that belongs to a seed."""
    return input * dropout_like(input.shape, p, seed, input.dtype)


@dropout_seeded.vjp("input")
def _(g, input_shape, p, seed):
    return g * dropout_like(input_shape, p, seed, g.dtype)


@dropout_seeded.sample
def _(draw):
    return draw.call(draw.array(), 0.3, draw.integer(0, 2**40))


# ---- attention

# Queries at a time: no (T, S) matrix is kept, and causality skips half of the work.
QUERY_BLOCK = 64


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, generator=None
):
    """softmax(query key^T scale + mask) value, as PyTorch's function of that name.

    Shapes: ``query (..., T, D)``, ``key (..., S, D)``, ``value (..., S, V) -> (..., T, V)``.
    ``attn_mask`` broadcasts to ``(..., T, S)``: booleans (True takes part) or numbers to add.
    ``is_causal`` hides keys after the query's own position. ``scale`` is 1 / sqrt(D) if not given.
    A query that may see no key gets zeros. Dropout acts on the weights, with one seed a call from
    `generator`. Vaswani et al. 2017, arXiv:1706.03762, equation 1.
    """
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    seed = new_seed(generator) if dropout_p else 0
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed)


@op(saves=("lse",))
def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed):
    """Attention with every argument settled; see `scaled_dot_product_attention`."""
    if (
        query.shape[:-2] != key.shape[:-2]
        or query.shape[-1] != key.shape[-1]
        or key.shape[:-1] != value.shape[:-1]
    ):
        raise ValueError(
            f"attention: query {query.shape}, key {key.shape} and value {value.shape} do not fit; "
            "expected (..., T, D), (..., S, D) and (..., S, V) with the same leading axes"
        )
    out = np.empty((*query.shape[:-1], value.shape[-1]), query.dtype)
    lse = np.empty((*query.shape[:-1], 1), query.dtype)
    for block in QueryBlocks(query, key, attn_mask, dropout_p, is_causal, seed):
        p = block.scores(scale)  # (..., block, keys)
        largest = np.max(p, axis=-1, keepdims=True, initial=-np.inf)
        largest[largest == -np.inf] = 0
        p -= largest
        np.exp(p, out=p)
        total = np.sum(p, axis=-1, keepdims=True)
        empty = total == 0
        total[empty] = 1
        largest += np.log(total)
        largest[empty] = np.inf  # makes exp(score - lse) the zero that the weights are
        lse[..., block.rows, :] = largest
        p /= total
        if dropout_p:
            p *= block.dropout()
        out[..., block.rows, :] = p @ value[..., block.keys, :]
    return out, lse


@attention.vjp("query", "key", "value")
def _(g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, out, lse):
    g_query, g_key, g_value = np.empty_like(query), np.zeros_like(key), np.zeros_like(value)
    row_sum = np.sum(g * out, axis=-1, keepdims=True)  # sum over keys of p dp
    for block in QueryBlocks(query, key, attn_mask, dropout_p, is_causal, seed):
        p = block.scores(scale)
        p -= lse[..., block.rows, :]
        np.exp(p, out=p)
        g_rows = g[..., block.rows, :]
        dp = g_rows @ np.swapaxes(value[..., block.keys, :], -1, -2)  # (..., block, keys)
        dropped = p
        if dropout_p:
            mask = block.dropout()
            dropped = p * mask
            dp *= mask
        g_value[..., block.keys, :] += np.swapaxes(dropped, -1, -2) @ g_rows
        dp -= row_sum[..., block.rows, :]
        dp *= p
        dp *= scale
        g_query[..., block.rows, :] = dp @ key[..., block.keys, :]
        g_key[..., block.keys, :] += np.swapaxes(dp, -1, -2) @ query[..., block.rows, :]
    return g_query, g_key, g_value


class QueryBlocks:
    """Blocks of queries and the keys that each may see: iterating yields itself, block by block."""

    def __init__(self, query, key, attn_mask, dropout_p, is_causal, seed):
        self.query, self.key, self.mask = query, key, attn_mask
        self.dropout_p, self.is_causal, self.seed = dropout_p, is_causal, seed
        self.n_queries, self.n_keys = query.shape[-2], key.shape[-2]

    def __iter__(self):
        for start in range(0, self.n_queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, self.n_queries)
            self.rows = slice(start, stop)
            self.keys = slice(0, min(stop, self.n_keys) if self.is_causal else self.n_keys)
            yield self

    def scores(self, scale):
        """Return the masked scores of the block, (..., block, keys)."""
        keys = np.swapaxes(self.key[..., self.keys, :], -1, -2)
        s = (self.query[..., self.rows, :] * scale) @ keys
        if self.is_causal:
            i, j = np.ogrid[self.rows, self.keys]
            s += np.where(j > i, -np.inf, 0).astype(s.dtype)
        if self.mask is not None:
            shape = (*s.shape[:-2], self.n_queries, self.n_keys)
            mask = np.broadcast_to(self.mask, shape)[..., self.rows, self.keys]
            boolean = mask.dtype == bool
            s += np.where(mask, 0, -np.inf).astype(s.dtype) if boolean else mask.astype(s.dtype)
        return s

    def dropout(self):
        """Return the block's part of the mask over (..., T, S)."""
        *lead, n_queries, _ = self.query.shape
        heads, i = np.arange(math.prod(lead)), np.arange(self.rows.start, self.rows.stop)
        numbers = np.add.outer(heads * n_queries, i).reshape(-1)
        mask = dropout_mask(numbers, self.keys.stop, self.dropout_p, self.seed, self.query.dtype)
        return mask.reshape(*lead, len(i), self.keys.stop)


@attention.reference
def _(query, key, value, attn_mask, dropout_p, is_causal, scale, seed):
    scores = query @ np.swapaxes(key, -1, -2) * scale  # (..., T, S)
    n_queries, n_keys = scores.shape[-2:]
    if is_causal:
        scores = np.where(np.tri(n_queries, n_keys, dtype=bool), scores, -np.inf)
    if attn_mask is not None:
        boolean = np.asarray(attn_mask).dtype == bool
        scores = np.where(attn_mask, scores, -np.inf) if boolean else scores + attn_mask
    p = softmax(scores, -1)
    if dropout_p:
        p = p * dropout_like(p.shape, dropout_p, seed, p.dtype)
    return p @ value


@attention.sample
def _(draw):
    batch = draw.shape(max_dims=2, max_side=2)
    n_queries, n_keys = draw.integer(1, 4), draw.integer(1, 4)
    query = draw.array(shape=(*batch, n_queries, 2))
    key, value = draw.array(shape=(*batch, n_keys, 2)), draw.array(shape=(*batch, n_keys, 3))
    mask = draw.integers((n_queries, n_keys), 0, 1).astype(bool)
    mask[:, 0] = True
    mask = draw.choice([None, mask, draw.array(shape=(n_queries, n_keys))])
    return draw.call(
        query, key, value, mask, draw.choice([0.0, 0.4]), draw.boolean(), 0.7, draw.integer(0, 99)
    )


# ---- loops


def blocks(*arrays, size=16384):
    """Yield matching blocks of arrays of one size, flat, small enough to stay in the cache.

    The last array is written to, and so must be contiguous.
    """
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[-1].size, size):
        yield [array[start : start + size] for array in flat]
