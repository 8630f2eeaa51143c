"""Eigenvalues, singular values, QR, pseudoinverses, least squares; batched as in NumPy.

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

from autograd.dispatch import NOT_GIVEN, NoRule, as_tensors, plain
from autograd.engine import TensorBase
from autograd.op import Op, implements, op
from autograd.ops.checks import check_number
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
    largest = np.max(np.absolute(values), axis=-1, keepdims=True, initial=0)
    return side * np.finfo(values.dtype).eps * largest


def are_tied(values, side):
    """Return which pairs of values count as equal, (..., n) -> (..., n, n); none with itself."""
    bound = rounding(values, side)
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
    values, vectors = out if isinstance(a, np.ndarray) else eigh(a, UPLO)  # on the tape, if a is
    g_values, g_vectors = g
    rows, eye = matrix_transpose(vectors), np.eye(a.shape[-1], dtype=a.dtype)
    tied = are_tied(out[0], a.shape[-1])
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
    UPLO = draw.choice(["L", "U"])
    order = 1 if UPLO == "L" else -1  # in this order, a small step changes no sign of LAPACK's
    x[..., range(n), range(n)] += 2 * np.arange(n)[::order]
    return draw.call(np.multiply(x, draw.choice([-1, 1]), out=x), UPLO)


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
        t_ij = g0_ij - Σ_k out0_ik · p_kj
        r_ij = g2_ij - Σ_k q_ki · out2_kj
        x_ij = [t_ij ≠ 0] · (t_ij / out1_j)
        y_ij = [r_ij ≠ 0] · (r_ij / out1_i)
        da_ij = Σ_k Σ_l out0_ik · f_kl · out2_lj + Σ_k (x_ik · out2_kj + out0_ik · y_kj)
    """


@svd.vjp("a")
def _(g, a, out, full_matrices):
    u, s, vh = out if isinstance(a, np.ndarray) else svd(a, full_matrices)  # on the tape, if a is
    g_u, g_s, g_vh = g
    v, g_v = matrix_transpose(vh), matrix_transpose(g_vh)
    m, n = a.shape[-2:]
    k, side = min(m, n), max(m, n)
    tied, zero = are_tied(out[1], side), out[1] <= rounding(out[1], side)

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
    k = min(m, n)
    x[..., range(k), range(k)] += k - np.arange(k)  # descending, as LAPACK's values: signs stay
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


@composes(np.linalg.cond)
def _(x, p=None):
    if p is None or p in (2, -2):
        values = np.linalg.svdvals(x)
        largest, smallest = values[..., 0], values[..., -1]
        with np.errstate(all="ignore"):
            return smallest / largest if p == -2 else largest / smallest
    try:
        inverse = np.linalg.inv(x)
    except np.linalg.LinAlgError:
        raise NoRule(f"p={p!r} and a singular matrix") from None
    return np.linalg.norm(x, p, (-2, -1)) * np.linalg.norm(inverse, p, (-2, -1))


# ---- QR


@op(multiple=True)
def qr(a, mode="reduced"):
    """Factors of a = q r: orthogonal columns, and an upper triangle.

    Shapes ``(..., m, n) -> (..., m, k), (..., k, n)`` with k = min(m, n). With the mode "complete",
    k = m; if q then has two or more further columns, they can turn, and the gradient through them
    is NaN. So are all gradients if the first min(m, n) columns of a are linearly dependent. Walter
    and Lehmann 2010, "Algorithmic differentiation of linear algebra functions", section 3.1.
    """
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode is {mode!r}; expected 'reduced' or 'complete'")
    return tuple(np.linalg.qr(a, mode))


@qr.formula
def _(a_shape=(3, 2)):
    m, n = a_shape[-2:]
    wide = f" + Σ_k [k ≥ {m}] · a_ik · g1_jk" if m < n else ""
    first = f" · [k < {m}]" if m < n else ""
    return f"""
        Σ_k out0_ik · out1_kj = a_ij
        Σ_k out0_ki · out0_kj = [i = j]
        t_ij = g0_ij{wide}
        x_ij = Σ_k out0_ki · t_kj
        y_ij = Σ_k out1_ik · g1_jk{first}
        z_ij = [i ≥ j] · (y_ij + x_ij - x_ji) + [i < j] · y_ji
        Σ_k da_ik · out1_jk{first} = t_ij + Σ_l out0_il · (z_lj - x_lj)
    """ + (f"da_ij · [j ≥ {m}] = [j ≥ {m}] · Σ_k out0_ik · g1_kj" if m < n else "")


@qr.vjp("a")
def _(g, a, out, mode):
    q, r = out if isinstance(a, np.ndarray) else qr(a, mode)  # on the tape, if a is
    g_q, g_r = g
    m, n = a.shape[-2:]
    k = min(m, n)
    q, further, g_q, g_further = q[..., :k], q[..., k:], g_q[..., :k], g_q[..., k:]
    r, g_r, g_rest = r[..., :k, :k], g_r[..., :k, :k], g_r[..., :k, k:]
    qt = matrix_transpose(q)
    g_q = g_q - further @ (matrix_transpose(g_further) @ q)
    if further.shape[-1] > 1:  # these columns can turn in their own space
        g_q = g_q + np.sum(undefined(g_further), (-1, -2), keepdims=True)
    g_q = g_q + a[..., k:] @ matrix_transpose(g_rest)  # the rest of r is q^T a
    x, y = qt @ g_q, r @ matrix_transpose(g_r)
    # gradient @ r^T, in the space of q and outside of it
    moved = q @ (np.tril(y + (x - matrix_transpose(x))) + matrix_transpose(np.tril(y, -1)))
    if m > n:
        moved = moved + (g_q - q @ x)
    diagonal = np.absolute(np.diagonal(out[1], axis1=-2, axis2=-1))
    dependent = (diagonal <= rounding(diagonal, max(m, n))).any(-1)[..., None, None]
    r = np.where(dependent, np.eye(k, dtype=a.dtype), r)
    gradient = matrix_transpose(np.linalg.solve(r, matrix_transpose(moved)))
    if dependent.any():
        lost = sum(np.sum(undefined(x), (-1, -2), keepdims=True) for x in g)
        gradient = np.where(dependent, lost, gradient)
    return np.concatenate([gradient, q @ g_rest], -1) if n > k else gradient


@qr.sample
def _(draw):
    m, n = draw.integer(0, 3), draw.integer(0, 3)
    x = draw.array(shape=(*draw.shape(max_dims=1), m, n), low=0.125, high=0.5)
    x[..., range(min(m, n)), range(min(m, n))] += 2
    np.multiply(x, draw.choice([-1, 1]), out=x)
    return draw.call(x, draw.choice(["reduced", "complete"]) if m <= n else "reduced")


@implements(np.linalg.qr)
def _(a, mode="reduced"):
    if mode not in ("reduced", "complete", "r"):
        raise NoRule(f"mode={mode!r}")
    return qr(a)[1] if mode == "r" else QRResult(*qr(a, mode))


# ---- pseudoinverses and least squares


@op
def pinv(a, rcond=1e-15):
    """Pseudoinverse, ``(..., m, n) -> (..., n, m)``; the rank counts as constant.

    Golub and Pereyra 1973, "The differentiation of pseudo-inverses and nonlinear least squares
    problems whose variables separate", equation 4.12.
    """
    return np.linalg.pinv(a, rcond)


pinv.formula(
    """
    Σ_k Σ_l a_ik · out_kl · a_lj = a_ij
    Σ_k Σ_l out_ik · a_kl · out_lj = out_ij
    p_ij = [i = j] - Σ_k a_ik · out_kj
    q_ij = [i = j] - Σ_k out_ik · a_kj
    x_ij = Σ_k out_ik · out_jk
    y_ij = Σ_k out_ki · out_kj
    da_ij = Σ_k Σ_l (p_ik · g_lk · x_lj + y_ik · g_lk · q_lj - out_li · g_lk · out_jk)
    """
)


@pinv.vjp("a")
def _(g, a, out):
    gt, outt = matrix_transpose(g), matrix_transpose(out)
    left = gt - a @ (out @ gt)  # outside of the columns of a
    right = gt - (gt @ out) @ a  # outside of its rows
    return left @ out @ outt + outt @ out @ right - outt @ g @ outt


@pinv.sample
def _(draw):
    m, n = draw.integer(0, 3), draw.integer(0, 3)
    return draw.call(draw_separated(draw, m, n, draw.shape(max_dims=1)), draw.choice([1e-15, 1e-9]))


def drops(a, rcond):
    """Return whether the bound `rcond` makes singular values 0 that are more than rounding."""
    a, side = plain(a), max(a.shape[-2:])
    if a.dtype.kind == "f" and np.all(np.less_equal(rcond, side * np.finfo(a.dtype).eps)):
        return False
    values = np.linalg.svdvals(a)
    cutoff = np.asarray(rcond)[..., None] * values[..., :1]
    return ((values <= cutoff) & (values > rounding(values, side))).any()


@implements(np.linalg.pinv)
def _(a, rcond=None, hermitian=False, *, rtol=NOT_GIVEN):
    if rcond is None:
        smallest = max(np.shape(a)[-2:]) * np.finfo(a.dtype).eps if rtol is None else rtol
        rcond = 1e-15 if rtol is NOT_GIVEN else smallest
    elif rtol is not NOT_GIVEN:
        raise ValueError(f"pinv: rcond is {rcond} and rtol is {rtol}; expected only one of them")
    if hermitian and np.size(a):
        a = symmetric(a, "L")
    if not drops(a, rcond):
        return pinv(a, rcond)
    u, values, vh = np.linalg.svd(a, full_matrices=False)
    large = values > np.asarray(rcond)[..., None] * values[..., :1]
    inverse = np.where(large, 1 / np.where(large, values, 1), 0)
    return matrix_transpose(vh) @ (inverse[..., None] * matrix_transpose(u))


@op
def lstsq(a, b, rcond=None):
    """Return the shortest of all x for which a x is closest to b; the rank counts as constant.

    Shapes ``(m, n), (m,) -> (n,)``, or ``(m, n), (m, k) -> (n, k)``. The derivative is that of
    the pseudoinverse of a, times b.
    """
    if rcond is not None:
        check_number("lstsq", "rcond", rcond)
    return np.linalg.lstsq(a, b, rcond)[0]


def cutoff_of(a, rcond):
    """Return the ratio below which ``np.linalg.lstsq`` takes singular values for 0."""
    eps = np.finfo(float).eps  # NumPy computes in float64
    return eps * max(a.shape) if rcond is None else eps if rcond < 0 else rcond


@lstsq.vjp("a", "b")
def _(g, a, b, out, rcond):
    if vector := b.ndim == 1:
        g, b, out = g[:, None], b[:, None], out[:, None]
    inverse = pinv(a, cutoff_of(a, rcond))
    inverset = matrix_transpose(inverse)
    g_b = inverset @ g
    outside = g - inverse @ (a @ g)  # of the rows of a
    g_a = (b - a @ out) @ matrix_transpose(inverse @ g_b) - g_b @ matrix_transpose(out)
    g_a = g_a + inverset @ out @ matrix_transpose(outside)
    return g_a, g_b[:, 0] if vector else g_b


@lstsq.formula(p=lambda a: np.linalg.pinv(a))
def _(b_shape=(3,)):
    k = "" if len(b_shape) == 1 else "k"
    total = f"r_i{k} · v_j{k} - u_i{k} · out_j{k} + w_i{k} · o_j{k}"
    return f"""
        out_j{k} = Σ_i p_ji · b_i{k}  # p is the pseudoinverse
        r_i{k} = b_i{k} - Σ_j a_ij · out_j{k}
        u_i{k} = Σ_j p_ji · g_j{k}
        x_i{k} = Σ_j a_ij · g_j{k}
        o_j{k} = g_j{k} - Σ_i p_ji · x_i{k}
        v_j{k} = Σ_i p_ji · u_i{k}
        w_i{k} = Σ_j p_ji · out_j{k}
        da_ij = {f"Σ_k ({total})" if k else total}
        db_i{k} = u_i{k}
    """


@lstsq.sample
def _(draw):
    m, n = draw.integer(0, 3), draw.integer(1, 3)
    b = draw.array(shape=(m, 2) if draw.boolean() else (m,))
    return draw.call(draw_separated(draw, m, n), b, draw.choice([None, -1, 1e-9]))


@implements(np.linalg.lstsq, inputs=("a", "b"))
def _(a, b, rcond=None):
    _, residuals, rank, _ = np.linalg.lstsq(plain(a), plain(b), rcond)
    a, b = (x if isinstance(x, TensorBase) else np.asarray(x) for x in (a, b))
    if drops(a, cutoff_of(a, rcond)):
        x = np.linalg.pinv(a, cutoff_of(a, rcond)) @ b
    else:
        x = lstsq(a, b, rcond)
    if residuals.size:
        residuals = np.sum((b - a @ x) ** 2, axis=0, keepdims=b.ndim == 1)
    return x, as_tensors(residuals), rank, as_tensors(np.linalg.svdvals(a))


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
