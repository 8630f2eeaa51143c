"""Tables with a row for each token, and the affine maps between their columns."""

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.checks import check_count
from autograd.ops.linalg import matrix_gradient, product, rows
from autograd.pullback import sum_to_shape


@op
def affine(input, weight, bias):
    """Input @ weight + bias: ``(..., in) -> (..., out)``.

    ``weight (in, out)``, ``bias (out,)`` or None.
    """
    if weight.ndim != 2 or input.ndim == 0 or input.shape[-1] != len(weight):
        raise ValueError(
            f"affine: input has shape {input.shape} and weight {weight.shape}; expected "
            "(..., in) and (in, out)"
        )
    out = product(rows(input), weight, bias)  # (..., in) -> (n, in) @ (in, out)
    return out.reshape(*input.shape[:-1], weight.shape[1])


@affine.formula
def _(bias="bias"):
    return f"""
        out_o = Σ_i input_i · weight_io{" + bias_o" if bias is not None else ""}
        dinput_i = Σ_o g_o · weight_io
        dweight_io = Σ input_i · g_o
        {"dbias_o = Σ g_o" if bias is not None else ""}
    """


affine.vjp(
    input=lambda g, weight, input_shape: product(rows(g), weight.T).reshape(input_shape),
    weight=lambda g, input, weight: matrix_gradient(rows(input), rows(g), weight),
    bias=lambda g, bias_shape: sum_to_shape(rows(g), bias_shape),
)


@affine.reference
def _(input, weight, bias):
    return input @ weight + (0 if bias is None else bias)


@affine.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), 3))
    return draw.call(x, draw.array(shape=(3, 2)), draw.choice([draw.array(shape=(2,)), None]))


def check_embedding(input, weight, padding_idx=None):
    """Raise unless `input` holds numbers of rows of `weight`, and `padding_idx` is one, or None."""
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}; expected (rows, columns)")
    if fault := misfit(as_ids(input), len(weight), "weight has {} rows"):
        raise IndexError(f"embedding: input {fault}")
    if padding_idx is not None:
        check_count("embedding", "padding_idx", padding_idx, -len(weight))
        if padding_idx >= len(weight):
            raise ValueError(f"embedding: padding_idx is {padding_idx}, of {len(weight)} rows")


@op
@kernel("embedding.embedding", check=check_embedding)
def embedding(input, weight, padding_idx=None):
    """Rows of a table: ``weight[input]``, for an integer array of any shape.

    ``IndexError`` for a row that is not in the table: -1 is not the last row, as in PyTorch. The
    row ``padding_idx``, which may count from the end, gets no gradient.
    """
    return weight[as_ids(input)]


def as_ids(x):
    """Return ids or classes as an array; an empty list becomes an array of integers."""
    array = np.asarray(x)
    return array if array.size or hasattr(x, "dtype") else array.astype(np.int64)


def misfit(ids, n, of, ignored=None):
    """Return a phrase that says why `ids` are not integers in [0, n), or "" if they are.

    `of` says in the phrase what n counts, as ``"weight has {} rows"``. The value `ignored` may
    stand among the integers although it is not in [0, n).
    """
    # NumPy makes an array of objects of Python integers that int64 cannot hold, as 2**70
    too_large = ids.dtype.kind == "O" and all(type(i) is int for i in ids.flat)
    if ids.dtype.kind in "iu" or too_large:
        if ids.size and (ids.min() < 0 or ids.max() >= n):
            wrong = [i for i in ids[(ids < 0) | (ids >= n)].tolist() if i != ignored]
            if wrong:
                of = of.format(n)
                return f"holds {wrong[0]}, and {of}; expected integers in [0, {n})"
        if not too_large:
            return ""
    return f"has type {ids.dtype}; expected integers in [0, {n})"


@embedding.formula
def _(padding_idx=None):
    kept = "" if padding_idx is None else " · [r ≠ padding_idx]"
    return f"out_c = weight_{{input, c}}; dweight_rc = Σ g_c · [input = r]{kept}"


@embedding.vjp("weight")
def _(g, input, weight_shape, padding_idx):
    input = as_ids(input)
    if padding_idx is not None:
        padding = input == padding_idx % weight_shape[0]  # it may count from the end
        g = np.where(padding[..., None], 0, g)
    return scatter_rows(g, input, weight_shape)


@embedding.sample
def _(draw):
    return draw.call(draw.integers(draw.shape(), 0, 2), draw.array(shape=(3, 2)))


def check_scatter_rows(values, index, shape):
    """Raise unless each element of `index` names a row, and `values` has one for each element."""
    if len(shape) != 2 or values.shape != (*index.shape, shape[1]):
        raise ValueError(
            f"scatter_rows: values has shape {values.shape}, index {index.shape} and the table "
            f"{tuple(shape)}; expected (..., columns), (...) and (rows, columns)"
        )
    if index.size and not shape[0]:
        raise IndexError("scatter_rows: index names rows, and the table has none")


@op
@kernel("embedding.scatter_rows", check=check_scatter_rows)
def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of ``values`` added to the row that ``index`` names.

    It is the transpose of `embedding`, and so its rule.
    """
    # With index [2, 0, 2], rows 0 and 2 of the values belong to row 2 of the table. Sorting brings
    # together what belongs to one row: order is [1, 0, 2], ordered [0, 2, 2], and starts, the
    # places where another row begins, [0, 1]. `reduceat` sums the values between them.
    index, flat = index.reshape(-1), rows(values)
    out = np.zeros(shape, values.dtype)
    if index.size:
        index = index % shape[0]  # -1 and the last row's number name one row
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        out[ordered[starts]] = np.add.reduceat(flat[order], starts, axis=0)
    return out


scatter_rows.formula("out_rc = Σ values_c · [index = r]; dvalues_c = g_{index, c}")
scatter_rows.vjp(values=lambda g, index: embedding(index, g))


@scatter_rows.sample
def _(draw):
    index = draw.integers(draw.shape(), 0, 2)
    return draw.call(draw.array(shape=(*index.shape, 2)), index, (3, 2))


def linear(input, weight, bias=None):
    """Input @ weight.T + bias, with ``weight (out, in)``: PyTorch's orientation."""
    return affine(input, np.swapaxes(weight, 0, 1), bias)


def one_hot(tensor, num_classes=-1):
    """Return a plain array of integers, ``(...) -> (..., num_classes)``: 1 at each class, 0 else.

    With ``num_classes=-1``, there is one class more than the largest integer in `tensor`.
    ``ValueError`` for a class that is not in [0, num_classes).
    """
    check_count("one_hot", "num_classes", num_classes, -1)
    classes = as_ids(tensor)
    if num_classes == -1:
        if not classes.size:
            raise ValueError("one_hot: tensor is empty, and holds no class; give num_classes")
        num_classes = int(classes.max()) + 1
    if fault := misfit(classes, num_classes, "there are {} classes"):
        raise ValueError(f"one_hot: tensor {fault}")
    return (classes[..., None] == np.arange(num_classes)).astype(np.int64)
