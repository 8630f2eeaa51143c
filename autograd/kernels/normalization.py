"""Kernels of softmax, log_softmax, layer norm and RMS norm, called by `autograd.ops.normalization`.

Each loop is given some rows of an array, (rows, n), and treats them one by one. The threads share
the rows. A row of 768 float32 numbers has 3 KB and stays in the processor's first cache, so a loop
may read it several times, and the memory still delivers it once.

Sums over a row are in float64 (`autograd.kernels.rows`), and exponentials are ours
(`autograd.kernels.vector`). The results therefore differ from NumPy's in the last digits: their
errors are at most twice NumPy's, and usually smaller. They have the same bits with any number of
threads.
"""

import math

import numpy as np

from autograd.kernels.jit import EXACT, SUMS, alike, as_rows, inline, takes
from autograd.kernels.rows import dot, largest, squares, sum_exp, sum_of
from autograd.kernels.team import parts_of, row_kernel, split
from autograd.kernels.vector import exp

# ---- softmax and its logarithm
#
# Forward: find the largest element; take exp(x - largest) of every element, which is at most 1 and
# so cannot overflow; divide by the sum. For the row [0, log(3)] the exponentials are [1/3, 1], the
# sum is 4/3, and the result is [1/4, 3/4]. The logarithm needs the sum alone, and computes every
# exponential twice rather than storing it.
#
# The rules read the output, y. For softmax they give y (g - sum(g y)), for its logarithm, where
# exp(y) is softmax, g - exp(y) sum(g). Each needs one sum over the row before the loop that writes.


@row_kernel(EXACT)
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


@row_kernel(EXACT)
def _softmax_vjp(g, y, out):
    real = y.dtype.type
    for r in range(y.shape[0]):
        g_row, p, g_x = g[r], y[r], out[r]  # (n,) each
        mean = real(dot(g_row, p))  # of g, with the weights p
        for i in range(p.size):
            g_x[i] = p[i] * (g_row[i] - mean)


@row_kernel(EXACT)
def _log_softmax(x, out):
    real = x.dtype.type
    for r in range(x.shape[0]):
        row, log_p = x[r], out[r]  # (n,), (n,)
        top = largest(row)
        log_total = real(math.log(sum_exp(row, top)))
        for i in range(row.size):
            log_p[i] = (row[i] - top) - log_total


@row_kernel(EXACT)
def _log_softmax_vjp(g, y, out):
    real = y.dtype.type
    for r in range(y.shape[0]):
        g_row, log_p, g_x = g[r], y[r], out[r]  # (n,) each
        total = real(sum_of(g_row))
        for i in range(log_p.size):
            g_x[i] = g_row[i] - exp(log_p[i]) * total


def softmax(input, dim=-1):
    """Return exp(x) / sum(exp(x)) along an axis."""
    return map_rows(_softmax, dim, input)


def softmax_vjp(g, out, dim):
    """Return out (g - sum(g out))."""
    return map_rows(_softmax_vjp, dim, g, out)


def log_softmax(input, dim=-1):
    """Return x - log(sum(exp(x))) along an axis."""
    return map_rows(_log_softmax, dim, input)


def log_softmax_vjp(g, out, dim):
    """Return g - exp(out) sum(g)."""
    return map_rows(_log_softmax_vjp, dim, g, out)


def map_rows(loop, dim, *arrays):
    """Run ``loop(*rows of the arrays, rows of the result)``; a row lies along the axis `dim`.

    If that is not the last axis, it is moved there, which copies the arrays. For ``dim=0``, arrays
    of shape (4, 3) become rows of shape (3, 4), and the result is moved back to (4, 3).
    """
    if not alike(*arrays) or not arrays[0].size or not arrays[0].ndim:
        return NotImplemented
    if dim not in (-1, arrays[0].ndim - 1):
        return np.moveaxis(map_rows(loop, -1, *[np.moveaxis(x, dim, -1) for x in arrays]), -1, dim)
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    split(loop, tuple([as_rows(x, out.shape[-1]) for x in (*arrays, out)]))  # (rows, n) each
    return out


# ---- layer norm and RMS norm


@inline(EXACT)
def mean_and_rstd(row, eps):
    """Return a row's mean m, and 1 / sqrt(mean((x - m)^2) + eps), in the type of the row.

    The mean is subtracted before the squares are taken. The mean of the squares minus the square of
    the mean would be the same number, but for the row [10000, 10001] these two are 100010000.5 and
    100010000.25, which float32 rounds to one number: the variance would be 0 in the place of 0.25.
    """
    real = row.dtype.type
    mean = real(sum_of(row) / row.size)
    return mean, real(inverse_root(row, mean, eps))


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

    In float32 the square of 1e30 is infinite, and that of 1e-30 is 0. So every x - shift is divided
    by the largest of them first, and the root is multiplied by it at the end.
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


# Forward reads a row three times: for the mean, for the squares of the differences from the mean,
# and for the result. Mean and rstd are kept, two numbers a row, since the rule needs them.


@row_kernel(EXACT)
def _layer_norm(x, out, mean, rstd, weight, bias, eps):
    for r in range(x.shape[0]):
        row, y = x[r], out[r]  # (n,), (n,)
        m, s = mean_and_rstd(row, eps)
        for i in range(row.size):
            y[i] = (row[i] - m) * s * weight[i] + bias[i]
        mean[r], rstd[r] = m, s


@row_kernel(EXACT)
def _rms_norm(x, out, rstd, weight, eps):
    real = x.dtype.type
    for r in range(x.shape[0]):
        row, y = x[r], out[r]  # (n,), (n,)
        s = real(inverse_root(row, real(0), eps))
        for i in range(row.size):
            y[i] = row[i] * s * weight[i]
        rstd[r] = s


# The rules. With z = (x - mean) rstd, the normalized row, and g' = g weight, the gradient of the
# row is rstd (g' - mean(g') - z mean(g' z)); RMS norm has no mean to subtract, and so no mean(g').
# z is computed again from x, which costs less than storing it. The first pass over a row, in
# `projections`, makes the two sums, the second writes the gradient, and adds the row's share to the
# gradients of weight and bias. These are sums over rows, and each part of the rows, `starts[k]` to
# `stops[k] - 1`, has its own: `g_weight` and `g_bias` are (parts, n), and begin as zeros.


@inline(SUMS)
def projections(g_row, weight, row, m, s):
    """Return the sums of g' and of g' z over a row."""
    a = b = row.dtype.type(0)
    for i in range(row.size):
        g_z = g_row[i] * weight[i]
        a += g_z
        b += g_z * ((row[i] - m) * s)
    return a, b


@row_kernel(EXACT)
def _layer_norm_vjp(starts, stops, g_weight, g_bias, g, x, weight, mean, rstd, g_x):
    real, n = x.dtype.type, x.shape[1]
    for k in range(starts.size):
        g_w, g_b = g_weight[k], g_bias[k]  # (n,) each
        for r in range(starts[k], stops[k]):
            row, g_row, g_out = x[r], g[r], g_x[r]  # (n,) each
            m, s = mean[r], rstd[r]
            a, b = projections(g_row, weight, row, m, s)
            a, b = real(a / n), real(b / n)
            for i in range(n):
                z = (row[i] - m) * s
                g_out[i] = (g_row[i] * weight[i] - a - z * b) * s
                g_w[i] += g_row[i] * z
                g_b[i] += g_row[i]


@row_kernel(EXACT)
def _rms_norm_vjp(starts, stops, g_weight, g, x, weight, rstd, g_x):
    real, n = x.dtype.type, x.shape[1]
    for k in range(starts.size):
        g_w = g_weight[k]  # (n,)
        for r in range(starts[k], stops[k]):
            row, g_row, g_out = x[r], g[r], g_x[r]  # (n,) each
            s = rstd[r]
            _, b = projections(g_row, weight, row, real(0), s)
            b = real(b / n)
            for i in range(n):
                z = row[i] * s
                g_out[i] = (g_row[i] * weight[i] - z * b) * s
                g_w[i] += g_row[i] * z


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Return (x - mean) rstd weight + bias, and mean and rstd, (rows, 1)."""
    if not takes(input, weight, bias) or not input.size:
        return NotImplemented
    out = np.empty(input.shape, input.dtype)
    x, y = (as_rows(array, row_size(normalized_shape)) for array in (input, out))  # (rows, n) each
    weight, bias = or_else(weight, 1, x), or_else(bias, 0, x)  # (n,), (n,)
    mean, rstd = np.empty((2, len(x)), x.dtype)  # (rows,) each
    split(_layer_norm, (x, y, mean, rstd), weight, bias, float(eps))
    return out, mean[:, None], rstd[:, None]


def layer_norm_vjp(g, input, normalized_shape, weight, bias, eps, mean, rstd, needs):
    """Return the gradients of input, weight and bias."""
    if not takes(g, input, weight, bias) or not input.size:
        return NotImplemented
    g_input = np.empty(input.shape, input.dtype)
    n = row_size(normalized_shape)
    g, x, g_x = (as_rows(array, n) for array in (g, input, g_input))  # (rows, n) each
    mean, rstd, scale = mean.reshape(-1), rstd.reshape(-1), or_else(weight, 1, x)
    g_weight, g_bias = sum_over_rows(_layer_norm_vjp, 2, x, (g, x, scale, mean, rstd, g_x))
    return (
        g_input if needs[0] else None,
        g_weight.reshape(weight.shape) if needs[1] else None,
        g_bias.reshape(bias.shape) if needs[2] else None,
    )


def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Return x rstd weight, and rstd, (rows, 1)."""
    if not takes(input, weight) or not input.size:
        return NotImplemented
    eps = np.finfo(input.dtype).eps if eps is None else eps
    out = np.empty(input.shape, input.dtype)
    x, y = (as_rows(array, row_size(normalized_shape)) for array in (input, out))  # (rows, n) each
    weight, rstd = or_else(weight, 1, x), np.empty(len(x), x.dtype)
    split(_rms_norm, (x, y, rstd), weight, float(eps))
    return out, rstd[:, None]


def rms_norm_vjp(g, input, normalized_shape, weight, eps, rstd, needs):
    """Return the gradients of input and weight."""
    if not takes(g, input, weight) or not input.size:
        return NotImplemented
    g_input = np.empty(input.shape, input.dtype)
    n = row_size(normalized_shape)
    g, x, g_x = (as_rows(array, n) for array in (g, input, g_input))  # (rows, n) each
    rstd, scale = rstd.reshape(-1), or_else(weight, 1, x)
    (g_weight,) = sum_over_rows(_rms_norm_vjp, 1, x, (g, x, scale, rstd, g_x))
    return g_input if needs[0] else None, g_weight.reshape(weight.shape) if needs[1] else None


PARTS = 16  # of the rows, in `sum_over_rows`


def sum_over_rows(kernel, n_sums, x, arguments):
    """Run a kernel on parts of the rows x, (rows, n), and return its sums, (n,) each.

    The kernel is called as ``kernel(starts, stops, *sums, *arguments)`` and adds what the rows of
    part k contribute to ``sums[k]``, of ``sums (parts, n)``, which begin as zeros. The rows are
    always cut into `PARTS` parts, and the sums of the parts are added in order. One part a thread
    would be simpler, but sums that are grouped otherwise round otherwise, and the gradients would
    depend on the number of threads.
    """
    parts = parts_of(len(x), PARTS)
    sums = np.zeros((n_sums, len(parts[0]), x.shape[1]), x.dtype)
    split(kernel, (*parts, *sums), *arguments, size=x.size)
    return np.add.reduce(sums, axis=1)


def row_size(normalized_shape):
    """Return how many elements are normalized together: 12 for a `normalized_shape` of (3, 4)."""
    many = isinstance(normalized_shape, tuple | list)
    return math.prod(normalized_shape) if many else normalized_shape


def or_else(parameter, constant, x):
    """Return a parameter of rows x as (n,); without one, a constant that changes nothing."""
    if parameter is None:
        return np.full(x.shape[1], constant, x.dtype)
    return np.ascontiguousarray(parameter).reshape(-1)
