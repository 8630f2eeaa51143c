"""Weights in 8 bits, for generation: a quarter of the bytes to read for each token."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.kernels import kernel
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.models.heads import Head
from npgpt.models.layers import Embedding, Linear
from npgpt.module import Module, Parameter, Traced, check_ids

UNTRAINABLE = (
    "int8 weights have no gradient; train the model that they were made of, and quantize it again"
)


class Int8Matrix:
    """A matrix of int8 whose rows have a scale each: about ``values * scale[:, None]``.

    The scale is the largest of a row divided by 127, and each element the nearest multiple of it:
    none is further away than half a scale.

    Parameters
    ----------
    matrix : ndarray of float, (R, N)

    Attributes
    ----------
    values : ndarray of int8, (R, N)
    scale : ndarray of float32, (R,)

    Examples
    --------
    >>> import numpy as np
    >>> matrix = Int8Matrix(np.array([[0.5, -1.27], [0.0, 0.0]], np.float32))
    >>> matrix.values
    array([[  50, -127],
           [   0,    0]], dtype=int8)
    """

    def __init__(self, matrix: ndarray) -> None:
        self.values = np.empty(matrix.shape, np.int8)
        self.scale = np.empty(len(matrix), np.float32)
        for start in range(0, len(matrix), 256):  # in parts that the cache holds
            rows = slice(start, start + 256)
            part = np.ascontiguousarray(matrix[rows])
            largest = np.maximum(part.max(axis=1, initial=0), -part.min(axis=1, initial=0))
            if not np.isfinite(largest).all():
                raise UserError("a weight is not a finite number, and cannot be quantized")
            self.scale[rows] = largest / 127
            scale = self.scale[rows, None]
            self.values[rows] = np.rint(part / np.where(scale > 0, scale, 1))

    def rows(self, index: Any = slice(None)) -> ndarray:
        """Return rows in float32, (..., N): all of them, or some."""
        return self.values[index] * self.scale[index][..., None]


@kernel("decode.product_int8")
def product(x: ndarray, values: ndarray, scale: ndarray) -> ndarray:
    """Return ``x @ (values * scale[:, None]).T``: ``(..., N) -> (..., R)``."""
    return x @ (values * scale[:, None]).T


class Int8Linear(Module):
    """A linear layer whose weight is an `Int8Matrix` (out, in)."""

    def __init__(self, weight: Int8Matrix, bias: Parameter | None = None) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in) -> (..., out)``."""
        if x.requires_grad:
            raise UserError(UNTRAINABLE)
        y = Tensor(product(x.numpy(), self.weight.values, self.weight.scale))
        return y if self.bias is None else y + self.bias

    def trace(self, x: Traced) -> Traced:
        """Trace the product and the bias."""
        return x.linear(self.weight.values.T, self.bias, self.weight.scale)


class Int8Embedding(Module):
    """A table of tokens whose rows are those of an `Int8Matrix`."""

    def __init__(self, weight: Int8Matrix) -> None:
        self.weight = weight

    def forward(self, ids: ndarray) -> Tensor:
        """Look up rows: ``(...) -> (..., width)``."""
        check_ids("input_ids", ids, len(self.weight.scale), "the vocabulary has {} tokens")
        return Tensor(self.weight.rows(ids))


class Int8GPT(GPT):
    """A GPT for generation and evaluation, not for training: see `quantize`."""

    def train(self, mode: bool = True) -> Module:
        """Refuse to be trained."""
        if mode:
            raise UserError(UNTRAINABLE)
        return super().train(mode)

    def n_parameters(self) -> int:
        """Return the number of parameters, whatever their bits."""
        linears = [m.weight for _, m in self.named_modules() if isinstance(m, Int8Linear)]
        return super().n_parameters() + sum(weight.values.size for weight in linears)

    def save_pretrained(self, folder: Any) -> None:
        """Refuse to be saved."""
        raise UserError(
            "int8 weights are made of the saved ones when they are needed (--int8, or "
            "npgpt.generation.quantize.quantize), and not saved themselves"
        )


def quantize(model: GPT) -> Int8GPT:
    """Return a GPT with the weights of all linear layers, and of the head, in 8 bits.

    Each output of a layer has its own scale (symmetric, from the largest of its weights), and sums
    are in float32. The rows of a tied token embedding are the head's. Positions, norms and biases
    stay as they are, and are shared with `model`, which does not change.

    Parameters
    ----------
    model : GPT
        Of float32.

    Returns
    -------
    Int8GPT
        With dropout off.

    Raises
    ------
    UserError
        If a weight is not finite; by the result, if it is to be trained or saved.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2)).eval()
    >>> small = quantize(model)
    >>> ids = np.array([[1, 2, 3]])
    >>> error = small(ids)[0].numpy() - model(ids)[0].numpy()
    >>> bool(np.abs(error).max() < 0.01)
    True
    """
    if isinstance(model, Int8GPT):
        return model
    head = model.lm_head.weight
    table = Int8Matrix(head.numpy())

    def copy(module: Module) -> Any:
        if type(module) is Linear:
            bias = None if module.bias is None else frozen(module.bias)
            return Int8Linear(Int8Matrix(module.weight.numpy().T), bias)
        if type(module) is Head or type(module) is Embedding and module.weight is head:
            return (Int8Linear if type(module) is Head else Int8Embedding)(table)
        new = object.__new__(Int8GPT if module is model else type(module))
        for name, value in vars(module).items():
            if isinstance(value, Module):
                value = copy(value)
            elif isinstance(value, list) and all(isinstance(item, Module) for item in value):
                value = [copy(item) for item in value]
            elif isinstance(value, Parameter):
                value = frozen(value)
            setattr(new, name, value)
        return new

    def frozen(parameter: Parameter) -> Parameter:
        new = Parameter(parameter.numpy())
        new.requires_grad_(False)
        return new

    return copy(model).eval()
