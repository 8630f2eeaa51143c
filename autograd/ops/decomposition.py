"""Eigenvalues and singular values, QR, pseudoinverses and least squares; batched, as in NumPy.

Some derivatives do not exist, and their value is then a convention:

- If two eigenvalues or singular values are equal, their vectors can turn: for the identity matrix,
  any basis consists of eigenvectors. The gradient through such vectors is NaN. The gradient through
  the values alone exists. A vector whose cotangent is 0 counts as one that was not used.
- Values count as equal, or as 0, if the difference is at most eps times the largest value times the
  larger side of the matrix, as in ``np.linalg.matrix_rank``: such a difference is rounding.
- A singular value that is 0 has the gradient u v^T, as in PyTorch. If the matrix is not square, the
  vectors on the longer side that belong to the value 0 can turn: their gradient is NaN.
"""

import math

import numpy as np

from autograd.dispatch import plain
from autograd.engine import TensorBase
from autograd.op import Op, implements, op
from autograd.ops.composing import composes
from autograd.ops.linalg import matrix_transpose

# ---- what has no derivative


def undefined(x):
    """Return the product of x with a derivative that does not exist: 0 for 0, NaN otherwise."""
    return np.where(x == 0, x, np.nan)


undefined = Op(undefined)  # not in the registry, where ops have right derivatives
undefined.vjp(x=lambda g: undefined(g))


def rounding(values, side):
    """Return the size of the rounding of values: (..., n) -> (..., 1)."""
    values = plain(values)
    largest = np.max(np.absolute(values), axis=-1, keepdims=True, initial=0)
    return side * np.finfo(values.dtype).eps * largest


def are_tied(values, side):
    """Return which pairs of values count as equal, (..., n) -> (..., n, n); none with itself."""
    values, bound = plain(values), rounding(values, side)
    apart = np.absolute(values[..., None, :] - values[..., :, None])
    return (apart <= bound[..., None]) & ~np.eye(values.shape[-1], dtype=bool)


def turning(tied, *cotangents):
    """Return 0 for each pair of vectors, but NaN for a tied pair of which a vector was used."""
    used = sum(np.sum(undefined(g), -2) for g in cotangents)  # 0 or NaN for each vector: (..., n)
    return np.where(tied, used[..., None, :] + used[..., :, None], 0)


# ---- eigenvalues of symmetric matrices


@op(multiple=True)
def eigh(a, UPLO="L"):
    """Eigenvalues, ascending, and eigenvectors: ``(..., n, n) -> (..., n), (..., n, n)``.

    A function of the symmetric part (a + a^T) / 2, so that the gradient is symmetric, as JAX's. If
    a is not symmetric, ``np.linalg.eigh`` reads one triangle, and the gradient is in this triangle.
    Equal eigenvalues: see the conventions. Giles 2008, "An extended collection of matrix
    derivative results", section 3.1.
    """
    reads_lower(UPLO)  # or raises
    return tuple(np.linalg.eigh((a + matrix_transpose(a)) / 2, UPLO))


eigh.formula(
    """
    Σ_k (a_ik + a_ki) · out1_kj = 2 · out1_ij · out0_j
    Σ_k out1_ki · out1_kj = [i = j]
    f_ij = [i = j] · g0_i + [i ≠ j] · (Σ_k out1_ki · g1_kj) / (out0_j - out0_i + [i = j])
    da_ij = Σ_k Σ_l out1_ik · (f_kl + f_lk) · out1_jl / 2
    """
)


@eigh.vjp("a")
def _(g, a, out, UPLO):
    values, vectors = eigh(a, UPLO) if isinstance(a, TensorBase) else out  # on the tape, if a is
    g_values, g_vectors = g
    rows, eye = matrix_transpose(vectors), np.eye(a.shape[-1], dtype=a.dtype)
    tied = are_tied(values, a.shape[-1])
    apart = values[..., None, :] - values[..., :, None]
    f = rows @ g_vectors * (1 - eye) / np.where(tied, 1, apart + eye) + g_values[..., None] * eye
    if tied.any():
        f = np.where(tied, turning(tied, g_vectors), f)
    gradient = vectors @ f @ rows
    return (gradient + matrix_transpose(gradient)) / 2


@eigh.sample
def _(draw):
    n = draw.integer(0, 3)
    x = draw.array(shape=(*draw.shape(max_dims=1), n, n), low=0.125, high=0.5)
    x[..., range(n), range(n)] += 2 * draw.shuffled(np.arange(n))
    return draw.call(np.multiply(x, draw.choice([-1, 1]), out=x), draw.choice(["L", "U"]))


def reads_lower(UPLO):
    """Return whether NumPy reads the lower triangle."""
    if not isinstance(UPLO, str) or UPLO.upper() not in ("L", "U"):
        raise ValueError(f"UPLO is {UPLO!r}; expected 'L' or 'U'")
    return UPLO.upper() == "L"


def symmetric(a, UPLO):
    """Return the symmetric matrices of which NumPy reads one triangle."""
    lower = reads_lower(UPLO)
    if np.ndim(a) < 2 or np.shape(a)[-1] != np.shape(a)[-2]:
        raise np.linalg.LinAlgError(f"expected square matrices, got shape {np.shape(a)}")
    other = matrix_transpose(a)
    if np.array_equal(a, other):
        return a
    triangle = np.tri(np.shape(a)[-1], dtype=bool)
    return np.where(triangle if lower else triangle.T, a, other)


@implements(np.linalg.eigh)
def _(a, UPLO="L"):
    return EighResult(*eigh(symmetric(a, UPLO), UPLO))


composes(np.linalg.eigvalsh)(lambda a, UPLO="L": eigh(symmetric(a, UPLO), UPLO)[0])

# named tuples, which NumPy does not export
EighResult = type(np.linalg.eigh(np.eye(1)))
SVDResult = type(np.linalg.svd(np.eye(1)))
QRResult = type(np.linalg.qr(np.eye(1)))


# ---- singular values


@op(multiple=True)
def svd(a, full_matrices=True):
    """Singular values, descending, between their vectors: u, s and vh with a = u diag(s) vh.

    Shapes ``(..., m, n) -> (..., m, k), (..., k), (..., k, n)`` with k = min(m, n). With
    `full_matrices`, the longer of u and vh has further vectors. If there are two or more, they can
    turn, and the gradient through them is NaN. Equal values, and 0: see the conventions. Townsend
    2016, "Differentiating the singular value decomposition".
    """
    return tuple(np.linalg.svd(a, full_matrices))


@svd.formula
def _(full_matrices=False):
    return """
        Σ_k out0_ik · out1_k · out2_kj = a_ij
        p_ij = Σ_k out0_ki · g0_kj
        q_ij = Σ_k out2_ik · g2_jk
        e_ij = (out1_j - out1_i) · (out1_j + out1_i) + [i = j]
        f_ij = [i = j] · g1_i + ((p_ij - p_ji) · out1_j + out1_i · (q_ij - q_ji)) / e_ij
        x_ij = (g0_ij - Σ_k out0_ik · p_kj) / out1_j
        y_ij = (g2_ij - Σ_k q_ki · out2_kj) / out1_i
        da_ij = Σ_k Σ_l out0_ik · f_kl · out2_lj + Σ_k (x_ik · out2_kj + out0_ik · y_kj)
    """


@svd.vjp("a")
def _(g, a, out, full_matrices):
    u, s, vh = svd(a, full_matrices) if isinstance(a, TensorBase) else out  # on the tape, if a is
    g_u, g_s, g_vh = g
    v, g_v = matrix_transpose(vh), matrix_transpose(g_vh)
    m, n = a.shape[-2:]
    k, side = min(m, n), max(m, n)
    tied, zero = are_tied(s, side), plain(s) <= rounding(s, side)

    def pairs(vectors, g):
        """Return how the cotangent turns each pair of vectors: (..., k, k)."""
        p = matrix_transpose(vectors[..., :k]) @ g[..., :k]
        return p - matrix_transpose(p)

    def outside(vectors, g):
        """Return how the cotangent turns the vectors out of the space that they span."""
        known, further = vectors[..., :k], vectors[..., k:]
        g, g_further = g[..., :k], g[..., k:]
        x = g - known @ (matrix_transpose(known) @ g)
        x = (x - further @ (matrix_transpose(g_further) @ known)) / np.where(zero, 1, s)[
            ..., None, :
        ]
        if zero.any():
            used = undefined(g) + np.sum(undefined(g_further), -1, keepdims=True)
            x = np.where(zero[..., None, :], used, x)
        if further.shape[-1] > 1:  # these vectors can turn in their own space
            x = x + np.sum(undefined(g_further), (-1, -2), keepdims=True)
        return x

    s_i, s_j, eye = s[..., :, None], s[..., None, :], np.eye(k, dtype=a.dtype)
    apart, total = np.where(tied, 1, s_j - s_i + eye), np.where(tied, 1, s_j + s_i + eye)
    f = (pairs(u, g_u) * (s_j / total) + pairs(v, g_v) * (s_i / total)) / apart
    f = f + g_s[..., None] * eye
    if tied.any():
        f = np.where(tied, turning(tied, g_u[..., :k], g_v[..., :k]), f)
    first, last = u[..., :k], vh[..., :k, :]
    gradient = first @ f @ last
    if m > n:
        gradient = gradient + outside(u, g_u) @ last
    elif m < n:
        gradient = gradient + first @ matrix_transpose(outside(v, g_v))
    return gradient


def draw_separated(draw, m, n, batch=()):
    """Draw matrices whose singular values differ, and are far from 0."""
    x = draw.array(shape=(*batch, m, n), low=0.0625, high=0.25)
    diagonal = range(min(m, n))
    x[..., diagonal, diagonal] += 1 + draw.shuffled(np.arange(min(m, n)))
    return np.multiply(x, draw.choice([-1, 1]), out=x)


@svd.sample
def _(draw):
    m, n = draw.integer(0, 3), draw.integer(0, 3)
    x = draw_separated(draw, m, n, draw.shape(max_dims=1))
    return draw.call(x, m == n and draw.boolean())


@implements(np.linalg.svd)
def _(a, full_matrices=True, compute_uv=True, hermitian=False):
    if not compute_uv:
        return (
            np.flip(np.sort(np.abs(np.linalg.eigvalsh(a))), -1)
            if hermitian
            else np.linalg.svdvals(a)
        )
    if not hermitian:
        return SVDResult(*svd(a, bool(full_matrices)))
    values, vectors = np.linalg.eigh(a)
    order = np.argsort(np.abs(values))[..., ::-1]
    values = np.take_along_axis(values, order, axis=-1)
    u = np.take_along_axis(vectors, order[..., None, :], axis=-1)
    sign = np.copysign(1, plain(values))[..., None, :]
    return SVDResult(u, np.abs(values), matrix_transpose(u * sign))


@composes(np.linalg.svdvals)
def svdvals(x):
    """Singular values, descending."""
    return svd(x, False)[1]


# ---- equations of tensors, as equations of matrices


@composes(np.linalg.tensorinv)
def _(a, ind=2):
    shape = np.shape(a)
    matrix = np.reshape(a, (math.prod(shape[ind:]), -1))
    return np.reshape(np.linalg.inv(matrix), shape[ind:] + shape[:ind])


@composes(np.linalg.tensorsolve, inputs=("a", "b"))
def _(a, b, axes=None):
    order = list(range(np.ndim(a)))
    for axis in axes or ():
        order.remove(axis)
        order.append(axis)
    a = np.transpose(a, order)
    shape = a.shape[np.ndim(b) - a.ndim :]
    n = math.prod(shape)
    return np.reshape(np.linalg.solve(np.reshape(a, (n, n)), np.reshape(b, -1)), shape)
