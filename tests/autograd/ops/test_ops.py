"""Every registered op, by the properties that must hold for all of them."""

import inspect
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import autograd
from autograd import nn
from autograd.kernels import use_kernels
from autograd.op import NUMPY
from autograd.testing import properties
from autograd.testing.properties import PROPERTIES, op_calls

OPS = sorted(autograd.REGISTRY)


def test_of(check):
    """Return the test of a property of all ops.

    Each property has a function of its own: hypothesis nests the settings of a function's calls,
    and fails with RecursionError at the thousandth.
    """

    @pytest.mark.parametrize("name", OPS)
    @given(data=st.data())
    def test(name, data):
        op = autograd.REGISTRY[name]
        check(op, data.draw(op_calls(op)))

    return test


test_of.__test__ = False
for check in PROPERTIES:
    globals()[f"test_property_{check.__name__}"] = test_of(check)


@pytest.mark.parametrize("name", OPS)
def test_ops_are_documented(name):
    op = autograd.REGISTRY[name]
    assert op.__doc__ and op.stated is not None


@pytest.mark.parametrize("name", OPS)
def test_samples_reach_the_odd_cases(name):
    """The strategies do draw empty arrays, single elements and arrays that are not contiguous."""
    op = autograd.REGISTRY[name]
    seen = set()

    @settings(max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
    @given(call=op_calls(op))
    def look(call):
        for i in properties.differentiable(op, call):
            seen.add("contiguous" if call.args[i].flags.c_contiguous else "strided")
        if {"contiguous", "strided"} <= seen:
            raise Found

    if name == "embedding":  # its table is always drawn as it is
        return
    with pytest.raises(Found):
        look()


class Found(Exception):
    """What was looked for was drawn."""


# ---- NumPy's own names and forms, beyond what the samplers draw


def tensor(*shape, seed=0):
    return autograd.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2 - x,
        lambda x: 1 / (x * x + 1),
        lambda x: 2.0**x,
        lambda x: x**2,
        lambda x: x**0,
        lambda x: np.float32(3) * x,
        lambda x: np.ones((2, 1, 1)) @ np.swapaxes(x, 0, 1)[:1],
        lambda x: np.sum(x, axis=(0, -1), keepdims=True),
        lambda x: np.add.reduce(x, axis=1),
        lambda x: np.max(x, axis=1),
        lambda x: np.where(x > 0, x, 0.1 * x),
        lambda x: x[..., None][:, ::-1],
        lambda x: x[np.array([True, False, True])],
        lambda x: x[[0, 0, 2], [1, 1, 0]],
        lambda x: x.T @ x,
        lambda x: np.einsum("ij,kj", x, x),
        lambda x: np.einsum("...j,...j->...", x, x[:1]),
        lambda x: np.einsum("i...,i...", x, x[:, 0]),
        lambda x: np.einsum("ij, ij", x, x),
        lambda x: np.einsum("ji", x) @ np.ones(3),
        lambda x: np.einsum("...ii->...i", x[:, :3].reshape(1, 3, 3) * x[0, 0]),
        lambda x: np.tensordot(x, x.reshape(2, 3, 2), axes=([0], [1])),
        lambda x: np.tensordot(x, x.T, 1),
        lambda x: np.dot(x, x[0]) + np.inner(x, x[1]) + np.dot(2.0, x[:, 0]),
        lambda x: np.outer(x, x[0]),
        lambda x: np.trace(x[:, 1:]),
        lambda x: np.ravel(x) ** 2,
        lambda x: np.tril(x, -1) + np.triu(x, 1) * x,
        lambda x: np.take(x, [2, 0, 0], axis=0) * np.take(x, [1, 1, 5]).sum(),
        lambda x: np.sort(x, axis=0) * np.arange(3)[:, None],
        lambda x: np.take_along_axis(x, np.array([[3, 0], [1, 1], [2, 3]]), axis=1),
        lambda x: np.repeat(x, 2, axis=1) + np.repeat(np.repeat(x, [1, 0, 2], axis=0), 2, axis=1),
        lambda x: np.diagonal(x, 1) * np.diagonal(x.reshape(2, 3, 2), 0, 2, 0)[0, 0],
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=3.0) * np.pad(x, {-1: 1, 0: (1, 0)}),
        lambda x: abs(x + 5),
        lambda x: np.stack([row * i for i, row in enumerate(x)]),
        lambda x: np.concatenate([x, np.zeros((1, 4)), x * x]),
        lambda x: np.concatenate(np.split(x, [1, 1], axis=0)[::-1]),
        lambda x: np.reshape(np.transpose(x), -1).mean(),
        lambda x: np.ptp(x, axis=0) + np.prod(x) + np.prod(x, axis=(0, 1)),
        lambda x: np.cumprod(x) + np.cumprod(x, axis=1).reshape(-1),
        lambda x: np.linalg.norm(x, axis=1) + np.linalg.norm(x) + np.linalg.norm(x, 1),
        lambda x: np.linalg.norm(x, -np.inf, axis=(1, 0), keepdims=True) * np.linalg.norm(x[0], 3),
        lambda x: np.diag(x[0], -1) @ np.tile(np.diag(x[:, :3]), (5, 2))[:, :5],
        lambda x: np.tile(x, (2, 1, 2)) * np.tile(x[0], 2),
        lambda x: np.hstack([x, x[:, :1]]) @ np.vstack([x[0], x[1], x * x]),
        lambda x: np.column_stack([x[0], x.T]) * np.dstack([x, x]).reshape(4, 6)[:, :4],
        lambda x: np.diff(x, 2) * np.diff(x, axis=0).sum() + np.append(x, x[0])[-1],
        lambda x: np.rot90(x) @ x + np.fliplr(np.flipud(x)).T @ x,
        lambda x: sum(part.sum() ** (i + 2) for i, part in enumerate(np.array_split(x, 3, 1))),
        lambda x: np.linalg.multi_dot([x[0], x.T, x]) + np.linalg.vecdot(x, x, axis=0),
        lambda x: np.linalg.matrix_power(x[:, :3] + 3 * np.eye(3), -2),
        lambda x: np.linalg.cholesky(x @ x.T + np.eye(3), upper=True),
        lambda x: np.linalg.slogdet(x @ x.T + np.eye(3)).logabsdet,
        lambda x: autograd.nn.topk(x, 2)[0] * autograd.nn.topk(x, 2, largest=False)[0],
        lambda x: autograd.nn.scatter_add(x, 1, np.array([[0, 0], [1, 3]]), x * x) ** 2,
        lambda x: autograd.nn.logsumexp(x, (0, 1)) * autograd.nn.logsumexp(x, 0),
        lambda x: autograd.nn.softplus(x, beta=0.5) * autograd.nn.rsqrt(x * x + 1),
        lambda x: autograd.nn.conv1d(x, x.reshape(3, 2, 2)[:, :1], x[:, 0], padding=1, groups=3),
        lambda x: autograd.nn.conv2d(x[None], x.reshape(2, 1, 2, 3), x[0, :2], padding=(1, 0)),
        lambda x: autograd.nn.conv2d(x[None] ** 2, x[None, None, :2, :2], None, 2, 1, (1, 2)),
        lambda x: autograd.nn.max_pool1d(x, 2) * autograd.nn.avg_pool1d(x, 2),
        lambda x: (
            autograd.nn.max_pool2d(x[None], 2, 1, 1) * autograd.nn.avg_pool2d(x[None], 2, 1, 1)
        ),
        lambda x: autograd.nn.hardswish(2 * x) * autograd.nn.hardtanh(x, -0.5, 0.7),
        lambda x: autograd.nn.kl_div(x, autograd.nn.softmax(x), log_target=True),
        lambda x: autograd.nn.kl_div(x, autograd.nn.softmax(x[::-1]), "batchmean"),
        lambda x: autograd.nn.huber_loss(x, x[::-1] ** 2, "none", 0.8, x * x),
        lambda x: autograd.nn.smooth_l1_loss(x, 2 * x * x, beta=0.3),
        lambda x: autograd.nn.binary_cross_entropy(
            autograd.nn.sigmoid(x), autograd.nn.sigmoid(x[::-1]), x[0], "none"
        ),
        lambda x: x**2 * np.arctan2(x, [1.0, 2.0, 3.0, 4.0]) * (x + 9) ** [1, 2, 3, 0.5],
        lambda x: (x @ [1.0, 2.0, 3.0, 4.0] + [1.0, 2.0, 3.0] @ x[:, :3]) * [1.0, 2.0, 3.0],
        lambda x: np.reshape(x, (1, 3, 4)) @ [[1.0], [2.0], [3.0], [4.0]],
        lambda x: np.einsum("ij,ij,j->", x, x[:1], [1.0, 2.0, 3.0, 4.0]),
        lambda x: np.einsum(x, [3, 0], x, [..., 0]) @ np.einsum(x, [0, 1], [0, 1]),
        lambda x: np.einsum("ij,jk->ik", x[:, :1], np.ones((3, 2))),
        lambda x: np.roll(x, [1, 2], [0, 1]) * x,
        lambda x: np.stack([part.sum() ** 2 for part in np.split(x, [3, 1], axis=-1)]),
        lambda x: np.clip(x, x[0] - 0.1, [[[1.0]], [[0.2]]]) * np.clip(x, min=0.2),
        lambda x: np.clip(0.3, x * x, x[:1] ** 2 + 0.1),
        lambda x: np.sum(x[0, 0], axis=0) * np.max(x[0, 1], 0) * np.prod(x[1, 0], axis=-1),
        lambda x: np.cumsum(x[0, 0], axis=0) * np.cumprod(x[1, 1], axis=0),
        lambda x: (
            autograd.nn.affine(x, [[1.0, 2.0]] * 4, x[0, :1])
            * autograd.nn.affine([[1.0, 2.0, 3.0]], x, x[0, 0]).sum()
        ),
        lambda x: autograd.nn.conv1d([[1.0, 2.0, 3.0]], x[:, None, :2], [1.0, 2.0, 3.0]),
        lambda x: autograd.nn.embedding([[2, 0], [0, 0]], x, 1) ** 2,
        lambda x: autograd.nn.layer_norm(x, 4, [1.0, 2.0, 3.0, 4.0]),
        lambda x: autograd.nn.softmax(x, dim=0)[1],
        lambda x: autograd.nn.dropout(x, 0.5, generator=np.random.default_rng(3)),
    ],
)
def test_expressions(function):
    x = tensor(3, 4)
    assert autograd.testing.gradcheck(function, [x])
    assert autograd.testing.gradgradcheck(function, [x])


EINSUMS = ["ij,kj", "ij,jk->ki", "...j,kj->k...", "ij,...", "iji,k...->j...k", "i...j,j", "ij,ji->",
           "a...,b...->...ba"]  # fmt: skip


@pytest.mark.parametrize("subscripts", EINSUMS)
def test_einsum_is_numpys(subscripts):
    """Every form of subscripts means on Tensors what it means on arrays."""
    ranks = [len(group.replace("...", "")) + ("..." in group)
             for group in subscripts.split("->")[0].split(",")]  # fmt: skip
    arrays = [np.random.default_rng(i).standard_normal((3,) * n) for i, n in enumerate(ranks)]
    expected = np.einsum(subscripts, *arrays)
    found = np.einsum(subscripts, *map(autograd.tensor, arrays))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)
    assert autograd.testing.gradcheck(lambda *x: np.einsum(subscripts, *x), arrays)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.tril(x, 1),
        lambda x: np.triu(x, -1),
        lambda x: np.take(x, [3, 0]),
        lambda x: np.take(x, [1, 0], axis=-1),
        lambda x: np.sort(x),
        lambda x: np.sort(x, axis=None),
        lambda x: np.repeat(x, 2),
        lambda x: np.repeat(x, [1, 2, 0], axis=0),
        np.ravel,
        np.trace,
        lambda x: np.diagonal(x, -1),
        lambda x: np.diagonal(x[None], 2, 1, 2),
        lambda x: np.clip(x, 0, 1),
        lambda x: np.clip(x, min=0, max=np.ones((2, 1, 1))),
        lambda x: x.clip(min=0),
        lambda x: np.clip(np.append(x, np.nan), 0.5, -0.5),
        lambda x: np.tril(x[0]),
        lambda x: np.triu(x[0], 1),
        lambda x: np.take(x, np.array([True, False, True])),
        lambda x: np.take(x, (1, 0), axis=0),
        lambda x: np.round(x, 1),
        lambda x: np.std(x, correction=1),
        lambda x: np.var(x, axis=0, correction=0),
        lambda x: np.tensordot(x, x.T, axes=np.int64(1)),
        lambda x: np.cumsum(x[0, 0], axis=0),
        lambda x: np.moveaxis(x[None], 0, -1),
        lambda x: np.roll(x, (1, 2), (0, 1)),
        lambda x: np.pad(x, 1),
        lambda x: np.dot(x, x.T),
        lambda x: np.inner(x, x),
        lambda x: np.outer(x, x),
        lambda x: np.tensordot(x, x, ([1], [1])),
        lambda x: np.std(x, ddof=1),
        lambda x: np.var(x, axis=0, keepdims=True),
        lambda x: np.cumsum(x),
        lambda x: np.flip(x),
        lambda x: np.min(x, axis=1),
        lambda x: np.stack([x, x], axis=1),
        lambda x: np.squeeze(x[:1]),
        lambda x: np.ravel(x, order="F"),
        lambda x: np.reshape(x, (2, -1), order="F"),
        lambda x: np.concatenate([x, x[:1]], axis=None),
        lambda x: np.atleast_1d(x.sum()),
        lambda x: np.atleast_2d(x[0]),
        lambda x: np.atleast_3d(x[0]),
        np.atleast_3d,
        lambda x: np.hstack([x[0], x[1]]),
        lambda x: np.hstack([x, x]),
        lambda x: np.vstack([x[0], x]),
        lambda x: np.dstack([x[0], x[1]]),
        lambda x: np.column_stack([x[:, 0], x]),
        lambda x: np.append(x, [[1, 2, 3, 4]], axis=0),
        lambda x: np.append(x, 5),
        np.rot90,
        lambda x: np.rot90(x[None], -1, (1, 2)),
        lambda x: np.rot90(x, 2),
        lambda x: np.tile(x, 2),
        lambda x: np.tile(x, (2, 1, 3)),
        lambda x: np.tile(x, (0, 2)),
        lambda x: np.diff(x, n=2, axis=0),
        lambda x: np.diag(x, 1),
        lambda x: np.diag(x[0], -2),
        lambda x: np.take_along_axis(x, np.array([[2, 0]]).T, axis=0),
        lambda x: np.take_along_axis(x, np.array([7, 3]), axis=None),
        lambda x: np.ptp(x, axis=1, keepdims=True),
        lambda x: np.prod(x, axis=(0, 1), keepdims=True),
        np.cumprod,
        lambda x: np.linalg.norm(x),
        lambda x: np.linalg.norm(x, "fro", keepdims=True),
        lambda x: np.linalg.norm(x, 1),
        lambda x: np.linalg.norm(x, -np.inf, axis=(1, 0)),
        lambda x: np.linalg.norm(x, 1.5, axis=0),
        lambda x: np.linalg.norm(x[None], axis=(0, 2), keepdims=True),
        lambda x: np.linalg.vector_norm(x, ord=3, axis=(0, 1)),
        lambda x: np.linalg.matrix_norm(x, keepdims=True),
        lambda x: np.linalg.matrix_norm(x, ord=np.inf),
        np.linalg.matrix_transpose,
        np.matrix_transpose,
        lambda x: np.linalg.diagonal(x[None], offset=1),
        lambda x: np.linalg.trace(x[None]),
        lambda x: np.linalg.matmul(x, x.T),
        lambda x: np.linalg.outer(x[0], x[1]),
        lambda x: np.linalg.tensordot(x, x, axes=([0, 1], [0, 1])),
        lambda x: np.vecdot(x, x[0]),
        lambda x: np.linalg.vecdot(x, x, axis=0),
        lambda x: np.vdot(x, x),
        lambda x: np.linalg.multi_dot([x, x.T, x[:, 0]]),
        lambda x: np.linalg.multi_dot([x[0], x.T]),
        lambda x: np.linalg.matrix_power(x[:, :3], 5),
        lambda x: np.linalg.matrix_power(x[:, :3], -1),
        lambda x: np.linalg.matrix_power(x[None, :, :3], 0),
        lambda x: np.linalg.inv(x[:, 1:]),
        lambda x: np.linalg.det(x[None, :, 1:]),
        lambda x: np.linalg.solve(x[:, 1:], x[:, 0]),
        lambda x: np.linalg.solve(np.stack([x[:, 1:], x[:, :3]]), x[:, 0]),
        lambda x: np.linalg.solve(np.stack([x[:, 1:], x[:, :3]]), x),
        lambda x: np.linalg.slogdet(x[:, 1:])[1],
        lambda x: np.linalg.cholesky(x @ x.T),
        np.copy,
    ],
)
def test_numpys_functions_mean_what_they_mean(function):
    x = np.random.default_rng(2).standard_normal((3, 4))
    found = function(autograd.tensor(x))
    assert isinstance(found, autograd.Tensor)
    np.testing.assert_allclose(found.numpy(), function(x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.array_split(x, 3, axis=-1),
        lambda x: np.array_split(x, [1, 2]),
        lambda x: np.hsplit(x, 2),
        lambda x: np.hsplit(x[0], [1, 3]),
        lambda x: np.vsplit(x, [2]),
        lambda x: np.dsplit(x[None], 4),
        lambda x: np.broadcast_arrays(x, x[0], x[:, :1]),
        lambda x: np.atleast_2d(x, x[0]),
        lambda x: np.linalg.slogdet(x[:, 1:]),
    ],
)
def test_numpys_functions_of_several_results(function):
    x = np.random.default_rng(2).standard_normal((3, 4))
    found, expected = function(autograd.tensor(x)), function(x)
    assert type(found) is type(expected) and len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert isinstance(a, autograd.Tensor)
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-13)


@pytest.mark.parametrize(
    "function",
    [f for f in NUMPY if not isinstance(f, np.ufunc) and f is not np.einsum],
    ids=lambda f: f"{f.__module__}.{f.__name__}",
)
def test_arguments_have_numpys_names(function):
    """Arguments have NumPy's names and order, so calls by name and by place mean the same."""
    kinds = inspect.Parameter
    ours, theirs = (inspect.signature(f).parameters.values() for f in (NUMPY[function], function))
    places = [
        [p.name for p in side if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        for side in (ours, theirs)
    ]
    if any(p.kind is kinds.VAR_KEYWORD for p in ours):
        return  # passed on as they are
    assert places[0] == places[1][: len(places[0])]
    open_ended = any(p.kind is kinds.VAR_KEYWORD for p in theirs)
    assert open_ended or {p.name for p in ours} <= {p.name for p in theirs}


def test_integers_stay_integers():
    x = autograd.tensor([15, 24])
    for found in (np.round(x, -1), x.round(-1), x.round(), np.clip(x, 16, None), np.take(x, [0])):
        assert found.dtype == np.int64
    assert np.round(x, -1).tolist() == [20, 20]


def test_questions_have_plain_answers():
    """What has no derivative works on tensors that require a gradient, too."""
    x = tensor(3, 4)
    plain = x.numpy()
    assert np.result_type(x, np.float32) == np.float64
    assert np.argsort(x, axis=0).tolist() == np.argsort(plain, axis=0).tolist()
    assert [i.tolist() for i in np.where(x)] == [i.tolist() for i in np.where(plain)]
    assert np.any(x > 0) and not np.all(x > 0) and np.allclose(x, plain) and not np.iscomplexobj(x)
    assert type(np.full_like(x, 2)) is type(np.empty_like(x)) is np.ndarray


def test_an_index_may_be_a_named_tuple():
    x = tensor(3, 4)
    place = namedtuple("Place", "row column")(np.array([1, 1]), 2)
    y = x[place]
    y.sum().backward()
    assert y.tolist() == [x.numpy()[1, 2]] * 2 and x.grad.numpy()[1, 2] == 2


def test_third_derivative():
    x = autograd.tensor(0.7, requires_grad=True)
    y = np.sin(x) * np.exp(x)
    for expected in (
        np.exp(0.7) * (np.sin(0.7) + np.cos(0.7)),
        2 * np.exp(0.7) * np.cos(0.7),
        2 * np.exp(0.7) * (np.cos(0.7) - np.sin(0.7)),
    ):
        y = autograd.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("name", ["gelu", "layer_norm", "cross_entropy", "attention"])
def test_third_derivative_of_fused_ops(name):
    """Ops that save extra values differentiate through their reference, to any order."""
    nn = autograd.nn
    x = np.random.default_rng(1).standard_normal((3, 4))
    functions = {
        "gelu": lambda x: nn.gelu(x),
        "layer_norm": lambda x: nn.layer_norm(x, (4,), None, None),
        "cross_entropy": lambda x: nn.cross_entropy(x, np.array([0, 3, 1])),
        "attention": lambda x: nn.scaled_dot_product_attention(x, x + 1, x * x, is_causal=True),
    }

    @autograd.enable_grad()
    def second(x):
        x = x if x.requires_grad else autograd.tensor(x, requires_grad=True)
        first = autograd.grad(functions[name](x).sum(), x, create_graph=True)
        return autograd.grad((first * first).sum(), x, create_graph=True)

    assert autograd.testing.gradcheck(second, [x])


# ---- numerics


def test_erf():
    from math import erf as exact

    from autograd.ops.special import erf

    x = np.concatenate([np.linspace(-7, 7, 4001), np.geomspace(1e-300, 1, 1001), [np.inf, -np.inf]])
    expected = np.array([exact(v) for v in x])
    np.testing.assert_allclose(erf(x), expected, rtol=1.2e-15)
    single = x.astype(np.float32)
    expected = np.array([exact(v) for v in single.astype(float)])
    np.testing.assert_allclose(erf(single), expected, rtol=3.2e-7, atol=1e-45)
    assert np.isnan(erf(np.array([np.nan]))).all()
    assert erf(np.array(0.5)).shape == () and erf(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out(approximate):
    x = autograd.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 1e4], requires_grad=True)
    with np.errstate(all="raise", under="ignore"):
        y = autograd.nn.gelu(x, approximate=approximate)
        y.sum().backward()
    np.testing.assert_allclose(y.numpy(), [0, 0, 0, 0, 30, 1e4], rtol=0, atol=1e-100)
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 0, 0.5, 1, 1], rtol=0, atol=1e-100)


def test_softmax_and_cross_entropy_of_large_logits():
    x = autograd.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    assert autograd.nn.softmax(x).tolist() == [[1, 0, 0]]
    loss = autograd.nn.cross_entropy(x, np.array([1]))
    assert loss.item() == 1000
    loss.backward()
    assert x.grad.tolist() == [[1, -1, 0]]


def test_attention_beyond_one_block_equals_its_reference():
    """Blocks of queries, masks, and more keys than queries."""
    random = np.random.default_rng(0)
    op = autograd.REGISTRY["attention"]
    for n_queries, n_keys, causal, masked, p in [
        (150, 150, True, False, 0.0),
        (130, 200, False, True, 0.3),
        (70, 64, True, True, 0.2),
        (1, 300, False, False, 0.0),
    ]:
        q, k, v = (random.standard_normal((2, 3, n, 5)) for n in (n_queries, n_keys, n_keys))
        mask = random.random((n_queries, n_keys)) < 0.7 if masked else None
        if masked:
            mask[:, 0] = True
        args = (mask, p, causal, 0.4, 12345)
        fused = [autograd.tensor(x, requires_grad=True) for x in (q, k, v)]
        plain = [autograd.tensor(x, requires_grad=True) for x in (q, k, v)]
        a, b = op(*fused, *args), op.reference_function(*plain, *args)
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-13)
        weights = random.standard_normal(a.shape)
        for y in (a, b):
            y.backward(weights)
        for x, y in zip(fused, plain, strict=True):
            np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (70,), (70, 1), (1, 70), (2, 1, 70), (3, 1, 1, 70)], ids=str)
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_learns_its_mask(shape, is_causal):
    """Its gradient, in blocks, is that of the reference, for every shape that broadcasts."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((3, 2, 70, 4)) for _ in range(3))
    op, weights = autograd.REGISTRY["attention"], random.standard_normal((3, 2, 70, 4))
    gradients = []
    for call in (op, op.reference_function):
        mask = tensor(*shape)
        call(q, k, v, mask, 0.2, is_causal, 0.5, 7).backward(weights)
        gradients.append(mask.grad.numpy())
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-12)


def test_attention_of_a_query_that_sees_nothing():
    x = autograd.tensor(np.ones((1, 2, 3)), requires_grad=True)
    mask = np.array([[False, False], [True, True]])
    y = autograd.nn.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    y.sum().backward()
    assert y.tolist() == [[[0, 0, 0], [1, 1, 1]]]
    assert np.isfinite(x.grad.numpy()).all()
    q, k, v = (np.random.default_rng(i).standard_normal((2, 3)) for i in range(3))

    def attend(*qkv):
        return autograd.nn.scaled_dot_product_attention(*qkv, attn_mask=mask)

    assert autograd.testing.gradcheck(attend, [q, k, v])
    assert autograd.testing.gradgradcheck(attend, [q, k, v])


def test_dropout():
    x = autograd.tensor(np.ones((200, 300)), requires_grad=True)
    y = autograd.nn.dropout(x, 0.3, generator=np.random.default_rng(0))
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / kept.size)
    assert (
        np.ptp(kept.mean(0)) < 0.25 and np.ptp(kept.mean(1)) < 0.2
    )  # no row, no column stands out
    assert y.numpy()[kept] == pytest.approx(1 / 0.7)
    y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())  # the same mask backwards
    again = autograd.nn.dropout(x, 0.3, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(again.numpy(), y.numpy())
    other = autograd.nn.dropout(x, 0.3, generator=np.random.default_rng(1))
    assert (other.numpy() != y.numpy()).mean() == pytest.approx(0.42, abs=0.02)
    assert autograd.nn.dropout(x, 0.3, training=False) is x
    with pytest.raises(ValueError, match="p is 1"):
        autograd.nn.dropout(x, 1)


def test_padding_gets_no_gradient():
    table = tensor(4, 2)
    index = np.array([[0, 3], [1, 3]], np.uint8)
    autograd.nn.embedding(index, table, padding_idx=-1).sum().backward()
    assert table.grad.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    table.grad = None
    autograd.nn.embedding(index, table).sum().backward()
    assert table.grad.tolist() == [[1, 1], [1, 1], [0, 0], [2, 2]]


def test_topk():
    x = autograd.tensor([[2.0, 5.0, 5.0, np.nan], [1.0, 1.0, 0.0, 1.0]], requires_grad=True)
    values, indices = autograd.nn.topk(x, 2)
    np.testing.assert_array_equal(values.numpy(), [[np.nan, 5], [1, 1]])
    assert indices.tolist() == [[3, 1], [0, 1]]  # NaN is the largest; of equals the first
    values[1].sum().backward()
    assert x.grad.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0]]
    values, indices = autograd.nn.topk(x, 1, dim=0, largest=False)
    assert values.tolist() == [[1, 1, 0, 1]] and indices.tolist() == [[1, 1, 1, 1]]
    with pytest.raises(ValueError, match="k is 5, and axis -1 of input has 4 elements"):
        autograd.nn.topk(x, 5)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_scatter_add(dim):
    random = np.random.default_rng(0)
    start, src = random.standard_normal((4, 4)), random.standard_normal((3, 4))
    index = random.integers(0, 4, (3, 2))  # shorter than src: its first elements are taken
    expected = start.copy()
    for i, j in np.ndindex(3, 2):
        expected[(index[i, j], j) if dim == 0 else (i, index[i, j])] += src[i, j]
    np.testing.assert_allclose(autograd.nn.scatter_add(start, dim, index, src), expected)
    assert autograd.testing.gradcheck(
        lambda a, b: autograd.nn.scatter_add(a, dim, index, b) ** 2, [start, src]
    )
    for wrong in (-1, 4):
        with pytest.raises(IndexError):
            autograd.nn.scatter_add(start, dim, np.array([[wrong]]), src)


@pytest.mark.parametrize("function", [np.prod, np.cumprod], ids=["prod", "cumprod"])
@pytest.mark.parametrize("zeros", [0, 1, 2, 4])
def test_products_of_zeros(function, zeros):
    """Any number of zeros, to the third order."""
    x = np.array([2.0, -1.5, 0.5, 3.0])
    x[:zeros] = 0
    order = np.array([2, 0, 3, 1])

    @autograd.enable_grad()
    def second(x):
        x = x if x.requires_grad else autograd.tensor(x, requires_grad=True)
        first = autograd.grad(function(x[order]).sum(), x, create_graph=True)
        return autograd.grad((first * np.arange(1.0, 5)).sum(), x, create_graph=True)

    assert autograd.testing.gradcheck(lambda x: function(x[order]), [x])
    assert autograd.testing.gradgradcheck(lambda x: function(x[order]), [x])
    assert autograd.testing.gradcheck(second, [x])


def test_logsumexp_of_infinities():
    x = autograd.tensor([[-np.inf] * 2, [0.0, -np.inf], [1e4, 1e4]], requires_grad=True)
    with np.errstate(all="raise"):
        y = autograd.nn.logsumexp(x, 1)
        y.backward(np.ones(3))
    np.testing.assert_allclose(y.numpy(), [-np.inf, 0, 1e4 + np.log(2)])
    np.testing.assert_allclose(x.grad.numpy(), [[0, 0], [1, 0], [0.5, 0.5]], rtol=1e-12)


@pytest.mark.parametrize("ord", [2, 1, np.inf, 3, 0.5])
def test_norms_at_zero(ord):
    x = autograd.tensor([[0.0, 0.0], [0.0, 2.0]], requires_grad=True)
    with np.errstate(all="raise"):
        np.linalg.norm(x, ord, axis=1).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [[0, 0], [0, 1]], rtol=1e-15)


def test_std_of_equal_elements():
    x = autograd.tensor([3.0, 3.0], requires_grad=True)
    x.std().backward()
    assert x.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    "matrix",
    [
        np.array([[1.0, 2.0], [2.0, 4.0]]),
        np.arange(1.0, 10.0).reshape(3, 3),
        np.zeros((3, 3)),
        np.outer(np.arange(5.0), np.ones(5)),
    ],
)
def test_determinants_of_singular_matrices(matrix):
    assert autograd.testing.gradcheck(np.linalg.det, [matrix])
    assert autograd.testing.gradgradcheck(np.linalg.det, [matrix])


def test_determinants_of_large_matrices():
    x = np.random.default_rng(0).standard_normal((7, 7))
    assert autograd.testing.gradcheck(np.linalg.det, [x])
    assert autograd.testing.gradgradcheck(np.linalg.det, [x])
    x[3] = x[2]
    assert autograd.testing.gradcheck(np.linalg.det, [x])


def test_singular_matrices_are_numpys_error():
    x = autograd.tensor(np.zeros((2, 2)), requires_grad=True)
    for call in (np.linalg.inv, lambda x: np.linalg.solve(x, np.ones(2)), np.linalg.cholesky):
        with pytest.raises(np.linalg.LinAlgError):
            call(x)
    assert np.linalg.slogdet(x).logabsdet.item() == -np.inf
    assert not np.linalg.slogdet(x).sign.requires_grad


# ---- losses


TARGETS = {
    (): np.array(2),
    (4,): np.array([0, 2, -100, 1]),
    (2, 4): np.array([[0, 2, -100, 1], [-100, 1, 1, 2]]),
    (2, 2, 2): np.array([[[0, 2], [-100, 1]], [[-100, 1], [1, 2]]]),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", TARGETS, ids=str)
def test_cross_entropy_by_hand(shape, weighted, reduction):
    """Classes with smoothing, and the same as probabilities: their mean is over all positions."""
    target, n = TARGETS[shape], 3
    x = np.random.default_rng(0).standard_normal((*shape, n))
    weight = np.array([0.5, 2.0, 1.0]) if weighted else None
    counts = np.ones(n) if weight is None else weight
    smooth = 0.9 * autograd.nn.one_hot(np.maximum(target, 0), n) + 0.1 / n
    smooth[target == -100] = 0
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    losses = -(smooth * counts * log_p).sum(-1)
    shares = np.where(target == -100, 0, counts[np.maximum(target, 0)])
    expected = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / shares.sum()}
    x, smooth = (np.moveaxis(v, -1, 1) if v.ndim > 2 else v for v in (x, smooth))  # (N, C, d1, ...)

    def of_classes(x):
        return autograd.nn.cross_entropy(x, target, weight, -100, reduction, label_smoothing=0.1)

    def of_probabilities(x, target):
        return autograd.nn.cross_entropy(x, target, weight, reduction=reduction)

    np.testing.assert_allclose(of_classes(x), expected[reduction], rtol=1e-12)
    if reduction == "mean":
        expected["mean"] = losses.mean()
    np.testing.assert_allclose(of_probabilities(x, smooth), expected[reduction], rtol=1e-12)
    for call, inputs in ((of_classes, [x]), (of_probabilities, [x, smooth])):
        assert autograd.testing.gradcheck(call, inputs)
        assert autograd.testing.gradgradcheck(call, inputs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", TARGETS, ids=str)
def test_nll_loss_is_cross_entropy_of_log_probabilities(shape, reduction):
    weight = np.array([0.5, 2.0, 1.0])
    x = tensor(*shape[:1], 3, *shape[1:])
    log_p = autograd.nn.log_softmax(x, dim=min(len(shape), 1))
    found = autograd.nn.nll_loss(log_p, TARGETS[shape], weight, reduction=reduction)
    expected = autograd.nn.cross_entropy(x, TARGETS[shape], weight, reduction=reduction)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-13)
    a, b = (autograd.grad((y * y).sum(), x) for y in (found, expected))
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-15)


def test_the_mean_of_no_losses_is_nan():
    nn = autograd.nn
    x = tensor(2, 3)
    with np.errstate(all="raise"):
        for loss in (nn.cross_entropy, nn.nll_loss):
            y = loss(x, np.array([-100, -100]))
            x.grad = None
            y.backward()
            assert np.isnan(y.item()) and not x.grad.numpy().any()
            assert np.isnan(loss(x[:0], np.zeros(0, int)).item())
        assert np.isnan(nn.cross_entropy(x[:0], np.zeros((0, 3))).item())
        assert np.isnan(nn.mse_loss(x[:0], x[:0]).item())


def test_targets_may_be_tensors():
    x, target = tensor(2, 3), autograd.tensor([1, 0])
    expected = autograd.nn.cross_entropy(x, target.numpy()).item()
    assert autograd.nn.cross_entropy(x, target).item() == expected
    assert autograd.nn.cross_entropy(x, [1, 0]).item() == expected
    assert autograd.nn.one_hot(target).tolist() == [[0, 1], [1, 0]]


def test_binary_cross_entropy_by_hand():
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((3, 4)), np.arange(1.0, 5)
    target, p = random.random((3, 4)), 1 / (1 + np.exp(-x))
    for pos_weight in (None, np.arange(2.0, 6)):
        positive = 1 if pos_weight is None else pos_weight
        expected = -weight * (positive * target * np.log(p) + (1 - target) * np.log(1 - p))
        call = (target, weight, "none", pos_weight)
        found = autograd.nn.binary_cross_entropy_with_logits(x, *call)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    far = autograd.nn.binary_cross_entropy_with_logits(np.array([1e4, -1e4]), np.array([0.0, 0.0]))
    assert far == 5e3


# ---- convolution


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding"), [(1, 0), (2, 1), (3, 2), (1, "same"), (2, "valid"), ((2,), (3,))]
)
def test_conv1d_by_hand(stride, padding, dilation, groups):
    random = np.random.default_rng(0)
    x, bias = random.standard_normal((2, 4, 9)), random.standard_normal(6)
    weight = random.standard_normal((6, 4 // groups, 2))
    before, after = {"same": (dilation // 2, dilation - dilation // 2), "valid": (0, 0)}.get(
        padding, np.ravel([padding, padding])
    )
    step = np.ravel(stride)[0]
    padded = np.pad(x, ((0, 0), (0, 0), (before, after)))
    expected = np.array(
        [
            [
                [
                    bias[o]
                    + (
                        part[o // (6 // groups)][:, t : t + dilation + 1 : dilation] * weight[o]
                    ).sum()
                    for t in range(0, padded.shape[-1] - dilation, step)
                ]
                for o in range(6)
            ]
            for part in (np.split(entry, groups) for entry in padded)
        ]
    )

    def convolve(x, weight, bias):
        return autograd.nn.conv1d(x, weight, bias, stride, padding, dilation, groups)

    np.testing.assert_allclose(convolve(x, weight, bias), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(convolve(x[0], weight, bias), convolve(x, weight, bias)[0])
    assert autograd.testing.gradcheck(convolve, [x[:1], weight, bias])
    assert autograd.testing.gradgradcheck(convolve, [x[:1, :, :4], weight, bias])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "widths"),
    [
        ((1, 1), 0, (1, 1), ((0, 0), (0, 0))),
        ((2, 1), (1, 2), (1, 2), ((1, 1), (2, 2))),
        ((1, 1), "same", (2, 1), ((2, 2), (0, 1))),
        ((2, 3), "valid", (1, 1), ((0, 0), (0, 0))),
    ],
)
def test_conv2d_is_a_sum_of_conv1d(stride, padding, dilation, widths, groups):
    """Row i of the kernels slides along row i of each window, and the results are added."""
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 4, 7, 6)), random.standard_normal((6, 4 // groups, 3, 2))
    bias = random.standard_normal(6)
    found = autograd.nn.conv2d(x, weight, bias, stride, padding, dilation, groups)
    padded = np.pad(x, ((0, 0), (0, 0), *widths))
    for row in range(found.shape[2]):
        lines = [padded[:, :, row * stride[0] + i * dilation[0]] for i in range(3)]
        expected = sum(
            autograd.nn.conv1d(line, weight[:, :, i], None, stride[1], 0, dilation[1], groups)
            for i, line in enumerate(lines)
        )
        expected += bias[:, None]
        np.testing.assert_allclose(found[:, :, row], expected, rtol=1e-12, atol=1e-13)


# ---- pooling


def test_pools_by_hand():
    x = autograd.tensor([[[1.0, 2.0, 3.0], [4.0, 4.0, 0.0], [4.0, 1.0, 5.0]]], requires_grad=True)
    values, places = autograd.nn.max_pool2d(x, 2, 1, return_indices=True)
    assert values.tolist() == [[[4, 4], [4, 5]]] and places.tolist() == [[[3, 4], [3, 8]]]
    values.sum().backward()
    assert x.grad.tolist() == [[[0, 0, 0], [2, 1, 0], [0, 0, 1]]]  # of equals, the first
    row = autograd.tensor([[6.0, 3.0, 9.0]])
    ends = dict(kernel_size=2, stride=2, padding=1)
    assert autograd.nn.avg_pool1d(row, **ends).tolist() == [[3, 6]]
    assert autograd.nn.avg_pool1d(row, **ends, count_include_pad=False).tolist() == [[6, 6]]
    assert autograd.nn.avg_pool1d(row, 2, ceil_mode=True).tolist() == [[4.5, 9]]
    assert autograd.nn.avg_pool2d(row[None], (1, 3), divisor_override=2).tolist() == [[[9]]]
    assert autograd.nn.max_pool1d(np.array([[1, 5, 2]]), 2, 1).dtype == np.int64
    for pool in (autograd.nn.max_pool1d, autograd.nn.avg_pool1d):
        assert pool(autograd.tensor([[1.0, 2.0]], dtype=np.float16), 2).dtype == np.float16


# ---- conventions


def test_ties_are_shared():
    x = autograd.tensor([3.0, 1.0, 3.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0.5, 0, 0.5]
    a, b = (autograd.tensor(1.0, requires_grad=True) for _ in range(2))
    np.maximum(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.5, 0.5)


def test_a_bound_takes_the_gradient_of_what_it_replaces():
    """At the bound itself the gradient is that of x, as in PyTorch."""
    x = autograd.tensor([0.0, -1.0, 2.0, 1.0, np.nan], requires_grad=True)
    low, high = (autograd.tensor(bound, requires_grad=True) for bound in (0.0, 1.0))
    np.clip(x, low, high).sum().backward()
    assert x.grad.tolist() == [1, 0, 0, 1, 0] and (low.grad.item(), high.grad.item()) == (1, 1)
    low, high = (autograd.tensor(bound, requires_grad=True) for bound in (1.0, 0.0))
    np.clip([0.5, 2.0, -1.0], low, high).sum().backward()  # high has the last word
    assert (low.grad.item(), high.grad.item()) == (0, 3)


def test_power_at_zero():
    x = autograd.tensor([0.0, 0.0, 0.0], requires_grad=True)
    y = autograd.tensor([0.0, 1.0, 2.0], requires_grad=True)
    with np.errstate(all="raise"):
        (x**y).sum().backward()
    assert x.grad.tolist() == [0, 1, 0] and y.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda nn, x: nn.cross_entropy(x, np.array([0, 1, 9])),
            "holds 9, and input has 4",
        ),
        (lambda nn, x: nn.cross_entropy(x, np.array([0, 1])), r"expected a target of shape \(3,\)"),
        (lambda nn, x: nn.cross_entropy(x, np.zeros(3)), "probabilities of the same shape"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], reduction="average"), "'average'; expected"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], label_smoothing=2), "not in \\[0, 1\\]"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], x[0]), "requires a gradient does not become"),
        (lambda nn, x: nn.nll_loss(x, np.array([0, 1, -1])), "holds -1, and input has 4"),
        (lambda nn, x: nn.mse_loss(x, x, reduction="all"), "'all'; expected"),
        (lambda nn, x: nn.binary_cross_entropy_with_logits(x, np.ones(4)), "expected the same"),
        (lambda nn, x: nn.one_hot(np.array([0, 3]), 3), "holds 3, and there are 3 classes"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 2, 1))), "groups=1 do not fit"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 5))), "over 5 elements.* input has 4"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), None, 2, "same"), "needs a stride of 1"),
        (lambda nn, x: nn.conv2d(x, np.ones((1, 1, 2, 2))), "conv2d: input has 2 axes and weight"),
        (lambda nn, x: nn.conv2d(x[None], np.ones((1, 2, 2, 2))), "groups=1 do not fit"),
        (lambda nn, x: nn.conv2d(x[None], np.ones((2, 1, 4, 1))), "over 4 elements.* input has 3"),
        (lambda nn, x: nn.conv2d(x[None], np.ones((2, 1, 2, 2)), x[0]), r"bias has shape \(4,\)"),
        (lambda nn, x: nn.conv2d(x[None], None), "input has 4 axes and weight 0"),
        (lambda nn, x: nn.max_pool2d(None, 2), r"input has shape \(\); expected \(N, C, H, W\)"),
        (lambda nn, x: nn.max_pool1d(x > 0, 2), "input has dtype bool; expected numbers"),
        (lambda nn, x: nn.max_pool1d(x[0], 2), r"shape \(4,\); expected \(N, C, L\) or"),
        (lambda nn, x: nn.avg_pool2d(x, 2), r"expected \(N, C, H, W\) or \(C, H, W\)"),
        (lambda nn, x: nn.max_pool1d(x, 2, padding=2), "padding is 2; expected at most half"),
        (lambda nn, x: nn.avg_pool1d(x, 5), "reaches over 5 elements, and the padded input has 4"),
        (lambda nn, x: nn.max_pool1d(x[:, :1], 2, 1, 1, 2), "padding alone"),
        (lambda nn, x: nn.avg_pool2d(x[None], 2, divisor_override=0), "divisor_override is 0"),
        (lambda nn, x: nn.hardtanh(x, 1, -1), "expected min_val <= max_val"),
        (lambda nn, x: nn.binary_cross_entropy(x, np.ones(4)), "expected the same"),
        (lambda nn, x: nn.binary_cross_entropy(x - 9, x), r"holds -.*; expected probabilities in"),
        (lambda nn, x: nn.kl_div(x, x, "batch"), "'batch'; expected 'mean', 'sum', 'none' or 'bat"),
        (lambda nn, x: nn.kl_div(x[0, 0], x, "batchmean"), "input has no axes"),
        (lambda nn, x: nn.huber_loss(x, x, delta=0), "delta is 0; expected more than 0"),
        (lambda nn, x: nn.huber_loss(x, x, weight=x[0]), "weight has shape"),
        (lambda nn, x: nn.smooth_l1_loss(x, x, beta=-1), "beta is -1; expected 0 or more"),
        (lambda nn, x: nn.layer_norm(x, (3,), None, None), "layer_norm: the last axes"),
        (
            lambda nn, x: nn.layer_norm(x, 4, x[0, :3]),
            r"weight has shape \(3,\), and normalized_sh",
        ),
        (lambda nn, x: nn.layer_norm(x, 4, None, np.ones((1, 4))), r"bias has shape \(1, 4\)"),
        (lambda nn, x: nn.rms_norm(x, 4, x[0, :3]), r"rms_norm: weight has shape \(3,\)"),
        (lambda nn, x: nn.rms_norm(x, 2), r"rms_norm: .* are not normalized_shape \(2,\)"),
        (lambda nn, x: nn.rms_norm(x, 12), r"rms_norm: .* are not normalized_shape \(12,\)"),
        (lambda nn, x: nn.rms_norm(x, ()), r"rms_norm: .* are not normalized_shape \(\)"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x, x, np.tri(3, dtype=int)), "type.bool"),
        (lambda nn, x: np.clip(x, 0, 1, max=2), "bounds are given twice"),
        (lambda nn, x: np.where(x, 1), "both or neither"),
        (lambda nn, x: np.take(x, 1.5), "Cannot cast"),
        (lambda nn, x: np.diff(x, n=-1), "n is -1"),
        (lambda nn, x: np.std(x, ddof=2, correction=1), "ddof and correction"),
        (lambda nn, x: np.linalg.matrix_power(x, 2), r"square matrices, got \(3, 4\)"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x[:, :2], x), "do not fit"),
        (lambda nn, x: nn.softmax(x, axis=0), "softmax.*unexpected keyword argument 'axis'"),
        (lambda nn, x: nn.scatter_add(x, 0, np.array([[0], [1]]), x[:1]), "does not reach it"),
        (lambda nn, x: np.linalg.norm(x[None], 2), "over 3 axes"),
        (lambda nn, x: np.linalg.outer(x, x), "expected two vectors"),
        (lambda nn, x: np.reshape(x, 12, order="A"), "reshape with order='A' has no derivative"),
        (lambda nn, x: np.hsplit(x[0, 0], 1), "at least 1 axes"),
        (lambda nn, x: np.take(x, [0], axis=2), "axis 2 is out of bounds"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(autograd.nn, tensor(3, 4))


# ---- static arguments


ODD = [None, "x", "Tanh", -1, 0, 2, 7, -7, 1.5, -0.5, np.nan, True, (0,), (0, 0), (), [], [0], {},
       np.array([0]), np.array([0.5]), np.array(1), np.int64(1), np.float32(0.5), 3j]  # fmt: skip
# Their indices are drawn elsewhere, or they serve other rules alone, or another function checks
# their arguments first.
INTERNAL = {"getitem", "scatter", "scatter_rows", "einsum", "cross_entropy", "dropout_seeded",
            "attention"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(OPS) - INTERNAL))
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_wrong_static_arguments_are_refused_in_the_forward_pass(name, data):
    """Whatever the forward pass takes, the backward pass can differentiate, kernels or not."""
    op = autograd.REGISTRY[name]
    static = [i for i in range(len(op.names)) if i not in op.differentiable]
    if op.variadic or not static:
        return
    args = list(data.draw(op_calls(op)).args)
    args += [op.defaults[key] for key in op.names[len(args) :]]
    args[data.draw(st.sampled_from(static))] = data.draw(st.sampled_from(ODD))
    results = []
    for enabled in (True, False):
        with use_kernels(enabled):
            given_args = [
                autograd.tensor(x, requires_grad=True)
                if i in op.differentiable and isinstance(x, np.ndarray) and x.dtype.kind == "f"
                else x
                for i, x in enumerate(args)
            ]
            try:
                found = op(*given_args)
            except (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError) as error:
                results.append(type(error))
                continue
        parts = [y for y in (found if isinstance(found, tuple) else [found]) if y.requires_grad]
        leaves = [x for x in given_args if isinstance(x, autograd.Tensor)]
        autograd.grad(parts, leaves, [np.ones(y.shape) for y in parts])
        results.append([y.shape for y in parts])
    if len(results) == 2:
        refused = [isinstance(result, type) for result in results]
        assert all(refused) or results[0] == results[1], results


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda nn, x: nn.gelu(x, approximate="Tanh"), "gelu: approximate is 'Tanh'; expected 'no"),
        (lambda nn, x: nn.gelu(x, approximate=None), "gelu: approximate is None"),
        (lambda nn, x: nn.softmax(x, dim=2), "softmax: dim: axis 2 is out of bounds"),
        (lambda nn, x: nn.softmax(x, dim=None), "softmax: dim is None; expected the number"),
        (lambda nn, x: nn.log_softmax(x, dim=(0, 1)), r"log_softmax: dim is \(0, 1\)"),
        (lambda nn, x: nn.softmax(x, dim=True), "softmax: dim is True"),
        (lambda nn, x: nn.leaky_relu(x, [0.1]), r"negative_slope is \[0.1\]; expected a number"),
        (lambda nn, x: nn.elu(x, alpha="1"), "elu: alpha is '1'; expected a number"),
        (lambda nn, x: nn.softplus(x, beta=(1,)), r"softplus: beta is \(1,\); expected a number"),
        (lambda nn, x: nn.layer_norm(x, 4, eps=None), "layer_norm: eps is None"),
        (lambda nn, x: nn.layer_norm(x, 4.0), "normalized_shape is 4.0; expected an integer"),
        (lambda nn, x: nn.rms_norm(x, (True,)), r"normalized_shape is \(True,\); expected an in"),
        (lambda nn, x: nn.rms_norm(x, 4, eps="x"), "rms_norm: eps is 'x'"),
        (lambda nn, x: nn.rms_norm(x, 4, eps=-1.0), "eps is -1.0; expected 0 or more"),
        (lambda nn, x: nn.layer_norm(x, 4, eps=np.nan), "eps is nan; expected 0 or more"),
        (lambda nn, x: nn.embedding([0], x[None]), r"embedding: weight has shape \(1, 3, 4\)"),
        (lambda nn, x: nn.embedding([0], x[0]), r"embedding: weight has shape \(4,\)"),
        (lambda nn, x: nn.embedding([0.0], x), "embedding: input has type float64; expected int"),
        (lambda nn, x: nn.embedding([True], x), "embedding: input has type bool"),
        (lambda nn, x: nn.embedding([0], x, padding_idx=3), "padding_idx is 3, of 3 rows"),
        (lambda nn, x: nn.embedding([0], x, padding_idx=-4), "padding_idx is -4; expected -3"),
        (lambda nn, x: nn.embedding([0], x, padding_idx=1.0), "padding_idx is 1.0; expected an in"),
        (lambda nn, x: nn.dropout(x, "x"), "dropout: p is 'x'; expected a number"),
        (lambda nn, x: nn.dropout(x, np.nan), "dropout: p is nan, and must be at least 0"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], [1.0]), r"weight has shape \(1,\), and inp"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], ignore_index=None), "ignore_index is None"),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], label_smoothing="x"), "smoothing is 'x'"),
        (
            lambda nn, x: nn.cross_entropy(x, [True] * 3),
            "target has type bool; expected",
        ),
        (lambda nn, x: nn.cross_entropy(x, [0, 1, 2], reduction=["mean"]), "reduction is"),
        (lambda nn, x: nn.nll_loss(x, [0.0, 1.0, 2.0]), "nll_loss: .*type float64"),
        (lambda nn, x: nn.nll_loss(x, [0, 1, 2], [1.0]), r"nll_loss: weight has shape \(1,\)"),
        (lambda nn, x: nn.one_hot([0.5]), "one_hot: .*type float64; expected integers"),
        (lambda nn, x: nn.one_hot([]), "one_hot: tensor is empty"),
        (lambda nn, x: nn.one_hot([0], 1.0), "one_hot: num_classes is 1.0; expected an integer"),
        (lambda nn, x: nn.topk(x, 1, dim=2), "topk: dim: axis 2 is out of bounds"),
        (lambda nn, x: nn.topk(x, 1.0), "'float' object cannot be interpreted as an integer"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), stride=0), "conv1d: stride is 0; expected"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), padding=-1), "padding is -1; expected 0"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), padding="all"), "padding is 'all'"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), dilation=1.5), "dilation is 1.5; expect"),
        (lambda nn, x: nn.conv1d(x, np.ones((2, 3, 2)), groups=0), "groups is 0; expected 1 or"),
        (lambda nn, x: nn.conv1d(x, np.ones((3, 2))), "input has 3 axes and weight 2"),
        (lambda nn, x: nn.max_pool1d(x, 0), "max_pool1d: kernel_size is 0; expected 1 or more"),
        (lambda nn, x: nn.max_pool1d(x, 2, (1, 2)), r"stride is \(1, 2\); expected one integer"),
        (lambda nn, x: nn.avg_pool1d(x, 2, padding=-1), "padding is -1; expected 0 or more"),
        (lambda nn, x: nn.softplus(x, threshold="x"), "threshold is 'x'; expected a number"),
        (lambda nn, x: nn.hardtanh(x, None), "hardtanh: min_val is None; expected a number"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x, x, scale="x"), "scale is 'x'"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x, x, None, 1.0), "dropout_p is 1.0"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x, x, is_causal=2), "is_causal is 2"),
        (
            lambda nn, x: nn.scaled_dot_product_attention(x, x, x, is_causal=True, window_size=1.5),
            "window_size is 1.5; expected an integer",
        ),
    ],
)
def test_wrong_values_of_static_arguments(call, message):
    for enabled in (True, False):
        with (
            use_kernels(enabled),
            pytest.raises((ValueError, TypeError, IndexError), match=message),
        ):
            call(autograd.nn, tensor(3, 4))


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8])
def test_whole_numbers_are_not_rounded_away(dtype):
    """Four ops compute whole numbers in float64; others refuse them by name, as PyTorch does."""
    x = np.array([[1, 0], [1, 1]], dtype)
    for call in (nn.sigmoid, nn.erf, nn.hardswish, lambda x: nn.logsumexp(x, -1)):
        computed, expected = call(autograd.tensor(x)), call(autograd.tensor(x.astype(float)))
        assert computed.dtype == np.float64
        np.testing.assert_array_equal(computed.numpy(), expected.numpy())
    for name, call in {
        "silu": nn.silu,
        "gelu": nn.gelu,
        "softmax": nn.softmax,
        "log_softmax": nn.log_softmax,
        "layer_norm": lambda x: nn.layer_norm(x, 2),
        "rms_norm": lambda x: nn.rms_norm(x, 2),
        "cross_entropy": lambda x: nn.cross_entropy(x, np.array([0, 1])),
        "dropout": lambda x: nn.dropout(x, 0.5),
        "attention": lambda x: nn.scaled_dot_product_attention(x, x, x),
        "rope": lambda x: nn.rope(x, x[:, :1], x[:, :1]),
    }.items():
        with pytest.raises(TypeError, match=f"{name}: .* has dtype {np.dtype(dtype)}"):
            call(autograd.tensor(x))


def test_rope_of_float16_computes_in_float32():
    x, cos, sin = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float16)
    cos, sin = cos[:, :4], sin[:, 4:]
    expected = nn.rope(*(each.astype(np.float32) for each in (x, cos, sin)))
    assert np.array_equal(nn.rope(x, cos, sin), expected.astype(np.float16))


def test_attention_of_vectors_is_refused_by_name():
    x = autograd.tensor(np.ones(4))
    with pytest.raises(ValueError, match="attention: query .* do not fit"):
        nn.scaled_dot_product_attention(x, x, x)
