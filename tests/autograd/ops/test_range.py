"""Gradients over the whole range of a dtype, from its smallest to its largest numbers.

A gradient in float16 or float32 must be the one in float64, rounded, and a gradient in float64 the
one in NumPy's longdouble. A rule that squares, counts or cancels on its way fails here, where the
result is a number of the dtype and the square, the count or the difference is none.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.kernels import use_kernels
from autograd.ops.normalization import as_shape
from autograd.testing.properties import Applied, Call
from autograd.testing.strategies import Draw

WIDER = {np.float16: np.float64, np.float32: np.float64, np.float64: np.longdouble}
if np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:  # as on Windows
    del WIDER[np.float64]
OPS = sorted(autograd.REGISTRY)

PRODUCTS = "cumprod einsum prod".split()  # of many numbers
DECOMPOSITIONS = "eigh lstsq pinv qr svd".split()
NORMWISE = "eigh qr svd".split()
LAPACK = "cholesky det inv slogdet solve".split() + DECOMPOSITIONS  # knows float32 and float64 only


# ---- calls


class RandomDraw(Draw):
    """What a sampler draws from: a random generator, many times faster than hypothesis."""

    def __init__(self, random):
        self.random = random

    def integer(self, low, high):
        return int(self.random.integers(low, high + 1))

    def boolean(self):
        return self.integer(0, 1) == 1

    def shape(self, min_dims=0, max_dims=3, min_side=0, max_side=3):
        n = self.integer(min_dims, max_dims)
        return tuple(self.integer(max(1, min_side), max_side) for _ in range(n))

    def integers(self, shape, low, high):
        return self.random.integers(low, high + 1, shape)

    def broadcastable(self, n):
        shape = self.shape(max_dims=2)
        return [tuple(k if self.boolean() else 1 for k in shape) for _ in range(n)]

    def shuffled(self, x):
        return self.random.permutation(x.reshape(-1)).reshape(x.shape)


def drawn_call(op, random):
    draw = RandomDraw(random)
    if op.sampler is not None:
        return op.sampler(draw)
    required = [name for name in op.names if name not in op.defaults]
    limits = [op.domain.get(name, (-2.0, 2.0)) for name in required]
    shapes = draw.broadcastable(len(required))
    return draw.call(
        *[draw.array(shape=s, low=a, high=b) for s, (a, b) in zip(shapes, limits, strict=True)]
    )


def spreading(random, info):
    """Return a function that takes an array's magnitudes from the whole range of a dtype."""
    low, high = info.minexp - info.nmant, info.maxexp
    how = random.choice(["alike", "by array", "by element", "moderate", "beside one", "shifted"])
    power = random.integers(low, high)

    def spread(x):
        if how == "beside one":
            distance = np.exp2(random.uniform(-info.nmant, 0, x.shape))
            return np.copysign(1 + random.choice([-1, 1], x.shape) * distance, x)
        if how == "shifted":
            return x + random.choice([-1, 1]) * np.exp2(power % info.nmant)
        powers = {
            "alike": power,
            "by array": random.integers(low, high),
            "by element": random.integers(low, high, x.shape),
            "moderate": random.integers(-12, 12, x.shape),
        }
        return np.ldexp(x.astype(np.longdouble), powers[how])

    return spread


def converted(call, change):
    """Return a call with its floating-point arrays changed."""

    def new(x):
        is_float = isinstance(x, np.ndarray) and x.dtype.kind == "f"
        return np.asarray(change(x)) if is_float else x

    return Call(tuple(map(new, call.args)), {key: new(x) for key, x in call.kwargs.items()})


def gradients(op, call, cotangents, create_graph=False):
    function = Applied(op, call)
    leaves = [autograd.Tensor(x).requires_grad_() for x in function.inputs]
    outputs = function.outputs(*leaves)
    found = autograd.grad(outputs, leaves, cotangents, create_graph=create_graph)
    return [x.detach().numpy() for x in found]


# ---- the limits that `docs/ops.md` states


def in_range(name, call, outputs, g, info):
    """Return whether what an op computes on its way is in the range of the dtype."""
    arrays = [np.abs(x) for x in call.args if isinstance(x, np.ndarray) and x.size]
    if name in DECOMPOSITIONS and not are_apart(name, call.args[0].astype(float), info):
        return False
    if name in ("det", "slogdet", "solve") and not are_normal(on_the_way(name, call, g), info):
        return False
    if name in (*LAPACK, "exp", "exp2", "hypot", "sinc"):
        return all(np.isfinite(y).all() for y in outputs)
    if name in ("cross_entropy", "layer_norm", "rms_norm"):  # a weight times a cotangent
        weights = [x for x in arrays[1:] if x.dtype == info.dtype]
        low, high = info.tiny**0.5, info.max**0.5
        return all(low < x.min() and x.max() < high for x in weights)
    if name == "power":
        return not arrays or arrays[0].min() >= info.tiny
    if name == "vector_norm" and call.args[3] < 1:
        return arrays[0].min() > arrays[0].max() * info.tiny
    if name in PRODUCTS:
        powers = np.log2(np.concatenate([x.reshape(-1) for x in arrays]) + info.smallest_subnormal)
        return info.minexp < powers[powers < 0].sum() and powers[powers > 0].sum() < info.maxexp
    if name == "attention":  # the rounding of a score is that of a logarithm
        return largest_score(*call.args[:4]) * info.eps < 0.1
    return True


def on_the_way(name, call, g):
    """Return, in float64, what the rule of an op takes from LAPACK, and what LAPACK divides by."""
    a, *b = (x.astype(float) for x in call.args)
    if name == "slogdet":
        return [a]
    if name == "det":  # the minors
        return [a, *gradients(autograd.REGISTRY[name], Call((a,), {}), [np.ones(g[0].shape)])]
    turned, g = np.swapaxes(a, -1, -2), g[0].astype(float)
    g_b = np.linalg.solve(turned, g if b[0].ndim > 1 else g[..., None])
    return [a, np.linalg.solve(a, b[0]), g_b]


def are_normal(arrays, info):
    """Return whether numbers are 0, or in the range in which a dtype keeps all its digits."""
    sizes = np.abs(np.concatenate([x.reshape(-1) for x in arrays]))
    return ((sizes == 0) | ((sizes >= info.tiny) & (sizes <= info.max))).all()


def are_apart(name, a, info):
    """Return whether values differ by more than rounding; the others count as equal, or as 0."""
    if name == "eigh":
        values = np.linalg.eigvalsh((a + np.swapaxes(a, -1, -2)) / 2)
    else:
        columns = a[..., : min(a.shape[-2:])] if name == "qr" else a
        values = np.linalg.svdvals(columns)[..., ::-1]
        values = np.concatenate([np.zeros_like(values[..., :1]), values], -1)
    gaps, largest = np.diff(values), np.abs(values).max(-1, keepdims=True, initial=0)
    in_range = (gaps > info.tiny**0.5).all() and (largest < info.max**0.5).all()
    return in_range and (gaps > 100 * info.eps * largest).all()


def largest_score(query, key, value, mask):
    """Return what attention's scores are at most, in float64 at least."""
    size = np.float64(np.abs(query).max()) * np.abs(key).max() * query.shape[-1]
    return size + (0 if mask is None else np.abs(mask).max())


def cancelling(name, call, g):
    """Return, for each input, the size of terms of which the rule takes differences.

    Their rounding is lost whatever the conditioning of the gradient.
    """
    size = np.max([np.abs(u).max(initial=0) for u in g])
    if name == "gelu":  # 1 - Phi, times the slope of u in Phi = (1 + tanh(u)) / 2
        return [size if call.args[1] == "none" else 8 * size]
    if name == "tanh":  # 1 - out^2, with out near 1
        return [size]
    if name in ("softmax", "log_softmax"):  # p near 1, beside 1
        return [2 * size]
    if name == "cross_entropy":
        weight, reduction = call.args[2], call.args[4]
        share = 1 if weight is None or reduction == "mean" else np.abs(weight).max()
        return [2 * size * share]
    if name in ("layer_norm", "rms_norm"):
        x, shape, weight = call.args[:3]
        eps, axes = call.args[-1], tuple(range(-len(as_shape(shape)), 0))
        mean = x.mean(axes, keepdims=True) if name == "layer_norm" else 0
        rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)
        largest = 1 if weight is None else np.abs(weight).max()
        terms = 4 * size * (1 + np.abs(mean) * rstd)  # the mean is rounded, too
        return [terms * largest * rstd, terms.sum(), 0]
    if name in ("pinv", "lstsq"):  # what is outside of the rows or columns is 0 in most matrices
        a, inverse = np.max(np.abs(call.args[0]), initial=0), np.linalg.pinv(call.args[0])
        inverse = np.max(np.abs(inverse), initial=0)
        if name == "pinv":
            return [2 * size * inverse**2 * (1 + a * inverse)]
        b = np.max(np.abs(call.args[1]), initial=0)
        return [2 * size * inverse**2 * (b + a * inverse * b), size * inverse]
    if name == "attention":
        q, k, v, mask, dropout_p, _, scale, *_ = call.args
        size = size * (1 + largest_score(q, k, v, mask)) * q.shape[-2]
        slope = size * np.abs(v).max() * v.shape[-1] * k.shape[-2] / (1 - dropout_p)
        return [slope * scale * np.abs(k).max(), slope * scale * np.abs(q).max(), size, slope * 4]
    return [0]


@pytest.mark.parametrize("name", OPS)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_are_right_in_the_whole_range(name, seed):
    op = autograd.REGISTRY[name]
    for dtype in WIDER:
        if not (name in LAPACK and dtype in (np.float16, np.float64)):
            with np.errstate(all="ignore"):
                check_range(op, dtype, np.random.default_rng(seed))


def check_range(op, dtype, random):
    info, wide = np.finfo(dtype), WIDER[dtype]
    spread = spreading(random, info)
    call = drawn_call(op, random)
    call = converted(call, lambda x: np.clip(spread(x), -info.max, info.max).astype(dtype))
    function = Applied(op, call)
    try:
        outputs = function.outputs(*function.inputs)
    except np.linalg.LinAlgError:
        return
    g = [np.asarray(random.standard_normal(y.shape), dtype) for y in outputs]
    if not in_range(op.name, call, outputs, g, info):
        return

    def in_wide(roundings):
        """Return the gradients of the wide inputs, each of them changed by some roundings."""

        def change(x):
            step = np.spacing(x).astype(wide)  # also of the numbers below the normal range
            return x.astype(wide) + roundings * random.uniform(-1, 1, x.shape) * step

        with use_kernels(False):
            return gradients(op, converted(call, change), [np.asarray(change(u)) for u in g])

    try:
        exact, *others = in_wide(0), *[in_wide(1) for _ in range(4)]
    except np.linalg.LinAlgError:
        return
    terms = cancelling(op.name, converted(call, lambda x: x.astype(wide)), g)
    create_graph = not op.saves and random.random() < 0.5
    found = gradients(op, call, g, create_graph)
    for i, (x, y) in enumerate(zip(found, exact, strict=True)):
        moved = np.max([np.abs(other[i] - y) for other in others], axis=0)
        size = 16 * np.abs(y) + 16 * terms[i % len(terms)]
        if op.name in NORMWISE:  # LAPACK's error is relative to a matrix's largest element
            axes = tuple(range(-min(2, y.ndim), 0))
            moved, size = (np.max(z, axes, keepdims=True, initial=0) for z in (moved, size))
        bound = np.broadcast_to(16 * moved + info.eps * size + 4 * info.tiny, y.shape)
        known = np.isfinite(moved) & (np.abs(y) < info.max / 8)
        wrong = known & ~(np.abs(x - y) <= bound)
        assert x.dtype == dtype and x.shape == call.args[function.positions[i]].shape
        assert not wrong.any(), (
            f"{op.name} in {dtype.__name__}, input {i}, create_graph={create_graph}: found "
            f"{x[wrong]}, expected {y[wrong]} within {bound[wrong]}, for {call} and {g}"
        )


# ---- by name


def gradient(function, x, dtype=np.float64):
    leaf = autograd.tensor(np.asarray(x, dtype), requires_grad=True)
    with np.errstate(all="ignore"):
        return autograd.grad(function(leaf).sum(), leaf).numpy()


def cross_entropy_of_one(x, target):
    return nn.binary_cross_entropy_with_logits(x, np.float64(target))


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (np.expm1, -40.0, 4.248354255291589e-18),
        (nn.sigmoid, 40.0, 4.248354255291589e-18),
        (nn.logsigmoid, 40.0, 4.248354255291589e-18),
        (nn.elu, -40.0, 4.248354255291589e-18),
        (nn.softplus, -700.0, 9.859676543759771e-305),
        (lambda x: np.logaddexp(x, 700.0), 0.0, 9.859676543759771e-305),
        (lambda x: nn.gelu(x, "tanh"), -10.0, -2.757638063854032e-36),
        (np.arctan, 1e200, 0.0),
        (np.arcsinh, 1e200, 1e-200),
        (np.arccosh, 1e200, 1e-200),
        (np.arcsin, 1 - 2.0**-52, 2.0**25.5),
        (np.arctanh, 1 - 2.0**-52, 2.0**51),
        (lambda x: np.arctan2(x, 1e-200), 1e-200, 5e199),
        (lambda x: np.arctan2(1e200, x), 1e200, -5e-201),
        (lambda x: np.hypot(x, 4e200), 3e200, 0.6),
        (lambda x: 1e-300 / x * 1e-200, 1e-150, -1e-200),
        (lambda x: cross_entropy_of_one(x, 1), 40.0, -4.248354255291589e-18),
        (lambda x: cross_entropy_of_one(x, 0), -40.0, 4.248354255291589e-18),
    ],
)  # fmt: skip
def test_tails(function, x, expected):
    np.testing.assert_allclose(gradient(function, x), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1.0, 1e160, 1e200])
@pytest.mark.parametrize(
    "function",
    [
        np.std,
        lambda x: np.std(x, axis=-1, ddof=1),
        np.linalg.norm,
        lambda x: np.linalg.norm(x, 3, axis=0),
        lambda x: np.linalg.norm(x, -1, axis=1),
        lambda x: np.linalg.vector_norm(x, ord=0.5),
    ],
)
def test_spreads_and_norms_of_any_size(function, scale):
    """The gradient is that of any multiple, also where NumPy's own result is 0 or infinite."""
    x = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(gradient(function, scale * x), gradient(function, x), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0.4, 0.9])
@pytest.mark.parametrize("norm", [nn.layer_norm, nn.rms_norm])
def test_normalization_of_any_size(norm, size, dtype):
    """Where the squares of the elements are 0 or infinite, too."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    w = np.arange(5, dtype=dtype)
    expected = gradient(lambda x: norm(x, 5, w, eps=0) * w, x, dtype)
    for power in (-size, size):
        scale = dtype(np.exp2(np.round(np.finfo(dtype).maxexp * power)))
        for eps in (0.0, float(scale) ** 2 * 1e-20 if power < 0 else 1e-5):
            found = gradient(lambda x, eps=eps: norm(x, 5, w, eps=eps) * w, scale * x, dtype)
            tolerance = 30 * np.finfo(dtype).eps * np.abs(expected).max()
            np.testing.assert_allclose(found * scale, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: nn.cross_entropy(x, [3, 0, 1]),
        lambda x: nn.cross_entropy(x, [3, 0, 1], label_smoothing=0.1),
        lambda x: nn.logsumexp(x, 1),
        lambda x: nn.log_softmax(x)[:, 0],
        lambda x: nn.softmax(x)[:, 0],
    ],
)
@pytest.mark.parametrize("shift", [1e4, -1e6])
def test_a_shift_of_the_logits_loses_no_digit(loss, shift):
    """Float32 has two digits behind the point at 1e4; the gradient keeps its seven."""
    x = (np.random.default_rng(0).integers(-64, 64, (3, 10)) / 16 + shift).astype(np.float32)
    expected = gradient(loss, x.astype(np.float64))
    np.testing.assert_allclose(gradient(loss, x, np.float32), expected, rtol=2e-6, atol=1e-7)


def test_a_shift_of_attentions_scores_loses_no_digit():
    random = np.random.default_rng(0)
    q, k, v = (random.integers(-64, 64, (2, 70, 4)) / 16 for _ in range(3))
    mask = np.float32(2.0**14)  # added to all scores

    def attend(dtype):
        leaves = [autograd.tensor(x.astype(dtype), requires_grad=True) for x in (q, k, v)]
        out = nn.scaled_dot_product_attention(*leaves, np.full((70, 70), mask, dtype))
        return [g.numpy() for g in autograd.grad((out * out).sum(), leaves)]

    for found, expected in zip(attend(np.float32), attend(np.float64), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (np.mean, 70_000, 1 / 70_000),
        (lambda x: np.var(x * np.arange(8)), 8, None),
        (lambda x: np.cumsum(x)[-1] / 8, 5000, 1 / 8),
        (lambda x: x * np.ones((5000, 1), np.float16), 3, 5000),
        (lambda x: np.broadcast_to(x, (5000, 3)), 3, 5000),
        (lambda x: x[np.zeros(5000, int)], 3, [5000, 0, 0]),
        (lambda x: nn.embedding(np.zeros(5000, int), x), (3, 1), [[5000], [0], [0]]),
        (lambda x: np.ones((1, 5000), np.float16).T @ x, (1, 3), 5000),
        (lambda x: nn.affine(np.ones((5000, 1), np.float16), np.ones((1, 3), np.float16), x), 3,
         5000),
        (lambda x: np.square(300 * x), 3, 180_000),
        (lambda x: np.arctan(300 * x) * 300, 3, 90_000 / 90_001),
        (nn.log_softmax, 70_000, 0),
        (lambda x: nn.gelu(300 * x, "tanh"), 3, 300),
        (lambda x: nn.silu(300 * x), 3, 300),
    ],
)  # fmt: skip
def test_half_precision_counts_and_sums_in_single(function, shape, expected):
    """In float16 a square of 300 and a count of 70,000 are infinite, and sums of ones end at 2048.

    The gradient has the dtype of its input, is infinite only where it is too large for that, and
    is the same with a tape of its own.
    """
    x = autograd.tensor(np.ones(shape, np.float16), requires_grad=True)
    if expected is None:
        expected = gradient(function, x.numpy())
    with np.errstate(all="ignore"):
        wanted = np.broadcast_to(np.asarray(expected, np.float16), x.shape)
        for create_graph in (False, True):
            found = autograd.grad(function(x).sum(), x, create_graph=create_graph).detach().numpy()
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm", "rms_norm", "logsumexp"])
def test_functions_of_networks_compute_half_precision_in_single(name):
    x = (30 * np.random.default_rng(0).standard_normal((2, 3000))).astype(np.float16)
    argument = 3000 if name.endswith("norm") else -1
    function = getattr(nn, name)
    for found, expected in (
        (function(x, argument), function(x.astype(float), argument)),
        (
            gradient(lambda x: function(x, argument)[..., :1] * x[:, 0:1], x, np.float16),
            gradient(lambda x: function(x, argument)[..., :1] * x[:, 0:1], x),
        ),
    ):
        assert found.dtype == np.float16
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3 * largest + 1e-7)
