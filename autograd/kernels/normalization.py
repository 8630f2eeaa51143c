"""Kernels of softmax, layer norm and RMS norm."""

import math

import numpy as np

from autograd.kernels.jit import (
    EXACT,
    SUMS,
    alike,
    as_rows,
    inline,
    jit,
    share,
    slices,
    split,
    takes,
)
from autograd.kernels.rows import dot, largest, squares, sum_exp, sum_of
from autograd.kernels.vector import exp

# ---- softmax and its logarithm


@jit(EXACT)
def _softmax(x, out):
    real = x.dtype.type
    for r in range(x.shape[0]):
        row, p = x[r], out[r]  # (n,), (n,)
        top = largest(row)
        for i in range(row.size):
            p[i] = exp(row[i] - top)
        scale = real(1 / sum_of(p))
        for i in range(row.size):
            p[i] *= scale


@jit(EXACT)
def _softmax_vjp(g, y, out):  # y (g - sum(g y))
    real = y.dtype.type
    for r in range(y.shape[0]):
        g_row, p, g_x = g[r], y[r], out[r]  # (n,) each
        mean = real(dot(g_row, p))
        for i in range(p.size):
            g_x[i] = p[i] * (g_row[i] - mean)


@jit(EXACT)
def _log_softmax(x, out):
    real = x.dtype.type
    for r in range(x.shape[0]):
        row, log_p = x[r], out[r]  # (n,), (n,)
        top = largest(row)
        log_total = real(math.log(sum_exp(row, top)))
        for i in range(row.size):
            log_p[i] = (row[i] - top) - log_total


@jit(EXACT)
def _log_softmax_vjp(g, y, out):  # g - exp(y) sum(g)
    real = y.dtype.type
    for r in range(y.shape[0]):
        g_row, log_p, g_x = g[r], y[r], out[r]  # (n,) each
        total = real(sum_of(g_row))
        for i in range(log_p.size):
            g_x[i] = g_row[i] - exp(log_p[i]) * total


def softmax(input, dim=-1):
    """Return exp(x) / sum(exp(x)) along an axis."""
    return mapped(_softmax, dim, input)


def softmax_vjp(g, out, dim):
    """Return out (g - sum(g out))."""
    return mapped(_softmax_vjp, dim, g, out)


def log_softmax(input, dim=-1):
    """Return x - log(sum(exp(x))) along an axis."""
    return mapped(_log_softmax, dim, input)


def log_softmax_vjp(g, out, dim):
    """Return g - exp(out) sum(g)."""
    return mapped(_log_softmax_vjp, dim, g, out)


def mapped(loop, dim, *arrays):
    """Run ``loop(*rows of arrays, rows of the result)`` along an axis."""
    if not alike(*arrays) or not -arrays[0].ndim <= dim < arrays[0].ndim:
        return NotImplemented
    if dim not in (-1, arrays[0].ndim - 1):
        out = mapped(loop, -1, *[np.moveaxis(x, dim, -1) for x in arrays])
        return out if out is NotImplemented else np.moveaxis(out, -1, dim)
    shape = arrays[0].shape
    if shape[-1] == 0:
        return NotImplemented
    out = np.empty(shape, arrays[0].dtype)
    rows = [as_rows(x, shape[-1]) for x in (*arrays, out)]  # (rows, n) each
    split(lambda part: loop(*[x[part] for x in rows]), len(rows[0]), out.size)
    return out


# ---- normalization


@inline(EXACT)
def inverse_root(row, shift, eps):
    """Return 1 / sqrt(mean((x - shift)^2) + eps)."""
    square = squares(row, shift) / row.size + eps
    limits = np.finfo(row.dtype)
    if square < limits.tiny / limits.eps or square > limits.max:
        return 1 / scaled_root(row, shift, eps)
    return 1 / math.sqrt(square)


@inline(EXACT)
def scaled_root(row, shift, eps):
    """Return sqrt(mean((x - shift)^2) + eps) where the squares, but not the root, leave the range.

    The row is divided by its largest first.
    """
    top = 0.0
    for i in range(row.size):
        top = max(top, abs(np.float64(row[i]) - shift))
    top = 1.0 if top == 0 or top == np.inf else top
    total = 0.0
    for i in range(row.size):
        z = (np.float64(row[i]) - shift) / top
        total += z * z
    return math.hypot(top * math.sqrt(total / row.size), math.sqrt(eps))


@jit(EXACT)
def _layer_norm(x, weight, bias, eps, out, mean, rstd):
    real, n = x.dtype.type, x.shape[1]
    for r in range(x.shape[0]):
        row, y = x[r], out[r]  # (n,), (n,)
        m = real(sum_of(row) / n)
        s = real(inverse_root(row, m, eps))
        for i in range(n):
            y[i] = (row[i] - m) * s * weight[i] + bias[i]
        mean[r], rstd[r] = m, s


@inline(SUMS)
def projections(g_row, weight, row, m, s):
    """Return the sums of g' = g weight and of g' z, with z = (x - m) s."""
    a = b = row.dtype.type(0)
    for i in range(row.size):
        g_z = g_row[i] * weight[i]
        a += g_z
        b += g_z * ((row[i] - m) * s)
    return a, b


@jit(EXACT)
def _layer_norm_vjp(g, x, weight, mean, rstd, g_x, g_weight, g_bias):
    """With z = (x - mean) rstd and g' = g weight: rstd (g' - mean(g') - z mean(g' z)).

    The gradients of weight and bias, (n,), are these rows' share.
    """
    real, n = x.dtype.type, x.shape[1]
    for r in range(x.shape[0]):
        row, g_row, g_out = x[r], g[r], g_x[r]  # (n,) each
        m, s = mean[r], rstd[r]
        a, b = projections(g_row, weight, row, m, s)
        a, b = real(a / n), real(b / n)
        for i in range(n):
            z = (row[i] - m) * s
            g_out[i] = (g_row[i] * weight[i] - a - z * b) * s
            g_weight[i] += g_row[i] * z
            g_bias[i] += g_row[i]


@jit(EXACT)
def _rms_norm(x, weight, eps, out, rstd):
    real, n = x.dtype.type, x.shape[1]
    for r in range(x.shape[0]):
        row, y = x[r], out[r]  # (n,), (n,)
        s = real(inverse_root(row, real(0), eps))
        for i in range(n):
            y[i] = row[i] * s * weight[i]
        rstd[r] = s


@jit(EXACT)
def _rms_norm_vjp(g, x, weight, rstd, g_x, g_weight):
    """With z = x rstd and g' = g weight: rstd (g' - z mean(g' z))."""
    real, n = x.dtype.type, x.shape[1]
    for r in range(x.shape[0]):
        row, g_row, g_out = x[r], g[r], g_x[r]  # (n,) each
        s = rstd[r]
        _, b = projections(g_row, weight, row, real(0), s)
        b = real(b / n)
        for i in range(n):
            z = row[i] * s
            g_out[i] = (g_row[i] * weight[i] - z * b) * s
            g_weight[i] += g_row[i] * z


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Return (x - mean) rstd weight + bias, and mean and rstd, (rows, 1)."""
    n = normal_size(input, normalized_shape, weight, bias)
    if not n:
        return NotImplemented
    out = np.empty(input.shape, input.dtype)
    x, y = as_rows(input, n), as_rows(out, n)  # (rows, n) each
    static = or_else(weight, 1, x), or_else(bias, 0, x), float(eps)  # (n,), (n,)
    mean, rstd = np.empty((2, len(x)), x.dtype)  # (rows,) each
    split(
        lambda part: _layer_norm(x[part], *static, y[part], mean[part], rstd[part]),
        len(x), x.size,
    )  # fmt: skip
    return out, mean[:, None], rstd[:, None]


def layer_norm_vjp(g, input, normalized_shape, weight, bias, eps, mean, rstd, needs):
    """Return the gradients of input, weight and bias."""
    n = normal_size(input, normalized_shape, weight, bias)
    if not n or not alike(g, input):
        return NotImplemented
    x, g = as_rows(input, n), as_rows(g, n)  # (rows, n) each
    scale = or_else(weight, 1, x)  # (n,)
    g_input = np.empty(input.shape, input.dtype)
    g_x = as_rows(g_input, n)
    mean, rstd = mean.reshape(len(x)), rstd.reshape(len(x))  # (rows,) each
    parts = slices(len(x), PARTS)
    g_weight, g_bias = np.zeros((2, len(parts), n), x.dtype)  # (parts, n) each

    def run(i):
        p = parts[i]
        _layer_norm_vjp(g[p], x[p], scale, mean[p], rstd[p], g_x[p], g_weight[i], g_bias[i])

    share(run, range(len(parts)), x.size)
    return (
        g_input if needs[0] else None,
        g_weight.sum(axis=0).reshape(weight.shape) if needs[1] else None,
        g_bias.sum(axis=0).reshape(bias.shape) if needs[2] else None,
    )


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Return x rstd weight, and rstd, (rows, 1)."""
    n = normal_size(input, normalized_shape, weight)
    if not n:
        return NotImplemented
    eps = np.finfo(input.dtype).eps if eps is None else eps
    out = np.empty(input.shape, input.dtype)
    x, y = as_rows(input, n), as_rows(out, n)  # (rows, n) each
    weight, rstd = or_else(weight, 1, x), np.empty(len(x), x.dtype)
    split(lambda part: _rms_norm(x[part], weight, float(eps), y[part], rstd[part]), len(x), x.size)
    return out, rstd[:, None]


def rms_norm_vjp(g, input, normalized_shape, weight, eps, rstd, needs):
    """Return the gradients of input and weight."""
    n = normal_size(input, normalized_shape, weight)
    if not n or not alike(g, input):
        return NotImplemented
    x, g = as_rows(input, n), as_rows(g, n)  # (rows, n) each
    scale = or_else(weight, 1, x)  # (n,)
    g_input = np.empty(input.shape, input.dtype)
    g_x, rstd = as_rows(g_input, n), rstd.reshape(len(x))
    parts = slices(len(x), PARTS)
    g_weight = np.zeros((len(parts), n), x.dtype)

    def run(i):
        p = parts[i]
        _rms_norm_vjp(g[p], x[p], scale, rstd[p], g_x[p], g_weight[i])

    share(run, range(len(parts)), x.size)
    return (
        g_input if needs[0] else None,
        g_weight.sum(axis=0).reshape(weight.shape) if needs[1] else None,
    )


PARTS = 16  # of the rows, whatever the number of threads: sums over rows are always the same


def normal_size(input, normalized_shape, *parameters):
    """Return how many elements are normalized together, or 0 for what NumPy is to handle."""
    if not takes(input, *parameters):
        return 0
    shape = (normalized_shape,) if np.ndim(normalized_shape) == 0 else tuple(normalized_shape)
    shapes = [x.shape for x in parameters if x is not None]
    fits = all(s == shape for s in (input.shape[input.ndim - len(shape) :], *shapes))
    whole = all(isinstance(n, int | np.integer) for n in shape)  # 4.0 == 4
    return math.prod(shape) if shape and fits and whole else 0


def or_else(parameter, constant, x):
    """Return a parameter of rows x as (n,); without one, a constant that changes nothing."""
    if parameter is None:
        return np.full(x.shape[1], constant, x.dtype)
    return np.ascontiguousarray(parameter).reshape(-1)
