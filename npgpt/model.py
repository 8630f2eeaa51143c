"""GPT-2: from token ids to the logits of the next token, top to bottom.

Shapes: B sequences, T positions, C = n_embd channels, H heads of D = C / H channels, V tokens.
Parameters have Hugging Face's names: ``transformer.h.0.attn.c_attn.weight`` and so on.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor, nn
from npgpt.config import GPTConfig
from npgpt.nn import (
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    dropout_generator,
)


class Attention(Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, config.bias, dtype)
        self.c_proj = Linear(config.n_embd, config.n_embd, config.bias, dtype)
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.scale = 1.0
        if config.scale_attn_weights:
            self.scale /= math.sqrt(config.n_embd // config.n_head)
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, x: Tensor) -> Tensor:
        """Let every position look at itself and those before it: ``(B, T, C) -> (B, T, C)``."""
        B, T, C = x.shape
        qkv = self.c_attn(x)  # (B, T, 3C)
        query, key, value = (
            part.reshape(B, T, self.n_head, -1).swapaxes(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in np.split(qkv, 3, axis=-1)
        )
        y = nn.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.attn_pdrop if self.training else 0.0,
            is_causal=True,
            scale=self.scale,
            generator=dropout_generator(),
        )
        y = y.swapaxes(1, 2).reshape(B, T, C)  # (B, H, T, D) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(Module):
    """Two linear layers with an activation between, the same at every position."""

    def __init__(self, config: GPTConfig, dtype: Any):
        n_inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, n_inner, config.bias, dtype)
        self.c_proj = Linear(n_inner, config.n_embd, config.bias, dtype)
        self.activation = config.activation_function
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, n_inner) -> (B, T, C)``."""
        h = self.c_fc(x)
        if self.activation == "relu":
            h = nn.relu(h)
        else:
            h = nn.gelu(h, approximate="tanh" if self.activation == "gelu_new" else "none")
        return self.dropout(self.c_proj(h))


class Block(Module):
    """Attention and MLP, each behind a norm and beside a residual connection."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        eps = config.layer_norm_epsilon
        self.ln_1 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.attn = Attention(config, layer, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.mlp = MLP(config, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, C)``."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(Module):
    """Embeddings, blocks and the final norm: everything but the head."""

    def __init__(self, config: GPTConfig, dtype: Any):
        self.n_positions = config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd, dtype)
        self.wpe = Embedding(config.n_positions, config.n_embd, dtype)
        self.drop = Dropout(config.embd_pdrop)
        self.h = [Block(config, layer, dtype) for layer in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)

    def forward(self, input_ids: ndarray) -> Tensor:
        """Map ``(B, T)`` token ids to ``(B, T, C)`` hidden states."""
        T = input_ids.shape[1]
        if T > self.n_positions:
            raise ValueError(f"{T} tokens do not fit the context of {self.n_positions}")
        x = self.drop(self.wte(input_ids) + self.wpe(np.arange(T)))  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class Head(Module):
    """The map from a hidden state to the logits of the next token."""

    def __init__(self, weight: Parameter):
        self.weight = weight  # (V, C), the token embedding's own where they are tied

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return x @ self.weight.T


class GPT(Module):
    """A GPT-2 language model.

    Parameters
    ----------
    config : GPTConfig
    seed : int
        Of the initialization.
    dtype : dtype_like
        Of the parameters: float32, or float64 for checking.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> ids = np.array([[1, 2, 3, 4]])
    >>> logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    >>> logits.shape
    (1, 3, 65)
    >>> loss.backward()
    >>> model.transformer.wte.weight.grad.shape
    (65, 16)
    """

    def __init__(self, config: GPTConfig, seed: int = 0, dtype: DTypeLike = np.float32):
        self.config = config
        self.transformer = Transformer(config, dtype)
        tied = config.tie_word_embeddings
        table = np.zeros((config.vocab_size, config.n_embd), dtype)
        self.lm_head = Head(self.transformer.wte.weight if tied else Parameter(table))
        self._initialize(np.random.default_rng(seed))

    def _initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights as GPT-2 does (Radford et al. 2019, section 2.3).

        Matrices are normal with deviation 0.02; those that end a residual branch are divided by
        the root of the number of branches, so that their sum does not grow with depth.
        """
        deviation = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # biases are 0, the weights of norms 1
            shrink = math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else 1
            draw = generator.standard_normal(parameter.shape, np.float32)
            parameter.data[...] = draw * (deviation / shrink)

    def forward(
        self, input_ids: ndarray, targets: ndarray | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and with targets the mean cross-entropy.

        Parameters
        ----------
        input_ids : ndarray of int, (B, T)
        targets : ndarray of int, (B, T), optional
            The token that follows each position; -100 where the loss is not to count.

        Returns
        -------
        logits : Tensor, (B, T, V)
        loss : Tensor or None
        """
        logits = self.lm_head(self.transformer(np.asarray(input_ids)))
        if targets is None:
            return logits, None
        rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
        return logits, nn.cross_entropy(rows, np.reshape(targets, -1))

    def n_parameters(self) -> int:
        """Return the number of parameters, tied ones counted once."""
        return sum(parameter.size for parameter in self.parameters())

    def generate(self, input_ids: ndarray, **options: Any) -> ndarray:
        """Continue sequences of tokens; see `npgpt.generate`."""
        from npgpt.generate import generate

        return generate(self, input_ids, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GPT:
        """Load a model from a folder with ``config.json`` and ``model.safetensors``."""
        from npgpt.weights import load_pretrained

        return load_pretrained(folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` to a folder."""
        from npgpt.weights import save_pretrained

        save_pretrained(self, folder)
