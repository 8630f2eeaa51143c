"""The testers, tested: what is wrong must be found, and named."""

import contextlib

import numpy as np
import pytest

import autograd
from autograd.testing import GradientError, check_op, gradcheck, gradgradcheck


@contextlib.contextmanager
def planted(function, *joint, options=None, **rules):
    """Register an op for the length of a test."""
    op = autograd.op(function, **(options or {}))
    try:
        if joint:
            op.vjp(*joint)(rules.pop("rule"))
        op.vjp(**rules)
        yield op
    finally:
        del autograd.REGISTRY[op.name]


def product(x, y):
    return x * y


def ratio(x):
    return 1 / x


def joined(*arrays, axis=0):
    return np.concatenate(arrays, axis=axis)


ELEMENTWISE = {"broadcasts": True}


@pytest.mark.parametrize(
    "rules",
    [
        {"x": lambda g, y: 1.001 * g * y, "y": lambda g, x: g * x},  # a wrong factor
        {"x": lambda g, y: -g * y, "y": lambda g, x: g * x},  # a wrong sign
        {"x": lambda g, x: g * x, "y": lambda g, y: g * y},  # swapped inputs
        {"x": lambda g, y: g * y, "y": lambda g, x: g * abs(x)},  # wrong for negative input
        {"x": lambda g, y: g * y * (1 + (y == 0)) + (y == 0) * g, "y": lambda g, x: g * x},
        {"x": lambda g, y: g * y, "y": lambda g, x: np.copy(g) * 0},  # a lost gradient
    ],
)
def test_a_wrong_rule_is_found_and_named(rules):
    with planted(product, options=ELEMENTWISE, **rules) as op:
        with pytest.raises(AssertionError, match="product: the gradient of input"):
            check_op(op)


def test_the_failure_shows_both_values():
    with planted(
        product, options=ELEMENTWISE, x=lambda g, y: 2 * g * y, y=lambda g, x: g * x
    ) as op:
        with pytest.raises(GradientError) as caught:
            gradcheck(op, [np.array([1.0, 2.0]), np.array([3.0, -5.0])])
        text = str(caught.value)
        assert "product: the gradient of input 0 is wrong in 2 of 2 elements; worst at [1]" in text
        assert "ratio     2" in text and "input     2 " in text
        assert not gradcheck(op, [np.ones(2), np.ones(2)], raise_exception=False)


def test_a_rule_wrong_in_second_order_only():
    def rule(g, x, out):
        return g * (-((out.numpy() if isinstance(out, autograd.Tensor) else out) ** 2))

    with planted(ratio, options={"domain": {"x": (0.5, 2.0)}}, x=rule) as op:
        assert gradcheck(op, [np.array([1.0, 2.0])])
        with pytest.raises(AssertionError, match="gradient of ratio"):
            gradgradcheck(op, [np.array([1.0, 2.0])])
        with pytest.raises(AssertionError, match="gradient of ratio"):
            check_op(op)


def test_a_wrong_shape_is_named():
    with planted(product, x=lambda g, y: g * y, y=lambda g, x: g * x) as op:  # not declared
        x = autograd.tensor(np.ones((2, 3)), requires_grad=True)
        y = autograd.tensor(np.ones(3), requires_grad=True)
        with pytest.raises(
            ValueError, match=r"product: .*'y' returned.*\(2, 3\).*has shape \(3,\)"
        ):
            op(x, y).sum().backward()
    with planted(product, options=ELEMENTWISE, x=lambda g, y: (g * y)[None, :1]) as op:
        x = autograd.tensor(np.ones(3), requires_grad=True)
        with pytest.raises(ValueError, match="product: .*'x' returned a gradient of shape"):
            op(x, 2.0).sum().backward()


def test_a_forgotten_input_is_named():
    x = autograd.tensor(np.ones(3), requires_grad=True)
    with planted(product, options=ELEMENTWISE, x=lambda g, y: g * y) as op:
        with pytest.raises(TypeError, match="product: input 'y' requires a gradient.*no rule"):
            op(np.ones(3), x)
    with planted(product, "x", "y", rule=lambda g, x, y, needs: (g * y, None)) as op:
        with pytest.raises(TypeError, match="product: the rule of input 'y' returned no gradient"):
            op(x, x).sum().backward()
    with planted(product, "x", "y", rule=lambda g, x, y: (g * y,)) as op:
        with pytest.raises(TypeError, match="product: the rule of x, y must return 2 cotangents"):
            op(x, x).sum().backward()


def test_a_wrong_dtype_is_named():
    with planted(product, options=ELEMENTWISE, x=lambda g, y: (g * y).astype(int)) as op:
        x = autograd.tensor(np.ones(3), requires_grad=True)
        with pytest.raises(TypeError, match="product: .*'x' returned a gradient of dtype int64"):
            op(x, 2.0).sum().backward()


def test_an_upcast_is_found():
    def half(x):
        return x * np.float64(0.5)

    with planted(half, x=lambda g: g * 0.5) as op:
        with pytest.raises(AssertionError, match="half: float32 became float64"):
            check_op(op)


def test_a_changed_input_is_found():
    def halved(x):
        x *= 0.5
        return x.copy()

    with planted(halved, x=lambda g: g * 0.5) as op:
        with pytest.raises(GradientError, match="halved changed its input 0 in place"):
            gradcheck(op, [np.ones(3)])


def test_a_rule_wrong_for_one_layout_is_found():
    def doubled(x):
        return 2 * x

    def rule(g, x):
        strides = x.numpy().strides if isinstance(x, autograd.Tensor) else x.strides
        return 2 * g if min((0, *strides)) >= 0 else 3 * g

    with planted(doubled, x=rule) as op:
        with pytest.raises(AssertionError):
            check_op(op, max_examples=200)


def test_a_wrong_variadic_rule_is_named():
    with planted(joined, arrays=lambda g, arrays_shape, axis: np.split(g, len(arrays_shape), axis)
                 [::-1]) as op:  # fmt: skip
        with pytest.raises(AssertionError, match="joined: the gradient of input 0"):
            gradcheck(op, [np.ones(2), np.ones(2)])


def test_a_rule_that_names_nothing_known():
    with pytest.raises(TypeError, match="op 'ratio': the rule of x names 'z', which is none of x"):
        with planted(ratio, x=lambda g, z: g):
            pass


def test_an_op_without_a_route_to_higher_orders():
    def squared(x):
        return x * x, x

    with planted(squared, options={"saves": ("kept",)}, x=lambda g, kept: 2 * g * kept) as op:
        assert gradcheck(op, [np.ones(2)])
        x = autograd.tensor(1.0, requires_grad=True)
        with pytest.raises(RuntimeError, match="squared: no route to higher derivatives"):
            autograd.grad(op(x), x, create_graph=True)


def test_a_lost_gradient_is_an_error():
    with pytest.raises(GradientError, match="not a Tensor"):
        gradcheck(lambda x: x.numpy() * 2, [np.ones(2)])
    with pytest.raises(GradientError, match="wrong in 2 of 2"):
        gradcheck(lambda x: x.detach() * 2, [np.ones(2)])
    with pytest.raises(ValueError, match="none of the inputs"):
        gradcheck(lambda x: x, [3])


def test_a_nan_is_not_agreement():
    with np.errstate(all="ignore"), pytest.raises(GradientError):
        gradcheck(lambda x: np.sqrt(x) * 1, [np.array([-1.0])])


def test_a_sound_op_passes():
    with planted(product, options=ELEMENTWISE, x=lambda g, y: g * y, y=lambda g, x: g * x) as op:
        check_op(op)
