"""Weights of 8 bits for generation.

To generate a token, all weights are read from memory once. int8 has a quarter of float32's bytes,
so a model that waits for its memory generates faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor
from autograd.kernels import kernel
from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.models.heads import Head
from npgpt.models.layers import Embedding, Linear
from npgpt.module import Module, Parameter, Traced, check_ids

UNTRAINABLE = (
    "int8 weights have no gradient; train the float32 model from which they were made, and "
    "quantize it again"
)


class Int8Matrix:
    """A matrix that is stored as int8 values and one scale for each row.

    The matrix is about ``values * scale[:, None]``. The scale of a row is its largest absolute
    value divided by 127. Each element is rounded to the nearest multiple of the scale, so the error
    of an element is at most half the scale.

    Parameters
    ----------
    matrix : ndarray of float, (R, N)

    Attributes
    ----------
    values : ndarray of int8, (R, N)
    scale : ndarray of float32, (R,)

    Raises
    ------
    UserError
        If an element is NaN or infinite.

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
        for start in range(0, len(matrix), 256):  # 256 rows at a time, which fit into the cache
            rows = slice(start, start + 256)
            part = np.ascontiguousarray(matrix[rows])
            largest = np.maximum(part.max(axis=1, initial=0), -part.min(axis=1, initial=0))
            if not np.isfinite(largest).all():
                raise UserError(
                    "a weight is NaN or infinite, and cannot be quantized; generate without --int8"
                )
            self.scale[rows] = largest / 127
            scale = self.scale[rows, None]
            self.values[rows] = np.rint(part / np.where(scale > 0, scale, 1))

    def rows(self, index: Any = slice(None)) -> ndarray:
        """Return the rows of an index, (..., N) float32; all rows if no index is given."""
        return self.values[index] * self.scale[index][..., None]


@kernel("decode.product_int8")
def product(x: ndarray, values: ndarray, scale: ndarray) -> ndarray:
    """Return ``x @ (values * scale[:, None]).T``: ``(..., N) -> (..., R)``."""
    return x @ (values * scale[:, None]).T


class Int8Linear(Module):
    """A linear layer whose weight is an `Int8Matrix` of shape (out, in)."""

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
    """An embedding whose table is an `Int8Matrix` of shape (vocabulary, width)."""

    def __init__(self, weight: Int8Matrix) -> None:
        self.weight = weight

    def forward(self, ids: ndarray) -> Tensor:
        """Look up rows: ``(...) -> (..., width)``."""
        check_ids("input_ids", ids, len(self.weight.scale), "the vocabulary has {} tokens")
        return Tensor(self.weight.rows(ids))


class Int8GPT(GPT):
    """A GPT with int8 weights, which `quantize` makes. It can generate, and cannot be trained."""

    def train(self, mode: bool = True) -> Module:
        """Switch train mode off, or raise a UserError, because int8 weights cannot be trained."""
        if mode:
            raise UserError(UNTRAINABLE)
        return super().train(mode)

    def n_parameters(self) -> int:
        """Return the number of parameters, those of int8 and those of float32 together."""
        linears = [m.weight for _, m in self.named_modules() if isinstance(m, Int8Linear)]
        return super().n_parameters() + sum(weight.values.size for weight in linears)

    def save_pretrained(self, folder: Any) -> None:
        """Raise a UserError, because int8 weights are made from the saved float32 weights."""
        raise UserError(
            "int8 weights cannot be saved: save the float32 model, and quantize it when it "
            "generates (--int8, or npgpt.generation.quantize.quantize)"
        )


def quantize(model: GPT) -> Int8GPT:
    """Return a copy of a GPT in which the weights of linear layers and of the head have 8 bits.

    Each output of a linear layer has its own scale (see `Int8Matrix`), and products are summed in
    float32. If the token embedding is tied to the head, both use the same int8 matrix. Positions,
    norms and biases stay in float32, and are shared with `model`. `model` itself does not change.

    Parameters
    ----------
    model : GPT
        A model in float32.

    Returns
    -------
    Int8GPT
        The copy, in evaluation mode. To train or to save the copy raises a `UserError`.

    Raises
    ------
    UserError
        If a weight is NaN or infinite, or the model is an encoder-decoder or a BERT.

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
    if isinstance(model, EncoderDecoder | Bert):
        kind = "a BERT" if isinstance(model, Bert) else "an encoder-decoder"
        raise UserError(f"{kind} cannot be quantized; generate without --int8")
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
