"""Forms in which a model uses its weights in training: rounded as in a GGUF file, or with zeros.

*Fake quantization* (Jacob et al. 2018, arXiv:1712.05877, section 3): each pass computes with
weights that are rounded, to 4 bits for example, while training changes the weights in floating
point. The derivative of rounding is 0 almost everywhere, so the backward pass takes 1 in its place:
the straight-through estimator (Bengio et al. 2013, arXiv:1308.3432, section 3). The numbers are
those of a GGUF file that ``npgpt export`` writes. Rounding them a second time changes nothing, so
the file has exactly the weights with which the model was trained and evaluated.

*Zeros that stay*: a weight that is zero gets no gradient, so a model whose small weights were set
to zero keeps these zeros in training.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from autograd import Tensor
from npgpt.errors import UserError
from npgpt.models.config import GPTConfig
from npgpt.models.gpt import GPT
from npgpt.models.heads import Head
from npgpt.models.layers import Embedding, Linear
from npgpt.models.llama import Llama
from npgpt.weights.gguf import BLOCK, QUANTIZED, encode_rows, type_of_rows


def round_rows(rows: ndarray, kind: str) -> ndarray:
    """Return the numbers that a GGUF file has for rows, in the same dtype.

    Parameters
    ----------
    rows : ndarray, (..., N)
    kind : {"Q8_0", "Q4_1", "Q4_0"}
        The type of the matrix. If N is no multiple of 32, the file has float16.

    Examples
    --------
    >>> rows = np.array([[-8.0, 0.4, 0.6] + 29 * [0.0]])
    >>> round_rows(rows, "Q4_0")[0, :3] + 0.0
    array([-8.,  0.,  1.])
    """
    if type_of_rows(rows.shape[-1], kind) not in QUANTIZED:
        return rows.astype(np.float16).astype(rows.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverges
        values = QUANTIZED[kind].decode(encode_rows(rows, kind))
    return values.reshape(rows.shape).astype(rows.dtype, copy=False)


def straight_through(weight: Tensor, used: ndarray) -> Tensor:
    """Return the values `used`, with the derivative 1 with respect to `weight`."""
    return used + (weight - weight.numpy())  # the difference is exactly 0


def fake_quantize(model: GPT, kind: str) -> None:
    """Let a model compute with matrices that are rounded as those of a GGUF file are.

    The matrices are those of the linear layers, of the head, and of the embedding of tokens.
    Vectors, and the table of positions, stay as they are, as in the file.

    Parameters
    ----------
    model : GPT
        A GPT or a Llama that predicts tokens. Its parameters do not change; each pass rounds them.
    kind : {"Q8_0", "Q4_1", "Q4_0"}

    Raises
    ------
    UserError
        If a GGUF file cannot hold such a model, or would have other blocks.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=32, n_layer=1, n_head=1))
    >>> fake_quantize(model, "Q4_0")
    >>> block = model.transformer.h[0].mlp.c_fc.used_weight().numpy()[:, 0]
    >>> len(block), len(np.unique(block)) <= 16
    (32, True)
    """
    config = model.config
    if type(model) not in (GPT, Llama) or not model.predicts_tokens:
        raise UserError(
            "--fake_quantize rounds as a GGUF file does, and such a file can hold a GPT-2, a "
            "Llama, a Mistral or a Qwen2 that predicts tokens: leave it out"
        )
    width = config.n_head * config.head_size
    if isinstance(config, GPTConfig) and config.head_dim and width % BLOCK:
        raise UserError(
            f"the heads of this pruned GPT have {width} channels together, and --fake_quantize "
            f"rounds blocks of {BLOCK}: expected a multiple of {BLOCK}"
        )

    def of_rows(rows: Tensor) -> Tensor:
        return straight_through(rows, round_rows(rows.numpy(), kind))

    def of_columns(weight: Tensor) -> Tensor:  # (in, out), and the file has (out, in)
        used = round_rows(weight.numpy().T, kind).T
        return straight_through(weight, np.ascontiguousarray(used))

    for _, module in model.named_modules():
        if type(module) is Linear:
            module.form = of_columns
        elif type(module) in (Head, Embedding):
            module.form = of_rows  # type: ignore[attr-defined]


def keep_zeros(model: GPT) -> None:
    """Let the weights of linear layers that are zero get no gradient, so that they stay zero.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    >>> weight = model.transformer.h[0].mlp.c_fc.weight
    >>> weight.data[:4] = 0
    >>> keep_zeros(model)
    >>> model(np.array([[1, 2]]), np.array([[2, 3]]))[1].backward()
    >>> [bool(part.any()) for part in np.split(weight.grad.numpy(), 2)]
    [False, True]
    """
    for _, module in model.named_modules():
        if type(module) is Linear:
            inner = module.form
            module.form = _masked if inner is None else lambda w, inner=inner: inner(_masked(w))


def _masked(weight: Tensor) -> Tensor:
    return weight * (weight.numpy() != 0)
