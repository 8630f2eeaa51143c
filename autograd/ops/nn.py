"""What networks need and NumPy lacks, with the argument names of ``torch.nn.functional``.

Most ops here are *fused*: one step on the tape, written in NumPy with a rule of its own, and beside
it a reference that says the same in primitives. The reference is the proof of the op (tests compare
values and gradients) and its route to higher derivatives. ``@kernel`` names the compiled loop that
stands in for a NumPy function where it can; see `autograd.kernels`.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from autograd.dispatch import plain
from autograd.kernels import kernel
from autograd.op import in_float, in_single, op, sum_to_shape
from autograd.ops import special
from autograd.ops.checks import (
    check_axis,
    check_count,
    check_eps,
    check_floats,
    check_number,
    check_probability,
)
from autograd.ops.index import as_array, take_along_axis
from autograd.ops.linalg import product, rows

# ---- activations


@op(kinks=(0.0,))
def relu(input):
    """max(0, x); the gradient at 0 is 0."""
    return np.maximum(input, 0)


relu.formula("out = max(input, 0); dinput = g · [input > 0]")
relu.vjp(input=lambda g, out: g * (out > 0))


@op(kinks=(0.0,))
def leaky_relu(input, negative_slope=0.01):
    """Return x where it is positive, negative_slope x elsewhere; at 0 the gradient is the slope."""
    check_number("leaky_relu", "negative_slope", negative_slope)
    return np.where(input > 0, input, negative_slope * input)


leaky_relu.formula(
    "a = [input > 0] + negative_slope · [input ≤ 0]; out = a · input; dinput = a · g"
)


@leaky_relu.vjp("input")
def _(g, input, negative_slope):
    return np.where(input > 0, g, negative_slope * g)


@op(kinks=(0.0,))
def elu(input, alpha=1.0):
    """Return x where it is positive, alpha (e^x - 1) elsewhere; at 0 the gradient is alpha.

    Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289.
    """
    check_number("elu", "alpha", alpha)
    return np.where(input > 0, input, alpha * np.expm1(np.minimum(input, 0)))


elu.formula(
    """
    e = alpha · exp(min(input, 0))
    out = [input > 0] · input + [input ≤ 0] · (e - alpha)
    dinput = g · ([input > 0] + [input ≤ 0] · e)
    """
)


@elu.vjp("input")
def _(g, input, alpha):  # not out + alpha, which loses what is small beside alpha
    return np.where(input > 0, g, g * (alpha * np.exp(np.minimum(input, 0))))


@op
@kernel("pointwise.sigmoid")
def sigmoid(input):
    """1 / (1 + e^-x)."""
    input = in_float(input)
    x = in_single(input)
    e = np.exp(-np.absolute(x))
    return (np.where(x < 0, e, 1) / (1 + e)).astype(input.dtype, copy=False)


sigmoid.formula("out = 1 / (1 + exp(-input)); dinput = g · exp(-input) / (1 + exp(-input))^2")


@sigmoid.vjp("input")
@kernel("pointwise.sigmoid_vjp")
def _(g, input, out):
    return g * (out * sigmoid(-input))  # which 1 - out is, without its rounding


@op
@kernel("pointwise.silu")
def silu(input):
    """Swish, x sigmoid(x)."""
    check_floats("silu", input=input)
    x = in_single(input)
    return (x * sigmoid(x)).astype(input.dtype, copy=False)


silu.formula("s = 1 / (1 + exp(-input)); out = input · s; dinput = g · (s + input · s · (1 - s))")


@silu.vjp("input")
@kernel("pointwise.silu_vjp")
def _(g, input, out):
    s = sigmoid(input)
    return g * (s + out * (1 - s))


@op
def softplus(input, beta=1.0):
    """log(1 + e^(beta x)) / beta, without overflow."""
    check_number("softplus", "beta", beta)
    return np.logaddexp(beta * input, 0) / beta


softplus.formula("out = log(1 + exp(beta · input)) / beta; dinput = g / (1 + exp(-beta · input))")
softplus.vjp(input=lambda g, input, beta: g * sigmoid(beta * input))


@softplus.sample
def _(draw):
    return draw.call(draw.array(), draw.choice([1.0, 2.5]))


def logsigmoid(input):
    """log(sigmoid(x)), without overflow."""
    return -softplus(-input)


GELUS = ("none", "tanh")


@op(saves=("phi",))
@kernel("pointwise.gelu", pays=lambda input, approximate="none": approximate in GELUS)
def gelu(input, approximate="none"):
    """Gaussian error linear unit, x Phi(x), with Phi the normal distribution function.

    ``approximate="tanh"`` takes 1/2 (1 + tanh(u)) for Phi, with u = sqrt(2/pi) (x + 0.044715 x^3):
    GPT-2's choice. Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    if approximate not in GELUS:
        raise ValueError(f"gelu: approximate is {approximate!r}; expected 'none' or 'tanh'")
    check_floats("gelu", input=input)
    input, dtype = in_single(input), input.dtype
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
            out[...] = special.erf(x * math.sqrt(0.5))
            out += 1
            out *= 0.5
    return (input * phi).astype(dtype, copy=False), phi


_SQRT_2_PI = math.sqrt(2 / math.pi)


@gelu.formula
def _(approximate="none"):
    if approximate == "tanh":
        return """
            u = sqrt(2 / π) · (input + 0.044715 · input^3)
            out = input · (1 + tanh(u)) / 2
            du = sqrt(2 / π) · (1 + 3 · 0.044715 · input^2)
            dinput = g · ((1 + tanh(u)) / 2 + input · du / (2 · cosh(u)^2))
        """
    return """
        Φ = (1 + erf(input / sqrt(2))) / 2
        out = input · Φ
        dinput = g · (Φ + input · exp(-input^2 / 2) / sqrt(2 · π))
    """


@gelu.vjp("input")
@kernel("pointwise.gelu_vjp")
def _(g, input, approximate, phi):
    gradient = np.empty_like(phi)
    for x, p, gx, out in blocks(input, phi, g, gradient):  # g (Phi + x dPhi/dx)
        with np.errstate(over="ignore"):
            square = x * x
        if approximate == "tanh":  # dPhi/dx = 2 Phi (1 - Phi) du/dx
            np.minimum(square, 1600, out=square)  # beyond, Phi (1 - Phi) is 0
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
        x = np.clip(input, -40, 40)  # a cube may be out of range; beyond, tanh is -1 or 1
        return input * 0.5 * (1 + np.tanh(_SQRT_2_PI * (x + 0.044715 * x**3)))
    return input * 0.5 * (1 + erf(input * math.sqrt(0.5)))


@gelu.sample
def _(draw):
    return draw.call(draw.array(low=-4, high=4), draw.choice(["none", "tanh"]))


@op
def erf(input):
    """Error function: 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return special.erf(in_float(input))


erf.formula("out = erf(input); dinput = g · 2 / sqrt(π) · exp(-input^2)")
erf.vjp(input=lambda g, input: g * (2 / math.sqrt(math.pi) * np.exp(-input * input)))


@op(domain={"input": (0.5, 2.0)})
def rsqrt(input):
    """1 / sqrt(x)."""
    return 1 / np.sqrt(input)


rsqrt.formula("out = 1 / sqrt(input); dinput = -g / (2 · input^(3/2))")
rsqrt.vjp(input=lambda g, out: g * (-0.5 * out * out * out))


# ---- normalization


@op
@kernel("rowwise.softmax", pays=lambda input, dim=-1: type(dim) is int)
def softmax(input, dim=-1):
    """exp(x) / sum(exp(x)) along an axis."""
    check_axis("softmax", dim, input.ndim)
    check_floats("softmax", input=input)
    x = in_single(input)
    out = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    out /= np.sum(out, axis=dim, keepdims=True)
    return out.astype(input.dtype, copy=False)


softmax.formula(
    "out_i = exp(input_i) / Σ_j exp(input_j); dinput_i = out_i · (g_i - Σ_j g_j · out_j)",
    along="dim",
)


@softmax.vjp("input")
@kernel("rowwise.softmax_vjp")
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
@kernel("rowwise.log_softmax", pays=lambda input, dim=-1: type(dim) is int)
def log_softmax(input, dim=-1):
    """Logarithm of softmax: x - log(sum(exp(x))) along an axis."""
    check_axis("log_softmax", dim, input.ndim)
    check_floats("log_softmax", input=input)
    x = in_single(input)
    shifted = x - np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # of no elements
        out = shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True))
    return out.astype(input.dtype, copy=False)


log_softmax.formula(
    """
    out_i = input_i - log(Σ_j exp(input_j))
    dinput_i = g_i - exp(input_i) / (Σ_j exp(input_j)) · Σ_j g_j
    """,
    along="dim",
)


@log_softmax.vjp("input")
@kernel("rowwise.log_softmax_vjp")
def _(g, out, dim):
    return g - np.exp(out) * np.sum(g, axis=dim, keepdims=True)


@log_softmax.reference
def _(input, dim):
    return input - np.log(np.sum(np.exp(input), axis=dim, keepdims=True))


log_softmax.sample(softmax.sampler)


def as_shape(shape):
    """Return a shape that may be given as a list, or as the length of the only axis."""
    try:
        return tuple(
            n.__index__() for n in (shape if isinstance(shape, tuple | list) else (shape,))
        )
    except AttributeError:
        raise TypeError(
            f"normalized_shape is {shape!r}; expected an integer, or several in a tuple"
        ) from None


def as_rows(x, normalized_shape):
    """Return an array as rows over its last axes: (..., *normalized_shape) -> (rows, n)."""
    shape = as_shape(normalized_shape)
    return x.reshape(math.prod(x.shape[: x.ndim - len(shape)]), math.prod(shape))


def check_normalized(name, input, normalized_shape, **parameters):
    """Raise ``ValueError`` if the last axes of input, or a parameter, are not normalized_shape."""
    shape = as_shape(normalized_shape)
    if not shape or input.shape[input.ndim - len(shape) :] != shape:
        raise ValueError(
            f"{name}: the last axes of input, of shape {input.shape}, are not "
            f"normalized_shape {shape}"
        )
    for key, x in parameters.items():
        if x is not None and x.shape != shape:
            raise ValueError(f"{name}: {key} has shape {x.shape}, and normalized_shape is {shape}")


def eps_fits(eps):
    """Return whether a kernel takes an epsilon."""
    return type(eps) is float and eps >= 0


@op(saves=("mean", "rstd"))
@kernel("rowwise.layer_norm", pays=lambda x, shape, w=None, b=None, eps=0.0: eps_fits(eps))
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, or the last few.

    Shapes: ``input (..., *normalized_shape)``, ``weight`` and ``bias`` ``normalized_shape`` or
    None; an integer is the length of the last axis. Ba, Kiros and Hinton 2016, arXiv:1607.06450,
    equations 3 and 4.
    """
    check_eps("layer_norm", eps)
    check_floats("layer_norm", input=input)
    check_normalized("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    x = as_rows(in_single(input), normalized_shape)
    n = x.shape[1]
    ones = np.ones(n, x.dtype)  # the sum of a row as a product: BLAS is three times faster
    mean = (x @ ones / max(n, 1))[:, None]
    out = x - mean
    rstd = inverse_root_mean_square(out, eps)
    out *= rstd
    if weight is not None:
        out *= weight.reshape(n)
    if bias is not None:
        out += bias.reshape(n)
    return out.reshape(input.shape).astype(input.dtype, copy=False), mean, rstd


def inverse_root_mean_square(x, eps):
    """Return 1 / sqrt(mean(x^2) + eps) of rows, (rows, n) -> (rows, 1)."""
    n = max(x.shape[-1], 1)
    square = np.vecdot(x, x)[:, None] / n + eps
    low, high = np.finfo(x.dtype).tiny / np.finfo(x.dtype).eps, np.finfo(x.dtype).max
    if not np.any((square < low) | (square > high)):
        return (1 / np.sqrt(square)).astype(x.dtype, copy=False)
    # squares left the range of the dtype, as the roots do not: divide the row by its largest first
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
@kernel("rowwise.layer_norm_vjp")
def _(g, input, normalized_shape, weight, bias, eps, mean, rstd, needs):
    x, g = as_rows(input, normalized_shape), as_rows(g, normalized_shape)
    n = x.shape[1]
    normal = x - mean
    normal *= rstd
    g_input = g_weight = g_bias = None
    if needs[2]:
        g_bias = np.add.reduce(g, axis=0).reshape(bias.shape)
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - mean(g') - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(n)
        normal *= (np.vecdot(g_normal, normal) / max(n, 1))[:, None]
        g_input = g_normal - (g_normal @ np.ones(n, g.dtype) / max(n, 1))[:, None]
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
    normalized = shape[-1:] if draw.boolean() else shape[-2:]
    if 0 in normalized:
        normalized = shape[-1:]
    x = draw.array(shape=shape, low=-0.5, high=0.5)
    x += 2 * np.arange(shape[-1])  # the function is as good as singular where the variance is 0
    weight, bias = draw.array(shape=normalized), draw.array(shape=normalized)
    return draw.call(x, normalized, weight, draw.choice([bias, None]), 1e-5)


@op(saves=("rstd",))
@kernel("rowwise.rms_norm", pays=lambda x, shape, w=None, eps=None: eps is None or eps_fits(eps))
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """Scale x / sqrt(mean(x^2) + eps) * weight over the last axis, or the last few.

    Without `eps`, the spacing of the dtype at 1. Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    if eps is not None:
        check_eps("rms_norm", eps)
    check_floats("rms_norm", input=input)
    check_normalized("rms_norm", input, normalized_shape, weight=weight)
    x = as_rows(in_single(input), normalized_shape)
    n = x.shape[1]
    eps = np.finfo(input.dtype).eps if eps is None else eps
    rstd = inverse_root_mean_square(x, float(eps))
    out = x * rstd
    if weight is not None:
        out *= weight.reshape(n)
    return out.reshape(input.shape).astype(input.dtype, copy=False), rstd


@rms_norm.formula(along=lambda normalized_shape: tuple(range(-len(as_shape(normalized_shape)), 0)))
def _(weight="weight", eps="eps"):
    scaled = " · weight_i" if weight is not None else ""
    return f"""
        s = sqrt(mean_i input_i^2 + {np.finfo(float).eps if eps is None else "eps"})
        z_i = input_i / s
        out_i = z_i{scaled}
        dz_i = g_i{scaled}
        dinput_i = (dz_i - z_i · mean_j dz_j · z_j) / s
        {"dweight_i = Σ g_i · z_i" if scaled else ""}
    """


@rms_norm.vjp("input", "weight")
@kernel("rowwise.rms_norm_vjp")
def _(g, input, normalized_shape, weight, eps, rstd, needs):
    normal, g = as_rows(input, normalized_shape) * rstd, as_rows(g, normalized_shape)
    n = g.shape[1]
    g_input = g_weight = None
    if needs[1]:
        g_weight = np.add.reduce(g * normal, axis=0).reshape(weight.shape)
    if needs[0]:  # rstd (g' - normal mean(g' normal)), with g' = g weight
        g_normal = g if weight is None else g * weight.reshape(n)
        normal *= (np.vecdot(g_normal, normal) / max(n, 1))[:, None]
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


# ---- tables and products


@op
def affine(input, weight, bias):
    """Input @ weight + bias, with ``weight (in, out)`` and ``bias (out,)`` or None."""
    out = product(rows(input), weight, bias)  # (..., in) -> (n, in) @ (in, out)
    return out.reshape(*input.shape[:-1], weight.shape[1])


@affine.formula
def _(bias="bias"):
    return f"""
        out_o = Σ_i input_i · weight_io{" + bias_o" if bias is not None else ""}
        dinput_i = Σ_o g_o · weight_io
        dweight_io = Σ input_i · g_o
        {"dbias_o = Σ g_o" if bias is not None else ""}
    """


affine.vjp(
    input=lambda g, weight, input_shape: np.reshape(
        product(rows(g), np.swapaxes(weight, 0, 1)), input_shape
    ),
    weight=lambda g, input: product(np.swapaxes(rows(input), 0, 1), rows(g)),
    bias=lambda g, bias_shape: sum_to_shape(rows(g), bias_shape),
)


@affine.reference
def _(input, weight, bias):
    return input @ weight + (0 if bias is None else bias)


@affine.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), 3))
    return draw.call(x, draw.array(shape=(3, 2)), draw.choice([draw.array(shape=(2,)), None]))


@op
@kernel("scatter.embedding", pays=lambda input, weight, padding_idx=None: padding_idx is None)
def embedding(input, weight, padding_idx=None):
    """Rows of a table: ``weight[input]``, for an integer array of any shape.

    ``IndexError`` for a row that is not in the table: -1 is not the last, as in PyTorch. The row
    ``padding_idx``, which may count from the end, gets no gradient.
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}; expected (rows, columns)")
    input = as_ids(input)
    if fault := misfit(input, len(weight), "weight has {} rows"):
        raise IndexError(f"embedding: input {fault}")
    if padding_idx is not None:
        check_count("embedding", "padding_idx", padding_idx, -len(weight))
        if padding_idx >= len(weight):
            raise ValueError(f"embedding: padding_idx is {padding_idx}, of {len(weight)} rows")
    return weight[input]


def as_ids(x):
    """Return ids or classes as an array; of an empty list one of integers."""
    array = np.asarray(x)
    return array if array.size or hasattr(x, "dtype") else array.astype(np.int64)


def misfit(ids, n, of, ignored=None):
    """Return what is wrong with integers that must be in [0, n), as a phrase; "" if nothing is.

    `of` says what n counts. One value may be ignored.
    """
    if ids.dtype.kind not in "iu" and not (  # NumPy's type for integers that int64 cannot hold
        ids.dtype.kind == "O" and all(type(i) is int for i in ids.flat)
    ):
        return f"has type {ids.dtype}; expected integers in [0, {n})"
    if not ids.size or (ids.min() >= 0 and ids.max() < n):
        return ""
    wrong = [i for i in ids[(ids < 0) | (ids >= n)].tolist() if i != ignored]
    of = of.format(n)
    return f"holds {wrong[0]}, and {of}; expected integers in [0, {n})" if wrong else ""


@embedding.formula
def _(padding_idx=None):
    kept = "" if padding_idx is None else " · [r ≠ padding_idx]"
    return f"out_c = weight_{{input, c}}; dweight_rc = Σ g_c · [input = r]{kept}"


@embedding.vjp("weight")
def _(g, input, weight_shape, padding_idx):
    input = as_ids(input)
    if padding_idx is not None:
        padding = input == padding_idx % weight_shape[0]  # which may count from the end
        g = np.where(padding[..., None], 0, g)
    return scatter_rows(g, input, weight_shape)


@embedding.sample
def _(draw):
    return draw.call(draw.integers(draw.shape(), 0, 2), draw.array(shape=(3, 2)))


@op
@kernel("scatter.scatter_rows")
def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of ``values`` added to the row that ``index`` names."""
    index, flat = index.reshape(-1), rows(values)
    out = np.zeros(shape, values.dtype)
    if index.size:
        index = index % shape[0]  # one row may be named from the front and from the end
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        out[ordered[starts]] = np.add.reduceat(flat[order], starts, axis=0)
    return out


scatter_rows.formula("out_rc = Σ values_c · [index = r]; dvalues_c = g_{index, c}")
scatter_rows.vjp(values=lambda g, index: embedding(index, g))


@scatter_rows.sample
def _(draw):
    index = draw.integers(draw.shape(), 0, 2)
    return draw.call(draw.array(shape=(*index.shape, 2)), index, (3, 2))


def linear(input, weight, bias=None):
    """Input @ weight.T + bias, with ``weight (out, in)``: PyTorch's orientation."""
    return affine(input, np.swapaxes(weight, 0, 1), bias)


def one_hot(tensor, num_classes=-1):
    """Return a plain array of integers, ``(...) -> (..., num_classes)``: 1 at each class, 0 else.

    With -1 there are as many classes as the largest names. ``ValueError`` for one out of range.
    """
    check_count("one_hot", "num_classes", num_classes, -1)
    classes = as_ids(tensor)
    if num_classes == -1:
        if not classes.size:
            raise ValueError("one_hot: tensor is empty, and names no class; give num_classes")
        num_classes = int(classes.max()) + 1
    if fault := misfit(classes, num_classes, "there are {} classes"):
        raise ValueError(f"one_hot: tensor {fault}")
    return (classes[..., None] == np.arange(num_classes)).astype(np.int64)


# ---- convolution


@op
def sliding_windows(x, size, stride=1, dilation=1):
    """Windows on the last axis, each a column: ``(..., length) -> (..., size, n)``.

    They start `stride` apart, and the elements of one are `dilation` apart.
    """
    for key, value in {"size": size, "stride": stride, "dilation": dilation}.items():
        check_count("sliding_windows", key, value, 1)
    span = dilation * (size - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, span, -1)[..., ::stride, ::dilation]
    return np.swapaxes(windows, -1, -2).copy()  # (..., n, size) -> (..., size, n)


@op
def overlap_add(windows, length, stride=1, dilation=1):
    """Sum of windows where they overlap, ``(..., size, n) -> (..., length)``.

    It is the transpose of `sliding_windows`.
    """
    *lead, size, n = windows.shape
    check_count("overlap_add", "length", length, 0)
    check_count("overlap_add", "stride", stride, 1)
    check_count("overlap_add", "dilation", dilation, 1)
    if size and n and (n - 1) * stride + (size - 1) * dilation >= length:
        raise ValueError(
            f"overlap_add: length is {length}; {n} windows of {size} elements, with a stride of "
            f"{stride} and a dilation of {dilation}, reach over "
            f"{(n - 1) * stride + (size - 1) * dilation + 1}"
        )
    out = np.zeros((*lead, length), windows.dtype)
    for i in range(size):
        first = i * dilation
        out[..., first : first + n * stride : stride][..., :n] += windows[..., i, :]
    return out


sliding_windows.formula(
    """
    out_kl = x_{l · stride + k · dilation}
    dx_i = Σ_k Σ_l g_kl · [i = l · stride + k · dilation]
    """
)
overlap_add.formula(
    """
    out_i = Σ_k Σ_l windows_kl · [i = l · stride + k · dilation]
    dwindows_kl = g_{l · stride + k · dilation}
    """
)


@sliding_windows.vjp("x")
def _(g, x_shape, stride, dilation):
    return overlap_add(g, x_shape[-1], stride, dilation)


@overlap_add.vjp("windows")
def _(g, windows_shape, stride, dilation):
    *_, size, n = windows_shape
    return sliding_windows(g, size, stride, dilation)[..., :n]


@sliding_windows.reference
def _(x, size, stride, dilation):
    n = (x.shape[-1] - dilation * (size - 1) - 1) // stride + 1
    return x[..., dilation * np.arange(size)[:, None] + stride * np.arange(n)]


@sliding_windows.sample
def _(draw):
    size, stride, dilation = draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 2)
    length = dilation * (size - 1) + 1 + draw.integer(0, 4)
    return draw.call(draw.array(shape=(*draw.shape(max_dims=2), length)), size, stride, dilation)


@overlap_add.sample
def _(draw):
    n, size, stride, dilation = (draw.integer(1, 3) for _ in range(4))
    length = (n - 1) * stride + (size - 1) * dilation + 1 + draw.integer(0, 4)
    x = draw.array(shape=(*draw.shape(max_dims=2), size, n))
    return draw.call(x, length, stride, dilation)


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Slide kernels along the last axis: cross-correlation, as PyTorch's function of that name.

    One matrix product of the kernels and the windows.

    Parameters
    ----------
    input : Tensor or ndarray, (N, C_in, L) or (C_in, L)
    weight : Tensor or ndarray, (C_out, C_in / groups, size)
    bias : Tensor or ndarray, (C_out,), optional
    stride, dilation : int
        How far apart windows are, and the elements of a window.
    padding : int, "same" or "valid"
        Zeros on either side; "same" keeps the length (a stride of 1 is needed; an odd number of
        zeros has the longer half on the right), "valid" adds none.
    groups : int
        Each group of output channels sees its own group of input channels alone.

    Returns
    -------
    Tensor or ndarray, (N, C_out, L_out) or (C_out, L_out)
        With L_out = (L + 2 padding - dilation (size - 1) - 1) // stride + 1.

    Raises
    ------
    ValueError
        If channels and groups do not fit, or the kernel is longer than the padded input.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> x = autograd.tensor([[1.0, 2.0, 4.0, 8.0]])
    >>> autograd.nn.conv1d(x, np.array([[[-1.0, 1.0]]]))
    tensor([[1., 2., 4.]])
    """
    input, weight, bias = map(as_array, (input, weight, bias))
    if input.ndim == 2:
        return conv1d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    stride, padding, dilation = (  # PyTorch takes (3,) for 3
        x[0] if isinstance(x, tuple | list) else x for x in (stride, padding, dilation)
    )
    if input.ndim != 3 or weight.ndim != 3:
        raise ValueError(
            f"conv1d: input has {input.ndim} axes and weight {weight.ndim}; expected (N, C_in, L) "
            "or (C_in, L), and (C_out, C_in / groups, size)"
        )
    for key, value in {"stride": stride, "dilation": dilation, "groups": groups}.items():
        check_count("conv1d", key, value, 1)
    if padding not in ("same", "valid"):
        check_count("conv1d", "padding", padding, 0)
    batch, channels, length = input.shape
    n_out, per_group, size = weight.shape
    if channels != per_group * groups or n_out % groups:
        raise ValueError(
            f"conv1d: input {input.shape}, weight {weight.shape} and groups={groups} do not fit; "
            "expected (N, C_in, L) and (C_out, C_in / groups, size)"
        )
    reach = dilation * (size - 1)
    if padding == "same":
        if stride != 1:
            raise ValueError(f"conv1d: padding='same' needs a stride of 1, and it is {stride}")
        before, after = reach // 2, reach - reach // 2
    else:
        before = after = 0 if padding == "valid" else padding
    if before + length + after <= reach:
        raise ValueError(
            f"conv1d: the kernel reaches over {reach + 1} elements, and the padded input has "
            f"{before + length + after}"
        )
    if before or after:
        input = np.pad(input, ((0, 0), (0, 0), (before, after)))
    windows = sliding_windows(input, size, stride, dilation)  # (N, C_in, size, n)
    n = windows.shape[-1]
    columns = np.reshape(windows, (batch, groups, per_group * size, n))
    kernels = np.reshape(weight, (groups, n_out // groups, per_group * size))
    out = np.reshape(np.matmul(kernels, columns), (batch, n_out, n))
    return out if bias is None else out + bias[:, None]


# ---- losses


def reduced(losses, reduction):
    """Return the mean or the sum of losses, or all for ``"none"``; the mean of none is NaN."""
    check_reduction(reduction)
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / (losses.size or np.nan)


def check_reduction(reduction):
    """Raise ``ValueError`` for what is no reduction."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")


def mse_loss(input, target, reduction="mean"):
    """Squared difference, element by element."""
    return reduced((input - target) ** 2, reduction)


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """Negative log-likelihood of targets in [0, 1] under sigmoid(input).

    `target` has the shape of `input`. `weight` multiplies the losses, `pos_weight` the part of the
    targets in them; both broadcast.
    """
    if np.shape(input) != np.shape(target):
        raise ValueError(
            f"binary_cross_entropy_with_logits: input has shape {np.shape(input)} and target "
            f"{np.shape(target)}; expected the same"
        )
    # -pos_weight t log(sigmoid(x)) - (1 - t) log(1 - sigmoid(x)), of which nothing cancels
    positive = target if pos_weight is None else pos_weight * target
    losses = positive * softplus(-input) + (1 - target) * softplus(input)
    return reduced(losses if weight is None else losses * weight, reduction)


def cross_entropy(
    input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0
):
    """Negative log-probability of the targets under softmax(input), as PyTorch's function.

    Parameters
    ----------
    input : Tensor or ndarray, (C,), (N, C) or (N, C, d1, ...)
        Logits of C classes.
    target : array_like of int, (), (N,) or (N, d1, ...); or Tensor or ndarray of `input`'s shape
        Classes, or probabilities of all of them, which may require a gradient.
    weight : array_like, (C,), optional
        What each class counts.
    ignore_index : int
        A class that counts for nothing.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by the sum of the weights of the targets that count, or for probabilities
        by the number of positions. Of none at all, it is NaN.
    label_smoothing : float
        How much of each target goes, in equal parts, to all classes. Szegedy et al. 2016,
        arXiv:1512.00567, section 7.

    Returns
    -------
    Tensor or ndarray
        A number; with ``"none"`` one for each position, (), (N,) or (N, d1, ...).

    Raises
    ------
    ValueError
        If the shapes do not fit, or a target is not among the classes.

    Examples
    --------
    >>> import autograd
    >>> logits = autograd.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> autograd.nn.cross_entropy(logits, [0, 1], reduction="none").numpy().round(4).tolist()
    [0.1269, 0.6931]
    """
    check_reduction(reduction)
    check_number("cross_entropy", "label_smoothing", label_smoothing)
    check_ignored("cross_entropy", ignore_index)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}, not in [0, 1]")
    weight = None if weight is None else np.asarray(weight)
    if np.asarray(plain(target)).dtype.kind != "f":
        input, target = classes_last(input), as_ids(target)
        check_weight("cross_entropy", weight, input.shape[-1])
        return cross_entropy_(input, target, weight, ignore_index, reduction, label_smoothing)
    if np.shape(target) != np.shape(input):
        raise ValueError(
            f"cross_entropy: input has shape {np.shape(input)} and target {np.shape(target)}; "
            "expected integers, or probabilities of the same shape"
        )
    input, target = classes_last(input), classes_last(target)  # (N, ..., C)
    check_weight("cross_entropy", weight, input.shape[-1])
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / max(input.shape[-1], 1)
    if weight is not None:
        target = target * weight
    losses = -np.sum(log_softmax(input) * target, axis=-1)
    return reduced(losses, reduction)


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """Negative log-probability of the target classes, of log-probabilities: see `cross_entropy`."""
    check_reduction(reduction)
    check_ignored("nll_loss", ignore_index)
    input, target = classes_last(input), as_ids(target)
    weight = None if weight is None else np.asarray(weight)
    check_weight("nll_loss", weight, input.shape[-1])
    check_classes("nll_loss", input, target, ignore_index)
    classes, share = shares(target, weight, ignore_index, input.dtype)
    losses = -take_along_axis(input, classes[..., None], -1)[..., 0]
    losses = np.where(target == ignore_index, 0, losses * share)
    if reduction != "mean":
        return reduced(losses, reduction)
    return np.sum(losses) / (np.sum(share) or np.nan)


def classes_last(x):
    """Move the axis of classes to the end: (N, C, d1, ...) -> (N, d1, ..., C)."""
    return np.moveaxis(x, 1, -1) if np.ndim(x) > 2 else x


def shares(target, weight, ignore_index, dtype):
    """Return the classes, 0 where ignored, and what each position counts, 0 where ignored."""
    counted = target != ignore_index
    classes = np.where(counted, target, 0)
    share = counted.astype(dtype)
    return classes, share if weight is None else share * weight[classes].astype(dtype)


def smoothing(label_smoothing, weight, n, dtype):
    """Return what label smoothing counts each of n classes, in every position."""
    spread = np.full(n, label_smoothing / max(n, 1), dtype)
    return spread if weight is None else spread * weight.astype(dtype)


def check_ignored(name, ignore_index):
    """Raise ``TypeError`` unless the class to ignore is an integer, of either sign."""
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | np.integer):
        raise TypeError(f"{name}: ignore_index is {ignore_index!r}; expected an integer")


def check_weight(name, weight, n):
    """Raise ``ValueError`` unless there is one weight for each class, or none."""
    if weight is not None and weight.shape != (n,):
        raise ValueError(f"{name}: weight has shape {weight.shape}, and input has {n} classes")


def check_classes(name, input, target, ignore_index):
    """Raise ``ValueError`` where targets do not fit (..., C) in shape or are not among classes."""
    if input.shape[:-1] != target.shape:
        raise ValueError(
            f"{name}: input has {input.shape[-1]} classes at positions of shape "
            f"{input.shape[:-1]}; expected a target of shape {input.shape[:-1]}, got {target.shape}"
        )
    if fault := misfit(target, input.shape[-1], "input has {} classes", ignore_index):
        raise ValueError(f"{name}: target {fault}")


@op(saves=("largest", "log_total"))  # apart: beside a large maximum, a logarithm loses its digits
@kernel("rowwise.cross_entropy")
def cross_entropy_(input, target, weight, ignore_index, reduction, label_smoothing):
    """Cross-entropy of classes, with those of ``input (..., C)`` last; see `cross_entropy`."""
    check_classes("cross_entropy", input, target, ignore_index)
    check_floats("cross_entropy", input=input)
    logits = rows(in_single(input))
    classes, share = shares(target.reshape(-1), weight, ignore_index, logits.dtype)
    largest = np.max(logits, axis=-1, keepdims=True, initial=-np.inf)
    e = logits - largest
    picked = np.take_along_axis(e, classes[:, None], axis=-1)[:, 0]
    if label_smoothing:
        spread = smoothing(label_smoothing, weight, e.shape[-1], e.dtype)
        smooth = e @ spread
    np.exp(e, out=e)
    log_total = np.log(np.sum(e, axis=-1))
    losses = (log_total - picked) * share
    if label_smoothing:
        losses *= 1 - label_smoothing
        losses += log_total * spread.sum() - smooth
    losses[target.reshape(-1) == ignore_index] = 0
    out = losses.reshape(target.shape)
    if reduction != "none":
        out = np.sum(losses)
    if reduction == "mean":
        out = out / (np.sum(share) or np.nan)
    return out.astype(input.dtype, copy=False), largest[:, 0], log_total


@cross_entropy_.formula(classes=lambda input_shape: input_shape[-1])
def _(weight=None, reduction="mean", label_smoothing=0.0):
    aim = "[c = target]"
    if label_smoothing:
        aim = f"((1 - label_smoothing) · {aim} + label_smoothing / classes)"
    counts = "[target ≠ ignore_index]" + (" · weight_{target}" if weight is not None else "")
    total = {"mean": "(Σ loss) / (Σ counts)", "sum": "Σ loss", "none": "loss"}[reduction]
    return f"""
        p_c = exp(input_c) / Σ_k exp(input_k)
        q_c = [target ≠ ignore_index] · {aim}{" · weight_c" if weight is not None else ""}
        loss = -Σ_c q_c · log(p_c)
        counts = {counts}
        out = {total}
        dinput_c = g · (p_c · Σ_k q_k - q_c){" / (Σ counts)" if reduction == "mean" else ""}
    """


@cross_entropy_.vjp("input")
@kernel("rowwise.cross_entropy_vjp")
def _(
    g, input, target, weight, ignore_index, reduction, label_smoothing, largest, log_total
):  # fmt: skip
    target = target.reshape(-1)
    classes, share = shares(target, weight, ignore_index, input.dtype)
    g = np.reshape(g, -1).astype(input.dtype) * (target != ignore_index)  # of each row
    if reduction == "mean":
        g /= np.sum(share) or 1
    share *= g * (1 - label_smoothing)
    p = rows(input) - largest[:, None]
    p -= log_total[:, None]
    np.exp(p, out=p)
    if label_smoothing:
        spread = smoothing(label_smoothing, weight, p.shape[-1], p.dtype)
        p *= (share + g * spread.sum())[:, None]
        p -= np.outer(g, spread)
    else:
        p *= share[:, None]
    p[np.arange(len(p)), classes] -= share
    return p.reshape(input.shape)


@cross_entropy_.reference
def _(input, target, weight, ignore_index, reduction, label_smoothing):
    n = input.shape[-1]
    classes, share = shares(target, weight, ignore_index, input.dtype)
    aim = (1 - label_smoothing) * share[..., None] * (classes[..., None] == np.arange(n))
    spread = smoothing(label_smoothing, weight, n, input.dtype)
    aim = aim + spread * (target != ignore_index)[..., None]
    losses = -np.sum(log_softmax(input) * aim, axis=-1)
    if reduction == "none":
        return losses
    return np.sum(losses) / (np.sum(share) or 1 if reduction == "mean" else 1)


@cross_entropy_.sample
def _(draw):
    shape = draw.shape(max_dims=2, min_side=1)
    n = draw.integer(1, 4)
    target = draw.integers(shape, 0, n - 1)
    if draw.boolean() and target.size > 1:
        target.flat[0] = -100
    weight = draw.choice([None, 0.5 + np.arange(n)])
    reduction, label_smoothing = draw.choice(["mean", "sum", "none"]), draw.choice([0.0, 0.2])
    x = draw.array(shape=(*shape, n))
    return draw.call(x, target, weight, -100, reduction, label_smoothing)


# ---- dropout


def new_seed(generator=None):
    """Draw the seed of one dropout mask; without a generator, from NumPy's entropy."""
    replayed, drawn = _replayed.get(), _drawn.get()
    if replayed is not None:
        seed = next(replayed, 0)  # 0 for a call too many, which `checkpoint` then notices
    else:
        seed = int((generator or np.random.default_rng()).integers(2**63))
    if drawn is not None:
        drawn.append(seed)
    return seed


_drawn = ContextVar("drawn", default=None)
_replayed = ContextVar("replayed", default=None)


@contextmanager
def seeds_drawn():
    """Give the list of the seeds that are drawn inside the block."""
    outer, seeds = _drawn.get(), []
    token = _drawn.set(seeds)
    try:
        yield seeds
    finally:
        _drawn.reset(token)
        if outer is not None:
            outer += seeds


@contextmanager
def seeds_replayed(seeds):
    """Draw these seeds again, in their order."""
    token = _replayed.set(iter(seeds))
    try:
        yield
    finally:
        _replayed.reset(token)


def dropout(input, p=0.5, training=True, generator=None):
    """Set each element to 0 with probability p and divide the others by 1 - p, while training.

    The mask is a function of a seed and of the element's position. The seed is drawn here, once a
    call, from `generator`, a ``numpy.random.Generator``.
    """
    check_probability("dropout", "p", p)
    return dropout_seeded(input, p, new_seed(generator)) if training and p > 0 else input


def dropout_mask(rows, columns, p, seed, dtype):
    """Return 0 (with probability p) and 1 / (1 - p) for some rows and columns of a mask."""
    threshold = np.uint32(min(round(p * 2**32), 2**32 - 1))
    mask = (special.random_bits(rows, columns, seed) >= threshold).astype(dtype)
    mask *= 1 / (1 - p)
    return mask


def dropout_like(x_shape, p, seed, dtype):
    """Return the mask of a whole array, its last axis the columns."""
    *lead, n_columns = x_shape or (1,)
    mask = dropout_mask(np.arange(math.prod(lead)), np.arange(n_columns), p, seed, dtype)
    return mask.reshape(x_shape)


@op
@kernel("pointwise.dropout")
def dropout_seeded(input, p, seed):
    """Dropout with the mask that belongs to a seed."""
    check_floats("dropout", input=input)
    return input * dropout_like(input.shape, p, seed, input.dtype)


dropout_seeded.formula(
    "out = input · r  # r is 0 with probability p, else 1 / (1 - p); dinput = g · r",
    r=lambda input_shape, p, seed: dropout_like(input_shape, p, seed, float),
)


@dropout_seeded.vjp("input")
@kernel("pointwise.dropout_vjp")
def _(g, input_shape, p, seed):
    return g * dropout_like(input_shape, p, seed, g.dtype)


@dropout_seeded.sample
def _(draw):
    return draw.call(draw.array(), 0.3, draw.integer(0, 2**40))


# ---- attention

# Queries at a time: no (T, S) matrix is kept, and causality skips half of the work.
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
):
    """softmax(query key^T scale + mask) value, as PyTorch's function of that name.

    Vaswani et al. 2017, arXiv:1706.03762, equation 1. Memory is linear in T and S; with a window,
    work is proportional to T times the window.

    Parameters
    ----------
    query : Tensor or ndarray, (..., T, D)
    key : Tensor or ndarray, (..., S, D)
    value : Tensor or ndarray, (..., S, V)
    attn_mask : Tensor or ndarray, broadcasting to (..., T, S), optional
        Booleans (True takes part), or numbers to add, which may require a gradient.
    dropout_p : float
        Of the weights; one seed a call is drawn from `generator`, a ``numpy.random.Generator``.
    is_causal : bool
        Hide keys after the query's own position.
    scale : float, optional
        1 / sqrt(D) if not given.
    window_size : int, optional
        With `is_causal`: a query sees its own position and the ``window_size - 1`` before it.

    Returns
    -------
    Tensor or ndarray, (..., T, V)
        Zeros for a query that may see no key.

    Raises
    ------
    TypeError
        If the mask holds integers, of which nobody knows whether they choose or add.
    ValueError
        If the shapes do not fit, or the window is smaller than 1 or without `is_causal`.

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
    if attn_mask is not None and attn_mask.dtype.kind in "iu":
        raise TypeError(
            f"scaled_dot_product_attention: attn_mask has dtype {attn_mask.dtype}; expected "
            "booleans (True takes part), attn_mask.astype(bool), or floating-point numbers to add"
        )
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1] if query.ndim else 0, 1))
    seed = new_seed(generator) if dropout_p else 0
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size)


@op(saves=("largest",))
@kernel("attention.attention")
def attention(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size=None):
    """Attention with every argument settled; see `scaled_dot_product_attention`."""
    if (
        min(query.ndim, key.ndim, value.ndim) < 2
        or query.shape[:-2] != key.shape[:-2]
        or query.shape[-1] != key.shape[-1]
        or key.shape[:-1] != value.shape[:-1]
    ):
        raise ValueError(
            f"attention: query {query.shape}, key {key.shape} and value {value.shape} do not fit; "
            "expected (..., T, D), (..., S, D) and (..., S, V) with the same leading axes"
        )
    check_floats("attention", query=query, key=key, value=value)
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
def _(attn_mask=None, dropout_p=0.0, is_causal=True, window_size=None):
    mask, added = "attn_mask_ts", ""
    seen = ["[s ≤ t]"] if is_causal else []
    if window_size is not None:
        seen.append("[s > t - window_size]")
    if attn_mask is not None:
        mask = "attn_mask_s" if attn_mask.ndim == 1 else mask
        if attn_mask.dtype == bool:
            seen.append(f"[{mask}]")
        else:
            added = f" + {mask}"
    dropped = " · r_ts" if dropout_p else ""
    return f"""
        e_ts = {" · ".join([*seen, f"exp(scale · (Σ_d query_td · key_sd){added})"])}
        p_ts = e_ts / Σ_u e_tu
        out_te = Σ_s p_ts{dropped} · value_se
        dvalue_se = Σ_t p_ts{dropped} · g_te
        dp_ts = (Σ_e g_te · value_se){dropped}
        de_ts = p_ts · (dp_ts - Σ_u p_tu · dp_tu)
        dquery_td = scale · Σ_s de_ts · key_sd
        dkey_sd = scale · Σ_t de_ts · query_td
        {f"d{mask} = {'' if mask.endswith('ts') else 'Σ_t '}de_ts" if added else ""}
    """


@attention.vjp("query", "key", "value", "attn_mask")
@kernel("attention.attention_vjp")
def _(
    g, query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size, largest, needs
):  # fmt: skip
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
        g_value[..., block.keys, :] += np.swapaxes(dropped, -1, -2) @ g_rows
        dp -= np.sum(p * dp, axis=-1, keepdims=True)
        dp *= p
        if needs[3]:
            block.add_to_mask(g_mask, dp)
        dp *= scale
        g_query[..., block.rows, :] = dp @ key[..., block.keys, :]
        g_key[..., block.keys, :] += np.swapaxes(dp, -1, -2) @ query[..., block.rows, :]
    return g_query, g_key, g_value, g_mask


class QueryBlocks:
    """Blocks of queries and the keys that each may see: iterating yields itself, block by block."""

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
        """Return the masked scores of the block, (..., block, keys)."""
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
        """Add scores of the block, (..., block, keys), to the places of a mask that they had."""
        mask = mask.reshape((1,) * (2 - mask.ndim) + mask.shape)
        part = mask[
            ...,
            self.rows if mask.shape[-2] > 1 else slice(None),
            self.keys if mask.shape[-1] > 1 else slice(None),
        ]
        part += sum_to_shape(scores, part.shape)

    def dropout(self):
        """Return the block's part of the mask over (..., T, S)."""
        *lead, n_queries, _ = self.query.shape
        heads, i = np.arange(math.prod(lead)), np.arange(self.rows.start, self.rows.stop)
        numbers = np.add.outer(heads * n_queries, i).reshape(-1)
        keys = np.arange(self.keys.start, self.keys.stop)
        mask = dropout_mask(numbers, keys, self.dropout_p, self.seed, self.query.dtype)
        return mask.reshape(*lead, len(i), len(keys))


@attention.reference
def _(query, key, value, attn_mask, dropout_p, is_causal, scale, seed, window_size=None):
    scores = query @ np.swapaxes(key, -1, -2) * scale  # (..., T, S)
    n_queries, n_keys = scores.shape[-2:]
    if is_causal:
        seen = np.tri(n_queries, n_keys, dtype=bool)
        if window_size is not None:
            seen &= ~np.tri(n_queries, n_keys, -window_size, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
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
    key, value = draw.array(shape=(*batch, n_keys, 2)), draw.array(shape=(*batch, n_keys, 3))
    mask = draw.integers((n_queries, n_keys), 0, 1).astype(bool)
    mask[:, 0] = True  # a query that sees no key has no formula
    np.fill_diagonal(mask, True)
    sizes = [
        (n_queries, n_keys),
        (n_keys,),
        (n_queries, 1),
        (*batch[:1], *[1] * len(batch), n_keys),
    ]
    mask = draw.choice([None, mask, draw.array(shape=draw.choice(sizes))])
    is_causal = draw.boolean()
    window_size = draw.choice([None, 1, 2]) if is_causal and n_queries <= n_keys else None
    dropout_p, seed = draw.choice([0.0, 0.4]), draw.integer(0, 99)
    return draw.call(query, key, value, mask, dropout_p, is_causal, 0.7, seed, window_size)


# ---- loops


def blocks(*arrays, size=16384):
    """Yield matching blocks of arrays of one size, flat, small enough to stay in the cache.

    The last array is written to, and so must be contiguous.
    """
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[-1].size, size):
        yield [array[start : start + size] for array in flat]
