"""The functions of ``np.linalg`` that few programs call."""

import numpy as np
import pytest

import autograd
from autograd.functional import jvp
from autograd.testing import gradcheck, gradgradcheck

normal = np.random.default_rng(3).standard_normal


def dominated(*shape):
    """An array whose elements are those of a matrix with a dominating diagonal."""
    n = round(np.prod(shape) ** 0.5)
    return (normal((n, n)) / n + 2 * np.eye(n)).reshape(shape)


SQUARE, TALL, WIDE = normal((3, 3)), normal((2, 5, 3)), normal((3, 4))


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda a: np.linalg.eigh(a).eigenvectors, SQUARE),
        (lambda a: np.linalg.eigh(a, "u").eigenvectors, SQUARE),
        (lambda a: np.linalg.eigh(a @ a.T).eigenvalues, WIDE),
        (np.linalg.eigvalsh, np.stack([SQUARE, SQUARE.T])),
        (lambda a: np.linalg.eigvalsh(a, UPLO="U"), SQUARE),
        (lambda a: np.linalg.svd(a, full_matrices=False).U, TALL),
        (lambda a: np.linalg.svd(a).U[..., :3] @ np.linalg.svd(a).Vh, TALL),
        (lambda a: np.linalg.svd(a).Vh, WIDE),  # the one vector more is at a right angle to all
        (lambda a: np.linalg.svd(a.T).U, WIDE),
        (lambda a: np.linalg.svd(a, compute_uv=False), TALL),
        (np.linalg.svdvals, WIDE),
        (lambda a: np.linalg.svd(a, hermitian=True).U, SQUARE),
        (lambda a: np.linalg.svd(a, hermitian=True).Vh, SQUARE),
        (lambda a: np.linalg.svd(a, hermitian=True, compute_uv=False), SQUARE),
        (lambda a: np.linalg.norm(a, 2), SQUARE),
        (lambda a: np.linalg.norm(a, -2, axis=(1, 0), keepdims=True), TALL),
        (lambda a: np.linalg.norm(a, "nuc", axis=(2, 0)), TALL),
        (lambda a: np.linalg.norm(a, 2, axis=(-3, 1), keepdims=True), TALL),
        (lambda a: np.linalg.matrix_norm(a, ord="nuc", keepdims=True), TALL),
        (lambda a: np.linalg.matrix_norm(a, ord=-2), WIDE),
        *(
            (lambda a, p=p: np.linalg.cond(a, p), np.stack([SQUARE, SQUARE.T + np.eye(3)]))
            for p in (None, 2, -2, 1, -1, "fro", "nuc", np.inf)
        ),
        (np.linalg.cond, TALL),
        (lambda a: np.linalg.qr(a).Q, TALL),
        (lambda a: np.linalg.qr(a).R, WIDE),
        (lambda a: np.linalg.qr(a, "complete").Q, SQUARE),
        (
            lambda a: np.linalg.qr(a.T, "complete").Q,
            WIDE,
        ),  # the column more is at a right angle
        (lambda a: np.linalg.qr(a, "complete").R, TALL),
        (lambda a: np.linalg.qr(a, mode="r"), TALL),
        (np.linalg.pinv, TALL),
        (lambda a: np.linalg.pinv(a[:, :2] @ a[:2]), WIDE[:, :3]),  # of rank 2
        (lambda a: np.linalg.pinv(a, rtol=None), WIDE),
        (lambda a: np.linalg.pinv(a, 0.5), TALL[0]),  # makes two singular values 0
        (lambda a: np.linalg.pinv(a, np.array([1e-15, 0.5])), TALL),
        (lambda a: np.linalg.pinv(a, hermitian=True), SQUARE),
        (lambda a: np.linalg.lstsq(a, a[:, :2])[0], TALL[0]),
        (lambda a: np.linalg.lstsq(a, np.arange(5.0))[0], TALL[0]),
        (lambda a: np.linalg.lstsq(a, np.arange(5.0))[1], TALL[0]),
        (lambda a: np.linalg.lstsq(np.eye(5)[:, :4], a)[1], TALL[0]),
        (lambda a: np.linalg.lstsq(a, np.arange(5.0))[3], TALL[0]),
        (lambda a: np.linalg.lstsq(a, np.arange(3.0))[0], WIDE),
        (lambda a: np.linalg.lstsq(a, np.arange(5.0), rcond=0.5)[0], TALL[0]),
        (lambda a: np.linalg.lstsq(a[:, :2] @ a[:2], a[0])[0], WIDE[:, :3]),  # of rank 2
    ],
)
def test_functions_of_a_matrix(function, x):
    found = function(autograd.tensor(x, requires_grad=True))
    assert found.requires_grad
    np.testing.assert_allclose(found.detach().numpy(), function(x), rtol=1e-11, atol=1e-13)
    assert gradcheck(function, [x]) and gradgradcheck(function, [x])


def gradient(function, x):
    x = autograd.tensor(np.array(x, float), requires_grad=True)
    return autograd.grad(function(x), x).numpy()


def test_the_gradient_of_a_symmetric_matrix_is_symmetric():
    """And that of any other one is in the triangle that NumPy reads."""
    a = SQUARE + SQUARE.T
    for UPLO, zeros in (("L", np.triu), ("U", np.tril)):
        found = gradient(lambda x, u=UPLO: np.linalg.eigh(x, u)[1][0, 2], a)
        np.testing.assert_allclose(found, found.T, rtol=1e-13)
        for function in (np.linalg.eigvalsh, lambda *x: np.linalg.eigh(*x)[1]):
            one = gradient(lambda x, u=UPLO, f=function: np.sum(f(x, u)), SQUARE)
            assert not zeros(one, 1 if zeros is np.triu else -1).any() and one.any()


@pytest.mark.filterwarnings("error")
def test_equal_values_have_a_gradient_and_their_vectors_have_none():
    eye, eigh, svd = np.eye(3), np.linalg.eigh, np.linalg.svd
    rotated, _ = np.linalg.qr(SQUARE)
    for a in (eye, rotated @ rotated.T):  # the second is the identity but for rounding
        np.testing.assert_allclose(
            gradient(lambda x: np.sum(eigh(x)[0] ** 2), a), 2 * a, atol=1e-14
        )
        assert np.isnan(gradient(lambda x: np.sum(eigh(x)[1]), a)).all()
        assert np.isnan(gradient(lambda x: np.sum(svd(x)[2]), a)).all()
        np.testing.assert_allclose(gradient(lambda x: np.sum(svd(x)[1]), a), a, atol=1e-14)
    pair = np.diag([1.0, 1.0, 2.0])  # only two of the vectors can turn
    for k in range(3):
        assert np.isnan(gradient(lambda x, k=k: np.sum(eigh(x)[1][:, k]), pair)).any() == (k < 2)
        assert np.isnan(gradient(lambda x, k=k: np.sum(svd(x)[0][:, k]), pair)).any() == (k > 0)


@pytest.mark.filterwarnings("error")
def test_singular_values_of_zero():
    svd, ones = np.linalg.svd, np.ones((3, 2))
    np.testing.assert_allclose(gradient(lambda x: svd(x, False)[1][0], ones), 6**-0.5 * ones)
    assert np.isfinite(gradient(lambda x: np.sum(svd(x)[1]), np.zeros((3, 2)))).all()
    assert np.isfinite(gradient(lambda x: np.sum(svd(x, False)[0][:, 0]), ones)).all()
    assert np.isfinite(gradient(lambda x: np.sum(svd(x, False)[2]), ones)).all()
    assert np.isnan(gradient(lambda x: np.sum(svd(x, False)[0][:, 1]), ones)).any()
    # two vectors more than columns: they can turn in their own plane
    assert np.isnan(gradient(lambda x: np.sum(svd(x)[0][:, 3]), TALL[0])).all()
    assert np.isfinite(gradient(lambda x: np.sum(svd(x)[0][:, :3]), TALL[0])).all()


def test_forward_derivatives_where_some_do_not_exist():
    """`jvp` goes through the derivatives of the rules with cotangents of 0."""
    eigh, svd = np.linalg.eigh, np.linalg.svd
    direction = SQUARE + SQUARE.T
    _, moved = jvp(lambda x: eigh(x)[0], [np.eye(3)], [direction])
    np.testing.assert_allclose(moved, np.diagonal(direction))
    _, moved = jvp(lambda x: eigh(x)[1], [np.eye(3)], [direction])
    assert np.isnan(moved).all()
    _, moved = jvp(lambda x: eigh(x)[1][:, 2], [np.diag([1.0, 1.0, 2.0])], [direction])
    np.testing.assert_allclose(moved, [*direction[:2, 2], 0])
    _, moved = jvp(lambda x: svd(x)[0], [TALL[0]], [TALL[1]])
    assert (np.isnan(moved) == [False] * 3 + [True] * 2).all()


@pytest.mark.filterwarnings("error")
def test_dependent_columns_have_no_qr_gradient():
    def both(x):
        return sum(np.sum(part) for part in np.linalg.qr(x))

    assert np.isnan(gradient(both, np.ones((3, 2)))).all()
    assert np.isnan(gradient(both, np.zeros((3, 3)))).all()
    one_of_two = gradient(both, np.stack([np.ones((3, 3)), SQUARE]))
    assert np.isnan(one_of_two[0]).all() and np.isfinite(one_of_two[1]).all()
    # two columns more than a has: they can turn in their own plane
    assert np.isnan(gradient(lambda x: np.sum(np.linalg.qr(x, "complete")[0]), TALL[0])).all()


def test_functions_of_the_identity_have_derivatives():
    """Its singular values are equal, and these functions do not depend on their vectors."""
    eye = np.eye(3)
    for function in (np.linalg.pinv, lambda a: np.linalg.lstsq(a, np.arange(3.0))[0]):
        assert gradcheck(function, [eye]) and gradgradcheck(function, [eye])
    np.testing.assert_allclose(gradient(lambda a: np.linalg.norm(a, "nuc"), eye), eye, atol=1e-14)


def test_the_rank_is_plain():
    x = autograd.tensor(TALL[0], requires_grad=True)
    _, residuals, rank, _ = np.linalg.lstsq(x, np.ones(5))
    assert rank == 3 and not isinstance(rank, autograd.Tensor) and residuals.requires_grad
    assert np.linalg.matrix_rank(x) == 3
    assert np.linalg.lstsq(x.T, np.ones(3))[1].shape == (0,)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 3), (3, 0), (0, 3, 2)])
def test_matrices_without_elements(shape):
    x = autograd.tensor(np.zeros(shape), requires_grad=True)
    results = [*np.linalg.svd(x), *np.linalg.qr(x), np.linalg.svdvals(x), np.linalg.pinv(x)]
    results += [np.linalg.norm(x, 2, (-2, -1)), np.linalg.norm(x, "nuc", (-2, -1))]
    if shape[-1] == shape[-2]:
        results += np.linalg.eigh(x)
    gradient = autograd.grad(results, x, [np.ones(y.shape) for y in results])
    assert gradient.shape == shape


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: np.linalg.eigh(x[:2]), np.linalg.LinAlgError, "expected square matrices, got"),
        (lambda x: np.linalg.eigh(x, "lower"), ValueError, "UPLO is 'lower'; expected 'L' or 'U'"),
        (lambda x: np.linalg.svd(x[0]), np.linalg.LinAlgError, "at least two-dimensional"),
        (lambda x: np.linalg.qr(x, "raw"), TypeError, "qr with mode='raw' has no derivative here"),
        (lambda x: np.linalg.norm(x, 3), TypeError, "norm with ord=3 over two axes has no deriv"),
        (lambda x: np.linalg.pinv(x, 0.1, rtol=0.2), ValueError, "expected only one of them"),
        (lambda x: np.linalg.pinv(x, x[0, 0]), TypeError, "no derivative with respect to rcond"),
        (lambda x: np.linalg.lstsq(x, x[:2]), np.linalg.LinAlgError, "Incompatible dimensions"),
        (lambda x: np.linalg.lstsq(x, x, "x"), TypeError, "Cannot cast"),
        (lambda x: np.linalg.cond(x * [1, 1, 0], 1), TypeError, "p=1 and a singular matrix has no"),
        (lambda x: np.linalg.svd(x * np.nan), np.linalg.LinAlgError, "did not converge"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(autograd.tensor(SQUARE, requires_grad=True))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (np.linalg.tensorinv, [(2, 3, 6)]),
        (lambda a: np.linalg.tensorinv(a, 1), [(6, 3, 2)]),
        (np.linalg.tensorsolve, [(6, 2, 3), (6,)]),
        (np.linalg.tensorsolve, [(2, 3, 3, 2), (2, 3)]),
        (lambda a, b: np.linalg.tensorsolve(a, b, (0, 2)), [(2, 6, 3), (6,)]),
    ],
)
def test_compositions(function, shapes):
    inputs = [dominated(*shapes[0]), *map(normal, shapes[1:])]
    found = function(*(autograd.tensor(x, requires_grad=True) for x in inputs))
    np.testing.assert_allclose(found.detach().numpy(), function(*inputs), rtol=1e-12)
    assert gradcheck(function, inputs) and gradgradcheck(function, inputs)
