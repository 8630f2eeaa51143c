"""Softmax, its logarithm, layer norm and RMS norm.

Each of these functions treats the rows of an array apart: no row's result depends on another row.
A row is what lies along one axis (softmax), or on the last few axes (the norms).
"""

import math
from functools import partial

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.checks import (
    check_axis,
    check_eps,
    check_floats,
)
from autograd.precision import in_single

# ---- softmax and its logarithm


def check_along(name, input, dim=-1):
    """Raise unless `dim` is an axis of an array of floating-point numbers."""
    check_axis(name, dim, input.ndim)
    check_floats(name, input=input)


# Before an exponential is taken, the row's largest element is subtracted. That changes nothing,
# exp(x - m) / sum(exp(x - m)) = exp(x) / sum(exp(x)), and keeps exp in range: for the row
# [1000, 999], exp(1000) is infinite, while exp(0) = 1 and exp(-1) = 0.37 are not.


@op
@kernel("normalization.softmax", check=partial(check_along, "softmax"))
def softmax(input, dim=-1):
    """exp(x) / sum(exp(x)) along an axis."""
    x = in_single(input)
    out = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    out /= np.sum(out, axis=dim, keepdims=True)
    return out.astype(input.dtype, copy=False)


softmax.formula(
    """
    m = max_j input_j
    out_i = exp(input_i - m) / Σ_j exp(input_j - m)
    dinput_i = out_i · (g_i - Σ_j g_j · out_j)
    """,
    along="dim",
)


@softmax.vjp("input")
@kernel("normalization.softmax_vjp")
def _(g, out, dim):
    return out * (g - np.sum(g * out, axis=dim, keepdims=True))


@softmax.reference
def _(input, dim):
    e = np.exp(input)
    return e / np.sum(e, axis=dim, keepdims=True)


@softmax.sample
def _(draw):
    x = draw.array(min_dims=1, min_side=1)
    return draw.call(x, draw.axis(x.ndim))


@op
@kernel("normalization.log_softmax", check=partial(check_along, "log_softmax"))
def log_softmax(input, dim=-1):
    """Logarithm of softmax: x - log(sum(exp(x))) along an axis."""
    x = in_single(input)
    shifted = x - np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # the sum of no elements is 0
        out = shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True))
    return out.astype(input.dtype, copy=False)


log_softmax.formula(
    """
    m = max_j input_j
    out_i = input_i - m - log(Σ_j exp(input_j - m))
    dinput_i = g_i - exp(input_i - m) / (Σ_j exp(input_j - m)) · Σ_j g_j
    """,
    along="dim",
)


@log_softmax.vjp("input")
@kernel("normalization.log_softmax_vjp")
def _(g, out, dim):
    return g - np.exp(out) * np.sum(g, axis=dim, keepdims=True)


@log_softmax.reference
def _(input, dim):
    return input - np.log(np.sum(np.exp(input), axis=dim, keepdims=True))


log_softmax.sample(softmax.sampler)


# ---- layer norm and RMS norm
#
# RMS norm divides a row by the root of its mean square, and multiplies by a weight. Layer norm does
# the same to the row minus its mean, and adds a bias. For the row [1, 3], without weight and bias
# and with eps = 0, the root of the mean square is sqrt(5), and RMS norm gives [0.45, 1.34]; the
# mean is 2, the row minus its mean is [-1, 1] with a mean square of 1, and layer norm gives [-1,
# 1].


def as_shape(shape):
    """Return `normalized_shape` as a tuple; it may be a list, or the length of the last axis."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in sizes):
        raise TypeError(
            f"normalized_shape is {shape!r}; expected an integer, or several in a tuple"
        )
    return sizes


def as_rows(x, normalized_shape):
    """Return an array as rows over its last axes: (..., *normalized_shape) -> (rows, n)."""
    shape = as_shape(normalized_shape)
    return x.reshape(math.prod(x.shape[: x.ndim - len(shape)]), math.prod(shape))


def check_norm(name, input, normalized_shape, eps, **parameters):
    """Raise unless input ends in `normalized_shape`, which is the shape of each parameter."""
    if eps is not None:
        check_eps(name, eps)
    check_floats(name, input=input)
    shape = as_shape(normalized_shape)
    if not shape or input.shape[input.ndim - len(shape) :] != shape:
        raise ValueError(
            f"{name}: the last axes of input, of shape {input.shape}, are not "
            f"normalized_shape {shape}"
        )
    for key, x in parameters.items():
        if x is not None and x.shape != shape:
            raise ValueError(f"{name}: {key} has shape {x.shape}, and normalized_shape is {shape}")


def check_layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Raise for arguments that layer norm does not take."""
    check_eps("layer_norm", eps)  # which may not be None
    check_norm("layer_norm", input, normalized_shape, eps, weight=weight, bias=bias)


def check_rms_norm(input, normalized_shape, weight=None, eps=None):
    """Raise for arguments that RMS norm does not take."""
    check_norm("rms_norm", input, normalized_shape, eps, weight=weight)


@op(saves=("mean", "rstd"))
@kernel("normalization.layer_norm", check=check_layer_norm)
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, or the last few.

    Shapes: ``input (..., *normalized_shape)``, ``weight`` and ``bias`` ``normalized_shape`` or
    None; an integer is the length of the last axis. Ba, Kiros and Hinton 2016, arXiv:1607.06450,
    equations 3 and 4.
    """
    x = as_rows(in_single(input), normalized_shape)  # (rows, n)
    mean = row_means(x)  # (rows, 1)
    out = x - mean
    rstd = inverse_root_mean_square(out, eps)  # (rows, 1)
    out *= rstd
    if weight is not None:
        out *= weight.reshape(-1)
    if bias is not None:
        out += bias.reshape(-1)
    return out.reshape(input.shape).astype(input.dtype, copy=False), mean, rstd


def row_means(x):
    """Return the means of rows, (rows, n) -> (rows, 1).

    The sum of a row is its product with ones, for which BLAS needs a third of ``np.sum``'s time.
    """
    n = x.shape[1]
    return (x @ np.ones(n, x.dtype) / max(n, 1))[:, None]


def inverse_root_mean_square(x, eps):
    """Return 1 / sqrt(mean(x^2) + eps) of rows, (rows, n) -> (rows, 1)."""
    n = max(x.shape[-1], 1)
    square = np.vecdot(x, x)[:, None] / n + eps
    low, high = np.finfo(x.dtype).tiny / np.finfo(x.dtype).eps, np.finfo(x.dtype).max
    if not np.any((square < low) | (square > high)):
        return (1 / np.sqrt(square)).astype(x.dtype, copy=False)
    # Some mean square is out of the dtype's range, where its root is not: in float32, the square of
    # 1e30 is infinite. So each row is divided by its largest |x| first, and the root multiplied.
    largest = np.max(np.absolute(x), axis=-1, keepdims=True, initial=0)
    largest[(largest == 0) | (largest == np.inf)] = 1
    z = x / largest
    root = np.hypot(largest * np.sqrt(np.vecdot(z, z)[:, None] / n), math.sqrt(eps))
    return (1 / root).astype(x.dtype, copy=False)


@layer_norm.formula(
    along=lambda normalized_shape: tuple(range(-len(as_shape(normalized_shape)), 0))
)
def _(weight="weight", bias="bias"):
    scaled = " · weight_i" if weight is not None else ""
    shifted = " + bias_i" if bias is not None else ""
    return f"""
        m = mean_i input_i
        s = sqrt(mean_i (input_i - m)^2 + eps)
        z_i = (input_i - m) / s
        out_i = z_i{scaled}{shifted}
        dz_i = g_i{scaled}
        dinput_i = (dz_i - mean_j dz_j - z_i · mean_j dz_j · z_j) / s
        {"dweight_i = Σ g_i · z_i" if scaled else ""}
        {"dbias_i = Σ g_i" if shifted else ""}
    """


@layer_norm.vjp("input", "weight", "bias")
@kernel("normalization.layer_norm_vjp")
def _(g, input, normalized_shape, weight, bias, eps, mean, rstd, needs):
    x, g = as_rows(input, normalized_shape), as_rows(g, normalized_shape)  # (rows, n) each
    normal = x - mean
    normal *= rstd
    g_input = g_weight = g_bias = None
    if needs[2]:
        g_bias = np.add.reduce(g, axis=0).reshape(bias.shape)
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - mean(g') - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(-1)
        normal *= (np.vecdot(g_normal, normal) / max(g.shape[1], 1))[:, None]
        g_input = g_normal - row_means(g_normal)
        g_input -= normal
        g_input *= rstd
        g_input = g_input.reshape(input.shape)
    return g_input, g_weight, g_bias


@layer_norm.reference
def _(input, normalized_shape, weight, bias, eps):
    axes = tuple(range(-len(as_shape(normalized_shape)), 0))
    centred = input - np.mean(input, axis=axes, keepdims=True)
    out = centred / np.sqrt(np.mean(centred**2, axis=axes, keepdims=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


@layer_norm.sample
def _(draw):
    shape = (*draw.shape(max_dims=2), draw.integer(2, 4))
    normalized = shape[-2:] if draw.boolean() else shape[-1:]
    if 0 in normalized:
        normalized = shape[-1:]
    x = draw.array(shape=shape, low=-0.5, high=0.5)
    x += 2 * np.arange(shape[-1])  # the function is as good as singular where the variance is 0
    weight, bias = draw.array(shape=normalized), draw.array(shape=normalized)
    return draw.call(x, normalized, weight, draw.choice([bias, None]), 1e-5)


@op(saves=("rstd",))
@kernel("normalization.rms_norm", check=check_rms_norm)
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Scale x / sqrt(mean(x^2) + eps) * weight over the last axis, or the last few.

    Shapes: ``input (..., *normalized_shape)``, ``weight`` ``normalized_shape`` or None. Without
    `eps`, the spacing of the dtype at 1. Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    eps = np.finfo(input.dtype).eps if eps is None else eps
    x = as_rows(in_single(input), normalized_shape)  # (rows, n)
    rstd = inverse_root_mean_square(x, float(eps))  # (rows, 1)
    out = x * rstd
    if weight is not None:
        out *= weight.reshape(-1)
    return out.reshape(input.shape).astype(input.dtype, copy=False), rstd


@rms_norm.formula(along=lambda normalized_shape: tuple(range(-len(as_shape(normalized_shape)), 0)))
def _(weight="weight", eps="eps", input=None):
    scaled = " · weight_i" if weight is not None else ""
    return f"""
        s = sqrt(mean_i input_i^2 + {np.finfo(input.dtype).eps if eps is None else "eps"})
        z_i = input_i / s
        out_i = z_i{scaled}
        dz_i = g_i{scaled}
        dinput_i = (dz_i - z_i · mean_j dz_j · z_j) / s
        {"dweight_i = Σ g_i · z_i" if scaled else ""}
    """


@rms_norm.vjp("input", "weight")
@kernel("normalization.rms_norm_vjp")
def _(g, input, normalized_shape, weight, eps, rstd, needs):
    x, g = as_rows(input, normalized_shape), as_rows(g, normalized_shape)  # (rows, n) each
    normal = x * rstd
    g_input = g_weight = None
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(-1)
        normal *= (np.vecdot(g_normal, normal) / max(g.shape[1], 1))[:, None]
        g_input = ((g_normal - normal) * rstd).reshape(input.shape)
    return g_input, g_weight


@rms_norm.reference
def _(input, normalized_shape, weight, eps):
    axes = tuple(range(-len(as_shape(normalized_shape)), 0))
    eps = np.finfo(input.dtype).eps if eps is None else eps
    out = input / np.sqrt(np.mean(input * input, axis=axes, keepdims=True) + eps)
    return out if weight is None else out * weight


@rms_norm.sample
def _(draw):
    shape = (*draw.shape(max_dims=2), draw.integer(1, 4))
    x = draw.array(shape=shape, low=0.5)
    return draw.call(x, shape[-1:], draw.choice([draw.array(shape=shape[-1:]), None]), 1e-5)
