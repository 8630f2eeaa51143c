"""Every registered op, by the properties that must hold for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd.testing import properties
from autograd.testing.properties import PROPERTIES, op_calls

OPS = sorted(autograd.REGISTRY)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
@given(data=st.data())
def test_property(name, check, data):
    op = autograd.REGISTRY[name]
    check(op, data.draw(op_calls(op)))


@pytest.mark.parametrize("name", OPS)
def test_ops_are_documented(name):
    assert autograd.REGISTRY[name].__doc__


@pytest.mark.parametrize("name", OPS)
def test_samples_reach_the_odd_cases(name):
    """The strategies do draw empty arrays, single elements and arrays that are not contiguous."""
    op = autograd.REGISTRY[name]
    seen = set()

    @given(call=op_calls(op))
    def look(call):
        for i in properties.differentiable(op, call):
            x = call.args[i]
            seen.add("contiguous" if x.flags.c_contiguous else "strided")
            if x.ndim and any(stride < 0 for stride in x.strides):
                seen.add("negative")

    look()
    assert {"contiguous", "strided"} <= seen or name == "embedding"


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
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=3.0),
        lambda x: abs(x + 5),
        lambda x: np.stack([row * i for i, row in enumerate(x)]),
        lambda x: np.concatenate([x, np.zeros((1, 4)), x * x]),
        lambda x: np.concatenate(np.split(x, [1, 1], axis=0)[::-1]),
        lambda x: np.reshape(np.transpose(x), -1).mean(),
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
    ],
)
def test_numpys_functions_mean_what_they_mean(function):
    x = np.random.default_rng(2).standard_normal((3, 4))
    found = function(autograd.tensor(x))
    assert isinstance(found, autograd.Tensor)
    np.testing.assert_allclose(found.numpy(), function(x), rtol=1e-13)


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


def test_attention_of_a_query_that_sees_nothing():
    x = autograd.tensor(np.ones((1, 2, 3)), requires_grad=True)
    mask = np.array([[False, False], [True, True]])
    y = autograd.nn.scaled_dot_product_attention(x, x, x, attn_mask=mask)
    y.sum().backward()
    assert y.tolist() == [[[0, 0, 0], [1, 1, 1]]]
    assert np.isfinite(x.grad.numpy()).all()


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


def test_ties_are_shared():
    x = autograd.tensor([3.0, 1.0, 3.0], requires_grad=True)
    x.max().backward()
    assert x.grad.tolist() == [0.5, 0, 0.5]
    a, b = (autograd.tensor(1.0, requires_grad=True) for _ in range(2))
    np.maximum(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.5, 0.5)


def test_power_at_zero():
    x = autograd.tensor([0.0, 0.0, 0.0], requires_grad=True)
    y = autograd.tensor([0.0, 1.0, 2.0], requires_grad=True)
    with np.errstate(all="raise"):
        (x**y).sum().backward()
    assert x.grad.tolist() == [0, 1, 0] and y.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda nn, x: nn.cross_entropy(x, np.array([0, 1, 9])), "9, and input has 4 classes"),
        (lambda nn, x: nn.cross_entropy(x, np.array([0, 1])), r"expected a target of shape \(3,\)"),
        (lambda nn, x: nn.layer_norm(x, (3,), None, None), "layer_norm: the last axes"),
        (lambda nn, x: nn.scaled_dot_product_attention(x, x[:, :2], x), "do not fit"),
        (lambda nn, x: nn.softmax(x, axis=0), "softmax.*unexpected keyword argument 'axis'"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(autograd.nn, tensor(3, 4))
