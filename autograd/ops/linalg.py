"""Matrix products."""

import math
import string

import numpy as np

from autograd.op import implements, op


@implements(np.matmul)
@op(broadcasts=True)
def matmul(x, y):
    """Matrix product of the last two axes, batched over the others, as ``np.matmul``.

    Shapes ``(..., n, k) @ (..., k, m) -> (..., n, m)``; a vector on the left is a row, on the right
    a column.
    """
    if x.ndim > 2 and y.ndim == 2:  # one large product instead of a small one for each batch entry
        out = rows(x) @ y  # (..., n, k) -> (... n, k) @ (k, m)
        return out.reshape(*x.shape[:-1], y.shape[1])
    return np.matmul(x, y)


def rows(x):
    """Return an array as a matrix of its rows."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


@matmul.vjp("x")
def _(g, y, x_shape):
    if y.ndim == 1:
        return g[..., None] * y  # (..., n, 1) * (k,)
    if len(x_shape) == 1:
        return (y @ g[..., None])[..., 0]  # (..., k, m) @ (..., m, 1)
    return g @ np.swapaxes(y, -1, -2)  # (..., n, m) @ (..., m, k)


@matmul.vjp("y")
def _(g, x, y_shape):
    if x.ndim == 1:
        return x * g[..., None] if len(y_shape) == 1 else x[:, None] * g[..., None, :]
    if len(y_shape) == 1:
        return (np.swapaxes(x, -1, -2) @ g[..., None])[..., 0]  # (..., k, n) @ (..., n, 1)
    if len(y_shape) == 2:
        return np.swapaxes(rows(x), 0, 1) @ rows(g)  # (k, ... n) @ (... n, m): sums over the batch
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


@einsum.vjp("operands")
def _(g, operands, subscripts, needs):
    inputs, output = subscripts.split("->")
    labels = inputs.split(",")
    return [
        _einsum_gradient(g, output, operands, labels, i) if needed else None
        for i, needed in enumerate(needs)
    ]


def _einsum_gradient(g, output, operands, labels, i):
    """Return the cotangent of operand i: g times the others, summed over all axes but its own."""
    factors = [(output, g)] + [(labels[j], x) for j, x in enumerate(operands) if j != i]
    target = ""
    for axis, label in enumerate(labels[i]):
        n = operands[i].shape[axis]
        if label in target:  # a diagonal was read: the gradient is zero off it
            fresh = _unused("".join(labels) + output + target)
            factors.append((label + fresh, np.eye(n, dtype=g.dtype)))
            label = fresh
        elif not any(label in known for known, _ in factors):  # an axis summed on its own
            factors.append((label, np.ones(n, g.dtype)))
        target += label
    subscripts = ",".join(known for known, _ in factors) + "->" + target
    return einsum(*(x for _, x in factors), subscripts=subscripts)


def _unused(known):
    """Return a letter that is not among those known."""
    return next(letter for letter in string.ascii_letters if letter not in known)


@implements(np.einsum)
def _(subscripts, *operands, optimize=True):
    if not isinstance(subscripts, str):
        raise TypeError("np.einsum on tensors takes its subscripts as a string, 'ij,jk->ik'")
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    labels = inputs.split(",")
    if len(labels) != len(operands):
        raise ValueError(f"einsum: {len(labels)} groups of subscripts, {len(operands)} operands")
    # how many axes each ellipsis stands for
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
    if arrow:
        output = output.replace("...", letters)
    else:  # what stands once, in alphabetical order, after the ellipsis
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


@implements(np.tensordot)
def tensordot(a, b, axes=2):
    """Sum of products over pairs of axes: the last of a and the first of b, or as given."""
    if isinstance(axes, int):
        axes = range(np.ndim(a) - axes, np.ndim(a)), range(axes)
    axes_a, axes_b = ([x] if isinstance(x, int) else list(x) for x in axes)
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


@implements(np.dot)
def _(a, b):
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return np.multiply(a, b)
    return tensordot(a, b, (-1, -1 if np.ndim(b) == 1 else -2))


@implements(np.inner)
def _(a, b):
    return np.multiply(a, b) if 0 in (np.ndim(a), np.ndim(b)) else tensordot(a, b, (-1, -1))


implements(np.outer)(lambda a, b: np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1)))
