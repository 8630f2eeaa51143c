"""Matrix products, einsum, and the functions of ``np.linalg``.

Gradients of matrix functions are matrix products themselves: for out = x y they are dx = g y^T and
dy = x^T g, and for the inverse -out^T g out^T. All functions of matrices are batched over the axes
before the last two.
"""

import math
import operator
import string

import numpy as np
from numpy import ndarray
from numpy.lib.array_utils import normalize_axis_tuple

from autograd.engine import TensorBase
from autograd.kernels import kernel
from autograd.op import implements, op


@implements(np.matmul, np.linalg.matmul)
@op(broadcasts=True)
def matmul(x, y):
    """Matrix product of the last two axes, batched over the others, as ``np.matmul``.

    Shapes ``(..., n, k) @ (..., k, m) -> (..., n, m)``; a vector on the left is a row, on the right
    a column.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 2 or y.ndim != 2:
        return np.matmul(x, y)
    # y is one matrix for the whole batch: one product of (batch * n, k) by (k, m) takes less time
    # than a product for each x of the batch.
    out = product(rows(x), y)
    return out if x.ndim == 2 else out.reshape(*x.shape[:-1], y.shape[1])


# Multiplications: for fewer, NumPy takes less time than preparing the threads. From here on NumPy's
# BLAS would use threads of its own, which spin afterwards for some 20 ms on a processor that
# kernels need: all kernels of a model would be slower.
LARGE = 2**18


def product(x, y, bias=None):
    """Return ``x @ y + bias`` of matrices."""
    return (large_product if x.size * y.shape[1] > LARGE else small_product)(x, y, bias)


@kernel("product.product")
def large_product(x, y, bias):
    """Return the same by a kernel, whose threads share the work."""
    return small_product(x, y, bias)


def small_product(x, y, bias):
    """Return the same by NumPy, whose `dot` takes a third of the time of `@` for small arrays."""
    fits = type(x) is ndarray is type(y) and x.shape[1] == y.shape[0]
    out = x.dot(y) if fits else x @ y
    if bias is not None:
        out += bias
    return out


def rows(x):
    """Return an array as the matrix of its rows: (2, 3, 4) -> (6, 4)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def matrix_gradient(x, g, y):
    """Return ``x.T @ g``, the gradient of y in ``x @ y``, in the order in memory that y has.

    A model's head multiplies by the transpose of its embedding table. The gradient of the table is
    then a sum of two: if they lay in memory in two orders, the sum would take many times as long.
    """
    flags = getattr(y, "_array", y).flags  # y is a Tensor in a backward pass that is recorded
    if flags.c_contiguous or not flags.f_contiguous:
        return product(x.T, g)
    return product(g.T, x).T


@matmul.formula
def _(x_shape=(2, 3), y_shape=(3, 2)):
    if len(x_shape) == len(y_shape) == 1:
        return "out = Σ_j x_j · y_j; dx_j = g · y_j; dy_j = x_j · g"
    if len(y_shape) == 1:
        return "out_i = Σ_j x_ij · y_j; dx_ij = g_i · y_j; dy_j = Σ_i x_ij · g_i"
    if len(x_shape) == 1:
        return "out_k = Σ_j x_j · y_jk; dx_j = Σ_k g_k · y_jk; dy_jk = x_j · g_k"
    return "out_ik = Σ_j x_ij · y_jk; dx_ij = Σ_k g_ik · y_jk; dy_jk = Σ_i x_ij · g_ik"


@matmul.vjp("x")
def _(g, y, x_shape):
    if y.ndim == 1:
        return g[..., None] * y  # (..., n, 1) * (k,)
    if len(x_shape) == 1:
        return (y @ g[..., None])[..., 0]  # (..., k, m) @ (..., m, 1)
    if y.ndim == 2:
        dx = product(rows(g), y.T)  # (... n, m) @ (m, k)
        return dx if len(x_shape) == 2 else dx.reshape(x_shape)
    return g @ np.swapaxes(y, -1, -2)  # (..., n, m) @ (..., m, k)


@matmul.vjp("y")
def _(g, x, y):
    if x.ndim == 1:
        return x * g[..., None] if y.ndim == 1 else x[:, None] * g[..., None, :]
    if y.ndim == 1:
        return (np.swapaxes(x, -1, -2) @ g[..., None])[..., 0]  # (..., k, n) @ (..., n, 1)
    if y.ndim == 2:
        return matrix_gradient(rows(x), rows(g), y)  # (k, ... n) @ (... n, m): sums over the batch
    return np.swapaxes(x, -1, -2) @ g  # (..., k, n) @ (..., n, m)


@matmul.sample
def _(draw):
    n, k, m = draw.integer(0, 3), draw.integer(1, 3), draw.integer(1, 3)
    batch_x, batch_y = draw.choice([((), ()), ((2,), ()), ((), (2,)), ((2, 1), (3,)), ((0,), ())])
    x, y = draw.choice(
        [((*batch_x, n, k), (*batch_y, k, m)), ((k,), (*batch_y, k, m)), ((*batch_x, n, k), (k,))]
        + [((k,), (k,))]
    )
    return draw.call(draw.array(shape=x), draw.array(shape=y))


# ---- einsum


@op(broadcasts=True)
def einsum(*operands, subscripts):
    """Sum of products over labelled axes, with explicit subscripts: ``"ij,jk->ik"``.

    ``np.einsum`` on tensors brings its other forms (ellipsis, no arrow) to this one.
    """
    return np.einsum(subscripts, *operands, optimize=True)


@einsum.formula
def _(subscripts="ij,jk->ik"):
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")

    def term(name, letters):
        return f"{name}_{letters}" if letters else name

    def total(letters, kept):
        return "".join(f"Σ_{c} " for c in dict.fromkeys(letters) if c not in kept)

    operands = [term(f"x{i}", group) for i, group in enumerate(labels)]
    lines = [
        f"{term('out', output)} = {total(inputs.replace(',', ''), output)}" + " · ".join(operands)
    ]
    for i, group in enumerate(labels):
        # an axis that stands twice gets a letter of its own for the second time
        known, own, same = inputs + output, "", ""
        for letter in group:
            fresh = _unused(known + own) if letter in own else letter
            same += f" · [{letter} = {fresh}]" if fresh != letter else ""
            own += fresh
        others = [term("g", output), *operands[:i], *operands[i + 1 :]]
        rest = output + "".join(labels[:i] + labels[i + 1 :])
        lines.append(f"{term(f'dx{i}', own)} = {total(rest, group)}" + " · ".join(others) + same)
    return "\n".join(lines)


@einsum.vjp("operands")
def _(g, operands, subscripts, needs):
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")
    return [
        _einsum_gradient(g, output, operands, labels, i) if needed else None
        for i, needed in enumerate(needs)
    ]


def _einsum_gradient(g, output, operands, labels, i):
    """Return the cotangent of operand i: g times the other operands, summed over all other axes.

    For ``ij,jk->ik`` and the first operand that is ``ik,jk->ij``, the product g y^T. Two cases need
    one more factor. In ``ii->i``, the axis i of x stands twice, and only the diagonal is read: the
    gradient ``i,ij->ij`` has an identity matrix as its second operand. In ``ij->i``, the axis j is
    summed and stands in nothing else: ``i,j->ij`` has ones as its second operand.
    """
    factors = [(output, g)] + [(labels[j], x) for j, x in enumerate(operands) if j != i]
    target = ""
    for axis, label in enumerate(labels[i]):
        n = operands[i].shape[axis]
        if label in target:  # the label stood before: a diagonal
            fresh = _unused("".join(labels) + output + target)
            factors.append((label + fresh, np.eye(n, dtype=g.dtype)))
            label = fresh
        elif not any(label in known and x.shape[known.index(label)] == n for known, x in factors):
            # the axis is summed by itself, or has the size 1 in the other operands
            factors.append((label, np.ones(n, g.dtype)))
        target += label
    subscripts = ",".join(known for known, _ in factors) + "->" + target
    return einsum(*(x for _, x in factors), subscripts=subscripts)


def _in_letters(*given):
    """Return subscripts and operands of a call that gives the subscripts as lists of numbers.

    ``einsum(x, [0, 1], y, [1, 2], [0, 2])`` means the subscripts ``"AB,BC->AC"``.
    """
    letters = string.ascii_uppercase + string.ascii_lowercase  # in the order of the numbers

    def written(group):
        group = [i if i is ... else operator.index(i) for i in group]
        if any(i is not ... and not 0 <= i < 52 for i in group):
            raise ValueError(f"einsum: subscripts {group}; expected numbers from 0 to 51")
        return "".join("..." if i is ... else letters[i] for i in group)

    groups = ",".join(map(written, given[1::2]))
    if len(given) % 2:
        return groups + "->" + written(given[-1]), given[:-1:2]
    return groups, given[::2]


def _unused(known):
    """Return a letter that is not among those known."""
    return next(letter for letter in string.ascii_letters if letter not in known)


@implements(np.einsum, inputs=("subscripts", "operands"))
def _(subscripts, *operands, optimize=True):
    if not isinstance(subscripts, str):  # einsum(x, [0, 1], y, [1, 2], [0, 2])
        subscripts, operands = _in_letters(subscripts, *operands)
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    labels = inputs.split(",")
    if len(labels) != len(operands):
        raise ValueError(f"einsum: {len(labels)} groups of subscripts, {len(operands)} operands")
    # An ellipsis becomes letters. For "...ij,...jk" and operands of 4 and 3 axes, the ellipses
    # stand for 2 axes and 1: two new letters are chosen, "ab", and the subscripts become
    # "abij,bjk". As in broadcasting, the letters are aligned at the end.
    rest = [
        np.ndim(x) - len(label.replace("...", ""))
        for x, label in zip(operands, labels, strict=True)
    ]
    letters = ""
    for _ in range(
        max((n for n, group in zip(rest, labels, strict=True) if "..." in group), default=0)
    ):
        letters += _unused(inputs + output + letters)
    for i, label in enumerate(labels):
        labels[i] = label.replace("...", letters[len(letters) - rest[i] :] if rest[i] else "")
    if arrow and letters and "..." not in output:
        raise ValueError("einsum: an ellipsis stands for axes in the inputs, and not in the output")
    if arrow:
        output = output.replace("...", letters)
    else:  # without an arrow, letters that stand once are the output, in alphabetical order
        joined = inputs.replace("...", "").replace(",", "")
        output = letters + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return einsum(*operands, subscripts=",".join(labels) + "->" + output)


@einsum.sample
def _(draw):
    sizes = {label: draw.integer(1, 3) for label in "ijkl"}
    subscripts = draw.choice(
        ["ij,jk->ik", "ii->i", "ii->", "ij->", "iij,j->ji", "ijk,kl,j->il", "i,j->ij", "ij,ij->"]
    )
    labels = subscripts.split("->")[0].split(",")
    arrays = [draw.array(shape=tuple(sizes[c] for c in group)) for group in labels]
    return draw.call(*arrays, subscripts=subscripts)


# ---- the other products, in terms of these


@implements(np.tensordot, inputs=("a", "b"))
def tensordot(a, b, axes=2):
    """Sum of products over pairs of axes: the last of a and the first of b, or as given."""
    if np.ndim(axes) == 0:
        axes = range(np.ndim(a) - axes, np.ndim(a)), range(axes)
    axes_a, axes_b = ([x] if np.ndim(x) == 0 else list(x) for x in axes)
    if len(axes_a) != len(axes_b):
        raise ValueError(f"tensordot: {len(axes_a)} axes of a, and {len(axes_b)} of b")
    axes_a = normalize_axis_tuple(axes_a, np.ndim(a))  # no axis twice
    axes_b = normalize_axis_tuple(axes_b, np.ndim(b))
    labels_a = list(string.ascii_lowercase[: np.ndim(a)])
    labels_b = list(string.ascii_uppercase[: np.ndim(b)])
    for i, j in zip(axes_a, axes_b, strict=True):
        if np.shape(a)[i] != np.shape(b)[j]:
            raise ValueError(
                f"tensordot: axis {i} of shape {np.shape(a)} and axis {j} of shape {np.shape(b)}"
            )
        labels_b[j] = labels_a[i]
    summed = {labels_a[i] for i in axes_a}
    output = [label for label in labels_a + labels_b if label not in summed]
    subscripts = "".join(labels_a) + "," + "".join(labels_b) + "->" + "".join(output)
    return einsum(a, b, subscripts=subscripts)


@implements(np.dot, inputs=("a", "b"))
def _(a, b):
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return np.multiply(a, b)
    return tensordot(a, b, (-1, -1 if np.ndim(b) == 1 else -2))


@implements(np.inner, inputs=("a", "b"))
def _(a, b):
    return np.multiply(a, b) if 0 in (np.ndim(a), np.ndim(b)) else tensordot(a, b, (-1, -1))


@implements(np.outer, inputs=("a", "b"))
def _(a, b):
    return np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1))


@implements(np.vdot, inputs=("a", "b"))
def _(a, b):
    return tensordot(np.reshape(a, -1), np.reshape(b, -1), 1)


@implements(np.linalg.tensordot, inputs=("x1", "x2"))
def _(x1, x2, *, axes=2):
    return tensordot(x1, x2, axes)


@implements(np.linalg.outer, inputs=("x1", "x2"))
def _(x1, x2):
    if np.ndim(x1) != 1 or np.ndim(x2) != 1:
        raise ValueError(f"outer: expected two vectors, got shapes {np.shape(x1)}, {np.shape(x2)}")
    return np.outer(x1, x2)


@implements(np.vecdot, np.linalg.vecdot, inputs=("x1", "x2"))
def _(x1, x2, *, axis=-1):
    x1, x2 = np.moveaxis(x1, axis, -1), np.moveaxis(x2, axis, -1)
    if x1.shape[-1] != x2.shape[-1]:
        raise ValueError(f"vecdot: {x1.shape[-1]} elements on the axis of x1, {x2.shape[-1]} of x2")
    return np.sum(x1 * x2, -1)


@implements(np.linalg.multi_dot)
def _(arrays):
    """Write the chain as one einsum, which finds the cheapest order of the products."""
    arrays = [x if isinstance(x, TensorBase) else np.asarray(x) for x in arrays]
    if len(arrays) < 2:
        raise ValueError(f"multi_dot: expected two arrays or more, and was given {len(arrays)}")
    if len(arrays) == 2:
        return np.dot(*arrays)
    for i, x in enumerate(arrays):
        if x.ndim != 2 and not (x.ndim == 1 and i in (0, len(arrays) - 1)):
            raise np.linalg.LinAlgError(f"multi_dot: array {i} has shape {x.shape}, not two axes")
        if i and arrays[i - 1].shape[-1] != x.shape[0]:
            raise ValueError(
                f"multi_dot: arrays {i - 1} and {i} of shapes {arrays[i - 1].shape} and {x.shape}"
            )
    labels = ["".join(string.ascii_letters[i : i + 2]) for i in range(len(arrays))]
    if np.ndim(arrays[0]) == 1:
        labels[0] = labels[0][1]
    if np.ndim(arrays[-1]) == 1:
        labels[-1] = labels[-1][0]
    ends = [c for c in dict.fromkeys("".join(labels)) if "".join(labels).count(c) == 1]
    return einsum(*arrays, subscripts=",".join(labels) + "->" + "".join(ends))


@implements(np.linalg.matrix_power)
def matrix_power(a, n):
    """Product of n copies of a matrix, by repeated squaring; if n is negative, of its inverse."""
    if np.ndim(a) < 2 or np.shape(a)[-1] != np.shape(a)[-2]:
        raise np.linalg.LinAlgError(f"matrix_power: expected square matrices, got {np.shape(a)}")
    if operator.index(n) < 0:
        return matrix_power(inv(a), -n)
    if n == 0:
        return np.multiply(a, 0) + np.eye(np.shape(a)[-1], dtype=a.dtype)
    if n == 1:
        return a
    half = matrix_power(a, n // 2)
    square = np.matmul(half, half)
    return np.matmul(square, a) if n % 2 else square


# ---- inverses, determinants and factors of square matrices, batched over the leading axes


def matrix_transpose(x):
    """Exchange the last two axes."""
    return np.swapaxes(x, -1, -2)


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def _(x):
    if np.ndim(x) < 2:
        raise ValueError(f"matrix_transpose: expected a matrix, got shape {np.shape(x)}")
    return matrix_transpose(x)


@op
def inv(a):
    """Inverse of square matrices, ``(..., n, n)``; ``LinAlgError`` if one is singular."""
    return np.linalg.inv(a)


inv.formula("Σ_j a_ij · out_jk = [i = k]; da_ij = -Σ_k Σ_l out_ki · g_kl · out_jl")
inv.vjp(a=lambda g, out: -matrix_transpose(out) @ g @ matrix_transpose(out))
implements(np.linalg.inv)(lambda a: inv(a))


def draw_matrix(draw, batch=None, n=None):
    """Draw square matrices with dominating diagonals, near 2 or -2: they are far from singular."""
    batch = draw.shape(max_dims=1) if batch is None else batch
    n = draw.integer(0, 3) if n is None else n
    x = draw.array(shape=(*batch, n, n), low=-0.5, high=0.5)
    x += draw.choice([-2, 2]) * np.eye(n)
    return x


@inv.sample
def _(draw):
    return draw.call(draw_matrix(draw))


@op(broadcasts=True)
def solve(a, b):
    """Return the x with a x = b; ``LinAlgError`` if a matrix is singular.

    Shapes ``(..., n, n)``, ``(..., n, k) -> (..., n, k)``. As in NumPy 2, ``b`` is a vector only if
    it has one axis: ``(..., n, n)``, ``(n,) -> (..., n)``.
    """
    return np.linalg.solve(a, b)


@solve.formula(c=lambda a: np.linalg.inv(a))
def _(b_shape=(2, 1)):
    if len(b_shape) == 1:
        return """
            Σ_j a_ij · c_jk = [i = k]  # c is the inverse
            out_i = Σ_j c_ij · b_j
            da_ij = -(Σ_k c_ki · g_k) · out_j
            db_j = Σ_i c_ij · g_i
        """
    return """
        Σ_j a_ij · c_jk = [i = k]  # c is the inverse
        out_ik = Σ_j c_ij · b_jk
        da_ij = -Σ_l (Σ_k c_ki · g_kl) · out_jl
        db_jk = Σ_i c_ij · g_ik
    """


@solve.vjp("a", "b")
def _(g, a, out, b_shape):
    if vector := len(b_shape) == 1:
        g, out = g[..., None], out[..., None]  # (..., n) -> (..., n, 1)
    g_b = np.linalg.solve(matrix_transpose(a), g)
    g_a = -g_b @ matrix_transpose(out)
    return g_a, g_b[..., 0] if vector else g_b


implements(np.linalg.solve, inputs=("a", "b"))(lambda a, b: solve(a, b))


@solve.sample
def _(draw):
    n = draw.integer(0, 3)
    batch_a, batch_b = draw.choice([((), ()), ((2,), ()), ((), (2,)), ((2, 1), (3,)), ((0,), ())])
    b = draw.choice([(n,), (*batch_b, n, 2)])
    return draw.call(draw_matrix(draw, batch_a, n), draw.array(shape=b))


@op
def det(a):
    """Compute the determinant of square matrices, ``(..., n, n) -> (...)``.

    The gradient is the matrix of cofactors, also for singular matrices. Up to 5 x 5 it is computed
    from minors. Above, it is computed from the inverse, and from minors (in n^5 operations) if a
    determinant is 0. With the inverse, higher derivatives lose digits where a matrix is close to
    singular.
    """
    return np.linalg.det(a)


det.formula(
    "out = d  # the determinant; Σ_j a_ij · da_kj = g · out · [i = k]",
    d=lambda a: np.linalg.det(a),
)


@det.vjp("a")
def _(g, a, out):
    n = a.shape[-1]
    if n > 5 and np.all(out != 0):
        return (g * out)[..., None, None] * matrix_transpose(np.linalg.inv(a))
    # The gradient of element (i, j) is (-1)^(i + j) times the determinant of a without row i and
    # column j. `others[i]` are all numbers but i: for n = 3, [[1, 2], [0, 2], [0, 1]].
    others = np.nonzero(~np.eye(n, dtype=bool))[1].reshape(n, max(n - 1, 0))
    rows, columns = others[:, None, :, None], others[None, :, None, :]
    minors = np.linalg.det(a[..., rows, columns])  # (..., n, n, n - 1, n - 1) -> (..., n, n)
    signs = 1 - 2 * (np.indices((n, n)).sum(0) % 2)
    return g[..., None, None] * signs.astype(a.dtype) * minors


implements(np.linalg.det)(lambda a: det(a))


@det.sample
def _(draw):
    n = draw.integer(0, 3)
    return draw.call(draw.array(shape=(*draw.shape(max_dims=1), n, n)))


@op(multiple=True)
def slogdet(a):
    """Sign of the determinant, and logarithm of its absolute value: ``(..., n, n) -> (...)``."""
    return tuple(np.linalg.slogdet(a))


slogdet.formula(
    "out0 = sign(d)  # d is the determinant; out1 = log(|d|); Σ_j a_ij · da_kj = g1 · [i = k]",
    d=lambda a: np.linalg.det(a),
)


@slogdet.vjp("a")
def _(g, a):
    _, g = g  # the sign is constant
    return g[..., None, None] * matrix_transpose(np.linalg.inv(a))


slogdet.sample(inv.sampler)


@implements(np.linalg.slogdet)
def _(a):
    sign, logabsdet = slogdet(a)
    return SlogdetResult(sign.detach(), logabsdet)


SlogdetResult = type(np.linalg.slogdet(np.eye(1)))  # a named tuple, which NumPy does not export


@op
def cholesky(a):
    """Lower triangular L with L L^T = a, for positive definite matrices ``(..., n, n)``.

    A function of the symmetric part (a + a^T) / 2, where NumPy reads one triangle; so the gradient
    is symmetric, as PyTorch's. ``LinAlgError`` if a matrix is not positive definite. Murray 2016,
    arXiv:1602.07527.
    """
    return np.linalg.cholesky((a + matrix_transpose(a)) / 2)


# phi, the lower triangle of L^T g with half of the diagonal, determines the gradient:
cholesky.formula(
    """
    Σ_k out_ik · out_jk = (a_ij + a_ji) / 2
    phi_ij = (Σ_k out_ki · g_kj) · ([i > j] + [i = j] / 2)
    Σ_k Σ_l out_ki · da_kl · out_lj = (phi_ij + phi_ji) / 2
    """
)


@cholesky.vjp("a")
def _(g, out):
    inverse = np.linalg.inv(out)
    half = np.tri(out.shape[-1], dtype=out.dtype) - np.eye(out.shape[-1], dtype=out.dtype) / 2
    s = matrix_transpose(inverse) @ (matrix_transpose(out) @ g * half) @ inverse
    return (s + matrix_transpose(s)) / 2


@implements(np.linalg.cholesky)
def _(a, *, upper=False):
    return matrix_transpose(cholesky(a)) if upper else cholesky(a)


@cholesky.sample
def _(draw):
    x = draw_matrix(draw)
    x *= np.sign(np.trace(x, axis1=-2, axis2=-1))[..., None, None]
    return draw.call(x)


# ---- diagonals, over the last two axes


implements(np.linalg.diagonal)(lambda x, *, offset=0: np.diagonal(x, offset, -2, -1))
implements(np.linalg.trace)(lambda x, *, offset=0: np.trace(x, offset, -2, -1))
