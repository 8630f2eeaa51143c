"""Options of NumPy's functions and methods of ufuncs: values, dtypes, gradients and errors.

Reductions of some elements, with a start; modes of padding; the ends of differences.
"""

import subprocess
import sys

import numpy as np
import pytest

import autograd
from autograd import tensor
from autograd.testing import gradcheck, gradgradcheck

X = np.random.default_rng(0).standard_normal((3, 4))
MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool)
NONE = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], bool)  # a row without elements


def assert_numpys(function, *arrays, rtol=1e-12):
    """Compare values and dtypes with NumPy's, on and off the tape, and check the gradients."""
    for dtype in (np.float64, np.float32, np.float16):
        given = [x.astype(dtype) for x in arrays]
        expected = function(*given)
        leaves = [tensor(x, requires_grad=True) for x in given]
        with autograd.no_grad():
            results = [function(*leaves), function(*map(tensor, given))]
        for found in (function(*leaves), *results):
            assert isinstance(found, autograd.Tensor) and found.dtype == expected.dtype
            assert found.shape == expected.shape
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(
                found.numpy(), expected, rtol=max(rtol, 8 * eps), atol=8 * eps if eps > rtol else 0
            )
        assert function(*leaves).requires_grad
    assert gradcheck(function, list(arrays))
    assert gradgradcheck(function, list(arrays))


REDUCTIONS = [np.sum, np.prod, np.max, np.min]


@pytest.mark.parametrize("where", [True, MASK, NONE, MASK[:, :1], MASK[0], MASK.tolist()], ids=str)
@pytest.mark.parametrize("options", [{}, dict(axis=1), dict(axis=(0, 1), keepdims=True)], ids=str)
@pytest.mark.parametrize("function", REDUCTIONS)
def test_reductions_of_some_elements(function, options, where):
    options = dict(options)
    if function in (np.sum, np.prod):
        assert_numpys(lambda x: function(x, where=where, **options), X)
    for start in (-0.3, np.float64(0.1), np.float32(9)):
        options["initial"] = start
        assert_numpys(lambda x: function(x, where=where, **options), X)


@pytest.mark.parametrize("function", REDUCTIONS)
def test_the_start_of_a_reduction_has_a_gradient(function):
    start = np.array(0.2)
    assert_numpys(lambda x, s: function(x, axis=0, where=MASK, initial=s), X, start)
    assert_numpys(lambda x, s: function(x[:, :0], axis=1, initial=s) + x[:, 0], X, start)


@pytest.mark.parametrize("options", [{}, dict(axis=1), dict(axis=0, keepdims=True)], ids=str)
@pytest.mark.parametrize("where", [MASK, np.ones((3, 1), bool), MASK.tolist()], ids=str)
def test_means_of_some_elements(options, where):
    some = dict(options, where=where)
    for function in (np.mean, np.var, np.std):
        assert_numpys(lambda x, function=function: function(x, **some), X)
    assert_numpys(lambda x: np.var(x, ddof=0.5, **some), X)
    assert_numpys(lambda x: np.std(x, correction=0.5, **some), X)


def test_spread_around_a_given_mean():
    centre = np.array([[0.3], [-0.2], [0.1]])
    for function in (np.var, np.std):
        assert_numpys(lambda x, m, f=function: f(x, axis=1, mean=m), X, centre)
        assert_numpys(lambda x, m, f=function: f(x, axis=1, mean=m, where=MASK, ddof=1), X, centre)
        assert_numpys(lambda m, f=function: f(X, axis=1, mean=m), centre)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_groups_without_elements():
    """NumPy's results and warnings; no gradient reaches elements that do not count."""
    x = tensor(X, requires_grad=True)
    with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
        y = np.mean(x, axis=1, where=NONE)
    assert np.isnan(y.numpy()).tolist() == [False, True, False]
    y.backward(np.ones(3))
    assert (x.grad.numpy() == NONE / np.maximum(NONE.sum(1, keepdims=True), 1)).all()


def test_the_gradient_of_a_spread_of_zero_is_zero():
    x = tensor([2.0, 2.0, 9.0], requires_grad=True)
    np.std(x, where=[True, True, False]).backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_a_start_that_ties_takes_half():
    x, start = tensor([1.0, 3.0], requires_grad=True), tensor(3.0, requires_grad=True)
    np.max(x, initial=start).backward()
    assert x.grad.tolist() == [0, 0.5] and start.grad.item() == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: np.max(x, where=MASK), "to use a where mask one has to specify 'initial'"),
        (lambda x: np.sum(x, where=MASK[None]), "more dimensions than allowed"),
        (lambda x: np.sum(x, where=MASK[:2]), "could not be broadcast"),
        (lambda x: np.sum(x, initial=np.ones(3)), "setting an array element with a sequence"),
        (lambda x: np.max(x[:0], where=True), "has no identity"),
        (lambda x: np.sum(x, where=x), "np.sum has no derivative with respect to where"),
        (lambda x: np.std(x, ddof=1, correction=1, where=MASK), "ddof and correction"),
        (lambda x: np.sum(x, where=MASK, dtype=np.float32), "np.sum with dtype= has no deriv"),
        (lambda x: np.einsum("ij", x, where=True), "np.einsum with where= has no derivative"),
        (lambda x: np.pad(x, 1, "empty"), "np.pad with mode='empty' has no derivative"),
        (lambda x: np.pad(x, 1, lambda *a: None), "np.pad with a function as mode has no deriv"),
        (lambda x: np.pad(x, 1, "reflect", reflect_type="odd"), "reflect_type='odd' has no deriv"),
        (lambda x: np.pad(x, 1, "mirror"), "mode 'mirror' is not supported"),
        (lambda x: np.pad(x, 1, "edge", end_values=1), "unsupported keyword arguments"),
        (lambda x: np.pad(x, 1, end_values=1), "unsupported keyword arguments"),
        (lambda x: np.pad(x[:0], 1, "wrap"), "can't extend empty axis 0"),
        (lambda x: np.diff(x, append=X[:2]), "must match exactly"),
        (lambda x: np.add.reduceat(x, [0, 1]), "np.add.reduceat has no derivative here"),
        (lambda x: np.add.at(x, 0, 1.0), "np.add.at has no derivative here.*scatter_add"),
        (lambda x: np.subtract.reduce(x), "np.subtract.reduce has no derivative here"),
        (lambda x: np.add.accumulate(x[0, 0]), "cannot accumulate on a scalar"),
        (lambda x: np.add.accumulate(x, axis=2), "axis 2 is out of bounds"),
        (lambda x: np.maximum.accumulate(x, axis=2), "axis 2 is out of bounds"),
        (lambda x: np.maximum.accumulate(x[0, 0]), "cannot accumulate on a scalar"),
        (lambda x: np.multiply.outer(x, x, out=X), "np.multiply with out= has no derivative"),
        (lambda x: np.add.reduce(x, 0, np.float32), "np.add.reduce with dtype= has no derivative"),
        (lambda x: np.add.accumulate(x, 0, None, X), "np.add.accumulate with out= has no deriv"),
    ],
)
def test_wrong_options(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(tensor(X, requires_grad=True))


# ---- padding


MODES = [
    *[(mode, {}) for mode in ("edge", "reflect", "symmetric", "wrap", "linear_ramp")],
    *[(mode, {}) for mode in ("mean", "maximum", "minimum", "median")],
    ("linear_ramp", dict(end_values=((1, 2.5), (-1, 0)))),
    ("mean", dict(stat_length=2)),
    ("maximum", dict(stat_length=((1, 2), (9, 1)))),
]


@pytest.mark.parametrize("pad_width", [2, ((1, 0), (0, 9)), {-1: (2, 1)}], ids=str)
@pytest.mark.parametrize(("mode", "options"), MODES, ids=str)
def test_modes_of_padding(mode, options, pad_width):
    assert_numpys(lambda x: np.pad(x, pad_width, mode, **options), X, rtol=1e-11)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "wrap"])
def test_padding_of_one_element(mode):
    assert_numpys(lambda x: np.pad(x, ((3, 2), (1, 7)), mode=mode), X[:1, :2])


# ---- differences


@pytest.mark.parametrize(
    "function",
    [
        lambda x, e: np.diff(x, prepend=e[0, 0]),
        lambda x, e: np.diff(x, append=e, axis=0),
        lambda x, e: np.diff(x, 2, 0, e, 3.0) * e,
        lambda x, e: np.diff([[1.0, 2.0]], prepend=0, append=e[:, :1]) * x[0, 0],
        lambda x, e: np.diff(x, 0, append=e),
    ],
)
def test_the_ends_of_differences(function):
    assert_numpys(lambda x, e: function(x, e) + 0 * e.sum(), X, X[:1] * 0.7)


# ---- methods of ufuncs


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.multiply.outer(x, x[0]),
        lambda x: np.subtract.outer([1.0, 2.0], x),
        lambda x: np.hypot.outer(x, x[:, 1]),
        lambda x: np.maximum.outer(x[0, :2], x[:, 3] + 0.01),
        lambda x: np.add.reduce(x),
        lambda x: np.add.reduce(x, axis=1, keepdims=True, where=MASK, initial=2.0),
        lambda x: np.multiply.reduce(x, axis=(0, 1)),
        lambda x: np.maximum.reduce(x, axis=None),
        lambda x: np.minimum.reduce(x, where=MASK, initial=0.5),
        lambda x: np.add.accumulate(x),
        lambda x: np.add.accumulate(x, 1),
        lambda x: np.multiply.accumulate(x, axis=-1),
        lambda x: np.maximum.accumulate(x),
        lambda x: np.maximum.accumulate(x, 1),
        lambda x: np.minimum.accumulate(x[None], axis=-2),
        lambda x: np.logaddexp.reduce(x),
        lambda x: np.logaddexp.reduce(x, axis=None, keepdims=True),
        lambda x: np.logaddexp.reduce(x[None], axis=(0, 1)),
    ],
)
def test_methods_of_ufuncs(function):
    assert_numpys(function, X)


def test_plain_answers_of_methods_of_ufuncs():
    x = tensor(X, requires_grad=True)
    assert (np.less.outer(x, x[0]) == np.less.outer(X, X[0])).all()
    total = tensor(np.zeros(3))
    np.add.at(total, [0, 0, 2], 1.0)
    assert total.tolist() == [2, 0, 1]


def test_reductions_of_all_elements_import_nothing():
    code = (
        "import sys, numpy as np, autograd; x = autograd.tensor([1.0, 2.0], requires_grad=True); "
        "np.std(np.pad(x, 1)) * np.max(x, where=True) * np.mean(x) * np.add.reduce(x, where=True); "
        "assert not {'autograd.ops.masked', 'autograd.ops.padding'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
