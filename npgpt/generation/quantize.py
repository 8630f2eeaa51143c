"""Weights of 8 bits for generation.

To generate a token, all weights are read from memory once. int8 has a quarter of float32's bytes,
so a model that waits for its memory generates faster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.models.bert import Bert
from npgpt.models.encoder_decoder import EncoderDecoder
from npgpt.models.gpt import GPT
from npgpt.models.layers import Embedding, Linear
from npgpt.models.vision import VisionGPT
from npgpt.weights.packed import (
    PackedEmbedding,
    PackedGPT,
    PackedLinear,
    PackedMatrix,
    product,
    repack,
)

__all__ = ["Int8Embedding", "Int8GPT", "Int8Linear", "Int8Matrix", "product", "quantize"]

Int8Linear, Int8Embedding = PackedLinear, PackedEmbedding  # their names before there were others


class Int8Matrix(PackedMatrix):
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
        values, scale = np.empty(matrix.shape, np.int8), np.empty(len(matrix), np.float32)
        super().__init__(values, "int8", scale)
        self.scale: ndarray
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


class Int8GPT(PackedGPT):
    """A GPT with int8 weights, which `quantize` makes. It can generate, and cannot be trained."""


def quantize(model: GPT) -> Int8GPT:
    """Return a copy of a GPT in which the weights of linear layers and of the head have 8 bits.

    Each output of a linear layer has its own scale (see `Int8Matrix`), and products are summed in
    float32. If the token embedding is tied to the head, both use the same int8 matrix. Positions,
    norms and biases stay in float32, and are shared with `model`. `model` itself does not change.

    Parameters
    ----------
    model : GPT
        A model in float32, or with packed weights, which are rounded to 8 bits.

    Returns
    -------
    Int8GPT
        The copy, in evaluation mode. To train or to save the copy raises a `UserError`.

    Raises
    ------
    UserError
        If a weight is NaN or infinite, or the model is an encoder-decoder, a BERT or a
        `VisionGPT`.

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
    kinds = {Bert: "a BERT", EncoderDecoder: "an encoder-decoder", VisionGPT: "a GPT that sees"}
    kind = kinds.get(type(model), "" if model.predicts_tokens else "a model with labels")
    if kind:
        raise UserError(f"{kind} cannot be quantized; generate without --int8")
    made: dict[int, Int8Matrix] = {}  # by the weight: a tied one is quantized once

    def pack(module: Any) -> Int8Matrix | None:
        weight = module.weight
        if isinstance(module, Embedding | PackedEmbedding) and weight is not model.lm_head.weight:
            return None
        if id(weight) not in made:
            if isinstance(module, Linear):
                made[id(weight)] = Int8Matrix(module.whole_weight().T)
            elif isinstance(weight, PackedMatrix):
                made[id(weight)] = Int8Matrix(weight.rows())
            else:
                made[id(weight)] = Int8Matrix(module.used_weight().numpy())
        return made[id(weight)]

    return repack(model, pack, Int8GPT)
