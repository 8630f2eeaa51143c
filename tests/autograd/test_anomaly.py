"""Who made the NaN, and what a gradient is the sum of."""

import importlib

import numpy as np
import pytest

import autograd
from autograd import AnomalyError, detect_anomaly, explain

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def leaf(*values):
    return autograd.tensor(list(values), requires_grad=True)


def test_forward():
    x = leaf(1.0, -1.0, 4.0)
    with pytest.raises(AnomalyError) as caught, detect_anomaly():
        y = np.log(x * 2).sum()  # here
        y.backward()
    text = str(caught.value)
    assert text.startswith("log: the result has 1 NaN of 3\n")
    assert "x            float64[3] from -2 to 8" in text
    assert "test_anomaly.py:" in text and "y = np.log(x * 2).sum()  # here" in text


def test_overflow():
    with pytest.raises(AnomalyError, match="exp: the result has 1 Inf of 2"), detect_anomaly():
        np.exp(leaf(1.0, 1000.0))
    x = autograd.tensor(np.array([1e30], np.float32), requires_grad=True)
    with pytest.raises(AnomalyError, match="multiply: the result has 1 Inf of 1"), detect_anomaly():
        x * x


def test_backward_and_the_trap_of_where():
    x = leaf(0.0, 4.0)
    with pytest.raises(AnomalyError) as caught, detect_anomaly():
        y = np.where(x > 0, np.sqrt(x), 0.0)
        y.sum().backward()
    text = str(caught.value)
    assert text.startswith("backward of sqrt: the gradient of 'x' has 1 NaN of 2\n")
    assert "y = np.where(x > 0, np.sqrt(x), 0.0)" in text
    assert "np.sqrt(np.where(x > 0, x, 1))" in text
    with detect_anomaly():  # and what it advises works
        np.where(x > 0, np.sqrt(np.where(x > 0, x, 1)), 0.0).sum().backward()
    assert x.grad.tolist() == [0, 0.25]


def test_a_joint_rule_and_a_second_derivative():
    @autograd.op
    def odd(x, y):
        return x + y

    odd.vjp("x", "y")(lambda g, needs: (g, g / 0))
    try:
        with pytest.raises(AnomalyError, match="backward of odd: the gradient of 'y' has 1 Inf"):
            with detect_anomaly():
                odd(leaf(1.0), leaf(2.0)).sum().backward()
    finally:
        del autograd.REGISTRY["odd"]
    x = leaf(0.0)
    with pytest.raises(AnomalyError):
        with detect_anomaly():
            y = np.power(x, 1.5)
            (g,) = autograd.grad(y.sum(), [x], create_graph=True)
            g.sum().backward()


def test_what_was_given_is_not_blamed():
    """Infinities that the user put in, and attention's masks, are no anomaly."""
    x = leaf(1.0, 2.0)
    with detect_anomaly():
        y = np.where([True, False], x, -np.inf)
        assert autograd.nn.softmax(y).tolist() == [1, 0]
        autograd.nn.softmax(y)[0].backward()
        q = autograd.tensor(np.random.default_rng(0).standard_normal((2, 5, 4)), requires_grad=True)
        out = autograd.nn.scaled_dot_product_attention(q, q, q, is_causal=True)
        autograd.grad((out * out).sum(), q, create_graph=True).sum().backward()
    np.log(leaf(-1.0))  # outside nothing is looked at


def test_no_grad_inside_and_threads_outside():
    with detect_anomaly():
        with autograd.no_grad():
            np.log(leaf(-1.0))
            with autograd.enable_grad(), pytest.raises(AnomalyError):
                np.log(leaf(-1.0))
        assert autograd.is_grad_enabled()


def test_explain():
    x, w = leaf(3.0, 4.0), leaf(1.0, 1.0)
    loss = (x * x).sum() + 2 * (x * w).sum()
    found = explain(loss, x)
    assert [(c.op, c.input, c.gradient.tolist()) for c in found.contributions] == [
        ("multiply", "x", [3, 4]),
        ("multiply", "x", [2, 2]),
        ("multiply", "y", [3, 4]),
    ]
    assert found.gradient.tolist() == [8, 10]
    assert "gradient float64[2], norm 12.81, from 3 uses" in str(found)
    assert x.grad is None
    loss.backward()  # the tape is still there
    assert x.grad.tolist() == [8, 10]


def test_explain_finds_the_embeddings_two_uses():
    from npgpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=1, n_head=1, n_embd=8), seed=0)
    ids = np.arange(18).reshape(2, 9) % 13
    _, loss = model(ids[:, :-1], targets=ids[:, 1:])
    wte = model.transformer.wte.weight
    found = explain(loss, wte)
    assert {c.op for c in found.contributions} == {"embedding", "transpose"}
    loss.backward()
    total = sum(c.gradient for c in found.contributions)
    np.testing.assert_allclose(total, wte.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_explain_what_does_not_matter():
    x, y = leaf(1.0), leaf(2.0)
    assert "from 0 uses" in str(explain((x * 2).sum(), y))
    with pytest.raises(
        TypeError, match="explain: tensor must be a tensor that requires a gradient"
    ):
        explain(x.sum(), np.ones(3))
    with pytest.raises(ValueError, match="the loss must be a number"):
        explain(leaf(1.0, 2.0) * 2, x)


def test_habits_from_elsewhere():
    with pytest.raises(ImportError, match=r"import numpy as np.*autograd\.functional\.grad"):
        importlib.import_module("autograd.numpy")
    with pytest.raises(TypeError, match=r"autograd\.functional\.grad"):
        autograd.grad(np.sin)
