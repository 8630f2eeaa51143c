"""Indexing x[index], and its transpose: adding values into zeros at an index.

NumPy's and PyTorch's other ways to pick elements (take, sort, repeat, diagonal, topk) are written
in terms of these two ops. At the end stand NumPy's functions whose results have no derivative.
"""

import math
import operator

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from autograd.dispatch import answers, plain
from autograd.modes import answered
from autograd.op import implements, op

# The formula of an op that moves elements: element k of out is element at_k of x, both flat.
MOVES = "out_k = x_{at_k}; dx_i = Σ_k g_k · [at_k = i]"


@op
def getitem(x, index):
    """x[index], in NumPy's full semantics."""
    return x[index]


getitem.formula(MOVES, moves=True)
getitem.vjp(x=lambda g, index, x_shape: scatter(g, index, x_shape))


@getitem.sample
def _(draw):
    x = draw.array(min_dims=1, min_side=1)
    n = x.shape[0]
    indices = [
        0,
        -1,
        slice(None, None, -1),
        slice(0, n, 2),
        (..., 0),
        (None, slice(1, None)),
        np.array([0, 0, n - 1]),  # element 0 is picked twice, and gets the sum of both gradients
        [n - 1, 0],
        np.arange(n) % 2 == 0,
        (np.array([[0], [n - 1]]), ...),
    ]
    return draw.call(x, draw.choice(indices))


@op
def scatter(values, index, shape):
    """Return zeros of a shape with ``values`` added at an index, repeated elements included."""
    out = np.zeros(shape, values.dtype)
    if is_basic(index):
        out[index] = values
    else:
        np.add.at(out, index, values)
    return out


scatter.formula(
    "out_i = Σ_k values_k · [at_k = i]; dvalues_k = g_{at_k}",
    moves=True,
    at=lambda index, shape: np.arange(math.prod(shape)).reshape(shape)[index].reshape(-1),
)
scatter.vjp(values=lambda g, index: g[index])


@scatter.sample
def _(draw):
    shape = draw.shape(min_dims=1, min_side=1)
    index = draw.choice([0, slice(None, None, 2), np.array([0, 0, shape[0] - 1])])
    return draw.call(draw.array(shape=np.zeros(shape)[index].shape), index, shape)


def is_basic(index):
    """Return whether an index consists of slices, integers, None and ``...`` alone.

    Such an index names no element twice, and ``out[index] = values`` is right. An index as [0, 0]
    names element 0 twice, and that assignment would keep the second value in the place of the sum.
    """
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or (isinstance(part, slice | int | np.integer) and not isinstance(part, bool))
        for part in parts
    )


def as_array(x):
    """Return an array for a list or a tuple; anything else (a tensor, an array, None) as it is."""
    return np.asarray(x) if isinstance(x, list | tuple) else x


# ---- NumPy's other ways to index, and PyTorch's, in terms of x[index]


@implements(np.take)
def _(a, indices, axis=None):
    if isinstance(indices, list | tuple) and np.size(indices) == 0:
        indices = np.empty(np.shape(indices), np.intp)
    indices = np.asarray(indices).astype(np.intp, casting="safe")[()]  # as in NumPy, True is 1
    if axis is None or np.ndim(a) == 0:
        normalize_axis_index(axis or 0, 1)
        return getitem(np.reshape(a, -1), indices)
    return getitem(a, (slice(None),) * normalize_axis_index(axis, np.ndim(a)) + (indices,))


def index_along(indices, axis, shape):
    """Return the index that reads another place on one axis, for each position of a shape.

    For indices [[2], [0]], axis 1 and shape (2, 1), it is ([[0], [1]], [[2], [0]]), which picks
    x[0, 2] and x[1, 0].
    """
    index = list(np.ogrid[tuple(slice(n) for n in shape)])
    index[axis] = indices
    return tuple(index)


@implements(np.take_along_axis)
def take_along_axis(arr, indices, axis=-1):
    """Pick, along an axis, other elements for each position on the other axes."""
    if axis is None:
        arr, axis = np.reshape(arr, -1), 0
    if getattr(indices, "dtype", np.dtype(bool)).kind not in "iu":
        raise IndexError(f"take_along_axis: indices must be an array of integers, got {indices!r}")
    if np.ndim(indices) != np.ndim(arr):
        raise ValueError(
            f"take_along_axis: indices of shape {np.shape(indices)} and an array of shape "
            f"{np.shape(arr)}; expected as many axes"
        )
    return getitem(arr, index_along(plain(indices), axis, np.shape(arr)))


@implements(np.sort)
def _(a, axis=-1):
    if axis is None:
        a, axis = np.reshape(a, -1), 0
    axis = operator.index(axis)
    return take_along_axis(a, np.argsort(a, axis, kind="stable"), axis)


def topk(input, k, dim=-1, largest=True):
    """Return the k largest elements along an axis in descending order, and where they are.

    Parameters
    ----------
    input : Tensor or ndarray
    k : int
    dim : int
        The axis, of at least k elements.
    largest : bool
        Otherwise the k smallest, in ascending order.

    Returns
    -------
    values : Tensor or ndarray
        As `input`, but for k elements on the axis.
    indices : ndarray of int
        Of elements that tie the first comes first, and gets the gradient. NaN is the largest.

    Raises
    ------
    ValueError
        If the axis has fewer than k elements.

    Examples
    --------
    >>> import autograd
    >>> values, indices = autograd.nn.topk(autograd.tensor([3.0, 1.0, 4.0, 1.0]), 2)
    >>> values, indices.tolist()
    (tensor([4., 3.]), [2, 0])
    """
    x = plain(input)
    k, dim = operator.index(k), operator.index(dim)
    normalize_axis_index(dim, max(x.ndim, 1), "topk: dim")
    if x.ndim == 0:
        return tuple(np.reshape(part, (k,) if k == 0 else ()) for part in topk(input[None], k))
    if not 0 <= k <= x.shape[dim]:
        raise ValueError(f"topk: k is {k}, and axis {dim} of input has {x.shape[dim]} elements")
    # A stable sort keeps equal elements in their order. Reversing the ascending order would put the
    # last of them first; so the axis is reversed before the sort as well, and places are counted
    # from its end: of [4, 4, 1], the order is [0, 1, 2].
    if largest:
        order = np.flip(np.argsort(np.flip(input, dim), dim, kind="stable"), dim)
        order = x.shape[dim] - 1 - order
    else:
        order = np.argsort(input, dim, kind="stable")
    indices = np.take(order, np.arange(k), dim)
    return take_along_axis(input, indices, dim), indices


def scatter_add(input, dim, index, src):
    """Add elements to places along an axis, as PyTorch does: the transpose of picking them there.

    For ``dim=0`` of a matrix, ``out[index[i, j], j] += src[i, j]``; places may repeat.

    Parameters
    ----------
    input : Tensor or ndarray
        What to add to; it stays as it is.
    dim : int
        The axis that `index` counts on.
    index : ndarray of int
        No longer than `src` on any axis, nor than `input` on any axis but `dim`.
    src : Tensor or ndarray
        What to add: where it is longer than `index`, its first elements.

    Returns
    -------
    Tensor or ndarray
        Of the shape of `input`.

    Raises
    ------
    IndexError
        If a place is negative, or not on the axis.
    ValueError
        If `src` is shorter than `index`.

    Examples
    --------
    >>> import numpy as np, autograd
    >>> x = autograd.tensor([1.0, 2.0, 3.0])
    >>> autograd.nn.scatter_add(np.zeros(2), 0, np.array([1, 0, 1]), x)
    tensor([2., 4.])
    """
    index = np.asarray(index)
    if index.size and index.min() < 0:
        raise IndexError(f"scatter_add: index {index.min()} is negative")
    values = src[tuple(slice(n) for n in index.shape)]
    if np.shape(values) != index.shape:
        raise ValueError(
            f"scatter_add: index has shape {index.shape}, and src {np.shape(src)} does not reach it"
        )
    return input + scatter(values, index_along(index, dim, index.shape), np.shape(input))


@implements(np.repeat)
def _(a, repeats, axis=None):
    if axis is None or np.ndim(a) == 0:
        a, axis = np.reshape(a, -1), axis or 0
    return np.take(a, np.repeat(np.arange(np.shape(a)[axis]), repeats), axis)


@implements(np.diagonal)
def _(a, offset=0, axis1=0, axis2=1):
    a = np.moveaxis(a, (axis1, axis2), (-2, -1))
    rows, columns = np.nonzero(np.eye(*np.shape(a)[-2:], operator.index(offset), dtype=bool))
    return getitem(a, (..., rows, columns))


@implements(np.trace)
def _(a, offset=0, axis1=0, axis2=1):
    return np.diagonal(a, offset, axis1, axis2).sum(-1)


@implements(np.diag)
def _(v, k=0):
    if np.ndim(v) == 2:
        return np.diagonal(v, k)
    if np.ndim(v) != 1:
        raise ValueError(f"diag: expected one or two axes, got shape {np.shape(v)}")
    n = np.size(v) + abs(operator.index(k))
    return scatter(v, np.nonzero(np.eye(n, k=k)), (n, n))


@implements(np.unique)
def _(
    ar,
    return_index=False,
    return_inverse=False,
    return_counts=False,
    axis=None,
    *,
    equal_nan=True,
    sorted=True,
):
    """Pick each distinct element where it stands first; that place gets the gradient."""
    _, first, *others = np.unique(
        plain(ar), True, return_inverse, return_counts, axis, equal_nan=equal_nan
    )
    answered(lambda x: np.unique(x, True, axis=axis, equal_nan=equal_nan)[1], (ar,), {}, first)
    values = np.take(ar, first, axis)
    found = (values, *([first] if return_index else []), *others)
    return found if len(found) > 1 else values


def unique(function):
    """Return what ``np.unique_counts`` or the like does on tensors: its result has named fields."""

    def run(x):
        values, *_ = np.unique(x, True, equal_nan=False)
        return function(plain(x))._replace(values=values)

    return run


implements(np.unique_all)(unique(np.unique_all))
implements(np.unique_counts)(unique(np.unique_counts))
implements(np.unique_inverse)(unique(np.unique_inverse))
implements(np.unique_values)(lambda x: np.unique(x, equal_nan=False))


# ---- NumPy's functions whose results have no derivative: booleans, places, shapes, new arrays


answers(
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal,
    np.logical_and, np.logical_or, np.logical_not, np.logical_xor,
    np.isnan, np.isinf, np.isfinite, np.isposinf, np.isneginf, np.isreal, np.iscomplex, np.isnat,
    np.signbit, np.isin, np.isclose, np.allclose, np.array_equal, np.array_equiv,
    np.any, np.all, np.count_nonzero, np.linalg.matrix_rank,
    np.argmax, np.argmin, np.nanargmax, np.nanargmin, np.argsort, np.argpartition, np.lexsort,
    np.argwhere, np.nonzero, np.flatnonzero, np.searchsorted, np.digitize,
    np.diag_indices_from, np.tril_indices_from, np.triu_indices_from,
    np.ravel_multi_index, np.unravel_index, np.packbits, np.unpackbits,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.bitwise_count, np.invert,
    np.left_shift, np.right_shift, np.gcd, np.lcm,
    np.shape, np.ndim, np.size, np.iscomplexobj, np.isrealobj,
    np.result_type, np.common_type, np.min_scalar_type, np.can_cast, np.einsum_path,
    np.shares_memory, np.may_share_memory,
    np.array2string, np.array_repr, np.array_str,
    np.save, np.savez, np.savez_compressed, np.savetxt,
)  # fmt: skip

# These results have the shape and dtype of the argument, and do not depend on its values.
answers(np.zeros_like, np.ones_like, np.empty_like)


@implements(np.bincount, asks=("x",), inputs=())
def _(x, weights=None, minlength=0):
    return np.bincount(x, weights, minlength)
