"""Tables with a row for each token."""

import numpy as np

from autograd.kernels import kernel
from autograd.op import op
from autograd.ops.checks import (
    check_count,
)
from autograd.ops.linalg import product, rows
from autograd.pullback import sum_to_shape


@op
def affine(input, weight, bias):
    """Input @ weight + bias, with ``weight (in, out)`` and ``bias (out,)`` or None."""
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
    input=lambda g, weight, input_shape: np.reshape(
        product(rows(g), np.swapaxes(weight, 0, 1)), input_shape
    ),
    weight=lambda g, input: product(np.swapaxes(rows(input), 0, 1), rows(g)),
    bias=lambda g, bias_shape: sum_to_shape(rows(g), bias_shape),
)


@affine.reference
def _(input, weight, bias):
    return input @ weight + (0 if bias is None else bias)


@affine.sample
def _(draw):
    x = draw.array(shape=(*draw.shape(max_dims=2), 3))
    return draw.call(x, draw.array(shape=(3, 2)), draw.choice([draw.array(shape=(2,)), None]))


@op
@kernel("embedding.embedding", pays=lambda input, weight, padding_idx=None: padding_idx is None)
def embedding(input, weight, padding_idx=None):
    """Rows of a table: ``weight[input]``, for an integer array of any shape.

    ``IndexError`` for a row that is not in the table: -1 is not the last, as in PyTorch. The row
    ``padding_idx``, which may count from the end, gets no gradient.
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight has shape {weight.shape}; expected (rows, columns)")
    input = as_ids(input)
    if fault := misfit(input, len(weight), "weight has {} rows"):
        raise IndexError(f"embedding: input {fault}")
    if padding_idx is not None:
        check_count("embedding", "padding_idx", padding_idx, -len(weight))
        if padding_idx >= len(weight):
            raise ValueError(f"embedding: padding_idx is {padding_idx}, of {len(weight)} rows")
    return weight[input]


def as_ids(x):
    """Return ids or classes as an array; of an empty list one of integers."""
    array = np.asarray(x)
    return array if array.size or hasattr(x, "dtype") else array.astype(np.int64)


def misfit(ids, n, of, ignored=None):
    """Return what is wrong with integers that must be in [0, n), as a phrase; "" if nothing is.

    `of` says what n counts. One value may be ignored.
    """
    if ids.dtype.kind not in "iu" and not (  # NumPy's type for integers that int64 cannot hold
        ids.dtype.kind == "O" and all(type(i) is int for i in ids.flat)
    ):
        return f"has type {ids.dtype}; expected integers in [0, {n})"
    if not ids.size or (ids.min() >= 0 and ids.max() < n):
        return ""
    wrong = [i for i in ids[(ids < 0) | (ids >= n)].tolist() if i != ignored]
    of = of.format(n)
    return f"holds {wrong[0]}, and {of}; expected integers in [0, {n})" if wrong else ""


@embedding.formula
def _(padding_idx=None):
    kept = "" if padding_idx is None else " · [r ≠ padding_idx]"
    return f"out_c = weight_{{input, c}}; dweight_rc = Σ g_c · [input = r]{kept}"


@embedding.vjp("weight")
def _(g, input, weight_shape, padding_idx):
    input = as_ids(input)
    if padding_idx is not None:
        padding = input == padding_idx % weight_shape[0]  # which may count from the end
        g = np.where(padding[..., None], 0, g)
    return scatter_rows(g, input, weight_shape)


@embedding.sample
def _(draw):
    return draw.call(draw.integers(draw.shape(), 0, 2), draw.array(shape=(3, 2)))


@op
@kernel("embedding.scatter_rows")
def scatter_rows(values, index, shape):
    """Return a table of zeros with each row of ``values`` added to the row that ``index`` names."""
    index, flat = index.reshape(-1), rows(values)
    out = np.zeros(shape, values.dtype)
    if index.size:
        index = index % shape[0]  # one row may be named from the front and from the end
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

    With -1 there are as many classes as the largest names. ``ValueError`` for one out of range.
    """
    check_count("one_hot", "num_classes", num_classes, -1)
    classes = as_ids(tensor)
    if num_classes == -1:
        if not classes.size:
            raise ValueError("one_hot: tensor is empty, and names no class; give num_classes")
        num_classes = int(classes.max()) + 1
    if fault := misfit(classes, num_classes, "there are {} classes"):
        raise ValueError(f"one_hot: tensor {fault}")
    return (classes[..., None] == np.arange(num_classes)).astype(np.int64)
