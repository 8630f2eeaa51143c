"""Weights that stay as few bits as they have in a file: to generate, and for LoRA to build on.

To generate a token, all weights are read from memory once. A weight of Q4_1 has 5 bits where
float32 has 32, so a model that waits for its memory writes faster, and needs less of it. A matrix
stays packed if its rows, one for each output, are stored in one of `FORMATS`. All others, and
vectors, become float32. A packed model computes what the same weights give in float32, but for
rounding. Its packed weights cannot be trained, since no gradient leads to whole numbers. But a
gradient leads through a product with them to its other factor, so LoRA's matrices beside packed
weights can be trained (QLoRA, Dettmers et al. 2023, arXiv:2305.14314, equation 5).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

import autograd
from autograd import Tensor
from autograd.kernels import kernel
from npgpt.errors import UserError
from npgpt.models.gpt import GPT
from npgpt.models.heads import Head
from npgpt.models.layers import Embedding, Linear
from npgpt.models.lora import frozen
from npgpt.module import Module, Parameter, Traced, check_ids
from npgpt.weights.gguf import BLOCK, QUANTIZED, Packed, SplitHeads
from npgpt.weights.safetensors import Mapped, Stored, Transposed

UNTRAINABLE = (
    "packed weights, as those of int8, have no gradient; use the float32 model: load_model without "
    "packed, and without quantize; or train LoRA's matrices beside them (add_lora)"
)


def decode_int8(values: ndarray) -> ndarray:
    """Return integers as float32."""
    return values.view(np.int8).astype(np.float32)


def decode_f16(values: ndarray) -> ndarray:
    """Return float16 numbers, two bytes each, as float32."""
    return values.view("<f2").astype(np.float32)


def decode_bf16(values: ndarray) -> ndarray:
    """Return bfloat16 numbers, which are the upper halves of float32, as float32."""
    wide = values.view("<u2").astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def decode_blocks(name: str) -> Callable[[ndarray], ndarray]:
    """Return the function that decodes the bytes of rows of quantized blocks."""

    def decode(values: ndarray) -> ndarray:
        with np.errstate(invalid="ignore", over="ignore"):  # a scale may be infinite, or no number
            numbers = QUANTIZED[name].decode(values.view(QUANTIZED[name].block))
        return numbers.reshape(*values.shape[:-1], -1)

    return decode


FORMATS: dict[str, Callable[[ndarray], ndarray]] = {
    "int8": decode_int8,
    "F16": decode_f16,
    "BF16": decode_bf16,
    **{name: decode_blocks(name) for name in QUANTIZED},
}


class PackedMatrix:
    """A matrix whose rows are stored in few bits.

    Parameters
    ----------
    values : ndarray of int8 or uint8, (R, bytes of a row)
    format : str
        A key of `FORMATS`.
    scale : ndarray of float32, (R,), optional
        A factor of each row.

    Examples
    --------
    >>> matrix = PackedMatrix(np.array([[1, 2], [3, 4]], np.int8), "int8", np.ones(2, np.float32))
    >>> matrix.rows([1])
    array([[3., 4.]], dtype=float32)
    """

    def __init__(self, values: ndarray, format: str, scale: ndarray | None = None) -> None:
        self.values, self.format, self.scale = values, format, scale

    def rows(self, index: Any = slice(None)) -> ndarray:
        """Return the rows of an index, (..., N) float32; all rows if no index is given."""
        rows = FORMATS[self.format](self.values[index])
        return rows if self.scale is None else rows * self.scale[index][..., None]


@autograd.Op
@kernel("decode.product_packed")
def product(
    x: ndarray, values: ndarray, scale: ndarray | None = None, format: str = "int8"
) -> ndarray:
    """Return the product of x with the transpose of a packed matrix, ``(..., N) -> (..., R)``."""
    matrix = PackedMatrix(values, format, scale)
    dtype = np.result_type(x, np.float32)
    y = np.empty((*x.shape[:-1], len(values)), dtype)
    for start in range(0, len(values), 4096):  # so that never all of a large matrix is unpacked
        part = slice(start, start + 4096)
        y[..., part] = x @ matrix.rows(part).T
    return y


@autograd.Op
def product_back(
    y: ndarray, values: ndarray, scale: ndarray | None = None, format: str = "int8"
) -> ndarray:
    """Return the product of y with a packed matrix, ``(..., R) -> (..., N)``."""
    matrix = PackedMatrix(values, format, scale)
    x: Any = 0
    for start in range(0, len(values), 4096):
        part = slice(start, start + 4096)
        x = x + y[..., part] @ matrix.rows(part)
    return x


# Both are made by `Op`, and not by `autograd.op`, which would register them: the formulas, samples
# and saved traces of registered ops know no packed numbers.
product.vjp(x=lambda g, values, scale, format: product_back(g, values, scale, format))
product_back.vjp(y=lambda g, values, scale, format: product(g, values, scale, format))


class PackedLinear(Linear):
    """A linear layer whose weight is a `PackedMatrix` of shape (out, in); an adapter may change it.

    Attributes
    ----------
    part : str or None
        That of the layer that was packed: "head" for a head.
    """

    weight: Any  # a PackedMatrix, which is no parameter

    def __init__(
        self, weight: PackedMatrix, bias: Parameter | None = None, part: str | None = None
    ) -> None:
        self.weight, self.bias, self.part = weight, bias, part

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in) -> (..., out)``."""
        weight = self.weight
        y: Any = product(x, weight.values, weight.scale, weight.format)
        if self.bias is not None:
            y = y + self.bias
        return y + self.adapter(x) if self.is_changed else y

    def trace(self, x: Traced) -> Traced:
        """Trace the product and the bias; with a change, the float32 weight that includes it."""
        if self.is_changed:
            return super().trace(x)
        return x.packed_linear(self.weight, self.bias)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of inputs and outputs."""
        return self.weight.rows(slice(1)).shape[-1], len(self.weight.values)

    def whole_weight(self) -> ndarray:
        """Return the weight in float32 with the change of the adapter, (in, out)."""
        weight = self.weight.rows().T
        return weight + self.adapter.change() if self.is_changed else weight


class PackedEmbedding(Module):
    """An embedding whose table is a `PackedMatrix` of shape (vocabulary, width)."""

    def __init__(self, weight: PackedMatrix) -> None:
        self.weight = weight

    def forward(self, ids: ndarray) -> Tensor:
        """Look up rows: ``(...) -> (..., width)``."""
        check_ids("input_ids", ids, len(self.weight.values), "the vocabulary has {} tokens")
        return Tensor(self.weight.rows(ids))


class PackedGPT(GPT):
    """A model with packed weights, which are frozen: only LoRA's matrices can be trained."""

    def train(self, mode: bool = True) -> Module:
        """Switch dropout on or off; raise a UserError if the model has nothing to train."""
        if mode and not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(UNTRAINABLE)
        return super().train(mode)

    def n_parameters(self) -> int:
        """Return the number of parameters, packed ones and those of float32 together."""
        found = {
            id(m.weight): m.weight.rows(slice(1)).size * len(m.weight.values)
            for _, m in self.named_modules()
            if isinstance(m, PackedLinear | PackedEmbedding)
        }
        return super().n_parameters() + sum(found.values())

    def save_pretrained(self, folder: Any) -> None:
        """Raise a UserError, because folders hold weights in floating point."""
        raise UserError(
            "packed and int8 weights cannot be saved: load the model with float32 weights "
            "(load_model without packed), and save that"
        )


def demand_float32(model: GPT) -> None:
    """Raise UserError if a model has packed weights, which have no gradient."""
    if isinstance(model, PackedGPT):
        raise UserError(UNTRAINABLE)


Kind = TypeVar("Kind", bound=PackedGPT)


def repack(model: GPT, pack: Callable[[Module], PackedMatrix | None], kind: type[Kind]) -> Kind:
    """Return a copy of a model in evaluation mode, in which some matrices are packed.

    Parameters
    ----------
    model : GPT
        It does not change, and shares its other parameters with the copy.
    pack : callable
        Returns the packed matrix of a linear layer, a head or an embedding; None to keep the
        module's weight.
    kind : type
        The class of the copy.
    """

    def copy(module: Module) -> Any:
        if type(module) in (Linear, Head, Embedding, PackedLinear, PackedEmbedding):
            matrix = pack(module)
            if matrix is not None:
                if type(module) in (Embedding, PackedEmbedding):
                    return PackedEmbedding(matrix)
                bias = getattr(module, "bias", None)
                bias = None if bias is None else frozen(bias.numpy())
                return PackedLinear(matrix, bias, module.part)
        new = object.__new__(kind if module is model else type(module))
        for name, value in vars(module).items():
            if isinstance(value, Module):
                value = copy(value)
            elif isinstance(value, list) and all(isinstance(item, Module) for item in value):
                value = [copy(item) for item in value]
            elif isinstance(value, Parameter):
                value = frozen(value.numpy())
            setattr(new, name, value)
        return new

    return copy(model).eval()


def pack_stored(model: GPT, tensors: dict[str, Stored], fill: Callable[[set[str]], None]) -> GPT:
    """Return a model whose matrices are packed as the file has them.

    Parameters
    ----------
    model : GPT
        Without memory, as `npgpt.weights.load.fit_model` returns it.
    tensors : dict of str to Stored
        Its tensors by the names of parameters.
    fill : callable
        Reads the tensors of all other parameters, given the names of those that are packed.

    Returns
    -------
    GPT
        A `PackedGPT`; or `model` itself if the file has no matrix that can stay packed, or if the
        class of the model has a `forward` of its own, as those of encoders have.
    """
    if type(model).forward is not GPT.forward:
        fill(set())
        return model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places: dict[Module, str] = {
        module: names[id(module.weight)]  # type: ignore[attr-defined]
        for _, module in model.named_modules()
        if type(module) in (Linear, Head, Embedding)
    }
    packed: dict[str, PackedMatrix] = {}
    for module, name in places.items():
        stored = tensors[name]
        if type(module) is Linear:  # whose parameter is (in, out)
            if not isinstance(stored, Transposed):
                continue
            stored = stored.stored
        if name not in packed and (matrix := open_matrix(stored)) is not None:
            packed[name] = matrix
    fill(set(packed))
    return repack(model, lambda module: packed.get(places[module]), PackedGPT) if packed else model


def open_matrix(stored: Stored) -> PackedMatrix | None:
    """Return a stored matrix as its file has it, without a copy where that is possible.

    None if it is stored in a format that is not one of `FORMATS`.
    """
    order = None
    if isinstance(stored, SplitHeads):
        order, stored = stored.order(), stored.stored
    if not isinstance(stored, Packed | Mapped) or stored.kind not in FORMATS:
        return None
    if len(stored.shape) != 2 or stored.shape[1] % BLOCK or not stored.shape[0]:
        return None
    raw = np.frombuffer(stored.buffer, np.uint8, stored.stop - stored.start, stored.start)
    values = raw.reshape(stored.shape[0], -1)
    if order is not None:
        values = values[order]
    elif os.name == "nt":  # Windows locks a file that is mapped
        values = values.copy()
    return PackedMatrix(values, stored.kind)
