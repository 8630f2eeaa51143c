"""Reading tokens one at a time: by a kernel that runs the whole model, where there is one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

import autograd
from autograd import nn
from autograd.kernels import kernel, kernels_enabled
from npgpt.generation.quantize import Int8Embedding, Int8GPT, Int8Linear, Int8Matrix
from npgpt.models.attention import Attention
from npgpt.models.blocks import MLP, Block
from npgpt.models.cache import KVCache
from npgpt.models.gpt import GPT, Transformer
from npgpt.models.heads import Head
from npgpt.models.layers import ACTIVATIONS, Dropout, Embedding, LayerNorm, Linear
from npgpt.models.positions import SinusoidalEmbedding

KNOWN = {
    GPT, Transformer, Block, Attention, MLP, Head, Linear, LayerNorm, Dropout, Embedding,
    SinusoidalEmbedding, Int8GPT, Int8Linear, Int8Embedding,
}  # fmt: skip
ACTIVATION_NAMES = {
    ACTIVATIONS["gelu_new"]: "gelu_tanh",
    nn.gelu: "gelu",
    nn.relu: "relu",
    nn.silu: "silu",
    np.tanh: "tanh",
}


class Decoder:
    """A model and its cache: reads tokens, and says what comes next.

    A single new token of each of a few sequences goes through the model as one kernel, all else
    through the modules; the logits are the same. Parameters may change in place in between, but not
    be given other arrays.

    Parameters
    ----------
    model : GPT
        With dropout off.
    cache : KVCache, optional

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import no_grad
    >>> from npgpt import GPT, GPTConfig
    >>> from npgpt.models.cache import KVCache
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2)).eval()
    >>> decoder = Decoder(model, KVCache(capacity=8))
    >>> with no_grad():
    ...     first = decoder(np.array([[1, 2, 3]]))
    ...     second = decoder(np.array([[4]]))  # which sees all four tokens
    >>> second.shape
    (1, 65)
    """

    def __init__(self, model: GPT, cache: KVCache | None = None) -> None:
        self.model, self.cache = model, cache
        self._step: Step | None = None
        self._keys: ndarray | None = None  # the first layer's, when the step was written

    def __call__(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
    ) -> ndarray:
        """Return the logits after ``input_ids (B, T)``, (B, V); see `GPT.forward`."""
        B, T = input_ids.shape
        step = self._written() if T == 1 else None
        length = 0 if self.cache is None else self.cache.length
        if attention_mask is not None and np.shape(attention_mask) != (B, length + 1):
            step = None  # the modules say what is wrong
        if step is None or self.cache is None:
            hidden = self.model.transformer(
                input_ids, attention_mask, position_ids, cache=self.cache
            )  # (B, T, C)
            return self.model.lm_head(hidden[:, -1]).numpy()
        self.cache.demand_room(B, 1)
        transformer = self.model.transformer
        if position_ids is None:
            position_ids = np.array([length])
        x = transformer.wte(input_ids) + transformer.wpe(position_ids)  # (B, 1, C)
        step.x[:] = x.numpy()[:, 0]
        step.run(length, None if attention_mask is None else np.array(attention_mask, bool))
        self.cache.length += 1
        return step.logits.copy()

    def _written(self) -> Step | None:
        """Return the step as a kernel, written anew where the cache has new arrays."""
        if self.cache is None or not self.cache.keys:
            return None
        if not kernels_enabled() or autograd.stepper.current_recording() is not None:
            return None
        if self.cache.keys[0] is not self._keys:
            self._keys = self.cache.keys[0]
            self._step = write(self.model, self.cache)
        return self._step


class Step(NamedTuple):
    """A model's step for one token of each sequence, and where it takes and leaves its arrays."""

    run: Any  # (length, mask)
    x: ndarray  # (B, C), the embeddings
    logits: ndarray  # (B, V)


@kernel("decode.program")
def new_program(n_rows: int, widest: int) -> Any:
    """Return an empty program of instructions for the kernel; None where there is no kernel."""
    return None


def write(model: GPT, cache: KVCache) -> Step | None:
    """Write a model's step as a program; None if that cannot be."""
    transformer, B = model.transformer, len(cache.keys[0])
    C, V = model.config.n_embd, model.config.vocab_size
    n_inner = model.config.n_inner or 4 * C
    if (
        not {type(module) for _, module in model.named_modules()} <= KNOWN
        or not all(block.mlp.activation in ACTIVATION_NAMES for block in transformer.h)
        or not all(
            p.dtype == np.float32 and p.numpy().flags.c_contiguous for p in model.parameters()
        )
        or (program := new_program(B, max(3 * C, n_inner))) is None
    ):
        return None
    x, normed, heads, attended, hidden, logits = (
        np.empty((B, width), np.float32) for width in (C, C, 3 * C, C, n_inner, V)
    )

    def norm(layer: LayerNorm, x: ndarray, out: ndarray) -> None:
        program.norm(x, layer.weight.numpy(), array(layer.bias), layer.eps, out)

    def linear(layer: Any, x: ndarray, out: ndarray, **rest: Any) -> None:
        weight = layer.weight
        if isinstance(weight, Int8Matrix):
            matrix, rest["scale"] = weight.values.T, weight.scale  # (in, out), (out,)
        else:
            matrix = weight.numpy().T if isinstance(layer, Head) else weight.numpy()  # (in, out)
        program.linear(x, matrix, array(getattr(layer, "bias", None)), out, **rest)

    def array(parameter: Any) -> ndarray | None:
        return None if parameter is None else parameter.numpy()

    for block, keys, values in zip(transformer.h, cache.keys, cache.values, strict=True):
        attn, mlp = block.attn, block.mlp
        read = x if block.post_norm else normed  # what the branches read
        if not block.post_norm:
            norm(block.ln_1, x, normed)
        linear(attn.c_attn, read, heads)
        program.attend(heads, keys, values, attended, attn.scale, attn.window_size)
        linear(attn.c_proj, attended, x, residual=x)
        norm(block.ln_1 if block.post_norm else block.ln_2, x, read)
        linear(mlp.c_fc, read, hidden, activation=ACTIVATION_NAMES[mlp.activation])
        linear(mlp.c_proj, hidden, x, residual=x)
        if block.post_norm:
            norm(block.ln_2, x, x)
    if transformer.ln_f is not None:
        norm(transformer.ln_f, x, x)
    linear(model.lm_head, x, logits)
    return Step(program, x, logits)
