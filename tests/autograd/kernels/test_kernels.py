"""Kernels against the NumPy functions that they stand in for."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import need

import autograd
from autograd import Tensor, nn
from autograd.kernels import kernels_enabled, use_kernels
from autograd.ops.shape import side_by_side

TARGET = np.array([0, 3, -100, 7, 7, 1])


def attend(**options):
    """Return attention as a function of (6, n): two heads of 6 queries and 6 keys."""

    def call(x):
        width = x.shape[1] // 6
        parts = np.reshape(x[:, : 6 * width], (6, 3, 2, width)).transpose(1, 2, 0, 3)
        generator = np.random.default_rng(5)
        return nn.scaled_dot_product_attention(*parts, **options, generator=generator)

    return call


def attend_in_groups(x):
    """Attention of (6, n): four heads of 6 queries, and two of 6 keys and values."""
    width = x.shape[1] // 8
    parts = np.split(x[:, : 8 * width], [4 * width, 6 * width], axis=1)
    heads = [np.reshape(part, (6, -1, width)).swapaxes(0, 1) for part in parts]
    return nn.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)


CALLS = {
    "gelu": lambda x: nn.gelu(x),
    "gelu_tanh": lambda x: nn.gelu(x, "tanh"),
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "dropout": lambda x: nn.dropout(x, 0.3, generator=np.random.default_rng(5)),
    "softmax": nn.softmax,
    "softmax_columns": lambda x: nn.softmax(x, 0),
    "log_softmax": nn.log_softmax,
    "layer_norm": lambda x: nn.layer_norm(x, x.shape[1:], x[1] * 0.5, x[2]),
    "layer_norm_plain": lambda x: nn.layer_norm(x, x.shape[1:]),
    "rms_norm": lambda x: nn.rms_norm(x, x.shape[1:], x[1], 1e-5),
    "rope": lambda x: nn.rope(x[:, :4], x[:1, 1:3], x[2:3, 2:4]),
    "cross_entropy": lambda x: nn.cross_entropy(x, TARGET),
    "cross_entropy_each": lambda x: nn.cross_entropy(x, TARGET, reduction="none"),
    "cross_entropy_smooth": lambda x: nn.cross_entropy(x, TARGET, label_smoothing=0.1),
    "cross_entropy_weights": lambda x: nn.cross_entropy(
        x, TARGET, np.linspace(0, 2, x.shape[1]), label_smoothing=0.1
    ),
}
ATTENTION = {
    "attention": attend(),
    "attention_causal": attend(is_causal=True),
    "attention_dropout": attend(is_causal=True, dropout_p=0.3),
    "attention_mask": attend(attn_mask=np.tri(6, k=-1, dtype=bool)),  # the first sees nothing
    "attention_grouped": attend_in_groups,
}
CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
ANY_CALL = pytest.mark.parametrize("call", (CALLS | ATTENTION).values(), ids=CALLS | ATTENTION)
DTYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def numba():
    pytest.importorskip("numba", reason="kernels need Numba")


def run(call, x, kernels):
    """Return a value and a gradient, with kernels or without."""
    with use_kernels(kernels), np.errstate(all="ignore"):
        leaf = autograd.Tensor(x).requires_grad_()
        y = call(leaf)
        g = np.random.default_rng(2).standard_normal(y.shape).astype(x.dtype)
        (y * g).sum().backward()
        return y.numpy(), leaf.grad.numpy()


def values(dtype, scale=2.0, columns=37):
    return (scale * np.random.default_rng(0).standard_normal((6, columns))).astype(dtype)


@CALL
@pytest.mark.parametrize("scale", [1e-42, 1e-6, 0.1, 2.0, 30.0, 1e4])
def test_errors_are_at_most_twice_numpys(call, scale):
    """In float32, against float64."""
    x = values(np.float32, scale, columns=3000)
    exact = run(call, x.astype(np.float64), False)
    for found, numpys, truth in zip(run(call, x, True), run(call, x, False), exact, strict=True):
        assert found.dtype == np.float32 and found.shape == truth.shape
        known = np.isfinite(truth) & np.isfinite(numpys)
        largest = np.abs(truth[known]).max(initial=0)
        ours, theirs = (np.abs(y - truth)[known].max(initial=0) for y in (found, numpys))
        assert ours <= 2 * theirs + np.spacing(np.float32(largest)) / 2  # either may be lucky


@pytest.mark.parametrize("call", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("scale", [1e-42, 1e-6, 0.1, 2.0, 30.0])
def test_errors_of_attention_are_at_most_twice_numpys(call, scale):
    """The rounding of a single score decides, by luck: the geometric mean of many draws."""
    errors = []
    for seed in range(50):
        x = (scale * np.random.default_rng(seed).standard_normal((6, 300))).astype(np.float32)
        exact = run(call, x.astype(np.float64), False)
        both = zip(run(call, x, True), run(call, x, False), exact, strict=True)
        errors.append([[np.abs(y - truth).max() for y in pair] for *pair, truth in both])
    found = np.log(np.array(errors) + 1e-45).mean(axis=0)
    assert (found[:, 0] <= found[:, 1] + np.log(2)).all()


@CALL
@pytest.mark.parametrize("scale", [1e-310, 1e-6, 0.1, 2.0, 30.0, 1e4])
def test_float64_agrees(call, scale):
    x = values(np.float64, scale)
    for found, expected in zip(run(call, x, True), run(call, x, False), strict=True):
        assert found.dtype == np.float64
        # the cotangents are about 1: where x is, too, so are terms that a gradient sums
        largest = np.abs(expected[np.isfinite(expected)]).max(initial=scale >= 0.1)
        np.testing.assert_allclose(found, expected, rtol=2e-15, atol=4e-15 * largest)


@CALL
@DTYPE
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e38, "row"])
def test_nan_and_infinity_come_through(call, dtype, special):
    """Where NumPy's results are not numbers, the kernels' are not, and the other way round."""
    x = values(dtype)
    if special == "row":
        x[1] = x[4] = -np.inf
    else:
        x[1, 3] = x[4, 7] = x[3, 36] = special
    for found, expected in zip(run(call, x, True), run(call, x, False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@ANY_CALL
@DTYPE
def test_layout_does_not_matter(call, dtype):
    x = values(dtype)
    expected = run(call, x, True)
    wide = np.repeat(x, 2, axis=1)
    read_only = x.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(x), wide[:, ::2], x[::-1, ::-1].copy()[::-1, ::-1], read_only):
        for found, y in zip(run(call, same, True), expected, strict=True):
            np.testing.assert_array_equal(found, y)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 4), (4, 0), (2, 0, 3), (1, 1, 1)])
@DTYPE
def test_empty_and_single(shape, dtype):
    x = np.ones(shape, dtype)
    calls = [nn.gelu, nn.sigmoid, nn.silu, lambda x: nn.dropout(x, 0.5, generator=seeded())]
    calls.append(lambda x: nn.gelu(x, "tanh"))
    if len(shape) == 2:
        ids = np.zeros((2, 1 if shape[0] else 0), int)
        calls.append(lambda x: nn.embedding(ids, x))
    if shape and shape[-1]:
        calls += [nn.log_softmax, nn.softmax]
        if len(shape) < 3:
            calls.append(lambda x: nn.cross_entropy(x, np.zeros(shape[:-1], int), reduction="sum"))
        if len(shape) > 1:
            calls.append(lambda x: nn.scaled_dot_product_attention(x, x, x, is_causal=True))
        calls.append(lambda x: nn.rms_norm(x, x.shape[-1:]))
        calls.append(lambda x: nn.layer_norm(x, x.shape[-1:]))

    def seeded():
        return np.random.default_rng(0)

    for call in calls:
        for found, expected in zip(run(call, x, True), run(call, x, False), strict=True):
            assert found.shape == expected.shape and found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@ANY_CALL
@DTYPE
def test_results_repeat_bit_for_bit(call, dtype, monkeypatch):
    """Whatever the number of threads."""
    from autograd.kernels import team

    x = values(dtype, columns=301)
    expected = run(call, x, True)
    monkeypatch.setattr(team, "GRAIN", 1)
    monkeypatch.setattr(team, "WORTH_WAKING", 1)
    for n in (1, 2, 3, 3):
        monkeypatch.setattr(team, "n_threads", lambda n=n: n)
        for found, y in zip(run(call, x, True), expected, strict=True):
            np.testing.assert_array_equal(found, y)


@DTYPE
def test_rows_are_looked_up(dtype):
    table = values(dtype)
    for ids in (
        np.array([[0, 5], [5, 1]]),
        np.array([2], np.uint64),
        np.array(3, np.uint8),
        np.zeros((0, 2), int),
    ):
        for layout in (table, np.asfortranarray(table)):
            np.testing.assert_array_equal(nn.embedding(ids, layout), table[ids])


X, Q = np.ones((2, 4)), np.ones((2, 3, 4))
WRONG = {
    "softmax": (lambda: nn.softmax(X, 2), "out of bounds"),
    "layer_norm": (lambda: nn.layer_norm(X, 3), "not normalized_shape"),
    "layer_norm_weight": (lambda: nn.layer_norm(X, 4, np.ones(3)), r"weight has shape \(3,\)"),
    "layer_norm_bias": (lambda: nn.layer_norm(X, 4, None, np.ones(3)), r"bias has shape \(3,\)"),
    "layer_norm_no_axes": (lambda: nn.layer_norm(X, (), np.ones(())), "not normalized_shape"),
    "rms_norm_weight": (lambda: nn.rms_norm(X, 4, np.ones(3)), r"weight has shape \(3,\)"),
    "embedding": (lambda: nn.embedding(np.array([2]), X), "weight has 2 rows"),
    "embedding_negative": (lambda: nn.embedding(np.array([-1]), X), "holds -1"),
    "cross_entropy": (lambda: nn.cross_entropy(X, [0, 4]), "input has 4 classes"),
    "cross_entropy_rows": (lambda: nn.cross_entropy(X, [0]), "got \\(1,\\)"),
    "cross_entropy_weight": (lambda: nn.cross_entropy(X, [0, 1], np.ones(3)), "weight has shape"),
    "attention_keys": (lambda: nn.scaled_dot_product_attention(Q, np.ones((3, 3, 4)), Q), "do not"),
    "attention_values": (lambda: nn.scaled_dot_product_attention(Q, Q, Q[:, :2]), "do not fit"),
    "attention_mask": (
        lambda: nn.scaled_dot_product_attention(Q, Q, Q, np.ones((2, 3), bool)),
        "does not broadcast",
    ),
    "attention_grouped": (
        lambda: nn.scaled_dot_product_attention(
            Q[None], Q[None], np.ones((1, 3, 3, 4)), enable_gqa=True
        ),
        "do not fit",
    ),
    "attention_groups": (
        lambda: nn.scaled_dot_product_attention(np.ones((3, 3, 4)), Q, Q, enable_gqa=True),
        "H a multiple of K",
    ),
    "rope": (lambda: nn.rope(X, X, X), "do not fit"),
    "rope_rows": (lambda: nn.rope(X, np.ones((3, 2)), np.ones((3, 2))), "do not fit"),
    "affine": (lambda: nn.affine(np.ones((3000, 40)), np.ones((41, 2000)), None), r"\(in, out\)"),
    "scatter_rows": (lambda: SCATTER_ROWS(X, np.arange(3), (5, 4)), "expected"),
    "scatter_rows_empty": (lambda: SCATTER_ROWS(X, np.zeros(2, int), (0, 4)), "has none"),
}
SCATTER_ROWS = autograd.REGISTRY["scatter_rows"]


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_arguments_are_checked_before_a_kernel_runs(call, message, kernels, monkeypatch):
    """The same error with kernels and without: what a loop counts by is right when it begins."""
    from autograd.kernels.team import split

    modules = [m for name, m in sys.modules.items() if name.startswith("autograd.kernels.")]
    for module in modules:
        if getattr(module, "split", None) is split:
            monkeypatch.setattr(module, "split", lambda *_, **__: pytest.fail("a kernel ran"))
    with use_kernels(kernels), pytest.raises((ValueError, IndexError), match=message):
        call()


@pytest.mark.parametrize("call", [*CALLS.values(), *ATTENTION.values()], ids=CALLS | ATTENTION)
def test_a_cotangent_fits_before_a_kernel_reads_it(call):
    """Whether the caller gives it, or another op's rule."""

    @autograd.op
    def broken_rule(x):
        """The same values."""
        return x

    del autograd.REGISTRY["broken_rule"]
    broken_rule.vjp(x=lambda g: g[..., :1])
    x = autograd.Tensor(values(np.float64)).requires_grad_()
    y = call(x)
    if not y.ndim:
        y = y[None]
    with pytest.raises(ValueError, match="shape"):
        autograd.grad(y, x, np.ones((*y.shape[:-1], y.shape[-1] + 1)))
    if y.shape[-1] > 1:
        with pytest.raises(ValueError, match="broken_rule"):
            autograd.grad(broken_rule(y).sum(), x)


def test_no_kernel_reads_beyond_an_array():
    """Nor do kernels that no op calls: what does not fit is for NumPy, or an error."""
    from autograd.kernels import activation, decode, normalization, optimizer, product

    x, short = np.ones((2, 4)), np.ones(3)
    for declined in (
        normalization.softmax_vjp(x[:1], x, -1),
        activation.sigmoid_vjp(short, x, x),
        optimizer.adamw([(x[0], short, x[0], x[0], 1.0)], 1.0, 1.0, 1e-8, (0.9, 0.99)),
        product.product(x, x.T, short),
    ):
        assert declined is NotImplemented
    f = np.float32
    step = decode.program(2)
    for wrong in (
        lambda: step.norm(x.astype(f), short.astype(f), None, 1e-5, x.astype(f)),
        lambda: step.linear(x.astype(f), np.ones((4, 4), f), short.astype(f), x.astype(f)),
        lambda: step.linear(x.astype(f), np.ones((4, 5), f), None, np.ones((2, 4), f)),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()


@DTYPE
def test_scattered_rows_add_up(dtype, monkeypatch):
    from autograd.kernels import team
    from autograd.ops.embedding import scatter_rows

    random = np.random.default_rng(0)
    index = random.integers(-7, 7, (50, 40))
    g = random.standard_normal((50, 40, 33)).astype(dtype)
    exact = np.zeros((7, 33))
    np.add.at(exact, index, g)
    with use_kernels(False):
        theirs = scatter_rows(g, index, (7, 33))
    found = scatter_rows(g, index, (7, 33))
    assert np.abs(found - exact).max() <= 2 * np.abs(theirs - exact).max() + 1e-14
    monkeypatch.setattr(team, "n_threads", lambda: 3)
    np.testing.assert_array_equal(found, scatter_rows(g, index, (7, 33)))
    np.testing.assert_array_equal(found, scatter_rows(np.asfortranarray(g), index, (7, 33)))
    assert not scatter_rows(g[:0], index[:0], (7, 33)).any()


@DTYPE
@pytest.mark.parametrize("shape", [(300, 70, 40), (40, 70, 301), (1, 70, 3), (2, 0, 5), (5, 3, 1)])
def test_products_are_shared_out(shape, dtype, monkeypatch):
    """By rows or by columns; the parts are as many as BLAS has threads, whoever takes them."""
    from autograd.kernels import blas, team
    from autograd.kernels.product import product

    monkeypatch.setattr(blas, "n_threads", lambda: 3)
    need(blas.library(), "NumPy with its own OpenBLAS")
    n, k, m = shape
    random = np.random.default_rng(0)
    x, y, bias = (random.standard_normal(s).astype(dtype) for s in [(n, k), (k, m), (m,)])
    exact = x.astype(float) @ y + bias
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(team, "n_threads", lambda threads=threads: threads)
        found += [product(x, y, bias), product(np.asfortranarray(x), np.asfortranarray(y), bias)]
    for out in found:
        rounding = 10 * np.finfo(dtype).eps * (np.abs(x) @ np.abs(y) + np.abs(bias))
        assert out.dtype == dtype and (np.abs(out - exact) <= rounding).all()
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[0], found[4])
    np.testing.assert_array_equal(product(x, y) + bias, found[0])
    assert np.isnan(product(x * np.nan, y)).all() or not k
    assert product(x, y[1:]) is NotImplemented or not k  # NumPy's function says what is wrong
    assert product(x, y.astype(np.float16)) is NotImplemented


def test_a_large_product_and_its_gradients(monkeypatch):
    """A batch, and a matrix: as one product, with kernels as without."""
    from autograd.kernels import blas

    need(blas.library(), "NumPy with its own OpenBLAS")
    monkeypatch.setattr(blas, "n_threads", lambda: 2)
    x, w = (
        values(np.float64, columns=2 * 150 * 130).reshape(6, -1, 130),
        values(np.float64, columns=130).T,
    )
    w = np.tile(w, 20)
    assert x.size * w.shape[1] > 2**22
    for call in (lambda x, w: x @ w, lambda x, w: nn.affine(x, w, w[0])):
        results = []
        for kernels in (True, False):
            with use_kernels(kernels):
                leaves = [autograd.tensor(a, requires_grad=True) for a in (x, w)]
                out = call(*leaves)
                results.append([out.numpy()])
                gradients = autograd.grad((out * out).sum(), leaves, create_graph=True)
                second = autograd.grad((gradients[0] * x).sum(), leaves)
                results[-1] += [g.numpy() for g in (*gradients, *second)]
        for found, expected in zip(*results, strict=True):
            np.testing.assert_allclose(
                found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max()
            )
    with pytest.raises(ValueError, match="matmul"):
        autograd.tensor(x) @ w[1:]


@DTYPE
def test_optimizer(dtype):
    """Ten updates, and the norm and scaling of gradients: as NumPy's, within rounding."""
    from npgpt.module import Parameter
    from npgpt.training.optim import AdamW, clip_grad_norm

    def train():
        random = np.random.default_rng(0)
        shapes = [(300, 301), (5,), (1, 1), (0, 3)]
        parameters = [Parameter(random.standard_normal(s).astype(dtype)) for s in shapes]
        unused = Parameter(np.ones(2, dtype))
        optimizer = AdamW([(str(i), p) for i, p in enumerate([*parameters, unused])])
        norms = []
        for _ in range(10):
            for p in parameters:
                (p * random.standard_normal(p.shape).astype(dtype)).sum().backward()
            norms.append(clip_grad_norm(parameters, 1.0))
            norms.append(clip_grad_norm(parameters, 0))
            optimizer.step(0.01)
            optimizer.zero_grad()
        return [p.numpy() for p in parameters], norms

    (found, norms), (again, _) = train(), train()
    with use_kernels(False):
        expected, expected_norms = train()
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(norms, expected_norms, rtol=20 * eps)
    for p, q, r in zip(found, expected, again, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p, q, rtol=20 * eps, atol=20 * eps)
        np.testing.assert_array_equal(p, r)


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1.0, 1e10, np.nan, np.inf, "one"])
@DTYPE
def test_one_update_of_any_size(dtype, scale):
    """Its error is at most twice NumPy's; a NaN spoils its own element and no other."""
    from npgpt.training.optim import adamw, global_norm, scale_all

    random = np.random.default_rng(0)
    p, g, mean, square = random.standard_normal((4, 3000)).astype(dtype)
    square *= square
    if isinstance(scale, float) and np.isfinite(scale):
        g = (g * scale).astype(dtype)
    else:
        g[7] = np.nan if scale == "one" else scale

    def update(kernels, dtype=dtype):
        arrays = [x.astype(dtype) for x in (p, g, mean, square)]
        with use_kernels(kernels), np.errstate(all="ignore"):
            adamw([(*arrays, 0.999)], 1e-3, 1.2, 1e-8, (0.9, 0.95))
            norm = global_norm([arrays[1]])
            scale_all([arrays[1]], 0.3)
        return [*arrays, np.array(norm)]

    exact = update(False, np.longdouble)
    for found, numpys, truth in zip(update(True), update(False), exact, strict=True):
        known = np.isfinite(truth) & np.isfinite(numpys)
        np.testing.assert_array_equal(np.isnan(found[~known]), np.isnan(truth[~known]))
        ours, theirs = (np.abs(y[known] - truth[known]).max(initial=0) for y in (found, numpys))
        largest = np.abs(truth[known]).max(initial=0).astype(found.dtype)
        assert ours <= 2 * theirs + np.spacing(largest)  # of one number, NumPy's is often exact


@DTYPE
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize("seen", ["all", "causal", 1, 70, 1000])  # a number is a window's size
@pytest.mark.parametrize(
    ("sizes", "mask"),
    [
        ((150, 170), None),
        ((150, 170), (150, 170)),
        ((150, 170), (170,)),
        ((150, 170), (150, 1)),
        ((150, 170), (2, 1, 1, 170)),
        ((150, 170), (3, 150, 170)),
        ((150, 170), "numbers"),
        ((65, 20), None),  # with a window, most queries see nothing
        ((1, 170), (2, 1, 1, 170)),  # one more token, after those in a cache
        ((1, 1), None),
    ],
    ids=str,
)
def test_attention_over_several_blocks(sizes, mask, seen, dropout_p, dtype):
    """Heads that were cut out of wider rows, more keys than queries, masks of all forms."""
    random = np.random.default_rng(0)
    n_queries, n_keys = sizes
    x = random.standard_normal((2, 170, 3, 3, 16)).astype(dtype)  # (B, T, 3, heads, width)
    arrays = [x[:, :n_queries, 0], x[:, :n_keys, 1], x[:, :n_keys, 2, :, :11]]
    if mask == "numbers":
        mask = 3 * random.standard_normal((3, 1, n_keys))
        mask[1, 0, :20] = -np.inf
    elif mask is not None:
        mask = random.random(mask) < 0.6
    window_size = None if seen in ("all", "causal") else seen
    options = (mask, dropout_p, seen != "all", 0.25, 7, window_size)

    op = autograd.REGISTRY["attention"]

    def call(function, kernels, dtype=dtype):
        leaves = [
            autograd.Tensor(np.swapaxes(a.astype(dtype), 1, 2)).requires_grad_() for a in arrays
        ]
        with use_kernels(kernels):
            y = function(*leaves, *options)
            g = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
            return [y.numpy(), *(t.numpy() for t in autograd.grad(y, leaves, g))]

    exact = call(op.reference_function, False, np.float64)
    for found, numpys, truth in zip(call(op, True), call(op, False), exact, strict=True):
        assert found.dtype == dtype and found.shape == truth.shape
        largest = np.abs(truth).max(initial=1)  # terms of 1 are summed, also where the sum is 0
        if dtype is np.float32:
            ours, theirs = (np.abs(y - truth).max() for y in (found, numpys))
            assert ours <= 2 * theirs + np.spacing(np.float32(largest)) / 2
        else:
            for y in (found, numpys):
                np.testing.assert_allclose(y, truth, rtol=1e-11, atol=1e-14 * largest)


@DTYPE
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_attention_passes_nan_and_infinity_on(special, dtype):
    """To the queries that see them, and to no query of an earlier block or another head."""
    q, k, v = np.ones((3, 2, 150, 4), dtype)
    k[0, 100, 2] = special
    leaves = [autograd.Tensor(x).requires_grad_() for x in (q, k, v)]
    y = nn.scaled_dot_product_attention(*leaves, is_causal=True)
    y.sum().backward()
    for result in (y.numpy(), leaves[0].grad.numpy()):
        assert np.isnan(result[0, 100:]).all() or special < 0  # a score of -inf hides the key
        assert np.isfinite(result[0, :64]).all() and np.isfinite(result[1]).all()


@DTYPE
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("options", ATTENTION)
def test_attention_of_nan_and_infinity_is_numpys(options, special, dtype):
    x = values(dtype)
    x[1, 3] = x[4, 7] = x[3, 35] = special
    found, expected = (run(ATTENTION[options], x, kernels)[0] for kernels in (True, False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_keeps_no_matrix():
    """The memory of a step is linear in the number of queries."""
    import tracemalloc

    def peak(n):
        q, k, v = (autograd.Tensor(a).requires_grad_() for a in np.ones((3, 1, n, 4), np.float32))
        tracemalloc.start()
        nn.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1).sum().backward()
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    peak(64)
    assert peak(4096)[0] < 3 * peak(2048)[0] < 4 * 2048**2


@pytest.mark.parametrize("name", ["exp", "erf"])
@DTYPE
def test_vector_math(name, dtype):
    """Against twice the digits, or the C library's; see the largest errors in `vector`."""
    import math

    from autograd.kernels import jit, vector

    function = getattr(vector, name)

    @jit.inline(jit.EXACT)
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    low, high = (-103, 88.7) if dtype is np.float32 else (-745, 709.7)
    x = np.linspace(low, high, 100001) if name == "exp" else np.linspace(-6, 6, 100001)
    x = np.concatenate([x, [0.0, -0.0, 1e-30, -1e-30, np.inf, -np.inf]]).astype(dtype)
    out = np.empty_like(x)
    loop(x, out)
    if dtype is np.float32 or name == "erf":
        exact = np.array([getattr(math, name)(value) for value in x.astype(float)])
    else:
        exact = np.exp(x.astype(np.longdouble))
    spacing = np.spacing(np.abs(exact).astype(dtype))
    with np.errstate(invalid="ignore"):
        ulp = np.abs(out - exact)[np.isfinite(out)] / spacing[np.isfinite(out)]
    assert ulp.max() <= {"exp": 1.1, "erf": 6 if dtype is np.float32 else 9}[name]
    np.testing.assert_array_equal(np.isinf(out), np.isinf(exact))
    x = np.array([np.nan], dtype)
    loop(x, x)
    assert np.isnan(x[0])


@DTYPE
def test_floats_in_the_order_of_integers(dtype):
    from autograd.kernels import jit
    from autograd.kernels.vector import disordered, ordered

    @jit.inline(jit.EXACT)
    def loop(x, integers, back):
        for i in range(x.size):
            integers[i] = ordered(x[i])
            back[i] = disordered(integers[i])

    random = np.random.default_rng(0)
    x = random.standard_normal(50) * 10.0 ** random.integers(-45, 38, 50)
    x = np.unique(np.concatenate([-x, x, [1e-320, np.inf, -np.inf]])).astype(dtype)
    x = np.concatenate([x[x < 0], [-0.0, 0.0], x[x > 0], [np.nan]]).astype(dtype)
    integers, back = np.empty(x.size, f"i{x.itemsize}"), np.empty_like(x)
    loop(x, integers, back)
    assert (integers[1:] >= integers[:-1]).all() and (np.diff(x)[np.diff(integers) == 0] == 0).all()
    assert back.tobytes() == x.tobytes()


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_training_follows_the_same_curve(dtype, rtol):
    """The same mathematics: 100 updates of a small GPT, with dropout."""
    from npgpt import GPT, GPTConfig
    from npgpt.models.layers import dropout_from
    from npgpt.training.optim import AdamW, clip_grad_norm
    from npgpt.training.task import accumulate_gradients

    def curve():
        random = np.random.default_rng(0)
        text = np.arange(500) ** 2 % 16 + (np.arange(500) % 3 == 0)
        shape = dict(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
        model = GPT(GPTConfig(17, 16, 16, 2, 2, **shape), dtype=dtype)
        optimizer = AdamW(model.named_parameters())
        losses = []
        for _ in range(100):
            ids = np.stack([text[a : a + 17] for a in random.integers(0, 480, 4)])
            with dropout_from(random):
                losses.append(accumulate_gradients(model, [(ids[:, :-1], ids[:, 1:])]))
            clip_grad_norm(model.parameters(), 1.0)
            optimizer.step(1e-2)
            optimizer.zero_grad()
        return losses

    found = curve()
    with use_kernels(False):
        expected = curve()
    assert expected[-1] < expected[0] - 0.1
    np.testing.assert_allclose(found, expected, rtol=rtol)


# ---- policy


def python(code, **environment):
    ours = "AUTOGRAD_KERNELS", "NUMBA_CACHE_DIR"
    return subprocess.run(
        [sys.executable, "-P", "-c", code],  # not from the current folder
        env={k: v for k, v in os.environ.items() if k not in ours} | environment,
        capture_output=True, text=True,
    )  # fmt: skip


GELU = "import numpy as np, autograd; print(autograd.nn.sigmoid(np.zeros(2)).tolist()); "


def test_kernels_are_compiled_once(tmp_path):
    """With a note; also if processes begin at once, and for a copy; again after a change."""
    package, copy = tmp_path / "first" / "autograd", tmp_path / "second" / "autograd"
    sources = Path(autograd.__file__).parent
    shutil.copytree(sources, package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(package):
        found = python(GELU + "print(autograd.__file__)", PYTHONPATH=str(package.parent))
        assert found.returncode == 0 and str(package) in found.stdout, found.stderr
        return found.stderr

    with ThreadPoolExecutor() as pool:
        assert any("compiling kernels" in note for note in pool.map(run, [package] * 3))
    assert run(package) == ""
    shutil.copytree(package, copy)
    assert run(copy) == ""
    with open(copy / "kernels" / "fits.py", "a") as file:
        file.write("# changed\n")
    assert "compiling kernels" in run(copy)


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        ("", {"AUTOGRAD_KERNELS": "0"}),
        ("import autograd.kernels as k; k.use_kernels(False); ", {}),
        ("import sys; sys.modules['numba'] = None; ", {}),
    ],
)
def test_without_kernels_numba_is_not_imported(before, environment):
    after = "import sys; assert not sys.modules.get('numba')"
    result = python(before + GELU + after, **environment)
    assert result.stdout == "[0.5, 0.5]\n" and result.returncode == 0, result.stderr


def test_a_broken_numba_is_done_without(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('no LLVM')")
    result = python(GELU, PYTHONPATH=str(tmp_path))
    assert result.stdout == "[0.5, 0.5]\n" and "no LLVM" in result.stderr


@pytest.mark.parametrize("n", ["0", "-1", " +0"])
def test_a_number_of_threads_that_numba_refuses(n):
    result = python(GELU, NUMBA_NUM_THREADS=n)
    assert f"NUMBA_NUM_THREADS is {n!r}; expected a number of 1 or more" in result.stderr
    assert python(GELU, NUMBA_NUM_THREADS=n, AUTOGRAD_KERNELS="0").stdout == "[0.5, 0.5]\n"


def test_kernels_can_be_stepped_through():
    """Without the compiler, kernels are the Python that they are written in."""
    code = (
        "from autograd import nn; import numpy as np, autograd\n"
        "x = autograd.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)\n"
        "y = nn.cross_entropy(nn.layer_norm(nn.gelu(nn.dropout(x)), 3), [0, 1]).backward()\n"
        "from autograd.kernels import normalization; print(type(normalization._softmax).__name__)"
    )
    result = python(code, NUMBA_DISABLE_JIT="1")
    assert result.stdout == "function\n" and result.returncode == 0, result.stderr


def test_no_folder_for_the_cache(tmp_path):
    """A note says so once, and every process compiles for itself."""
    package = tmp_path / "autograd"
    shutil.copytree(
        Path(autograd.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "kernels" / "__pycache__").write_text("not a folder")
    nowhere = dict(HOME=os.devnull, XDG_CACHE_HOME=os.devnull, PYTHONPATH=str(tmp_path))
    result = python(GELU + "print(autograd.nn.softmax(np.zeros(2)).tolist())", **nowhere)
    assert result.stdout == "[0.5, 0.5]\n[0.5, 0.5]\n" and result.returncode == 0, result.stderr
    assert result.stderr.count("compiling kernels, for this process alone") == 1
    assert "NUMBA_CACHE_DIR" in result.stderr


@DTYPE
def test_the_address_of_an_array(dtype):
    from autograd.kernels.jit import address_of

    x = np.arange(24.0).astype(dtype).reshape(2, 3, 4)
    fixed = x.view()
    fixed.flags.writeable = False
    for view in (x, x.T, x[1, 1:], x[..., ::2], x[::-1], x[:0], x[1, 2, 3:].reshape(()), fixed):
        assert address_of(view) == view.ctypes.data


def test_switching():
    before = kernels_enabled()
    with use_kernels(False):
        assert not kernels_enabled()
        with use_kernels(True):
            assert kernels_enabled()
    assert kernels_enabled() == before


def test_switches_of_two_threads_end_in_any_order():
    before = kernels_enabled()
    for first_ends_first in (True, False):
        first, second = use_kernels(False), use_kernels(False)
        for each in (first, second) if first_ends_first else (second, first):
            assert not kernels_enabled()
            each.__exit__()
        assert kernels_enabled() == before


def test_a_switch_may_be_used_again():
    before = kernels_enabled()
    off = use_kernels(False)
    for _ in range(2):
        with off:
            assert not kernels_enabled()
        assert kernels_enabled() == before
    off.__exit__()
    assert kernels_enabled() == before


def heads_of(qkv, n_head):
    """Return queries, keys and values (B, H, T, D) as views of one array (B, T, 3 H D)."""
    B, T, _ = qkv.shape
    return [part.reshape(B, T, n_head, -1).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("B", "T", "H", "D"), [(2, 5, 3, 4), (3, 70, 2, 8), (1, 1, 2, 8)])
def test_attention_on_parts_of_one_array(B, T, H, D, dtype):
    """Results lie as the queries do; gradients of parts of one array are parts of one, too."""
    random = np.random.default_rng(0)
    qkv = random.standard_normal((B, T, 3 * H * D)).astype(dtype)
    g = random.standard_normal((B, T, H * D)).astype(dtype)

    def gradients(whole):
        x = autograd.tensor(qkv, requires_grad=True)
        q, k, v = heads_of(x, H) if whole else [p + 0 for p in heads_of(x, H)]
        y = nn.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined = y.swapaxes(1, 2)
        if whole:
            assert joined.numpy().reshape(B, T, -1).base is not None  # a view: nothing is copied
        np.sum(joined.reshape(B, T, -1) * g).backward()
        return y.numpy(), x.grad.numpy()

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("base", [">f4", "i4", [("x", "f4")]])
def test_attention_on_a_view_of_another_dtype(base):
    """As of big-endian data, after ``x.byteswap().view(x.dtype.newbyteorder())``."""
    random = np.random.default_rng(0)
    qkv = random.standard_normal((2, 5, 24)).astype(np.float32)
    view = qkv.view(base).copy().view(np.float32)
    assert view.base.dtype != view.dtype
    found = []
    for array in (view, qkv):
        x = Tensor(array).requires_grad_()
        y = nn.scaled_dot_product_attention(*heads_of(x, 2), is_causal=True)
        (y * y).sum().backward()
        found += [y.numpy(), x.grad.numpy()]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_which_parts_lie_side_by_side():
    whole = np.arange(24.0).reshape(2, 12)
    parts = np.split(whole, 3, axis=1)
    assert side_by_side(parts, (2, 12), 1) is not None
    np.testing.assert_array_equal(side_by_side(parts, (2, 12), 1), whole)
    for others in (
        parts[::-1],
        parts[:2],
        [parts[0], parts[2]],
        [parts[0].copy(), *parts[1:]],
        [part.T for part in parts],
        [autograd.tensor(part) for part in parts],
        [*parts[:2], parts[2].astype(np.float32)],
    ):
        assert side_by_side(others, (2, 12), 1) is None
    assert side_by_side(np.split(whole, 2), (2, 12), 0) is not None
