"""Products of sequences and vectors: convolution, correlation, cross, kron, and polynomials."""

import numpy as np

from autograd.dispatch import NoRule, plain
from autograd.op import implements, op
from autograd.ops.composing import array_of, composes

# ---- convolution and correlation: each is the other's derivative


@op
def convolve(a, v):
    """Sum of the products of shifted sequences: lengths n and m give n + m - 1."""
    return np.convolve(a, v)


@op
def correlate(a, v):
    """Dot product of v with each window of a: lengths n and m <= n give n - m + 1."""
    return np.correlate(a, v)


convolve.formula(
    "out_i = Σ_j a_{i - j} · v_j; da_i = Σ_j g_{i + j} · v_j; dv_j = Σ_i a_i · g_{i + j}"
)
convolve.vjp(a=lambda g, v: correlate(g, v), v=lambda g, a: correlate(g, a))
correlate.formula(
    "out_i = Σ_j a_{i + j} · v_j; da_i = Σ_j g_{i - j} · v_j; dv_j = Σ_i a_{i + j} · g_i"
)
correlate.vjp(a=lambda g, v: convolve(g, v), v=lambda g, a: correlate(a, g))


@convolve.sample
@correlate.sample
def _(draw):
    n, m = draw.integer(3, 5), draw.integer(1, 3)
    return draw.call(draw.array(shape=(n,)), draw.array(shape=(m,)))


def correlated(a, v, mode):
    """Return ``np.correlate(a, v, mode)``, where v is no longer than a."""
    if mode == "valid":
        return correlate(a, v)
    full = convolve(a, np.flip(v))
    # "same" is the middle of "full", which is longer by len(v) - 1
    start = (len(v) - 1) // 2
    return full if mode == "full" else full[start : start + len(a)]


def check(function, a, v, mode):
    """Raise what NumPy raises for a call, if it does."""
    if mode not in ("full", "same", "valid") or 0 in (
        np.size(a),
        np.size(v),
        np.ndim(a),
        np.ndim(v),
    ):
        function(plain(a), plain(v), mode)  # raises, unless the mode has an older name
        raise NoRule(f"mode={mode!r}")


@implements(np.convolve, inputs=("a", "v"))
def _(a, v, mode="full"):
    a, v = np.atleast_1d(a, v)
    check(np.convolve, a, v, mode)
    if len(v) > len(a):
        a, v = v, a
    return correlated(a, np.flip(v), mode)


@implements(np.correlate, inputs=("a", "v"))
def _(a, v, mode="valid"):
    a, v = array_of(a), array_of(v)
    check(np.correlate, a, v, mode)
    return np.flip(correlated(v, a, mode)) if len(v) > len(a) else correlated(a, v, mode)


# ---- products of vectors and matrices


@composes(np.cross, inputs=("a", "b"))
def _(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = np.moveaxis(array_of(a), axisa, 0), np.moveaxis(array_of(b), axisb, 0)
    third = a[0] * b[1] - a[1] * b[0]
    if len(a) == len(b) == 2:
        return third
    a2, b2 = (x[2] if len(x) == 3 else 0 for x in (a, b))
    return np.stack([a[1] * b2 - a2 * b[1], a2 * b[0] - a[0] * b2, third], axis=axisc)


@composes(np.linalg.cross, inputs=("x1", "x2"))
def _(x1, x2, *, axis=-1):
    return np.cross(x1, x2, axis=axis)


@composes(np.kron, inputs=("a", "b"))
def _(a, b):
    a, b = array_of(a), array_of(b)
    ndim = max(a.ndim, b.ndim)
    shapes = [(1,) * (ndim - x.ndim) + x.shape for x in (a, b)]
    # Each axis of the result is a pair of axes, first of a, then of b: for shapes (2, 3) and
    # (4, 5), (2, 1, 3, 1) times (1, 4, 1, 5) is (2, 4, 3, 5), and is reshaped to (8, 15).
    a = np.reshape(a, tuple(k for n in shapes[0] for k in (n, 1)))
    b = np.reshape(b, tuple(k for n in shapes[1] for k in (1, n)))
    return np.reshape(a * b, tuple(n * m for n, m in zip(*shapes, strict=True)))


def matvec(x1, x2):
    """Multiply matrices by column vectors: ``(..., n, k), (..., k) -> (..., n)``."""
    return np.squeeze(array_of(x1) @ array_of(x2)[..., None], -1)


def vecmat(x1, x2):
    """Multiply row vectors by matrices: ``(..., n), (..., n, k) -> (..., k)``."""
    return np.squeeze(array_of(x1)[..., None, :] @ array_of(x2), -2)


if hasattr(np, "matvec"):  # since NumPy 2.2
    composes(np.matvec, inputs=("x1", "x2"))(matvec)
    composes(np.vecmat, inputs=("x1", "x2"))(vecmat)


# ---- polynomials


@composes(np.vander)
def _(x, N=None, increasing=False):
    powers = np.arange(len(x) if N is None else N)
    return array_of(x)[:, None] ** (powers if increasing else powers[::-1])


@composes(np.polyval, inputs=("p", "x"))
def _(p, x):
    if isinstance(x, np.poly1d):
        raise NoRule("an object of np.poly1d")
    x = array_of(x)
    out = np.zeros(x.shape)
    for coefficient in array_of(p):
        out = out * x + coefficient
    return out


def coefficients(p):
    """Return the coefficients of a polynomial."""
    if isinstance(p, np.poly1d):
        raise NoRule("an object of np.poly1d")
    return array_of(p)


def of_one_degree(a1, a2):
    """Return the coefficients of two polynomials; the shorter has zeros in front."""
    a1, a2 = np.atleast_1d(coefficients(a1), coefficients(a2))
    n = max(len(a1), len(a2))
    return [p if len(p) == n else np.concatenate([np.zeros(n - len(p)), p]) for p in (a1, a2)]


composes(np.polyadd, inputs=("a1", "a2"))(lambda a1, a2: np.add(*of_one_degree(a1, a2)))
composes(np.polysub, inputs=("a1", "a2"))(lambda a1, a2: np.subtract(*of_one_degree(a1, a2)))


@composes(np.polymul, inputs=("a1", "a2"))
def _(a1, a2):
    return convolve(without_leading_zeros(a1), without_leading_zeros(a2))


def without_leading_zeros(p):
    """Return coefficients from the first that is not 0, or the last."""
    p = np.atleast_1d(coefficients(p))
    found = np.flatnonzero(p)
    return p[found[0] if found.size else len(p) - 1 :]


@composes(np.polyder)
def _(p, m=1):
    p = coefficients(p)
    for _ in range(int(m)):
        p = p[:-1] * np.arange(len(p) - 1, 0, -1)
    return p


@composes(np.polyint, inputs=("p", "k"))
def _(p, m=1, k=None):
    p, m = coefficients(p), int(m)
    k = np.broadcast_to(array_of(0.0 if k is None else k), (m,)) if np.size(k) == 1 else array_of(k)
    for i in range(m):
        p = np.concatenate([p / np.arange(len(p), 0, -1), k[i : i + 1]])
    return p


@composes(np.poly)
def _(seq_of_zeros):
    zeros = np.atleast_1d(seq_of_zeros)
    if zeros.ndim != 1:
        raise NoRule("a matrix")  # whose eigenvalues may be complex
    out = np.ones(1)
    for i in range(len(zeros)):
        out = convolve(out, np.concatenate([np.ones(1), -zeros[i : i + 1]]))
    return out


@composes(np.polyfit, inputs=("x", "y", "w"))
def _(x, y, deg, rcond=None, full=False, w=None, cov=False):
    x, y = array_of(x), array_of(y).astype(float)
    rcond = len(x) * np.finfo(np.result_type(x.dtype, 0.0)).eps if rcond is None else rcond
    x = x.astype(float)
    powers, weighted = np.vander(x, int(deg) + 1), y
    if w is not None:
        w = array_of(w)
        powers, weighted = powers * w[:, None], (w * y.T).T
    scale = np.linalg.vector_norm(powers, axis=0)
    p, residuals, rank, s = np.linalg.lstsq(powers / scale, weighted, rcond)
    p = (p.T / scale).T
    if full:
        return p, residuals, rank, s, rcond
    if not cov:
        return p
    scaled = powers / scale
    spread = np.linalg.inv(scaled.T @ scaled) / np.outer(scale, scale)
    spread = spread if y.ndim == 1 else spread[..., None]
    if cov != "unscaled":
        spread = spread * residuals / (len(x) - len(scale))
    return p, spread
