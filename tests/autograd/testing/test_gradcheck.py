"""The testers, tested: what is wrong must be found, and named."""

import contextlib
import dataclasses
import subprocess
import sys
import textwrap
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autograd
from autograd.testing import (
    GradientError,
    arrays,
    broadcastable,
    check_op,
    check_vjp,
    gradcheck,
    gradgradcheck,
    laid_out,
    layouts,
    numeric_gradient,
    properties,
    property_tests,
    tensors,
)

ELEMENTWISE = {"broadcasts": True}
RANDOM = np.random.default_rng(0)


@contextlib.contextmanager
def planted(function, *joint, options=None, sample=None, **rules):
    """Register an op for the length of a test."""
    op = autograd.op(function, **(options or {}))
    try:
        if joint:
            op.vjp(*joint)(rules.pop("rule"))
        op.vjp(**rules)
        if sample:
            op.sample(sample)
        yield op
    finally:
        del autograd.REGISTRY[op.name]


def plain(x):
    return x.numpy() if isinstance(x, autograd.Tensor) else x


# ---- ops, and samplers of their arguments


def product(x, y):
    return x * y


def squared(x):
    return x * x


def ratio(x):
    return 1 / x


def doubled(x):
    return 2 * x


def halved_in_double(x):
    return x * np.float64(0.5)


def halved_in_place(x):
    x *= 0.5
    return x.copy()


def joined(*arrays, axis=0):
    return np.concatenate(arrays, axis=axis)


def shifted(x, b):
    return x + b


def log_sum_exp(x):
    return np.log(np.exp(x).sum())


def matrix_product(x, w):
    return x @ w


def total(x, axis, keepdims):
    return np.sum(x, axis=axis, keepdims=keepdims)


def picked(x, index):
    return x[index]


def remembered(x, y):
    CACHE["y"] = y
    return x * y


CACHE = {}


def draw_shifted(draw):
    n = draw.integer(1, 3)
    return draw.call(draw.array(shape=(draw.integer(2, 3), n)), draw.array(shape=(n,)))


def draw_square_matrix(draw):
    return draw.call(draw.array(shape=(2, 2)), draw.integer(0, 1), draw.boolean())


def draw_picked(draw):
    return draw.call(draw.array(shape=(3,)), draw.integers((draw.integer(1, 4),), 0, 2))


# ---- their wrong rules


def all_ties_count(g, x, out):
    ties = float(np.sum(plain(x) == plain(x).max()))
    return g * np.exp(x - out) * ties


def wrong_if_reversed(g, x):
    return (3 if min((0, *plain(x).strides)) < 0 else 2) * g


def wrong_if_fortran(g, x):
    flags = plain(x).flags
    return (3 if flags.f_contiguous and not flags.c_contiguous else 2) * g


def changing(g):
    g *= 2
    return g


def back_to(g, x_shape, axis):
    return np.broadcast_to(np.reshape(g, (1, 2) if axis == 0 else (2, 1)), x_shape)


def wrong_if_kept(g, x_shape, axis, keepdims):
    return back_to(g, x_shape, axis) * (0.5 if keepdims else 1)


def last_one_wins(g, x_shape, index):
    return np.stack([np.sum(g[np.flatnonzero(index == i)[-1:]]) for i in range(x_shape[0])])


def crash_if_empty(g, x):
    return g * 2 * x + 0 * np.max(plain(x))


class Fault(NamedTuple):
    """An op with something wrong, the property that finds it, and what its text must say."""

    message: str
    function: Any
    rules: dict
    options: dict = {}
    sample: Any = None
    found_by: Any = properties.gradient_is_right


def of_product(message, x=lambda g, y: g * y, y=lambda g, x: g * x, **where):
    return Fault(message, product, {"x": x, "y": y}, ELEMENTWISE, **where)


FAULTS = {
    "wrong sign": of_product("likely +a wrong sign", x=lambda g, y: -g * y),
    "missing factor": Fault("likely +2 times too small", squared, {"x": lambda g, x: g * x}),
    "wrong by a hundred-thousandth": of_product(
        r"likely +a constant factor, 1\.00001\b", x=lambda g, y: (1 + 1e-5) * g * y
    ),
    "swapped inputs": of_product(
        "likely +inputs swapped: this is what input [01] should get",
        x=lambda g, x: g * x, y=lambda g, y: g * y,
    ),
    "lost": of_product("likely +no gradient arrives", y=lambda g, x: 0 * g),
    "transposed": Fault(
        "likely +a transpose too many or too few",
        matrix_product,
        {"x": lambda g, w: w @ g.T, "w": lambda g, x: x.T @ g},
        sample=lambda draw: draw.call(draw.array(shape=(2, 2)), draw.array(shape=(2, 2))),
    ),
    "wrong axis": Fault(
        "likely +summed over, or repeated along, the wrong axis",
        total,
        {"x": lambda g, x_shape, axis: back_to(g, x_shape, 1 - axis)},
        sample=draw_square_matrix,
    ),
    "wrong with keepdims": Fault(
        "likely +2 times too small", total, {"x": wrong_if_kept}, sample=draw_square_matrix
    ),
    "forgotten broadcast sum": Fault(
        r"rule of input 'b' returned a gradient of shape",
        shifted, {"x": lambda g: g, "b": lambda g: g}, sample=draw_shifted,
    ),
    "repeated indices not added": Fault(
        "picked: the gradient of input 0 is wrong",
        picked, {"x": last_one_wins}, sample=draw_picked,
    ),
    "wrong for negative inputs": of_product(
        "only where an input is negative", y=lambda g, x: g * abs(x)
    ),
    "wrong at zero": of_product(
        "likely +wrong only where an input is 0", x=lambda g, y: g * y + (y == 0) * g
    ),
    "wrong at ties": Fault(
        "only where elements are equal", log_sum_exp, {"x": all_ties_count},
        sample=lambda draw: draw.call(draw.array(shape=(2,))),
    ),
    "wrong for reversed memory": Fault(
        "only in this order in memory", doubled, {"x": wrong_if_reversed}
    ),
    "wrong for Fortran's order": Fault(
        "only in this order in memory", doubled, {"x": wrong_if_fortran},
        sample=lambda draw: draw.call(draw.array(shape=(2, 2))),
    ),
    "wrong in second order": Fault(
        "gradient of ratio: the gradient of input 0 is wrong",
        ratio,
        {"x": lambda g, out: -g * plain(out) ** 2},
        {"domain": {"x": (0.5, 2.0)}},
        found_by=properties.second_derivative_is_right,
    ),
    "upcast in forward": Fault(
        "halved_in_double: float32 became float64",
        halved_in_double, {"x": lambda g: g * 0.5}, found_by=properties.dtype_is_kept,
    ),
    "changes its input": Fault(
        "halved_in_place changed its input 0 in place", halved_in_place, {"x": lambda g: g * 0.5}
    ),
    "changes its cotangent": Fault(
        "backward pass of doubled changed cotangent 0 in place", doubled, {"x": changing}
    ),
    "stale residual": Fault(
        "remembered: a gradient depends on a call in between",
        remembered,
        {"x": lambda g: g * CACHE["y"], "y": lambda g, x: g * x},
        ELEMENTWISE,
        found_by=properties.passes_are_pure,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_of_twenty_faults_is_found_and_named(name):
    assert len(FAULTS) == 20
    message, function, rules, options, sample, found_by = FAULTS[name]
    with planted(function, options=options, sample=sample, **rules) as op:
        with pytest.raises((AssertionError, ValueError)):
            check_op(op, max_examples=200)
        with pytest.raises((AssertionError, ValueError), match=message):
            properties.hold(op, found_by, max_examples=200)


BUFFER = np.zeros(())


def in_a_buffer(x):
    if x.ndim:
        return 2 * x
    np.multiply(x, 2, out=BUFFER)
    return BUFFER


def joint_rule(g, x, y, needs):
    return g * y, (g * x if all(needs) else g * x * x)


def same_or_not(g, x, y, needs):
    return (g * y, g * x * (2 if plain(x) is plain(y) else 1))


FURTHER = {
    "single precision in a rule": of_product(
        "the gradient of 'x' has the digits of float32",
        x=lambda g, y: (g * y).astype(np.float32).astype(g.dtype),
        found_by=properties.dtype_is_kept,
    ),
    "wrong if another input is constant": Fault(
        "the gradient of input 1 when no other input needs one",
        product, {"rule": joint_rule}, found_by=properties.each_input_stands_alone,
    ),
    "wrong if the inputs are the same": Fault(
        "the gradient when inputs 0 and 1 are the same Tensor",
        product, {"rule": same_or_not}, found_by=properties.same_input_twice_adds_up,
    ),
    "crash for empty arrays": Fault("zero-size array", squared, {"x": crash_if_empty}),
    "not a number": Fault(
        "likely +a division by zero, or a root or logarithm", squared,
        {"x": lambda g, x: g * 2 * np.sqrt(x) ** 2 * np.sign(x)},
    ),
    "the cotangent forgotten": Fault(
        "likely +the cotangent g is missing", doubled, {"x": lambda g: 2 + 0 * g},
    ),
    "the cotangent forgotten by a sum": Fault(
        "likely +the cotangent g is missing",
        log_sum_exp, {"x": lambda g, x, out: np.exp(x - out)},
    ),
    "the cotangent twice": Fault(
        "likely +not linear in the cotangent g", doubled, {"x": lambda g: 2 * g * g},
    ),
    "a result in a reused buffer": Fault(
        "in_a_buffer: a later call changed this result",
        in_a_buffer, {"x": lambda g: 2 * g}, found_by=properties.passes_are_pure,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FURTHER)
def test_further_faults_are_found_and_named(name):
    message, function, rules, options, sample, found_by = FURTHER[name]
    joint = ("x", "y") if "rule" in rules else ()
    if joint:
        sample = lambda draw: draw.call(*[draw.array(shape=(2,)) for _ in range(2)])  # noqa: E731
    with planted(function, *joint, options=options, sample=sample, **rules) as op:
        with pytest.raises((AssertionError, ValueError), match=message):
            properties.hold(op, found_by, max_examples=200)


# ---- what the text says


def caught(check, *args, **options):
    with pytest.raises(GradientError) as found:
        check(*args, **options)
    return str(found.value)


def test_the_failure_shows_both_values():
    with planted(
        product, options=ELEMENTWISE, x=lambda g, y: 2 * g * y, y=lambda g, x: g * x
    ) as op:
        text = caught(gradcheck, op, [np.array([1.0, 2.0]), np.array([3.0, -5.0])])
        assert "product: the gradient of input 0 is wrong in 2 of 2 elements; worst at [1]" in text
        rows = dict(line.split(None, 1) for line in text.splitlines()[1:5])
        assert rows["x[1]"] == "2.0" and rows["ratio"] == "2"
        assert float(rows["backward"]) == 2 * float(rows["numeric"])
        assert "flat" in text and "2 times too large" in text
        assert not gradcheck(op, [np.ones(2), np.ones(2)], raise_exception=False)


X = RANDOM.standard_normal((3, 4))


@pytest.mark.parametrize(
    ("function", "vjp", "x", "cause"),
    [
        (np.mean, lambda g, x: g * np.ones_like(x), X, "12 times too large (12 is the number of"),
        (lambda x: x.mean(0), lambda g, x: np.tile(g, (3, 1)), X, "(3 is the length of axis 0)"),
        (lambda x: np.cumsum(x, 1), lambda g, x: np.cumsum(g[:, ::-1], 1), X, "reversed along"),
        (lambda x: (x**3).sum(), lambda g, x: -6 * g * x**2, X, "a wrong sign, and 2 times too"),
        (lambda x: x @ x.T, lambda g, x: (g + g.T) @ x * (np.arange(12) != 5).reshape(3, 4), X,
         "one element alone, [1, 1]"),
        (lambda x: x.sum(1) ** 2, lambda g, x: 2 * g[:, None] * x, X,
         "a sum over axis 1 is missing"),
        (np.sqrt, lambda g, x: g * 0.5 / np.sqrt(-x), np.ones(2), "not finite: the function is"),
    ],
)  # fmt: skip
def test_likely_causes(function, vjp, x, cause):
    with np.errstate(all="ignore"):
        assert cause in caught(check_vjp, function, vjp, [x])


@pytest.mark.parametrize(
    ("function", "x", "shape"),
    [
        (
            lambda x: np.where(x > 0, 3 * x, x),
            0.0,
            "a kink: 1.45 from the left, 4.35 from the right",
        ),
        (lambda x: np.abs(x), 5e-4, "falls: the gradient is right at small steps, and eps=1e-4"),
        (lambda x: x * np.floor(x.detach().numpy()), 2.0, "grows: the function jumps here"),
        (lambda x: (x.astype(np.float32) / 3) ** 2, 0.7, "noise, as of single precision"),
        (lambda x: x.detach() ** 2, 0.7, "flat: every step finds the same other value"),
        (
            lambda x: np.log(x),
            -1.0,
            "not finite: the function has no finite values near this point",
        ),
    ],
)
def test_shapes_of_the_error_curve(function, x, shape):
    with np.errstate(all="ignore"):
        text = caught(gradcheck, function, np.array(x))
    assert shape in text
    assert ("likely" in text) == ("flat" in text)


def findings(text):
    return text.split("to repeat it:")[0]


def pasted(text):
    return textwrap.dedent(text.split("to repeat it:\n")[1])


def run(source, **names):
    exec(compile(source, "pasted", "exec"), names)
    next(f for name, f in names.items() if name.startswith("test_") and callable(f))()


def test_the_pasted_test_fails_alike_until_the_rule_is_right():
    wrong, right = {"x": lambda g, y: g + y}, {"x": lambda g, y: g * y}
    y = {"y": lambda g, x: g * x}
    with planted(product, options=ELEMENTWISE, **wrong, **y) as op:
        with pytest.raises(GradientError) as found:
            check_op(op)
        text = str(found.value)
        assert caught(run, pasted(text)) == text
    with planted(product, options=ELEMENTWISE, **right, **y):
        run(pasted(text))


def test_the_pasted_test_has_an_ops_other_arguments_and_memory_order():
    with planted(total, sample=draw_square_matrix, x=wrong_if_kept) as op:
        call = properties.Call((laid_out(np.full((2, 2), 0.1), "reversed"), 1, True), {})
        text = caught(properties.gradient_is_right, op, call)
        assert 'lambda x: autograd.REGISTRY["total"](x, 1, True)' in text
        assert "x = np.array([[0.1, 0.1], [0.1, 0.1]])[:, ::-1]" in text
        assert findings(caught(run, pasted(text))) == findings(text)


def test_the_pasted_test_of_functions():
    def wrong(g, x):
        return g * x

    text = caught(check_vjp, squared, wrong, [np.array([0.1, np.pi])], rtol=1e-5)
    assert "check_vjp(squared, wrong, [x], rtol=1e-05)" in text
    assert (
        "from test_gradcheck import squared" in text and "# define here: wrong, as checked" in text
    )
    assert caught(run, pasted(text), wrong=wrong) == text


def test_other_properties_have_a_test_to_paste_in_a_note():
    with planted(halved_in_double, x=lambda g: g * 0.5) as op:
        with pytest.raises(AssertionError) as found:
            check_op(op)
        (note,) = (n for n in found.value.__notes__ if "to repeat it" in n)
        with pytest.raises(AssertionError, match="float32 became float64"):
            exec(pasted(note), {})


# ---- gradcheck's other ways


def test_a_gradient_by_hand():
    A, x = RANDOM.standard_normal((3, 4)), RANDOM.standard_normal(4)
    assert check_vjp(np.matmul, lambda g, A, x: (np.outer(g, x), g @ A), [A, x])
    assert check_vjp(np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), x)
    assert check_vjp(
        lambda x, n: (x**n, x.sum()), lambda g, x, n: g[0] * n * x ** (n - 1) + g[1], [x, 3]
    )
    assert check_vjp(lambda x, y: 2 * x, lambda g, x, y: (2 * g, None), [x, x])
    assert "forgotten sum over axis 0" in caught(check_vjp, np.add, lambda g, A, x: (g, g), [A, x])
    assert "2 in all, and returned 1" in caught(check_vjp, np.add, lambda g, A, x: g, [A, x])

    def changing(g, x):
        x *= 2
        return g * x

    assert "changed input 0 in place" in caught(check_vjp, np.square, changing, x)


def test_a_gradient_that_reads_a_cache():
    seen = []

    def cached(x):
        seen.append(x)
        return x * x

    text = caught(check_vjp, cached, lambda g, x: 2 * g * seen[-1], np.array([1.0, 2.0]))
    assert "cached: its gradient changed when it was computed again" in text


def test_a_function_that_is_not_deterministic():
    noise = np.random.default_rng(0)
    text = caught(gradcheck, lambda x: x * noise.standard_normal(), np.ones(2))
    assert "function is not deterministic" in text
    assert gradcheck(lambda x: x + 1e-13 * noise.standard_normal(), np.ones(2), nondet_tol=1e-9)


def test_containers_integers_and_single_precision():
    p = {"w": np.ones((2, 3), np.float32), "b": [np.zeros(2), np.arange(2)]}

    def f(p, k, x):
        return {"y": np.tanh(p["w"] @ x + p["b"][0]) ** k, "i": p["b"][1]}

    assert gradcheck(f, [p, 3, RANDOM.standard_normal(3)])
    assert gradgradcheck(f, [p, 3, RANDOM.standard_normal(3)])
    text = caught(gradcheck, lambda p, x: p["b"][0].detach() * x, [p, np.ones(2)])
    assert "the gradient of input 0['b'][0] is wrong in 2 of 2" in text and "p['b'][0][0]" in text


def test_second_derivatives_with_given_cotangents():
    x = np.array([0.5, 1.0])
    assert gradgradcheck(np.tanh, x, np.array([2.0, 3.0]), eps=1e-3, atol=1e-8)
    assert gradgradcheck(lambda x: 2 * x, x) and gradgradcheck(lambda x: x * 0 + 1, x)
    assert gradgradcheck(lambda x: x.detach() * 1, x)  # a constant, as far as the tape knows


def test_every_array_in_a_container_is_checked():
    """Also those in deques, and in fields that a dataclass computes itself."""

    @dataclasses.dataclass
    class Layer:
        w: Any
        double: Any = dataclasses.field(init=False)

        def __post_init__(self):
            self.double = 2 * self.w

    layer = Layer(np.array([1.0, 2.0]))
    f = lambda layer, queue: (layer.w * layer.double * queue[0]).sum()  # noqa: E731
    assert gradcheck(f, [layer, deque([np.array([3.0, 4.0])])])
    g = lambda layer: np.sin(layer.double).detach() + layer.w  # noqa: E731
    with pytest.raises(GradientError, match=r"input 0\.double"):
        gradcheck(g, [layer])


def test_functions_that_differentiate():
    def slope(x):
        return autograd.grad((x**3).sum(), x, create_graph=True)

    def penalty(x, w):
        g = autograd.grad(np.tanh(x @ w).sum(), x, create_graph=True)
        return ((g**2).sum() - 1) ** 2

    x, w = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([0.3, -0.7])
    with autograd.no_grad():  # which is the caller's business
        assert gradcheck(slope, [x]) and gradgradcheck(slope, [x])
    assert gradcheck(penalty, [x, w]) and gradgradcheck(penalty, [x, w])
    with pytest.raises(GradientError, match="wrong in 4 of 4"):
        gradcheck(lambda x: autograd.grad((x**3).sum(), x), [x])  # without create_graph


def test_the_complex_step_is_exact_to_rounding():
    x = np.array([0.3, 1.2])
    f = lambda x: np.sin(x) * np.exp(-x) / np.sqrt(1 + x * x)  # noqa: E731
    assert gradcheck(f, x, method="complex", rtol=1e-14, atol=1e-15)
    assert check_vjp(np.sort, lambda g, x: g, x, method="complex")  # by the real parts
    assert "wrong sign" in caught(
        check_vjp, np.sin, lambda g, x: -g * np.cos(x), x, method="complex"
    )
    with pytest.raises(ValueError, match="method is"):
        gradcheck(f, x, method="forward")


@pytest.mark.parametrize(
    "function",
    [np.abs, np.linalg.norm, np.var, lambda x: np.floor(x) * x,
     lambda x: x.astype(np.float64) ** 2,
     lambda x: np.conj(x) * x],
)  # fmt: skip
def test_the_complex_step_refuses_what_is_not_analytic(function):
    x = np.array([0.3, -1.2, 0.7])
    with pytest.raises(ValueError, match="not complex-differentiable.*use method=.central."):
        check_vjp(function, lambda g, x: np.zeros_like(x), x, method="complex")


def test_a_million_elements():
    x = np.random.default_rng(0).standard_normal((1000, 1000))
    evaluations = []

    def f(x):
        evaluations.append(1)
        return np.sum(x * x, axis=0)

    def vjp(g, x):
        return 2 * g * x

    def wrong(g, x):
        gradient = vjp(g, x)
        gradient[321, 77] += 0.1
        return gradient

    assert check_vjp(f, vjp, x) and len(evaluations) < 30
    text = caught(check_vjp, f, wrong, x)
    assert "wrong; found at [321, 77], of shape (1000, 1000):" in text and "flat" in text
    assert len(evaluations) < 1000


@pytest.mark.parametrize("method", ["central", "complex"])
def test_fast_mode_is_a_choice(method):
    x = RANDOM.standard_normal((5, 7))
    options = dict(fast_mode=True, method=method)
    assert check_vjp(np.exp, lambda g, x: g * np.exp(x), x, **options)
    text = caught(check_vjp, np.exp, lambda g, x: g * np.exp(x) * (x != x[3, 2]), x, **options)
    assert "found at [3, 2], of shape (5, 7)" in text and "one element alone, [3, 2]" in text
    assert not check_vjp(np.exp, lambda g, x: g, x, raise_exception=False, **options)
    lost = np.where(np.arange(35) == 23, np.nan, 1).reshape(5, 7)
    text = caught(check_vjp, np.exp, lambda g, x: g * np.exp(x) * lost, x, **options)
    assert "found at [3, 2], of shape (5, 7)" in text and "backward  nan" in text
    assert check_vjp(np.exp, lambda g, x: g * np.exp(x), np.zeros((0, 3)), **options)


def test_numeric_gradient():
    x = np.array([1.0, 2.0])
    found = numeric_gradient(lambda x: float(np.sum(x**3)), x)
    np.testing.assert_allclose(found, 3 * x**2, rtol=1e-11)
    assert x.tolist() == [1, 2]


# ---- strategies, and the suite for an op of one's own


def test_the_suite_runs_from_one_line():
    with planted(squared, x=lambda g, x: 2 * g * x) as op:
        (cases,) = property_tests(op).pytestmark
        assert cases.args == ("check", properties.PROPERTIES)
    with planted(squared, x=lambda g, x: g * x) as op:
        test = property_tests(op)
        test(properties.value_is_numpys)
        with pytest.raises(GradientError, match="2 times too small"):
            test(properties.gradient_is_right)


@given(st.data())
def test_strategies(data):
    x = data.draw(arrays(dtype=np.float32, min_value=0.5, max_value=1, kinks=(0.75,), min_side=1))
    assert x.dtype == np.float32 and x.size
    assert (x >= 0.5).all() and (x <= 1).all() and (abs(x - 0.75) > 0.09).all()
    t = data.draw(tensors(shape=(2, 3)))
    assert t.requires_grad and t.shape == (2, 3)
    assert not data.draw(tensors(requires_grad=False)).requires_grad
    np.broadcast(*data.draw(broadcastable(3)))
    y = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(laid_out(y, data.draw(layouts())), y)


def test_one_line_tests_an_op_under_pytest(tmp_path):
    """A case a property, and hypothesis's profile holds."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent("""
        import autograd, hypothesis
        from autograd.testing import property_tests

        hypothesis.settings.register_profile("few", max_examples=3)
        hypothesis.settings.load_profile("few")
        calls = []

        @autograd.op
        def cube(x):
            calls.append(x)
            return x**3

        cube.vjp(x=lambda g, x: g * 3 * x**2)

        test_cube = property_tests(cube)

        def test_how_often():
            assert len(calls) < 2000
        """)
    )
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    for check in properties.PROPERTIES:
        assert f"test_cube[{check.__name__}] PASSED" in result.stdout


MINE = """
import numpy as np
import autograd
from autograd.testing import check_vjp, property_tests


@autograd.op
def pool2(x):
    return x.reshape(*x.shape[:-1], -1, 2).mean(-1)


@autograd.op
def squared(x):
    return x * x


def squared_rule(g, x):
    return g * x / len(x)


pool2.vjp(x=lambda g: np.repeat(g, 2, -1) / 2)
squared.vjp(x=squared_rule)
test_pool2 = property_tests(pool2)
test_squared = property_tests(squared)


def test_by_hand():
    check_vjp(lambda x: 2 * x, lambda g, x: g.T, [np.ones((2, 3))])
"""


def test_failures_under_pytest_end_at_the_message(tmp_path):
    """In no frame of a library; and a sampler that is needed is said first and once."""
    (tmp_path / "test_mine.py").write_text(MINE)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    out = result.stdout.partition("short test summary")[0]  # which may repeat messages
    assert result.returncode == 1 and "autograd/" not in out and "site-packages" not in out, out
    assert "ExceptionGroup" not in out and "hypothesis" not in out.split("FAILURES")[1]
    assert out.count("pool2 needs a sampler, which says") == out.count("@pool2.sample") == 1
    assert f"{len(properties.PROPERTIES) - 1} skipped" in result.stdout
    assert "return g * x / len(x)" in out, "the line of the user that raised"
    assert "the axes are in reverse order" in out


def test_a_wrong_gradient_is_shown_for_a_generic_call():
    with planted(squared, x=lambda g, x: g * x) as op:
        with pytest.raises(GradientError, match=r"2 times too small(.|\n)*backward +numeric"):
            check_op(op)
    with planted(doubled, x=lambda g, x: 2 * g + (x == 0)) as op:  # at zeros alone
        with pytest.raises(GradientError, match="only where an input is 0"):
            check_op(op)


def test_a_property_that_holds_at_times_is_not_deterministic():
    counter = iter(range(10**9))
    with planted(doubled, x=lambda g: 2 * g * (1 + (next(counter) % 5 == 0))) as op:
        with pytest.raises(Exception, match="(?i)different results|again|unreliable"):
            check_op(op)


# ---- what the engine itself names


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


def test_a_variadic_op_that_saves_has_no_route_to_higher_orders():
    def total(*arrays):
        return sum(arrays), 1.0

    options = {"saves": ("scale",)}
    with planted(
        total, options=options, arrays=lambda g, arrays, scale: [g * scale for _ in arrays]
    ) as op:
        op.reference(lambda *arrays: sum(arrays))
        x = autograd.tensor(1.0, requires_grad=True)
        with pytest.raises(RuntimeError, match="total: no route .* and a name for each argument"):
            autograd.grad(op(x, x), x, create_graph=True)


def test_a_lost_gradient_is_an_error():
    with pytest.raises(GradientError, match=r"not a Tensor: gradient lost, as after \.numpy\(\)"):
        gradcheck(lambda x: x.numpy() * 2, [np.ones(2)])
    with pytest.raises(GradientError, match="wrong in 2 of 2"):
        gradcheck(lambda x: x.detach() * 2, [np.ones(2)])
    with pytest.raises(ValueError, match=r"none of the inputs .*; given: .*int"):
        gradcheck(lambda x: x, [3])


def test_a_nan_is_not_agreement():
    with np.errstate(all="ignore"), pytest.raises(GradientError):
        gradcheck(lambda x: np.sqrt(x) * 1, [np.array([-1.0])])


def test_a_sound_op_passes():
    with planted(product, options=ELEMENTWISE, x=lambda g, y: g * y, y=lambda g, x: g * x) as op:
        check_op(op)


def test_an_array_may_be_a_constant():
    with planted(product, options=ELEMENTWISE, x=lambda g, y: g * y) as op:
        check_op(op, max_examples=10)
    with planted(product, options=ELEMENTWISE, x=lambda g, y: g * np.float64(2) * y) as op:
        with pytest.raises(GradientError, match="2 times too large"):
            check_op(op, max_examples=10)


def test_a_sampler_may_make_a_scalar():
    """NumPy makes a scalar of an array without axes, as in `draw.array() + 1`."""

    def sample(draw):
        return draw.call(draw.array(shape=()) + 1, draw.array(shape=()) * 2)

    rules = dict(x=lambda g, y: g * y, y=lambda g, x: g * x)
    with planted(product, options=ELEMENTWISE, sample=sample, **rules) as op:
        check_op(op, max_examples=10)


def test_an_op_without_a_rule_is_said_to_have_none():
    with planted(doubled) as op, pytest.raises(GradientError, match="doubled has no rule: declare"):
        check_op(op)


def test_an_op_that_needs_a_sampler_is_said_to():
    rules = dict(x=lambda g, w: g @ w.T, w=lambda g, x: x.T @ g)
    with planted(matrix_product, **rules) as op, pytest.raises(ValueError, match="matmul") as error:
        check_op(op)
    assert "@matrix_product.sample" in error.value.__notes__[0]
    with planted(squared, x=crash_if_empty) as op, pytest.raises(ValueError) as error:
        check_op(op, max_examples=200)
    assert "sample" not in "".join(error.value.__notes__)  # the rule's mistake


def test_an_op_made_of_a_lambda():
    with planted(lambda x: 2 * x, x=lambda g: 2 * g) as op:
        check_op(op, max_examples=5)


@pytest.mark.parametrize("check", [check_op, property_tests])
@pytest.mark.parametrize("other", [np.tanh, "tanh", lambda x: x])
def test_what_is_no_op_is_refused_by_name(check, other):
    with pytest.raises(TypeError, match=r"is no op: give a function with @autograd.op"):
        check(other)
